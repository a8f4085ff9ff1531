"""Where results lie below a folder of runs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

#: Nothing that we write for others to read comes near; more would only fill the memory.
LARGEST = 64 * 2**20


def places(folder: Path, file: str) -> Iterator[Path]:
    """Folders below ``folder`` that hold ``file``, in a fixed order; not in hidden folders and ``logs``.

    Links are not followed: what they lead to is not part of the runs.
    """
    for parent, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "logs")
        if file in files:
            yield Path(parent)


def check_readable(path: Path) -> None:
    """Refuses what is no file, or too large to be one of ours.

    Raises:
        ValueError: says why.
        OSError: if there is nothing, or no right to look.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
        raise ValueError(f"{path.name} is a link or no file at all")
    if status.st_size > LARGEST:
        raise ValueError(f"{path.name} is larger than {LARGEST >> 20} MiB")
