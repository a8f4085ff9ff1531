"""Which picture files there are below a folder: listed in seconds, held in little memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wmlightning.errors import UserError

_ENDINGS = {"png", "jpg", "jpeg", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm"}
_Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Entry:
    """A file.

    Attributes:
        name: path below the folder that was listed.
        size: in bytes.
        changed: when, in nanoseconds.
    """

    name: str
    size: int
    changed: int


class Listing:
    """Files in an order, with a label each.

    Names lie in one piece of bytes. As a list of paths, a million files take hundreds of megabytes, and each worker
    process that reads the list copies it, since Python counts references inside the objects.

    Args:
        entries: files and their labels.
    """

    def __init__(self, entries: Iterable[tuple[Entry, int]]) -> None:
        names: list[bytes] = []
        numbers: list[tuple[int, int, int]] = []
        for entry, label in entries:
            names.append(os.fsencode(entry.name))
            numbers.append((label, entry.size, entry.changed))
        self._names = b"".join(names)
        self._ends: _Numbers = np.cumsum([len(name) for name in names], dtype=np.int64)
        columns: _Numbers = np.array(numbers, np.int64).reshape(-1, 3)
        self.labels, self.sizes, self.changed = columns.T.copy()

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        """Name of a file."""
        begin = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._names[begin : int(self._ends[index])])

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def without(self, indices: Iterable[int]) -> Listing:
        """The others, in the same order."""
        left_out = set(indices)
        rows = zip(self, self.labels.tolist(), self.sizes.tolist(), self.changed.tolist(), strict=True)
        kept = (row for i, row in enumerate(rows) if i not in left_out)
        return Listing((Entry(name, size, changed), label) for name, label, size, changed in kept)

    def digest(self) -> str:
        """SHA-256 of names, sizes and times: the same as long as nobody touches a file."""
        found = hashlib.sha256(self._names)
        for numbers in (self._ends, self.sizes, self.changed):
            found.update(numbers.astype("<i8").tobytes())
        return found.hexdigest()


def list_pictures(folder: Path, below: Path) -> list[Entry]:
    """All files in ``folder``, at any depth, whose names end like pictures, sorted by the parts of their paths.

    What is :func:`hidden` is no picture, nor is anything in it.
    Linked folders are not entered; linked files count as files, and as empty ones if the link leads nowhere.

    Args:
        folder: where to look.
        below: what names are relative to.

    Raises:
        UserError: if a folder cannot be read.
    """
    found: list[Entry] = []
    folders = [str(folder)]
    start = len(str(below)) + 1
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if hidden(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif is_picture(entry.name) and not entry.is_dir():
                        found.append(_entry(entry, start))
        except OSError as error:
            raise UserError("dataset.root", f"cannot read {error.filename} ({error.strerror})", "a folder") from error
    return sorted(found, key=lambda entry: entry.name.replace(os.sep, "/").split("/"))


def hidden(name: str) -> bool:
    """Whether a file or folder is nobody's data: notebooks, version control and archives leave copies in such."""
    return name.startswith(".") or name == "__MACOSX"


def is_picture(name: str) -> bool:
    """Whether a file's name ends like a picture's. Plain text: pathlib takes as long as the rest of the listing."""
    stem, _, ending = name.rpartition(".")
    return bool(stem) and ending.lower() in _ENDINGS


def _entry(entry: os.DirEntry[str], start: int) -> Entry:
    try:
        status = entry.stat()
    except FileNotFoundError:
        return Entry(entry.path[start:], 0, 0)
    return Entry(entry.path[start:], status.st_size, status.st_mtime_ns)
