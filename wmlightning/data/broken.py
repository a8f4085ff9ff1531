"""Finds files that are no pictures, or not whole, before a training stumbles over them."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import PIL
import torch
from PIL import Image

from wmlightning.data.depth import UnclearGreyError, check_header
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
_RULES = 2  # rises when other pictures count as broken: what was found before is not believed then
_AT_ONCE = 256  # files that a thread looks at before it takes others


def read_header(file: Path) -> None:
    """Raises one of :data:`BROKEN_PICTURE` if the beginning of a file is not that of a picture. Decodes nothing."""
    with Image.open(file) as image:
        check_header(image)


def find_broken(root: Path, files: Listing, read: Callable[[Path], object]) -> dict[int, str]:
    """Indices of the files that ``read`` fails on, in their order, with :func:`reason`. Empty ones are not even opened.

    Pillow decodes without holding Python's lock, so that threads use the processors.

    Args:
        root: what the files' names are relative to.
        files: to be looked at.
        read: raises one of :data:`BROKEN_PICTURE`.

    Raises:
        UserError: if the system does not let us read one: that says nothing of the picture.
    """

    def look(begin: int) -> dict[int, str]:
        told = {i: _trouble(root, files, i, read) for i in range(begin, min(begin + _AT_ONCE, len(files)))}
        return {i: why for i, why in told.items() if why is not None}

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return {i: why for found in pool.map(look, range(0, len(files), _AT_ONCE)) for i, why in found.items()}


def _trouble(root: Path, files: Listing, index: int, read: Callable[[Path], object]) -> str | None:
    if not files.sizes[index]:
        return ""
    try:
        read(root / files[index])
    except BROKEN_PICTURE as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's word, and not Pillow's
            wrong = f"cannot read {root / files[index]} ({error.strerror})"
            raise UserError("dataset.root", wrong, "files that you may read") from error
        return reason(error)
    return None


def reason(error: BaseException) -> str:
    """What to say of a picture that ended in one of :data:`BROKEN_PICTURE`; nothing, if it is simply broken."""
    return str(error) if isinstance(error, UnclearGreyError) else ""


def find_broken_once(root: Path, files: Listing, read: Callable[[Path], object], part: str) -> dict[int, str]:
    """As :func:`find_broken`, but looks again only when a file came, went or changed.

    What was found is kept in the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``), by ``root`` and ``part``.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:16]
    cache, digest = base / "wmlightning" / f"broken-{place}-{part}.json", files.digest()
    rules = f"{_RULES}, Pillow {PIL.__version__}"
    with suppress(OSError, ValueError, LookupError, TypeError):  # no cache, or a damaged one: look again
        known = json.loads(cache.read_text())
        before = {int(i): str(why) for i, why in dict(known["broken"]).items()}
        if known["files"] == digest and known["rules"] == rules and all(0 <= i < len(files) for i in before):
            return before
    found = find_broken(root, files, read)
    with suppress(OSError):  # a home that cannot be written to costs time, not results
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_json(cache, {"rules": rules, "files": digest, "broken": found})
    return found


def refuse(root: Path, broken: Mapping[str, str]) -> UserError:
    """The error that names the first few broken files and says how many there are; see :func:`described`."""
    some = f"{len(broken)} files are no readable images" if len(broken) > 1 else "a file is no readable image"
    first = described({str(root / name): why for name, why in broken.items()})
    return UserError("dataset.root", f"{some}: {first}", "mend or remove them, or dataset.broken=skip")


def described(broken: Mapping[str, str]) -> str:
    """The first few broken pictures, by name and :func:`reason`, and how many more there are."""
    return listed((f"{name} ({why})" if why else name for name, why in broken.items()), most=3)
