"""What a suspect was asked and what it answered: written down as it happens, so that no answer is asked for twice.

A transcript is a file of JSON lines. The first names the suspect, and holds a salted hash of what else tells it from
others and may be secret; before the first query another says what is planned.
Before images leave, a line says which, by the hash of their bytes, for the images are secret; when they are answered,
another says what came back, together for those that came together in the same way. Every image that leaves counts
against the budget, whether it is answered, lost or sent again. A kill loses no line; the last may tear.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

from filelock import FileLock, Timeout
from torch import Tensor

from wmlightning.config import setting
from wmlightning.errors import UserError
from wmlightning.ownership.suspects.base import NOT_ASKED, Answer, Batch, Shape, Suspect, Unreachable

if TYPE_CHECKING:
    from typing_extensions import Self

SCHEMA = 4
#: What a power cut may lose. Each batch costs a few milliseconds to bring to the disk, which a fast local model feels.
SYNC_SECONDS = 1.0


def image_digest(image: Tensor) -> str:
    """Names a uint8 image ``(c, h, w)`` without showing it."""
    return image_digests(image[None])[0]


def image_digests(images: Tensor) -> list[str]:
    """Names of uint8 images ``(n, c, h, w)``."""
    head = hashlib.sha256(f"uint8 {'x'.join(map(str, images.shape[1:]))}\n".encode())
    rows = images.contiguous().numpy().reshape(-1).data
    size = images[0].numel() if len(images) else 1
    found = []
    for first in range(0, len(rows), size):
        digest = head.copy()
        digest.update(rows[first : first + size])
        found.append(digest.hexdigest())
    return found


_NOT_ASKED = Answer(missing=NOT_ASKED, attempt=0)


class Transcript:
    """The file.

    Args:
        path: made if it is not there, for its owner's eyes only.
        identity: of the suspect.
        private: what else tells it from others, and may hold secrets.

    Attributes:
        answers: by the image's hash.
        sent: how often each image left.
        plan: what was settled before the first query, if it was noted.
        done: whether all that the plan asks for was asked.
        span: when its first and its last answer came.

    Raises:
        UserError: if the file belongs to another suspect, was altered, or is being written by another process.
    """

    def __init__(self, path: Path, identity: dict[str, Any], private: dict[str, Any] | None = None) -> None:
        self.path = path
        self.span: tuple[str, str] | None = None
        self.answers: dict[str, Answer] = {}
        self.sent: Counter[str] = Counter()
        self.plan: dict[str, Any] | None = None
        self.done = False
        self._synced = time.monotonic()
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except Timeout:
            wrong = f"{path} is being written by another process"
            raise UserError("transcript", wrong, "wait for it, or name another file") from None
        except OSError as error:
            self._lock.release()
            raise UserError("transcript", f"{path}: {error.strerror}", "a file that you may write to") from error
        try:
            path.chmod(0o600)
            self._read(identity, private)
        except BaseException:
            self.close()
            raise

    def _read(self, identity: dict[str, Any], private: dict[str, Any] | None) -> None:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.splitlines()
        for number, line in enumerate(lines):
            try:
                entry = json.loads(line)
                self._header(entry, identity, private) if number == 0 else self._note(entry)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                if number == len(lines) - 1:  # a power cut may leave a last line of nothing
                    whole = whole[: len(whole) - len(line) - 1]
                    break
                raise UserError("transcript", f"line {number + 1} of {self.path} was altered", "another file") from None
        if len(whole) < len(content):
            os.ftruncate(self._file, len(whole))
        if not whole:
            self.write([{"schema": SCHEMA, "suspect": identity, "private": _sealed(private), "time": _now()}])

    def _header(self, entry: dict[str, Any], identity: dict[str, Any], private: dict[str, Any] | None) -> None:
        found = entry["suspect"]
        if entry["schema"] != SCHEMA:
            wrong = f"{self.path} has schema {entry['schema']}, this version writes {SCHEMA}"
            raise UserError("transcript", wrong, "another file")
        if found != json.loads(json.dumps(identity)):
            name = str(found["name"])[:100]
            other = "another state of it" if name == identity.get("name") else name
            raise UserError("transcript", f"{self.path} belongs to {other}", "another file, or that suspect")
        sealed = entry["private"]
        if sealed != _sealed(private, sealed and bytes.fromhex(sealed["salt"])):
            other = f"{str(found['name'])[:100]}, asked with another query, header or body"
            raise UserError("transcript", f"{self.path} belongs to {other}", "another file, or as it was asked before")

    def _note(self, entry: dict[str, Any]) -> None:
        if "sent" in entry:
            self.sent.update(map(str, entry["sent"]))
        elif "unsent" in entry:
            self.sent.subtract(map(str, entry["unsent"]))
        elif "plan" in entry:
            self.plan, self.done = dict(entry["plan"]), False
        elif "done" in entry:
            self.done = True
        else:
            why, images, labels = entry["missing"], entry["images"], entry["labels"]
            kinds = {type(label) for label in labels}
            if kinds != {int if why is None else type(None)} or {type(image) for image in images} != {str}:
                raise ValueError("neither answers nor missing ones")
            for image, label in zip(images, labels, strict=True):
                self.answers[image] = Answer(label, why, entry["status"], entry["attempt"])
            self.span = (self.span or (str(entry["time"]),))[0], str(entry["time"])

    def write(self, entries: Sequence[dict[str, Any]]) -> None:
        """Appends lines with one write: from then on a kill cannot lose them, and soon a power cut cannot either."""
        data = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
        while data:
            data = data[os.write(self._file, data) :]
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._file)
            self._synced = time.monotonic()

    def close(self) -> None:
        """Closes the file, for others to use."""
        os.fsync(self._file)
        os.close(self._file)
        self._lock.release()


def planned(path: Path) -> tuple[dict[str, Any] | None, bool]:
    """The plan of a transcript that is not open, and whether images left; a damaged one tells when it is opened."""
    plan, sent = None, Counter[str]()
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
            plan = entry.get("plan", plan)
            sent.update(map(str, entry.get("sent", ())))
            sent.subtract(map(str, entry.get("unsent", ())))
        except (ValueError, TypeError, AttributeError, RecursionError):
            continue
    return plan if isinstance(plan, dict) else None, any(times > 0 for times in sent.values())


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
            self._file = Transcript(self.path, self.suspect.identity(), self.suspect.private())
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
    def done(self) -> bool:
        """Whether all that the plan asks for was asked."""
        return self._file is not None and self._file.done

    def agree(self, plan: dict[str, Any]) -> None:
        """Notes what is planned, unless that is what the transcript says."""
        if self._file is not None and self._file.plan != plan:
            self._file.write([{"plan": plan, "time": _now()}])
            self._file.plan, self._file.done = plan, False

    def finish(self) -> None:
        """Notes that all was asked that is planned."""
        if self._file is not None and not self._file.done:
            self._file.write([{"done": True, "time": _now()}])
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
        places = dict(zip(reversed(digests), range(len(digests) - 1, -1, -1), strict=True))  # the first place of each
        todo = sorted(i for digest, i in places.items() if digest not in self._answers)
        if not todo:
            return
        asked = [digests[i] for i in todo]
        try:
            self._meet()
            batches = self.suspect.stream(images if len(todo) == len(images) else images[todo], _Ledger(self, asked))
            self._open.add(batches)
            with closing(batches):
                for batch in batches:
                    self._keep(batch, asked, tuple(images.shape[1:]))
                    yield True
        except Unreachable as error:
            answered = sum(digest in self._answers for digest in digests)
            raise Unreachable(error.why, answered) from error

    def _keep(self, batch: Batch, digests: list[str], shape: tuple[int, ...]) -> None:
        alike: dict[Any, Batch] = {}
        for i, answer in batch:
            alike.setdefault((answer.missing, answer.status, answer.attempt), []).append((i, answer))
        now = _now()
        entries = [
            {
                "images": [digests[i] for i, _ in part],
                "labels": [answer.label for _, answer in part],
                "missing": missing,
                "status": status,
                "attempt": attempt,
                "shape": shape,
                "time": now,
            }
            for (missing, status, attempt), part in alike.items()
        ]
        with self._guard:
            if self._file is not None:
                self._file.write(entries)
            self._answers.update((digests[i], answer) for i, answer in batch)
            if batch:
                self._span = self.answered_from or now, now

    def spend(self, digests: Sequence[str], attempt: int) -> int:
        """Counts images that are about to leave, and says how many of them may."""
        with self._guard:
            n = len(digests) if self.left is None else min(len(digests), self.left)
            if n and self._file is not None:
                self._file.write([{"sent": list(digests[:n]), "attempt": attempt, "time": _now()}])
            self._sent.update(digests[:n])
            self._queries += n
            return n

    def refund(self, digests: Sequence[str]) -> None:
        """Uncounts images that did not leave."""
        with self._guard:
            if self._file is not None:
                self._file.write([{"unsent": list(digests), "time": _now()}])
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


def _sealed(private: dict[str, Any] | None, salt: bytes | None = None) -> dict[str, str] | None:
    """Recognises what is secret without telling it; guesses cost a twentieth of a second each."""
    if not private:
        return None
    salt = salt or secrets.token_bytes(16)
    text = json.dumps(private, sort_keys=True).encode()
    return {"salt": salt.hex(), "scrypt": hashlib.scrypt(text, salt=salt, n=2**14, r=8, p=1).hex()}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
