"""Fine-tuning: the thief trains the stolen network on with images of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from wmlightning.attacks.base import Prospect, RemovalAttack, Stolen, Surrogate, choice
from wmlightning.attacks.tuning import Tuning, head, rates_of
from wmlightning.config import switch
from wmlightning.data.datamodule import Augment
from wmlightning.seeds import role_seed


class FineTune(RemovalAttack):
    """Trains a copy for each of several learning rates, and shows it after each epoch.

    In Zhang et al. (ASIACCS 2018) one half of the test set tunes and the other judges; learning rates are not known
    from there. They decide the outcome (Lukas et al., SoK, S&P 2022), hence the sweep over them inside the attack.

    Args:
        learning_rates: one copy is trained with each.
        epochs: passes over the thief's images.
        layers: ``all``, or ``last``: the rest stays as it is.
        reinitialize: draw the last layer's weights anew first.
        labels: the thief's ``own``, or those of the ``victim``, for which the images need no labels.
        batch_size: images a step.
        momentum: Nesterov momentum.
        weight_decay: on all parameters.
        augment: augmentation of whole batches.
    """

    strength_name = "learning rate"
    strength_scale = "log"

    def __init__(
        self,
        learning_rates: Sequence[float] = (0.001, 0.003, 0.01, 0.03, 0.1),
        epochs: int = 5,
        layers: Literal["all", "last"] = "all",
        reinitialize: bool = False,
        labels: Literal["own", "victim"] = "own",
        batch_size: int = 128,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        augment: Augment | None = None,
    ) -> None:
        self.learning_rates = rates_of(learning_rates, "attack.finetune.learning_rates")
        self.layers = choice(layers, "attack.finetune.layers", "all", "last")
        self.labels = choice(labels, "attack.finetune.labels", "own", "victim")
        self.reinitialize = switch(reinitialize, "attack.finetune.reinitialize")
        self.tuning = Tuning(epochs, batch_size, momentum, weight_decay, augment)
        self.tuning.check("attack.finetune")

    def check(self, prospect: Prospect) -> None:
        """See :meth:`RemovalAttack.check`."""
        prospect.check_labels(self.labels, "attack.finetune.labels")
        if self._needs_head:
            head(prospect.network, "attack.finetune.layers")

    @property
    def _needs_head(self) -> bool:
        return self.layers == "last" or self.reinitialize

    def run(self, stolen: Stolen) -> Iterator[Surrogate]:
        """See :meth:`RemovalAttack.run`. The strength is the learning rate."""
        labels = stolen.learned_labels(self.labels, "attack.finetune.labels")
        for lr in self.learning_rates:
            network = stolen.copy()
            network.requires_grad_(self.layers == "all")
            if self._needs_head:
                last = head(network, "attack.finetune.layers").requires_grad_(True)
                if self.reinitialize:
                    torch.manual_seed(role_seed(stolen.seed, "thief/head"))
                    last.reset_parameters()  # type: ignore[operator]
            for epochs in self.tuning.run(network, stolen, labels, lr):
                yield Surrogate(
                    network,
                    strength=lr,
                    epochs=epochs,
                    n_images=len(labels),
                    n_queries=len(labels) if self.labels == "victim" else 0,
                    continued=epochs > 1,
                )
