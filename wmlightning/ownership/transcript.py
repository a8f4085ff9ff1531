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
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from wmlightning.errors import UserError
from wmlightning.ownership.suspects.base import Answer

SCHEMA = 4
#: What a power cut may lose. Each batch costs a few milliseconds to bring to the disk, which a fast local model feels.
SYNC_SECONDS = 1.0
_MOST_CLASSES = 2**31


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


class Transcript:
    """The file.

    Args:
        path: made if it is not there, for its owner's eyes only.
        identity: of the suspect.
        private: what else tells it from others, and may hold secrets.
        n_classes: of the task; ``None``: not known.

    Attributes:
        answers: by the image's hash.
        sent: how often each image left.
        plan: what was settled before the first query, if it was noted.
        done: whether all that the plan asks for was asked.
        span: when its first and its last answer came.

    Raises:
        UserError: if the file belongs to another suspect, was altered, or is being written by another process.
    """

    def __init__(
        self,
        path: Path,
        identity: dict[str, Any],
        private: dict[str, Any] | None = None,
        n_classes: int | None = None,
    ) -> None:
        self.path = path
        self._n_labels = _MOST_CLASSES if n_classes is None else n_classes
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
            header = {"schema": SCHEMA, "suspect": identity, "private": _sealed(private), "time": now()}
            self.write([json.dumps(header)])

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
            if why is None and not 0 <= min(labels) <= max(labels) < self._n_labels:
                raise ValueError("no class has this number")
            for image, label in zip(images, labels, strict=True):
                self.answers[image] = Answer(label, why, entry["status"], entry["attempt"])
            self.span = (self.span or (str(entry["time"]),))[0], str(entry["time"])

    def write_answers(self, answers: dict[str, Answer], shape: Sequence[int], moment: str) -> None:
        """Appends answers that came together, by the image's hash: a line for those that came in the same way."""
        alike = dict.fromkeys((answer.missing, answer.status, answer.attempt) for answer in answers.values())
        lines = []
        for kind in alike:
            part = answers
            if len(alike) > 1:
                part = {name: a for name, a in answers.items() if (a.missing, a.status, a.attempt) == kind}
            labels = [answer.label for answer in part.values()]
            missing, status, attempt = kind
            rest = {"missing": missing, "status": status, "attempt": attempt, "shape": shape, "time": moment}
            lines.append(line_about("images", part, labels=labels, **rest))
        self.write(lines)

    def write(self, lines: Sequence[str]) -> None:
        """Appends lines with one write: from then on a kill cannot lose them, and soon a power cut cannot either."""
        data = "".join(f"{line}\n" for line in lines).encode()
        size = os.fstat(self._file).st_size
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError:
            os.ftruncate(self._file, size)  # half a line would spoil the one after it
            raise
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._file)
            self._synced = time.monotonic()

    def close(self) -> None:
        """Closes the file, for others to use."""
        os.fsync(self._file)
        os.close(self._file)
        self._lock.release()


def line_about(what: str, images: Iterable[str], **more: Any) -> str:
    """A line about images. Their names are plain digits: JSON's encoder takes ten times as long to find that out."""
    listed = '", "'.join(images)
    return f'{{"{what}": ["{listed}"], {json.dumps(more)[1:]}'


@dataclass(frozen=True)
class Planned:
    """What a transcript says that is not open.

    Attributes:
        plan: its last one.
        shown: hashes of the images that left.
        done: whether all that the plan asks for was asked.
    """

    plan: dict[str, Any] | None
    shown: set[str]
    done: bool


def planned(path: Path) -> Planned:
    """Reads it; a damaged one, or one that cannot be read, tells when it is opened."""
    plan, sent, done = None, Counter[str](), False
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    for line in content.splitlines():
        try:
            entry = json.loads(line)
            plan = entry.get("plan", plan)
            done = bool(entry.get("done", done and "plan" not in entry))
            sent.update(map(str, entry.get("sent", ())))
            sent.subtract(map(str, entry.get("unsent", ())))
        except (ValueError, TypeError, AttributeError, RecursionError):
            continue
    shown = {name for name, times in sent.items() if times > 0}
    return Planned(plan if isinstance(plan, dict) else None, shown, done)


def _sealed(private: dict[str, Any] | None, salt: bytes | None = None) -> dict[str, str] | None:
    """Recognises what is secret without telling it; guesses cost a twentieth of a second each."""
    if not private:
        return None
    salt = salt or secrets.token_bytes(16)
    text = json.dumps(private, sort_keys=True).encode()
    return {"salt": salt.hex(), "scrypt": hashlib.scrypt(text, salt=salt, n=2**14, r=8, p=1).hex()}


def now() -> str:
    """In UTC, as transcripts write it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
