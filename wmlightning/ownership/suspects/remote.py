"""Suspects behind HTTP: batches sent side by side, again where it may help, and no more images than are allowed."""

from __future__ import annotations

import atexit
from abc import abstractmethod
from collections import deque
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue
from typing import Any
from weakref import WeakSet

import anyio
import httpx
from anyio.from_thread import start_blocking_portal
from torch import Tensor

from wmlightning.config import setting
from wmlightning.errors import UserError
from wmlightning.ownership.suspects.base import (
    MALFORMED,
    WRONG_CLASSES,
    WRONG_COUNT,
    Answer,
    Batch,
    Spend,
    Suspect,
    Unlimited,
    Unreachable,
    Unreadable,
    batches,
    missing,
)
from wmlightning.ownership.suspects.flow import Flow, Result, unanswered
from wmlightning.ownership.suspects.http import Channel, Http, Progress
from wmlightning.ownership.suspects.reading import NOTHING, parse
from wmlightning.ownership.suspects.replies import Reply, refusal

#: Headers that say who asks, and not what: a new token makes no other suspect.
_CREDENTIALS = (
    *("authorization", "proxy-authorization", "cookie", "api-key", "apikey", "x-api-key", "x-auth-token"),
    *("x-access-token", "x-amz-security-token", "x-goog-api-key", "ocp-apim-subscription-key", "x-functions-key"),
)
#: Streams whose event loop may still run. One left open must end while threads still live, or Python never ends.
_OPEN: WeakSet[Generator[Batch, None, None]] = WeakSet()


@atexit.register
def _close_all() -> None:
    for stream in list(_OPEN):
        with suppress(ValueError):  # another thread is in it
            stream.close()


class RemoteSuspect(Suspect):
    """A service. A leaf writes :meth:`encode` and :meth:`decode`.

    Args:
        url: of the service.
        batch_size: images in one request.
        http: how to ask.
    """

    method = "POST"
    hint = ""  # what else may be the reason where there is another number of scores than classes

    def __init__(self, url: str, batch_size: int, http: Http | None) -> None:
        if not isinstance(http, Http | None):
            raise UserError(
                "suspect.http", f"a {type(http).__name__} is something else", "timeout, retries, ..., or null"
            )
        self.http = http or Http()
        self.channel = Channel(url, self.http)
        self.name = self.channel.shown(self.channel.url)
        self.batch_size = setting(batch_size, "suspect.batch_size", int, 1)
        self._alive = self._in_batches = False  # an answer could be read, and those to several images at once
        self._unusable = 0
        self._before = 0  # requests that failed in a row at the end of earlier streams: a round may be one of them

    @property
    def endpoint(self) -> httpx.URL:
        """Where images are sent."""
        return self.channel.url

    def private(self) -> dict[str, Any]:
        """See :meth:`Suspect.private`. A query or a header may choose the model."""
        query, headers = self.channel.url.query.decode(), self.http.headers or {}
        kept = {name.lower(): value for name, value in headers.items() if name.lower() not in _CREDENTIALS}
        return {name: value for name, value in (("query", query), ("headers", kept)) if value}

    @abstractmethod
    def encode(self, images: Tensor) -> bytes:
        """The body of a request for uint8 images ``(n, c, h, w)``."""

    @abstractmethod
    def decode(self, content: Any, n: int) -> list[Answer]:
        """Reads what came back, as JSON, for ``n`` images. Never raises."""

    def ask(self, images: Tensor) -> list[Answer]:
        """See :meth:`Suspect.ask`."""
        found = dict(pair for batch in self.stream(images) for pair in batch)
        return [found[i] for i in range(len(images))]

    def stream(self, images: Tensor, spend: Spend | None = None) -> Generator[Batch, None, None]:
        """See :meth:`Suspect.stream`. Until the first answer, one image at a time: a wrong token or mapping costs few.

        Raises:
            UserError: if the first reply shows that the config is wrong.
            Unreachable: if the service stopped answering; what it answered has been given before.
            Unreadable: if it answers, and never in a way that can be read.
        """
        stream = self._stream(images, spend or Unlimited())
        _OPEN.add(stream)
        return stream

    def _stream(self, images: Tensor, spend: Spend) -> Generator[Batch, None, None]:
        waiting = deque(batches(len(images), self.batch_size, self.first_batch))
        results: SimpleQueue[Batch | None] = SimpleQueue()
        with start_blocking_portal() as portal:  # an event loop of its own, whatever the caller's thread is doing
            room = portal.call(anyio.Semaphore, self.http.concurrency)
            flow = Flow(images, spend, results.put, room, waiting)
            work = portal.start_task_soon(self._work, flow)
            work.add_done_callback(lambda _: results.put(None))
            try:
                while (batch := results.get()) is not None:
                    if batch:
                        yield batch
                    portal.call(room.release)
                work.result()
            finally:
                work.cancel()

    async def _work(self, flow: Flow) -> None:
        failed: list[Exception] = []

        async def worker() -> None:
            try:
                while flow.waiting and not failed:
                    await self._step(client, flow)
            except Exception as error:  # noqa: BLE001 (raised below, when the others have ended what they are in)
                failed.append(error)

        async with self.channel.client() as client:
            while flow.waiting and not (self._alive and (self._in_batches or self.batch_size == 1)):
                await self._step(client, flow)
            while flow.waiting and not failed:  # again, if what never left went back
                async with anyio.create_task_group() as group:
                    for _ in range(min(self.http.concurrency, len(flow.waiting))):
                        group.start_soon(worker)
            if not failed:
                await self._ask_alone(client, flow)
        if failed:
            raise failed[0]
        if flow.gone:
            raise self._unreachable(flow)
        self._before += sum(result.in_doubt for result in flow.failures)
        flow.deliver([pair for result in flow.failures for pair in result.answers])

    async def _ask_alone(self, client: httpx.AsyncClient, flow: Flow) -> None:
        """Is the service gone, or did it refuse? Images of requests that failed get one each, until one is answered."""
        several = [result.answers for result in flow.failures if result.in_doubt and len(result.answers) > 1]
        for i in [i for answers in several for i, _ in answers]:
            if flow.failures and not flow.gone:
                flow.waiting.append([i])
                await self._step(client, flow)

    async def _step(self, client: httpx.AsyncClient, flow: Flow) -> None:
        """Sends the next batch, and decides what its outcome means for the whole. Delivers once, if only nothing."""
        await flow.room.acquire()
        if not flow.waiting:  # others took the last while we waited
            flow.deliver([])
            return
        which = flow.waiting.popleft()
        if not self._alive and len(which) > 1:
            flow.waiting.appendleft(which[1:])
            which = which[:1]
        result = await self._batch(client, flow, which)
        if result.reply is None:  # the budget is spent
            flow.waiting.clear()
            flow.deliver([])
            return
        if result.failed:
            flow.failures.append(result)
            flow.deliver([])
            self._judge(result.reply, flow, len(which))
            return
        self._check_classes(result)
        self._check_count(result)
        if not self._alive and all(answer.label is None for _, answer in result.answers):
            flow.deliver(result.answers)
            self._check_usable(result)
            return
        self._alive = True
        # The service lives. What it did not answer, it refused; what never left may leave now.
        held = [pair for failure in flow.failures for pair in failure.answers]
        flow.waiting.extend(failure.kept for failure in flow.failures if failure.kept)
        flow.failures.clear()
        self._before = 0
        flow.deliver(list(dict(held + result.answers).items()))  # an image that was asked alone stands in both

    def _judge(self, reply: Reply, flow: Flow, n: int) -> None:
        if n > 1 and (reply.status == 413 or (reply.status in (400, 422) and not self._in_batches)):
            wrong = f"{self.name} does not take {n} images in a request ({reply.detail})"
            raise UserError("suspect.batch_size", wrong, f"fewer than {n}")
        one = len(flow.failures) == 1 and reply.sent and bool(flow.waiting)  # it may not like just this image
        if not self._alive and reply.hopeless and not one:
            raise refusal(self.name, reply)
        if self._before + len(flow.failures) >= self.http.patience or (not self._alive and not flow.waiting):
            raise self._unreachable(flow)

    def _unreachable(self, flow: Flow) -> Unreachable:
        last, n = flow.failures[-1].reply, self._before + len(flow.failures)
        self._before = 0  # who asks again has patience again
        why = last.detail if last is not None and last.failure else "what it answers cannot be read"
        heard = all(result.reply is not None and result.reply.failure is None for result in flow.failures)
        kind = Unreadable if heard and not self._alive else Unreachable
        return kind(f"{self.name}: " + (f"{n} requests in a row failed, the last one: " if n > 1 else "") + why)

    def _check_classes(self, result: Result) -> None:
        if not self._alive and all(answer.missing == WRONG_CLASSES for _, answer in result.answers):
            wrong = f"{self.name} gives another number of scores"
            raise UserError("suspect", wrong, f"the key's task has {self.n_classes} classes{self.hint}")

    def _check_count(self, result: Result) -> None:
        if len(result.answers) < 2 or self._in_batches:
            return
        if all(answer.missing == WRONG_COUNT for _, answer in result.answers):
            wrong = f"{self.name} does not give an answer for each of {len(result.answers)} images in a request"
            raise UserError("suspect.batch_size", wrong, "1")
        self._in_batches = True

    def _check_usable(self, result: Result) -> None:
        """A mistake in names or mapping would show it all triggers. Who refuses in words of their own is asked on."""
        self._unusable += 1
        if self._unusable >= self.http.patience:
            why = result.answers[-1][1].missing
            raise Unreadable(f"{self.name}: none of its first {self._unusable} answers is a class of the task ({why})")

    async def _batch(self, client: httpx.AsyncClient, flow: Flow, which: list[int]) -> Result:
        """Asks for some images until there is an answer, no hope or no budget."""
        settled: Batch = []
        reply: Reply | None = None  # of the attempt before
        tries = flow.tries
        body = self.encode(flow.images[which])  # what cannot be sent is not counted as sent
        for attempt in range(1, self.http.retries + 2):
            await self.channel.turn()
            allowed = flow.spend.take(which, attempt)
            if reply is not None:  # what may not be sent again has its answer: none
                settled += unanswered([i for i in which if i not in allowed], tries, reply)
            if not allowed:
                return Result(settled, [], reply)
            if allowed != which:
                which, body = allowed, self.encode(flow.images[allowed])
            progress = Progress()
            try:
                reply = await self.channel.exchange(client, self.method, self.endpoint, body, progress)
            except BaseException:  # somebody stops us
                if not progress.sent:
                    flow.spend.give_back(which)
                raise
            if reply.sent:
                tries.update(which)
            else:
                flow.spend.give_back(which)
            if reply.failure is None:
                answers = self._read(reply, len(which))
                settled += [
                    (i, replace(answer, status=reply.status, attempt=tries[i]))
                    for i, answer in zip(which, answers, strict=True)
                ]
                return Result(settled, [], reply)
            if not reply.again or (not self._alive and reply.hopeless):
                break
            if attempt <= self.http.retries:
                await self.channel.rest(attempt, reply)
        assert reply is not None, "there is a first attempt"
        return Result(settled + unanswered(which, tries, reply), [i for i in which if not tries[i]], reply)

    def _read(self, reply: Reply, n: int) -> list[Answer]:
        content = parse(reply.body)
        if isinstance(content, str) and content[:1] in ("{", "["):  # JSON in JSON: scoring scripts often return text
            content = parse(content.encode(errors="replace"))
        return missing(MALFORMED, n) if content is NOTHING else self.decode(content, n)

    def fetch(self, url: httpx.URL) -> Any:
        """Asks for a document before the first image is sent.

        Returns:
            Its JSON.

        Raises:
            UserError: if it is not to be had there.
            Unreachable: if the service does not answer.
        """
        with start_blocking_portal() as portal:
            reply = portal.call(self._get, url)
        if reply.failure is not None and (reply.hopeless or not reply.again):
            raise refusal(self.name, reply)
        if reply.failure is not None:
            raise Unreachable(f"{self.name}: {reply.detail}")
        content = parse(reply.body)
        if content is NOTHING:
            raise UserError("suspect.url", f"{self.channel.shown(url)} gives no JSON", "the address of the service")
        return content

    async def _get(self, url: httpx.URL) -> Reply:
        async with self.channel.client() as client:
            for attempt in range(1, self.http.retries + 2):
                await self.channel.turn()
                reply = await self.channel.exchange(client, "GET", url, None)
                if reply.failure is None or not reply.again or reply.hopeless or attempt > self.http.retries:
                    break
                await self.channel.rest(attempt, reply)
            return reply
