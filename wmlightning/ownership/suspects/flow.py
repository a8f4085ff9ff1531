"""One stream of images to a service, and what came of each request."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import anyio
from torch import Tensor

from wmlightning.ownership.suspects.base import MALFORMED, Answer, Batch, Spend
from wmlightning.ownership.suspects.replies import Reply

#: What a service that is there says of a request that it does not take.
_BLAMES = (400, 413, 414, 415, 422)


@dataclass(frozen=True)
class Result:
    """What came of one batch.

    Attributes:
        answers: for the images that left.
        kept: images that never left, since no connection was made.
        reply: the last one; ``None`` if the budget let nothing pass.
    """

    answers: Batch
    kept: list[int]
    reply: Reply | None

    @property
    def failed(self) -> bool:
        """Whether the service gave nothing that can be read."""
        no_reply = self.reply is None or self.reply.failure is not None
        return no_reply or all(answer.missing == MALFORMED for _, answer in self.answers)

    @property
    def in_doubt(self) -> bool:
        """Whether that may be the service's state. Else it blames the images, or said something about them."""
        status = 200 if self.reply is None or self.reply.failure is None else self.reply.status
        return status is None or not (200 <= status < 300 or status in _BLAMES)


@dataclass
class Flow:
    """One stream.

    Attributes:
        images: all of them.
        spend: who counts them.
        deliver: hands answers to the caller's thread.
        room: bounds the requests that are under way, or whose answers the caller has not looked at.
        waiting: batches still to be sent.
        failures: the last requests, if they failed: held back until the service shows signs of life.
        tries: how often each image left.
    """

    images: Tensor
    spend: Spend
    deliver: Callable[[Batch], None]
    room: anyio.Semaphore
    waiting: deque[list[int]]
    failures: list[Result] = field(default_factory=list)
    tries: Counter[int] = field(default_factory=Counter)

    @property
    def gone(self) -> bool:
        """Whether no connection could be made. One that breaks later may be all that a service says to an image."""
        return any(result.reply is not None and not result.reply.sent for result in self.failures)


def unanswered(which: list[int], tries: Counter[int], reply: Reply) -> Batch:
    """What never left has no answer, not even a missing one."""
    why = Answer(missing=reply.failure, status=reply.status)
    return [(i, replace(why, attempt=tries[i])) for i in which if tries[i]]
