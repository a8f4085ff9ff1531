"""Finds files that are no pictures, or not whole, before a training stumbles over them."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image

from wmlightning.data.listing import Listing
from wmlightning.errors import UserError, listed
from wmlightning.files import write_json

#: What Pillow raises for files that are no picture, are damaged, or claim a size that no memory holds.
BROKEN_PICTURE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    ArithmeticError,
    TypeError,
    NotImplementedError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_AT_ONCE = 256  # files that a thread looks at before it takes others


def read_header(file: Path) -> None:
    """Raises one of :data:`BROKEN_PICTURE` if the beginning of a file is not that of a picture. Decodes nothing."""
    with Image.open(file):
        pass


def find_broken(root: Path, files: Listing, read: Callable[[Path], object]) -> list[int]:
    """Indices of the files that ``read`` fails on. Empty ones are not even opened.

    Pillow decodes without holding Python's lock, so that threads use the processors.

    Args:
        root: what the files' names are relative to.
        files: to be looked at.
        read: raises one of :data:`BROKEN_PICTURE`.
    """

    def look(begin: int) -> list[int]:
        return [i for i in range(begin, min(begin + _AT_ONCE, len(files))) if not _whole(root, files, i, read)]

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return [i for found in pool.map(look, range(0, len(files), _AT_ONCE)) for i in found]


def _whole(root: Path, files: Listing, index: int, read: Callable[[Path], object]) -> bool:
    if not files.sizes[index]:
        return False
    try:
        read(root / files[index])
    except BROKEN_PICTURE:
        return False
    return True


def find_broken_once(root: Path, files: Listing, read: Callable[[Path], object], part: str) -> list[int]:
    """As :func:`find_broken`, but looks again only when a file came, went or changed.

    What was found is kept in the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``), by ``root`` and ``part``.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:16]
    cache, digest = base / "wmlightning" / f"broken-{place}-{part}.json", files.digest()
    with suppress(OSError, ValueError, LookupError, TypeError):  # no cache, or a damaged one: look again
        known = json.loads(cache.read_text())
        indices = [int(i) for i in known["broken"]]
        if known["files"] == digest and all(0 <= i < len(files) for i in indices):
            return indices
    found = find_broken(root, files, read)
    with suppress(OSError):  # a home that cannot be written to costs time, not results
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_json(cache, {"files": digest, "broken": found})
    return found


def refuse(root: Path, names: Sequence[str]) -> UserError:
    """The error that names the first few broken files and says how many there are."""
    some = f"{len(names)} files are no readable images" if len(names) > 1 else "a file is no readable image"
    first = listed((str(root / name) for name in names), most=3)
    return UserError("dataset.root", f"{some}: {first}", "mend or remove them, or dataset.broken=skip")
