"""The contract of an attack. A leaf writes one method, ``run``; copying, measuring and storing is done for it.

A thief holds the stolen network and images of their own (:class:`Stolen`), and nothing of the owner's: no trigger, no
secret, no training image. A **removal** attack yields surrogates, each with a strength, and so draws a curve; a
**detection** attack tries to recover the secret and returns images; a **claim** attack leaves the network as it is and
brings a key that is to prove that it belongs to the attacker.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wmlightning.attacks.marking import OwnMarks
from wmlightning.data.batches import ImageSet
from wmlightning.errors import UserError, listed
from wmlightning.secret import Secret
from wmlightning.watermarks.triggers import TriggerMaker

_NO_LABELS = ("the attacker's data has other classes than the task", "victim")


@dataclass(frozen=True)
class Arithmetic:
    """Where and in which numbers networks are computed.

    Attributes:
        device: where.
        autocast: lower-precision type that matrix products are done in, or ``None``.
        channels_last: whether images are laid out pixel by pixel, as convolutions prefer.
    """

    device: torch.device
    autocast: torch.dtype | None = None
    channels_last: bool = False

    def floats(self, images: Tensor) -> Tensor:
        """uint8 images ``(n, c, h, w)`` as floats in [0, 1] on the device."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return images.to(self.device).float().div_(255).contiguous(memory_format=layout)

    def scope(self) -> AbstractContextManager[Any]:
        """Networks called inside compute in the chosen precision."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast)

    def labels(self, network: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
        """What a network in evaluation mode takes uint8 images for: int64 ``(n,)`` on the processor."""
        with torch.no_grad(), self.scope():
            return torch.cat([network(self.floats(some)).argmax(1).cpu() for some in torch.split(images, batch_size)])


@dataclass(frozen=True)
class Stolen:
    """What a thief has.

    Attributes:
        network: a copy of the stolen network, the thief's to change: float images in [0, 1] to logits.
        images: the thief's own images, uint8 ``(n, c, h, w)``, on the processor.
        labels: their true labels, int64 ``(n,)``, or ``None`` where they belong to another task.
        n_classes: number of logits.
        seed: what the thief's random choices follow from.
        arithmetic: where and how networks are computed.
    """

    network: nn.Module
    images: Tensor
    labels: Tensor | None
    n_classes: int
    seed: int
    arithmetic: Arithmetic

    def copy(self) -> nn.Module:
        """A copy of the stolen network, in evaluation mode."""
        return copy.deepcopy(self.network).eval()

    def answers(self) -> Tensor:
        """The labels that the stolen network gives to the thief's images: int64 ``(n,)`` on the processor."""
        return self.arithmetic.labels(self.copy(), self.images)

    def learned_labels(self, wanted: Literal["own", "victim"], key: str) -> Tensor:
        """The labels a thief trains with: true ones, or what the stolen network says.

        Raises:
            UserError: naming ``key``, if the images have no true labels.
        """
        if wanted == "victim":
            return self.answers()
        if self.labels is None:
            raise UserError(key, *_NO_LABELS)
        return self.labels

    def true_labels(self) -> tuple[Tensor, int]:
        """Labels of the thief's images, and the queries they cost: those of the stolen network where there are none."""
        return (self.labels, 0) if self.labels is not None else (self.answers(), len(self.images))


@dataclass(frozen=True)
class Surrogate:
    """A model that came out of an attack.

    Attributes:
        network: measured at once and then forgotten, so that the attack may go on changing it.
        strength: the number that the attack's curve is drawn over.
        epochs: passes over the thief's images that went into it.
        n_images: images that were trained on.
        n_queries: labels that the stolen network was asked for.
        settings: what else tells it from its siblings.
        continued: made from the surrogate before it, so that their times add up.
        measured: shares that the thief measured on it, by what they are shares of.
    """

    network: nn.Module
    strength: float
    epochs: int = 0
    n_images: int = 0
    n_queries: int = 0
    settings: dict[str, str | float] = field(default_factory=dict)
    continued: bool = False
    measured: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Recovered:
    """What a detection attack brought to light.

    Attributes:
        images: float in [0, 1] ``(n_classes, restarts, c, h, w)``, on the processor.
        confidence: what the stolen network thinks of them, ``(n_classes, restarts)`` in [0, 1].
        steps: gradient steps that were spent.
    """

    images: Tensor
    confidence: Tensor
    steps: int


@dataclass(frozen=True)
class Claim:
    """A key that an accuser says to have held all along.

    Attributes:
        secret: what its triggers are said to follow from.
        effort: what went into finding it: the number that the attack's curve is drawn over.
        n_queries: labels that the suspect was asked for so far.
        before: it needed no look at the suspect, so that a commitment to it may well be older.
        forged: shown in place of the triggers that follow from the secret; ``None``: those themselves.
    """

    secret: Secret
    effort: int
    n_queries: int
    before: bool
    forged: ImageSet | None = None


@dataclass(frozen=True)
class Prospect:
    """What is known of a task before anything is trained or read.

    Attributes:
        network: of the victim's architecture; its weights do not matter. Not to be changed.
        shape: ``(c, h, w)`` of the task's images.
        n_classes: number of logits.
        labelled: whether the thief's images have labels of the task.
    """

    network: nn.Module
    shape: tuple[int, int, int]
    n_classes: int
    labelled: bool = True

    def check_labels(self, wanted: Literal["own", "victim"], key: str) -> None:
        """Refuses true labels where there are none.

        Raises:
            UserError: naming ``key``.
        """
        if wanted == "own" and not self.labelled:
            raise UserError(key, *_NO_LABELS)


class _Checked:
    """What all attacks share."""

    def check(self, prospect: Prospect) -> None:
        """Refuses options that do not fit, before anything is trained or read. Override it where some may not.

        Args:
            prospect: what is known by then.

        Raises:
            UserError: naming the config key.
        """
        del prospect


class RemovalAttack(_Checked, ABC):
    """Wants a model that works and has forgotten the watermark.

    Attributes:
        strength_name: what the strength of its surrogates is, for axes and tables.
        strength_scale: how it is drawn.
    """

    strength_name: str = "strength"
    strength_scale: Literal["linear", "log"] = "linear"

    @abstractmethod
    def run(self, stolen: Stolen) -> Iterator[Surrogate]:
        """Yields surrogates; between two yields lies the work that the next one costs."""


class DetectionAttack(_Checked, ABC):
    """Wants to find out whether there is a watermark, and what the triggers look like."""

    @abstractmethod
    def run(self, stolen: Stolen) -> Recovered:
        """Recovers an image of each class."""


class ClaimAttack(_Checked, ABC):
    """Wants a network that somebody else trained to pass for the accuser's.

    Attributes:
        marks: the watermark that the accuser says to use, whose keys are claimed.
        queries: triggers of a key that are shown.
        effort_name: what the effort of its claims is, for tables.
    """

    marks: OwnMarks
    queries: int
    effort_name: str = "effort"

    def check(self, prospect: Prospect) -> None:
        """Refuses a watermark that does not fit the task."""
        self.marks.check(prospect.shape, prospect.n_classes)

    @abstractmethod
    def run(self, stolen: Stolen) -> Iterator[Claim]:
        """Yields claims of rising effort. The suspect is ``stolen.network``; it need not have been stolen."""

    def key_maker(self, stolen: Stolen, labels: Tensor, secret: Secret) -> TriggerMaker:
        """What makes the triggers that follow from a secret; the trained ones are shown.

        Args:
            stolen: what the accuser has.
            labels: what the images show, int64 ``(n,)``.
            secret: the claimed key's.
        """
        # Nothing is trained with them: negatives and decoys would be made in vain.
        return self.marks.on(stolen, labels, secret, n_triggers=self.queries, n_new=1, n_decoys=1, negatives=0)


Attack = RemovalAttack | DetectionAttack | ClaimAttack


def choice(value: Any, key: str, *allowed: str) -> Any:
    """Checks that an option is one of some words.

    Raises:
        UserError: naming ``key``.
    """
    if value not in allowed:
        raise UserError(key, f"{value!r} is unknown", f"one of {listed(allowed)}")
    return value
