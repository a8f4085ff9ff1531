"""A suspect with a memory and a budget: whoever asks one, asks it through this."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

from torch import Tensor

from wmlightning.config import setting
from wmlightning.ownership.suspects.base import NOT_ASKED, Answer, Batch, Shape, Suspect, Unreachable
from wmlightning.ownership.transcript import Transcript, image_digest, image_digests, line_about, now

if TYPE_CHECKING:
    from typing_extensions import Self

_NOT_ASKED = Answer(missing=NOT_ASKED, attempt=0)


class Recorded:
    """A suspect with a memory and a budget: the way to ask one. Use it in a ``with`` statement, which opens it.

    A suspect with a transcript is contacted when something must be sent: what it answered can be read without it.

    Args:
        suspect: whom to ask.
        transcript: file to keep; ``None``: remember only as long as this object lives.
        budget: images that may leave for the suspect in all, those of earlier runs with this transcript included.
        shape: of the images that will be asked about.
        n_classes: of the task.
    """

    def __init__(
        self,
        suspect: Suspect,
        transcript: str | Path | None = None,
        budget: int | None = None,
        shape: Shape | None = None,
        n_classes: int | None = None,
    ) -> None:
        self.suspect = suspect
        self.path = None if transcript is None else Path(transcript).expanduser()
        self.budget = None if budget is None else setting(budget, "budget", int, 0)
        self._task = shape, n_classes
        self._file: Transcript | None = None
        self._met = False
        self._sent: Counter[str] = Counter()
        self._queries = 0  # their total, which is asked for with each batch
        self._answers: dict[str, Answer] = {}
        self._span: tuple[str, str] | None = None
        self._before = 0
        self._open: WeakSet[Generator[Batch, None, None]] = WeakSet()
        self._guard = threading.Lock()  # images leave from one thread and answers are written by another

    def __enter__(self) -> Self:
        """Opens the transcript, or the suspect if there is none.

        Raises:
            UserError: see :meth:`Suspect.open` and :class:`Transcript`.
        """
        self._met = False
        if self.path is None or not self.path.exists():
            self._meet()
        if self.path is not None:
            self._file = Transcript(self.path, self.suspect.identity(), self.suspect.private(), self._task[1])
            self._sent, self._answers, self._span = self._file.sent, self._file.answers, self._file.span
        self._before = self._queries = self._sent.total()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends what is under way: no image leaves that is not written down."""
        for batches in list(self._open):
            batches.close()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _meet(self) -> None:
        if not self._met:
            self.suspect.open(*self._task)
            self._met = True

    @property
    def name(self) -> str:
        """Of the suspect, for the verdict."""
        return self.suspect.name

    @property
    def queries(self) -> int:
        """Images that left so far, retries and earlier runs included."""
        return self._queries

    @property
    def contacted(self) -> bool:
        """Whether images left since this was opened: if not, all that it answers was said earlier."""
        return self.queries > self._before

    @property
    def answered_from(self) -> str | None:
        """When its first answer came, in UTC."""
        return self._span[0] if self._span else None

    @property
    def answered_until(self) -> str | None:
        """When its last answer came, in UTC."""
        return self._span[1] if self._span else None

    @property
    def shown(self) -> set[str]:
        """Hashes of the images that the suspect has seen, see :func:`image_digest`: as triggers they are spent."""
        return {digest for digest, times in self._sent.items() if times > 0}

    @property
    def heard(self) -> bool:
        """Whether a class was answered to any image."""
        return any(answer.label is not None for answer in self._answers.values())

    @property
    def done(self) -> bool:
        """Whether all that the plan asks for was asked."""
        return self._file is not None and self._file.done

    def agree(self, plan: dict[str, Any]) -> None:
        """Notes what is planned, unless that is what the transcript says."""
        if self._file is not None and self._file.plan != plan:
            self._file.write([json.dumps({"plan": plan, "time": now()})])
            self._file.plan, self._file.done = plan, False

    def finish(self) -> None:
        """Notes that all was asked that is planned."""
        if self._file is not None and not self._file.done:
            self._file.write([json.dumps({"done": True, "time": now()})])
            self._file.done = True

    def answer(self, image: Tensor) -> Answer | None:
        """What it said to an image, if it was asked and answered."""
        return self._answers.get(image_digest(image))

    @property
    def left(self) -> int | None:
        """Images that may still leave; ``None``: any number."""
        return None if self.budget is None else max(0, self.budget - self.queries)

    def ask(self, images: Tensor) -> list[Answer]:
        """An answer for each image, in their order; see :meth:`stream`."""
        digests = image_digests(images)
        with closing(self._fetched(images, digests)) as arrivals:
            for _ in arrivals:
                pass
        return self._known(digests)

    def stream(self, images: Tensor) -> Generator[Answer, None, None]:
        """Asks about uint8 images ``(n, c, h, w)`` and gives their answers in their order, one after the other.

        The order does not depend on the suspect, so that a test may stop at any answer; then close the iterator.
        Images that were answered before are not sent again, nor is one that stands twice in ``images``; one whose
        answer was lost is. Where the budget ends, answers are ``NOT_ASKED``.

        Raises:
            Unreachable: if the suspect stopped answering. All answers that came are kept.
            UserError: if the first reply shows that the config is wrong.
        """
        digests = image_digests(images)
        with closing(self._fetched(images, digests)) as arrivals:
            for digest in digests:
                while digest not in self._answers and next(arrivals, False):
                    pass
                yield self._answers.get(digest, _NOT_ASKED)

    def known(self, images: Tensor) -> list[Answer]:
        """Like :meth:`ask`, without asking."""
        return self._known(image_digests(images))

    def _known(self, digests: list[str]) -> list[Answer]:
        return [self._answers.get(digest, _NOT_ASKED) for digest in digests]

    def _fetched(self, images: Tensor, digests: list[str]) -> Generator[Literal[True], None, None]:
        """Asks about what has no answer, each image once, and stops for breath after each batch that was kept."""
        asked = [digest for digest in dict.fromkeys(digests) if digest not in self._answers]
        if not asked:
            return
        if len(asked) < len(digests):
            first = {digest: len(digests) - 1 - i for i, digest in enumerate(reversed(digests))}
            images = images[[first[digest] for digest in asked]]
        try:
            self._meet()
            batches = self.suspect.stream(images, _Ledger(self, asked))
            self._open.add(batches)
            with closing(batches):
                for batch in batches:
                    self._keep(batch, asked, tuple(images.shape[1:]))
                    yield True
        except Unreachable as error:
            answered = sum(digest in self._answers for digest in digests)
            raise type(error)(error.why, answered) from error

    def _keep(self, batch: Batch, digests: list[str], shape: tuple[int, ...]) -> None:
        answers = {digests[i]: answer for i, answer in batch}
        moment = now()
        with self._guard:
            if self._file is not None:
                self._file.write_answers(answers, shape, moment)
            self._answers.update(answers)
            if batch:
                self._span = self.answered_from or moment, moment

    def spend(self, digests: Sequence[str], attempt: int) -> int:
        """Counts images that are about to leave, and says how many of them may."""
        with self._guard:
            n = len(digests) if self.left is None else min(len(digests), self.left)
            if n and self._file is not None:
                self._file.write([line_about("sent", digests[:n], attempt=attempt, time=now())])
            self._sent.update(digests[:n])
            self._queries += n
            return n

    def refund(self, digests: Sequence[str]) -> None:
        """Uncounts images that did not leave."""
        with self._guard:
            if self._file is not None:
                self._file.write([line_about("unsent", digests, time=now())])
            self._sent.subtract(digests)
            self._queries -= len(digests)


class _Ledger:
    """The :class:`~wmlightning.ownership.suspects.base.Spend` of one stream."""

    def __init__(self, recorded: Recorded, digests: list[str]) -> None:
        self._recorded = recorded
        self._digests = digests

    def take(self, which: Sequence[int], attempt: int) -> list[int]:
        return list(which[: self._recorded.spend([self._digests[i] for i in which], attempt)])

    def give_back(self, which: Sequence[int]) -> None:
        self._recorded.refund([self._digests[i] for i in which])
