"""The statistical tests: what a key lets its owner ask, and what the answers are worth. Labels are all they need.

Each is valid for any suspect that was made without the key: however it answers, p <= a has probability a at the most.
What that rests on is a sentence in the verdict. An image without a usable answer never counts as a match.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from wmlightning.data.batches import ImageSet
from wmlightning.errors import UserError
from wmlightning.ownership.statistics.fixed import decoy_keys, independent_labels, several_marks
from wmlightning.ownership.statistics.result import clopper_pearson
from wmlightning.secret import Secret
from wmlightning.watermarks.base import MarkingWatermark
from wmlightning.watermarks.triggers import TriggerMaker


@dataclass(frozen=True)
class Evidence:
    """What answers are worth.

    Attributes:
        p_value: see the test.
        matches: triggers that got the expected label.
        n: triggers asked about.
        missing: triggers without a usable answer.
    """

    p_value: float
    matches: int
    n: int
    missing: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Clopper-Pearson interval of the share of matches."""
        return clopper_pearson(self.matches, self.n)


class Question(ABC):
    """A test, ready to be asked.

    Attributes:
        test: its name.
        assumption: what its validity rests on.
        triggers: the key's triggers that are asked about, with the labels that the key expects.
        images: everything that is sent, in this order; the triggers come first.
    """

    test: str
    assumption: str

    def __init__(self, triggers: ImageSet, images: Tensor | None = None) -> None:
        self.triggers = triggers
        self.images = triggers.images if images is None else images

    @abstractmethod
    def p_value(self, answers: Tensor) -> float:
        """The p-value of answers to all images: int64 ``(n,)``, -1 where there is none."""

    @property
    @abstractmethod
    def smallest_p(self) -> float:
        """The p-value if every trigger matches, and nothing else: what the test can show at best."""

    def judge(self, answers: Tensor) -> Evidence:
        """What answers are worth, see :meth:`p_value`."""
        ours = answers[: len(self.triggers)]
        matches = int((ours == self.triggers.labels).sum())
        return Evidence(self.p_value(answers), matches, len(ours), int((ours < 0).sum()))


class SeveralMarks(Question):
    """Labels of marks are drawn anew, given the answers: p is the share of draws that match as often as the key's.

    Exact, by convolution over marks, and without a further query. Answers to one mark's triggers may depend on each
    other in any way: an innocent suspect cannot know which label the key drew for the mark.

    Args:
        triggers: groups are marks.
        pool: classes that the key's labels were drawn from.
    """

    test = "several marks"
    assumption = (
        "the label of each mark was drawn from the owner's secret, uniformly and independently of the mark, and the "
        "key was committed to before the suspect could know it"
    )

    def __init__(self, triggers: ImageSet, pool: list[int]) -> None:
        super().__init__(triggers)
        self.pool = pool

    def p_value(self, answers: Tensor) -> float:
        """See :class:`SeveralMarks`."""
        ours = self.triggers
        return several_marks(answers.numpy(), ours.labels.numpy(), ours.groups.numpy(), self.pool).p_value

    @property
    def smallest_p(self) -> float:
        """Every label has to be the drawn one."""
        return float(len(self.pool)) ** -len(torch.unique(self.triggers.groups))


class IndependentLabels(Question):
    """Each trigger has a label of its own: matches of an innocent suspect are at most binomial.

    Args:
        triggers: no image twice.
        n_labels: classes that each label was drawn from.
    """

    test = "independent labels"
    assumption = (
        "the label of each trigger was drawn from the owner's secret, uniformly and independently of everything else, "
        "and the key was committed to before the suspect could know it"
    )

    def __init__(self, triggers: ImageSet, n_labels: int) -> None:
        super().__init__(triggers)
        self.n_labels = n_labels

    def p_value(self, answers: Tensor) -> float:
        """Upper tail of the binomial law."""
        return independent_labels(answers.numpy(), self.triggers.labels.numpy(), self.n_labels).p_value

    @property
    def smallest_p(self) -> float:
        """Every trigger matches."""
        return float(self.n_labels) ** -len(self.triggers)


class DecoyKeys(Question):
    """The key's matches against those of other secrets, drawn now: p is its rank, ties against the owner.

    Args:
        triggers: the key's.
        decoys: what each of other secrets makes of the same images.
    """

    test = "decoy keys"
    assumption = (
        "the owner's mark was drawn from the secret as those of the decoys were, which the verifier drew afresh: then "
        "an innocent suspect cannot tell it from theirs"
    )

    def __init__(self, triggers: ImageSet, decoys: list[ImageSet]) -> None:
        super().__init__(triggers, torch.cat([triggers.images, *(decoy.images for decoy in decoys)]))
        self.n_decoys = len(decoys)

    def p_value(self, answers: Tensor) -> float:
        """(1 + decoys that match as often) / (decoys + 1)."""
        ours, decoys = answers.view(self.n_decoys + 1, -1).numpy()[0], answers.view(self.n_decoys + 1, -1).numpy()[1:]
        return decoy_keys(ours, self.triggers.labels.numpy(), decoys).p_value

    @property
    def smallest_p(self) -> float:
        """No decoy matches as often."""
        return 1 / (self.n_decoys + 1)


def ask(
    maker: TriggerMaker,
    triggers: ImageSet,
    fresh: Tensor,
    alpha: float,
    n: int,
    budget: int,
    decoys: list[Secret] | None = None,
) -> Question:
    """Chooses the test that a key allows.

    Args:
        maker: of the key that was checked.
        triggers: of one kind, all of them; for a key of one mark with one label, the new ones.
        fresh: int64, which of them may be shown, in this order.
        alpha: level that is to be reached.
        n: triggers to ask about.
        budget: images that may be sent in all.
        decoys: other secrets; ``None``: drawn from the system's generator, as many as ``alpha`` needs.

    Raises:
        UserError: if the budget does not allow the test.
    """
    n = min(n, len(fresh), budget)
    if maker.scheme.label == "random":
        k = len(maker.source.classes)
        return IndependentLabels(
            _first(_unlike(_chosen(triggers, fresh)), n), k - isinstance(maker.watermark, MarkingWatermark)
        )
    if maker.scheme.n_marks > 1:
        return SeveralMarks(_first(_in_turns(_chosen(triggers, fresh)), n), list(maker.labels.pool))
    n_decoys = round(1 / alpha) - 1 if decoys is None else len(decoys)
    each = min(n, budget // (n_decoys + 1))
    if each < 1:
        wrong = f"{budget} queries, but a key of one mark needs {n_decoys} decoys for alpha={alpha:g}"
        raise UserError("budget", wrong, f"at least {n_decoys + 1}, a larger alpha, or a key of several marks")
    strangers = decoys or [Secret(secrets.token_bytes(32)) for _ in range(n_decoys)]
    which = fresh[:each]  # strangers' marks on the very same images
    sets = [_chosen(maker.disguised(stranger, len(triggers)), which) for stranger in strangers]
    return DecoyKeys(_chosen(triggers, which), sets)


def needs_decoys(maker: TriggerMaker) -> bool:
    """Whether the key has one mark with one label, which only other keys can be compared with."""
    return maker.scheme.label == "target" and maker.scheme.n_marks == 1


def _chosen(images: ImageSet, which: Tensor) -> ImageSet:
    return ImageSet(images.images[which], images.labels[which], images.groups[which])


def _first(triggers: ImageSet, n: int) -> ImageSet:
    return ImageSet(triggers.images[:n], triggers.labels[:n], triggers.groups[:n])


def _unlike(triggers: ImageSet) -> ImageSet:
    """Each image once: the same image twice is one trial."""
    seen: dict[bytes, int] = {}
    for i, image in enumerate(triggers.images):
        seen.setdefault(image.numpy().tobytes(), i)
    kept = torch.tensor(sorted(seen.values()), dtype=torch.int64)
    return ImageSet(triggers.images[kept], triggers.labels[kept], triggers.groups[kept])


def _in_turns(triggers: ImageSet) -> ImageSet:
    """One of each mark, then the next of each, and so on."""
    turn = torch.zeros_like(triggers.groups)
    for mark in torch.unique(triggers.groups).tolist():
        members = triggers.groups == mark
        turn[members] = torch.arange(int(members.sum()))
    order = torch.argsort(turn * (int(triggers.groups.max()) + 1) + triggers.groups, stable=True)
    return ImageSet(triggers.images[order], triggers.labels[order], triggers.groups[order])
