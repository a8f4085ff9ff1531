"""The two small contracts of a watermark. A leaf writes one method; everything common is done for it.

What is common (how many triggers, whose images, which labels, several marks, negatives, decoys) is in
:mod:`wmlightning.watermarks.scheme` and :mod:`wmlightning.watermarks.triggers`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from wmlightning.data.source import Source
from wmlightning.errors import UserError
from wmlightning.secret import Secret, Stream

Owner = Literal["key", "negative", "decoy"]


@dataclass(frozen=True)
class Mark:
    """One mark: of the key, or of a stranger.

    Attributes:
        key: the owner's secret, from which strangers' are derived too.
        owner: ``key`` for the owner's marks; ``negative`` for strangers whose marks are trained against; ``decoy``
            for strangers whose marks are only tested. The last two never share a secret.
        stranger: which stranger (0 for the key).
        index: which mark of its key.
    """

    key: Secret
    owner: Owner
    stranger: int
    index: int

    @property
    def secret(self) -> Secret:
        """What all random choices of this mark follow from."""
        return self.key.derive(f"{self.owner}/{self.stranger}/mark/{self.index}")

    def stream(self, label: str) -> Stream:
        """Random numbers of this mark."""
        return self.secret.stream(label)


class Watermark:
    """What both contracts share. Derive from one of the two below."""

    def sources(self) -> list[Source]:
        """The data that it brings along."""
        return [value for value in vars(self).values() if isinstance(value, Source)]

    def chosen(self) -> str | None:
        """What of the first mark's look its owner chose, in a word; ``None`` if all of it is drawn.

        Verdicts on several marks name it: a look that was chosen with its label in view proves nothing.
        """
        return None

    def check(self, shape: tuple[int, int, int], n_marks: int, negatives: bool) -> None:
        """Refuses options that do not fit, before any image is read.

        Args:
            shape: ``(c, h, w)`` of the task's images.
            n_marks: marks in the key.
            negatives: whether negatives are wanted.

        Raises:
            UserError: naming the config key.
        """
        del shape, n_marks, negatives


class MarkingWatermark(Watermark, ABC):
    """Puts a mark on clean images of the task."""

    @abstractmethod
    def apply(self, images: Tensor, mark: Mark, batch: str) -> Tensor:
        """Marks images.

        Args:
            images: uint8 ``(n, c, h, w)``; not to be written to.
            mark: whose mark it is; draw everything from ``mark.stream(...)``.
            batch: name of this set of images (``trained``, ``new``, ...): for what is to differ between sets that
                carry the same mark.

        Returns:
            uint8 ``(n, c, h, w)``; the same arguments give the same bytes.
        """


class PictureWatermark(Watermark, ABC):
    """Brings pictures of its own that have nothing to do with the task."""

    @abstractmethod
    def draw(self, n: int, mark: Mark, n_marks: int, new: bool, shape: tuple[int, int, int]) -> Tensor:
        """Draws pictures that belong to a mark.

        Args:
            n: how many at the most.
            mark: whose mark it is.
            n_marks: marks in the key.
            new: pictures that no training ever sees (from a test split), or such as are trained on.
            shape: ``(c, h, w)`` of the task's images.

        Returns:
            uint8 ``(m, c, h, w)`` with m <= n; fewer only if there are no more.
        """

    def picked(
        self, places: Tensor, n: int, mark: Mark, n_marks: int, new: bool, shape: tuple[int, int, int]
    ) -> Tensor:
        """Some of the pictures that :meth:`draw` draws. Override it where those that nobody asks for are dear.

        Args:
            places: int64 ``(m,)``, which of the ``n``; if there are fewer they come again from the first.
            n: see :meth:`draw`, like the rest.
            mark: whose mark it is.
            n_marks: marks in the key.
            new: from a test split.
            shape: of the task's images.

        Returns:
            uint8 ``(m, c, h, w)``.
        """
        drawn = self.draw(n, mark, n_marks, new, shape)
        return drawn[places % len(drawn)]


@contextmanager
def blaming_images() -> Iterator[None]:
    """A mistake in other data is told under ``watermark.images``: sources name their options as the task's.

    Raises:
        UserError: naming the option of ``watermark.images``.
    """
    try:
        yield
    except UserError as error:
        key, wrong, right = error.args
        key, right = (re.sub(r"\bdataset\.(source\.)?(?=[a-z])", "watermark.images.", text) for text in (key, right))
        raise UserError(key, wrong, right) from error
