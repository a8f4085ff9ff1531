"""Overwriting: the thief teaches the network a watermark of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from wmlightning.attacks.base import Prospect, RemovalAttack, Stolen, Surrogate, choice
from wmlightning.attacks.marking import OWNERS_OPTIONS, OwnMarks
from wmlightning.attacks.tuning import Tuning, rates_of
from wmlightning.config import make
from wmlightning.data.datamodule import Augment
from wmlightning.secret import Secret
from wmlightning.seeds import role_seed


class Overwrite(RemovalAttack):
    """Trains a copy on with the thief's images and with triggers that only the thief knows.

    It may remove the owner's watermark, and even where it does not, the network then answers to two keys, and the thief
    may claim to be the owner: which key is older decides, hence commitments. The curve is drawn over the learning rate
    as that of :class:`~wmlightning.attacks.finetune.FineTune`, which is the same training without the thief's triggers.

    Args:
        watermark: the thief's, as in ``conf/watermark``; it must mark images of the task.
        learning_rates: one copy is trained with each.
        epochs: passes over the thief's images and triggers.
        labels: of the images that carry no mark: see :class:`~wmlightning.attacks.finetune.FineTune`.
        batch_size: images a step.
        momentum: Nesterov momentum.
        weight_decay: on all parameters.
        augment: augmentation of whole batches, as a config or a function; marked images are augmented like others.
    """

    strength_name = "learning rate"
    strength_scale = "log"

    def __init__(
        self,
        watermark: Mapping[str, Any],
        learning_rates: Sequence[float] = (0.001, 0.003, 0.01, 0.03, 0.1),
        epochs: int = 10,
        labels: Literal["own", "victim"] = "own",
        batch_size: int = 128,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        augment: Mapping[str, Any] | Augment | None = None,
    ) -> None:
        self.marks = OwnMarks(watermark, "attack.overwrite.watermark", unused=OWNERS_OPTIONS)
        self.learning_rates = rates_of(learning_rates, "attack.overwrite.learning_rates")
        self.labels = choice(labels, "attack.overwrite.labels", "own", "victim")
        turned: Augment | None = make(augment, "attack.overwrite.augment") if isinstance(augment, Mapping) else augment
        self.tuning = Tuning(epochs, batch_size, momentum, weight_decay, turned)
        self.tuning.check("attack.overwrite")

    def check(self, prospect: Prospect) -> None:
        """See :meth:`RemovalAttack.check`."""
        prospect.check_labels(self.labels, "attack.overwrite.labels")
        self.marks.check(prospect.shape, prospect.n_classes)

    def run(self, stolen: Stolen) -> Iterator[Surrogate]:
        """See :meth:`RemovalAttack.run`. The strength is the learning rate.

        Each surrogate is measured on the thief's new triggers, as "thief's triggers".
        """
        labels = stolen.learned_labels(self.labels, "attack.overwrite.labels")
        triggers = self.marks.on(stolen, labels, secret_of_thief(stolen.seed)).make()
        marked = triggers.merged()
        both = replace(stolen, images=torch.cat([stolen.images, marked.images]))
        wanted = torch.cat([labels, marked.labels])
        for lr in self.learning_rates:
            network = stolen.copy().requires_grad_(True)
            for epochs in self.tuning.run(network, both, wanted, lr):
                answers = stolen.arithmetic.labels(network, triggers.new.images)
                yield Surrogate(
                    network,
                    strength=lr,
                    epochs=epochs,
                    n_images=len(labels),
                    n_queries=len(labels) if self.labels == "victim" else 0,
                    continued=epochs > 1,
                    measured={"thief's triggers": float((answers == triggers.new.labels).float().mean())},
                )


def secret_of_thief(seed: int) -> Secret:
    """The secret of a thief's own watermark.

    Args:
        seed: see :class:`Stolen`.
    """
    return Secret.from_seed(role_seed(seed, "thief/secret"))
