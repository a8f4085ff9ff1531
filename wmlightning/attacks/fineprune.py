"""Fine-pruning: channels that the thief's images hardly use are removed, then the rest is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wmlightning.attacks.base import Prospect, RemovalAttack, Stolen, Surrogate, choice
from wmlightning.attacks.prune import pruning_rates
from wmlightning.attacks.tuning import Tuning
from wmlightning.config import setting
from wmlightning.data.datamodule import Augment
from wmlightning.errors import UserError


class FinePrune(RemovalAttack):
    """Removes channels of the last convolution in the order of their mean activation on clean images.

    From Liu, Dolan-Gavitt and Garg, "Fine-Pruning" (RAID 2018): what clean images leave idle may serve the trigger.
    There, channels are removed until accuracy falls; here each rate gives a point of the curve.

    What is removed is a channel as that convolution and its batch normalisation give it. In a residual network
    (``resnet9``, ``resnet18``) the last convolution is within a block: idle is what the block adds to a channel, and
    what passes the block by stays.

    Args:
        rates: shares of the channels that are removed, each in (0, 1).
        epochs: epochs of fine-tuning after the removal; 0 for none. Removed channels stay removed.
        lr: learning rate of the fine-tuning.
        labels: see :class:`wmlightning.attacks.finetune.FineTune`.
        batch_size: images a step.
        momentum: Nesterov momentum.
        weight_decay: on all parameters.
        augment: augmentation of whole batches.
    """

    strength_name = "share of channels pruned"

    def __init__(
        self,
        rates: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 0.9),
        epochs: int = 2,
        lr: float = 0.01,
        labels: Literal["own", "victim"] = "own",
        batch_size: int = 128,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        augment: Augment | None = None,
    ) -> None:
        self.rates = pruning_rates(rates, "attack.fineprune.rates")
        self.epochs = setting(epochs, "attack.fineprune.epochs", int, 0)
        self.lr = setting(lr, "attack.fineprune.lr", float, 1e-12, 1e3)
        self.labels = choice(labels, "attack.fineprune.labels", "own", "victim")
        self.tuning = Tuning(max(1, epochs), batch_size, momentum, weight_decay, augment)
        self.tuning.check("attack.fineprune")

    def check(self, prospect: Prospect) -> None:
        """See :meth:`RemovalAttack.check`."""
        if self.epochs:
            prospect.check_labels(self.labels, "attack.fineprune.labels")
        _last_stage(prospect.network)

    def run(self, stolen: Stolen) -> Iterator[Surrogate]:
        """See :meth:`RemovalAttack.run`. The strength is the share of channels removed."""
        order = _mean_activation(stolen).argsort(stable=True)
        n = len(stolen.images)
        labels = stolen.learned_labels(self.labels, "attack.fineprune.labels") if self.epochs else None
        queries = n if self.epochs and self.labels == "victim" else 0
        for rate in self.rates:
            network = stolen.copy()
            channels = order[: round(rate * len(order))]

            def remove(layers: tuple[nn.Module, ...] = _last_stage(network), channels: Tensor = channels) -> None:
                with torch.no_grad():
                    for parameter in (p for layer in layers for p in layer.parameters(recurse=False)):
                        parameter[channels] = 0

            remove()
            yield Surrogate(network, rate, n_images=n)
            if labels is None:
                continue
            for epochs in self.tuning.run(network, stolen, labels, self.lr, after_step=remove):
                yield Surrogate(network, rate, epochs, n, queries, continued=True)


def _last_stage(network: nn.Module) -> tuple[nn.Module, ...]:
    """The last convolution, and its batch normalisation if it has one: zero both, and neither gives that channel."""
    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))]
    convolutions = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    if not convolutions:
        raise UserError("attack.fineprune", "the network has no convolution", "another attack")
    last = layers[convolutions[-1] :]
    return tuple(last[:2])


def _mean_activation(stolen: Stolen) -> Tensor:
    """Mean of each channel's rectified output over the thief's images: float64 ``(channels,)`` on the processor."""
    network = stolen.copy()
    sums: list[Tensor] = []

    def note(_module: nn.Module, _inputs: Any, out: Tensor) -> None:
        sums.append(out.detach().float().relu().mean(dim=(2, 3)).sum(0).double().cpu())

    hook = _last_stage(network)[-1].register_forward_hook(note)
    with torch.no_grad(), stolen.arithmetic.scope():
        for images in torch.split(stolen.images, 500):
            network(stolen.arithmetic.floats(images))
    hook.remove()
    return torch.stack(sums).sum(0) / len(stolen.images)
