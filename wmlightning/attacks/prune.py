"""Pruning: the smallest weights become zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import L1Unstructured

from wmlightning.attacks.base import Prospect, RemovalAttack, Stolen, Surrogate, choice
from wmlightning.attacks.tuning import Tuning
from wmlightning.config import setting, switch
from wmlightning.data.datamodule import Augment
from wmlightning.errors import UserError


class Prune(RemovalAttack):
    """Sets the weights of smallest magnitude to zero, and may train the rest on to repair what broke.

    In Zhang et al. (ASIACCS 2018) 10 to 90 % of the parameters are pruned and nothing is repaired. Here dense and
    convolutional weights are pruned unless ``everything`` asks for biases and norms too.

    Args:
        rates: shares of weights that become zero, each in (0, 1).
        scope: ``global`` compares all weights with each other; ``layer`` prunes each layer at the same rate.
        everything: prune biases and the parameters of normalisation as well.
        repair_epochs: epochs of training afterwards; what was pruned stays zero.
        lr: learning rate of the repair.
        labels: see :class:`wmlightning.attacks.finetune.FineTune`.
        batch_size: images a step of the repair.
        momentum: Nesterov momentum of the repair.
        weight_decay: of the repair.
        augment: augmentation of whole batches in the repair.
    """

    strength_name = "share of weights pruned"

    def __init__(
        self,
        rates: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        scope: Literal["global", "layer"] = "global",
        everything: bool = False,
        repair_epochs: int = 0,
        lr: float = 0.01,
        labels: Literal["own", "victim"] = "own",
        batch_size: int = 128,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        augment: Augment | None = None,
    ) -> None:
        self.rates = pruning_rates(rates, "attack.prune.rates")
        self.scope = choice(scope, "attack.prune.scope", "global", "layer")
        self.everything = switch(everything, "attack.prune.everything")
        setting(repair_epochs, "attack.prune.repair_epochs", int, 0)
        self.lr = setting(lr, "attack.prune.lr", float, 1e-12, 1e3)
        self.labels = choice(labels, "attack.prune.labels", "own", "victim")
        self.repair = Tuning(max(1, repair_epochs), batch_size, momentum, weight_decay, augment)
        self.repair.check("attack.prune")
        self.repair_epochs = repair_epochs

    def check(self, prospect: Prospect) -> None:
        """See :meth:`RemovalAttack.check`."""
        if self.repair_epochs:
            prospect.check_labels(self.labels, "attack.prune.labels")

    def run(self, stolen: Stolen) -> Iterator[Surrogate]:
        """See :meth:`RemovalAttack.run`. The strength is the share of zero weights."""
        labels = stolen.learned_labels(self.labels, "attack.prune.labels") if self.repair_epochs else None
        for rate in self.rates:
            network = stolen.copy()
            pruned = prunable(network, self.everything)
            masks = smallest(pruned, rate, self.scope)

            def prune(pruned: list[nn.Parameter] = pruned, masks: list[Tensor] = masks) -> None:
                with torch.no_grad():
                    for parameter, mask in zip(pruned, masks, strict=True):
                        parameter.mul_(mask)

            prune()
            yield Surrogate(network, strength=rate)
            if labels is None:
                continue
            queries = len(labels) if self.labels == "victim" else 0
            for epochs in self.repair.run(network, stolen, labels, self.lr, after_step=prune):
                yield Surrogate(network, rate, epochs, len(labels), queries, continued=True)


def pruning_rates(rates: Sequence[float], key: str) -> list[float]:
    """Checks a list of shares, and sorts it.

    Raises:
        UserError: naming ``key``.
    """
    if not isinstance(rates, Sequence) or not rates:
        raise UserError(key, f"{rates!r} is no list", "[0.3,0.6,0.9]")
    return sorted({setting(rate, key, float, 1e-6, 1 - 1e-6) for rate in rates})


def prunable(network: nn.Module, everything: bool) -> list[nn.Parameter]:
    """Weights of dense and convolutional layers, or every parameter there is."""
    if everything:
        return list(network.parameters())
    return [p for p in network.parameters() if p.ndim >= 2]


def smallest(parameters: list[nn.Parameter], rate: float, scope: Literal["global", "layer"]) -> list[Tensor]:
    """Masks (1 keeps, 0 prunes) of the ``round(rate * n)`` parameters of smallest magnitude."""
    sizes = [p.numel() for p in parameters]
    flat = [p.detach().flatten() for p in parameters]
    groups = [torch.cat(flat)] if scope == "global" else flat
    masks = []
    for group in groups:
        method: Any = L1Unstructured(round(rate * len(group)))
        masks.append(method.compute_mask(group, torch.ones_like(group)))
    return [m.view_as(p) for m, p in zip(torch.split(torch.cat(masks), sizes), parameters, strict=True)]
