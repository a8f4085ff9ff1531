"""The contract of a suspect: a classifier that we may only ask for predictions.

A leaf writes one method, :meth:`Suspect.ask`, and ``connect`` where it must load or look up something first. It answers
each image with a label or the reason why there is none: what comes back from a stranger is never an exception.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from wmlightning.errors import UserError

Shape = tuple[int, int, int]

#: Why an answer may be missing.
MALFORMED = "malformed"
WRONG_COUNT = "wrong count"
WRONG_CLASSES = "wrong number of classes"
OUT_OF_RANGE = "out of range"
NOT_A_NUMBER = "not a number"
UNKNOWN_NAME = "unknown name"
FAILED = "failed"
REFUSED = "refused"
REDIRECTED = "redirected"
SERVER_ERROR = "server error"
TIMEOUT = "timeout"
LOST = "connection lost"
TOO_LARGE = "too large"
NOT_ASKED = "budget spent"


@dataclass(frozen=True)
class Answer:
    """What came of one image.

    Attributes:
        label: 0..K-1, or ``None`` if there is no answer that could be a match.
        missing: why there is none.
        status: of HTTP, where there was one.
        attempt: how often the image had been sent by then.
    """

    label: int | None = None
    missing: str | None = None
    status: int | None = None
    attempt: int = 1

    @property
    def asked(self) -> bool:
        """Whether the suspect had its chance. What the budget did not allow is neither a match nor a miss."""
        return self.missing != NOT_ASKED


#: Answers that arrived together, with the number of the image that each belongs to.
Batch = list[tuple[int, Answer]]


class Unreachable(UserError):
    """The suspect stopped answering. What it answered before stays in the transcript; ask again later.

    Args:
        why: what happened.
        answered: images of this call that have an answer.
    """

    def __init__(self, why: str, answered: int = 0) -> None:
        right = f"{answered} images were answered before; the same command asks for the rest"
        super().__init__("suspect", why, right)
        self.why = why
        self.answered = answered


class Unreadable(Unreachable):
    """Whatever it says, nothing of it could ever be read: most often the config says wrongly how it answers."""


class Spend(Protocol):
    """Keeps count of the images that leave for the suspect."""

    def take(self, which: Sequence[int], attempt: int) -> list[int]:
        """Called right before images leave: those of them that may, the first ones."""

    def give_back(self, which: Sequence[int]) -> None:
        """Nobody saw them after all: there was no connection, or a model on this machine does not take such images."""


class Unlimited:
    """Nobody counts."""

    def take(self, which: Sequence[int], attempt: int) -> list[int]:
        """All of them."""
        del attempt
        return list(which)

    def give_back(self, which: Sequence[int]) -> None:
        """Nothing to do."""


class Suspect(ABC):
    """A classifier from outside. Making one reads no file, imports no code and sends nothing: ``open`` does.

    Attributes:
        name: shown in the verdict; holds no secret.
        shape: ``(c, h, w)`` of the images that it takes, where it tells.
        n_classes: number of its labels, where it tells.
        batch_size: images asked for at once.
        local: whether images stay on this machine: those that it does not take at all were shown to nobody.
    """

    local = False
    name: str
    shape: Shape | None = None
    n_classes: int | None = None
    batch_size: int = 1

    def open(self, shape: Shape | None = None, n_classes: int | None = None) -> None:
        """First contact.

        Args:
            shape: of the images that it will be asked about.
            n_classes: of the task.

        Raises:
            UserError: if it is not there, or is a classifier of something else.
            Unreachable: if it is there and does not answer.
        """
        self.shape = self.n_classes = None  # what an earlier opening asked for is not what it tells
        self.connect(shape)
        if None not in (shape, self.shape) and shape != self.shape:
            raise UserError("suspect", f"{self.name} takes {size(self.shape)} images", f"the key's are {size(shape)}")
        if None not in (n_classes, self.n_classes) and n_classes != self.n_classes:
            raise wrong_classes(self.name, self.n_classes, n_classes)
        self.shape, self.n_classes = shape or self.shape, n_classes or self.n_classes

    def connect(self, shape: Shape | None) -> None:
        """Loads or looks up what is needed, and sets ``shape`` and ``n_classes`` if they can be known."""
        del shape

    def identity(self) -> dict[str, Any]:
        """What tells it from other suspects: a transcript belongs to one of them. Plain, without secrets.

        The same model read in another way answers otherwise, and is another suspect: see :func:`reading`.
        """
        return {"kind": type(self).__name__, "name": self.name}

    def private(self) -> dict[str, Any]:
        """What else tells it from other suspects, and may hold secrets; plain, or nothing.

        It is written nowhere. A transcript keeps a salted hash, from which even a short secret is hard to guess.
        """
        return {}

    @property
    def first_batch(self) -> int:
        """Images that a :meth:`stream` begins with."""
        return self.batch_size

    @abstractmethod
    def ask(self, images: Tensor) -> list[Answer]:
        """Asks for uint8 images ``(n, c, h, w)``: an answer for each, in their order."""

    def stream(self, images: Tensor, spend: Spend | None = None) -> Generator[Batch, None, None]:
        """Asks batch by batch, and gives answers as they come, in any order.

        Args:
            images: uint8 ``(n, c, h, w)``, any number of them.
            spend: counts them; images that it does not let pass get no answer.
        """
        spend = spend or Unlimited()
        for which in batches(len(images), self.batch_size, self.first_batch):
            allowed = spend.take(which, 1)
            if allowed:
                first, last = allowed[0], allowed[-1]  # all between them too: a view instead of a copy
                try:
                    answers = self.ask(images[first : last + 1])
                except UserError:
                    if self.local:
                        spend.give_back(allowed)
                    raise
                yield list(zip(allowed, answers, strict=True))
            if len(allowed) < len(which):
                return


def batches(n: int, batch_size: int, first_batch: int) -> list[list[int]]:
    """0..n-1, so many at a time, and at first so many."""
    starts = [0, *range(first_batch, n, batch_size)]
    return [list(range(start, min(end, n))) for start, end in zip(starts, [*starts[1:], n], strict=True)] if n else []


def reading(*settings: Any) -> str:
    """Names plain settings that answers depend on, without showing them."""
    text = json.dumps(settings, sort_keys=True, default=vars)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def missing(why: str, n: int) -> list[Answer]:
    """``n`` times no answer."""
    return [Answer(missing=why)] * n


def size(shape: Shape | None) -> str:
    """A shape as people write it."""
    return "x".join(map(str, shape or ()))


def wrong_classes(name: str, theirs: int | None, ours: int | None) -> UserError:
    """The error for a classifier of another number of classes."""
    return UserError("suspect", f"{name} tells {theirs} classes apart", f"the key's task has {ours}")
