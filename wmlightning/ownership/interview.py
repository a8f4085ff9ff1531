"""One suspect being asked: labels as they come, and why no more came."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import torch
from torch import Tensor

from wmlightning.errors import UserError
from wmlightning.ownership.recorded import Recorded
from wmlightning.ownership.statistics.result import MISSING
from wmlightning.ownership.suspects.base import NOT_ASKED, Unreachable, Unreadable


class Interview:
    """Asks a suspect, and keeps count.

    Args:
        asked: the suspect, opened.

    Attributes:
        answered: images that the suspect had its chance to answer.
        silent: those of them without a usable answer.
        ended: why no more can be asked: the budget, or a suspect that is gone; ``None`` while it goes on.
        mistaken: whether that is most likely for a mistake in the config, and not for the suspect.
    """

    def __init__(self, asked: Recorded) -> None:
        self._asked = asked
        self.answered = self.silent = 0
        self.ended: str | None = None
        self.mistaken = False

    def lose(self, error: UserError) -> None:
        """Notes that the suspect cannot be asked."""
        why = error.why if isinstance(error, Unreachable) else str(error)
        self.mistaken = isinstance(error, Unreadable) or not isinstance(error, Unreachable)
        then = "correct how it is asked and read" if self.mistaken else "the same command goes on where it was"
        self.ended = f"the suspect does not answer ({why}); {then}"

    def stream(self, images: Tensor) -> Iterator[int]:
        """Labels of uint8 images ``(n, c, h, w)`` in their order, -1 for no usable answer; fewer if it ended before."""
        if self.ended is not None:
            return
        with closing(self._asked.stream(images)) as answers:
            try:
                for answer in answers:
                    if not answer.asked:
                        self.ended = "the budget was spent"
                        return
                    self.answered += 1
                    self.silent += answer.label is None
                    yield MISSING if answer.label is None else answer.label
            except Unreachable as error:
                self.lose(error)

    def ask(self, images: Tensor) -> Tensor:
        """Labels like those of :meth:`stream`, all at once: int64 ``(n,)``, fewer if it ended before."""
        if self.ended is not None:
            return torch.empty(0, dtype=torch.int64)
        try:
            answers = self._asked.ask(images)
        except Unreachable as error:
            self.lose(error)
            answers = self._asked.known(images)
        n = next((i for i, answer in enumerate(answers) if answer.missing == NOT_ASKED), len(answers))
        labels = [answer.label for answer in answers[:n]]
        if len(labels) < len(images) and self.ended is None:
            self.ended = "the budget was spent"
        self.answered += len(labels)
        self.silent += labels.count(None)
        return torch.tensor([MISSING if label is None else label for label in labels], dtype=torch.int64)
