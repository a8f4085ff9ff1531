"""Which test a key allows, and which of its triggers are asked about in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from wmlightning.data.batches import ImageSet
from wmlightning.errors import UserError
from wmlightning.ownership.key import Key
from wmlightning.ownership.questions import DecoyKeys, IndependentLabels, Question, SeveralMarks, Terms
from wmlightning.secret import Secret
from wmlightning.watermarks.base import MarkingWatermark
from wmlightning.watermarks.triggers import TriggerMaker


def triggers_of(key: Key, maker: TriggerMaker, wanted: Literal["trained", "new"]) -> tuple[ImageSet, Tensor]:
    """The triggers that can be asked about, with the true classes of their images.

    Triggers with random labels are learned one by one: only those that were trained on are known to the model.
    Decoys are made of the new triggers' images: a key that needs them shows new triggers.

    Args:
        key: that was checked.
        maker: what made its triggers.
        wanted: ``new`` or ``trained``, where there is a choice.
    """
    if maker.scheme.label == "random":
        wanted = "trained"
    elif _one_mark(maker):
        wanted = "new"
    triggers = key.trained if wanted == "trained" else key.new
    marking = isinstance(maker.watermark, MarkingWatermark)
    return triggers, maker.truth(wanted) if marking else torch.full_like(triggers.labels, -1)


def in_order(
    maker: TriggerMaker, triggers: ImageSet, true: Tensor, fresh: Tensor, strangers: Secret, begun: Sequence[int] = ()
) -> Tensor:
    """Places of the triggers that a test would ask about, in its order: of the same image twice, where it looks.

    The verifier draws it: theirs may be that of a file, in which neighbours are alike, and so tell the owner's pictures
    from a stranger's.

    Args:
        maker: see :func:`choose`.
        triggers: see :func:`choose`.
        true: see :func:`choose`.
        fresh: see :func:`choose`.
        strangers: see :func:`choose`.
        begun: see :func:`choose`.
    """
    order = torch.from_numpy(strangers.stream("order of triggers").sample(len(triggers), len(triggers)))
    fresh = order[torch.isin(order, fresh)]  # the same order when others have been spent meanwhile
    first = torch.tensor(begun, dtype=torch.int64)
    fresh = torch.cat([first, fresh[~torch.isin(fresh, first)]])
    if maker.scheme.label == "random":
        return fresh[_unlike(triggers.images[fresh])]
    if not _one_mark(maker):
        return fresh[_in_turns(triggers.groups[fresh])]
    return fresh[(triggers.labels != true)[fresh]]  # elsewhere the plain truth would match


def choose(
    maker: TriggerMaker,
    triggers: ImageSet,
    true: Tensor,
    fresh: Tensor,
    terms: Terms,
    strangers: Secret,
    begun: Sequence[int] = (),
) -> Question:
    """Chooses the test that a key allows.

    Args:
        maker: what made the key's triggers.
        triggers: see :func:`triggers_of`.
        true: see :func:`triggers_of`.
        fresh: int64, which of them may be shown.
        terms: what the verifier wants.
        strangers: the verifier's own secret, which decoy keys and the order follow from.
        begun: those that come first, as they stand: what was planned, before others were given back.

    Raises:
        UserError: if the budget does not allow the test, or no trigger can show anything.
    """
    k = len(maker.source.classes)
    chosen = in_order(maker, triggers, true, fresh, strangers, begun)[: terms.most]
    if maker.scheme.label == "random":
        n_labels = k - isinstance(maker.watermark, MarkingWatermark)
        return _affordable(IndependentLabels(_some(triggers, chosen), true[chosen], terms, n_labels, k))
    if not _one_mark(maker):
        return _affordable(SeveralMarks(_some(triggers, chosen), true[chosen], terms, list(maker.labels.pool), k))
    if not len(chosen):
        raise UserError("triggers", "all show the class that they are to be taken for", "a key with other triggers")

    def decoy(number: int, n: int) -> Tensor:
        return maker.disguised(strangers.derive(f"decoy/{number}"), triggers, chosen[:n]).images

    return DecoyKeys(_some(triggers, chosen), true[chosen], terms, decoy, k)


def _affordable(question: Question) -> Question:
    """The question, unless it is the budget that leaves too few triggers to decide anything."""
    terms, best = question.terms, question.best_p()
    if best > terms.alpha and len(question.labels) == terms.budget < terms.queries and not terms.settled:
        wrong = f"{terms.budget} queries, but even if every one matches, p is {best:.2g} for alpha={terms.alpha:g}"
        raise UserError("budget", wrong, "more, or a larger alpha")
    return question


def _one_mark(maker: TriggerMaker) -> bool:
    """Whether the key has one mark with one label, which only other keys can be compared with."""
    return maker.scheme.label == "target" and maker.scheme.n_marks == 1


def _some(triggers: ImageSet, which: Tensor) -> ImageSet:
    return ImageSet(triggers.images[which], triggers.labels[which], triggers.groups[which])


def _unlike(images: Tensor) -> Tensor:
    """Each image once: the same image twice is one trial."""
    seen: dict[bytes, int] = {}
    for i, image in enumerate(images):
        seen.setdefault(image.numpy().tobytes(), i)
    return torch.tensor(sorted(seen.values()), dtype=torch.int64)


def _in_turns(groups: Tensor) -> Tensor:
    """One of each mark, then the next of each, and so on."""
    turn = torch.zeros_like(groups)
    for mark in torch.unique(groups).tolist():
        members = groups == mark
        turn[members] = torch.arange(int(members.sum()))
    return torch.argsort(turn * (int(groups.max()) + 1) + groups, stable=True)
