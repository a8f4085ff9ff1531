"""Files written whole or not at all, and the check that a folder can be written to."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wmlightning.errors import UserError

#: What new work is to replace, and the same while it is moved there or back.
_BEFORE = ".before"
_PART = ".before.part"
#: The disk has no room, or the user has no more of it.
_FULL = (errno.ENOSPC, errno.EDQUOT)


def named(text: str) -> Path:
    """The file or folder of this name, with ``~`` resolved: in ``--out=~/NAME`` shells leave it alone."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 (Path's own raises for the home of nobody)


def beside(path: Path, suffix: str, ending: str) -> Path:
    """A file that belongs to another: ``owner.key`` has ``owner.spent.json``.

    Only the suffix that such files have by custom goes: ``net-1.0`` and ``net-1.1`` share nothing.

    Args:
        path: of the other.
        suffix: such as ``.key``.
        ending: such as ``.spent.json``.
    """
    return path.with_name(path.name.removesuffix(suffix) + ending)


def write_bytes(path: Path, content: bytes, private: bool = False) -> None:
    """Writes ``content`` to ``path`` so that a reader sees the old file or the new one, never a part.

    The bytes go to a file beside it, reach the disk, and are renamed.

    Args:
        path: of the file.
        content: of the file.
        private: readable by its owner alone, instead of as the user's umask has it.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if not private:
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; ours follow the user's umask
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def remove_halves(path: Path) -> None:
    """Removes what a killed process left beside ``path`` when it was writing it. Nobody may be writing it now."""
    for half in path.parent.glob(f".{path.name}.*"):
        half.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes :func:`json_bytes`. Whole or not at all."""
    write_bytes(path, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """Indented JSON with sorted keys: the same bytes for the same content."""
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


@contextmanager
def anew(folder: Path, begun: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Empties a folder for work that replaces what is there, which comes back if the work comes to nothing.

    Until the block ends, what was there lies in a hidden folder, whose place a process that is killed meanwhile leaves
    to the next one, which calls :func:`settle` first. Both are for who holds the folder's lock.

    Args:
        folder: of finished work, or of half of it.
        begun: whether a block that failed left something worth keeping: then nothing comes back yet.
    """
    before, part = folder / _BEFORE, folder / _PART
    if before.exists():  # what lies beside it is the half of an earlier attempt
        _empty(folder)
    else:
        part.mkdir(exist_ok=True)
        for path in _contents(folder):
            path.rename(part / path.name)
        part.rename(before)
    try:
        yield
    except BaseException:
        settle(folder, done=False, begun=begun())
        raise
    settle(folder, done=True)


def settle(folder: Path, done: bool, begun: bool = False) -> None:
    """Ends what :func:`anew` began in a process that was killed, if it did.

    Args:
        folder: see there.
        done: what was set aside goes, since something whole took its place. Otherwise it comes back, and what is there
            goes.
        begun: what is there goes on: it stays, and so does what was set aside.
    """
    before, part = folder / _BEFORE, folder / _PART
    if done:
        shutil.rmtree(before, ignore_errors=True)
    elif before.exists() and not begun:
        _empty(folder)
        before.rename(part)
    if part.exists():
        for path in part.iterdir():
            path.rename(folder / path.name)
        part.rmdir()


def _contents(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name not in (".lock", _BEFORE, _PART)]


def _empty(folder: Path) -> None:
    for path in _contents(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def telling_full_disks(key: str) -> Iterator[None]:
    """Tells in one line what ends work when a disk fills up. What was written before is whole, and work goes on there.

    Args:
        key: the config key that most likely names a place on that disk.

    Raises:
        UserError: instead of the system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        where = f" ({error.filename})" if error.filename else ""
        right = "make room: the same command then goes on where it was"
        raise UserError(key, f"{error.strerror}{where}", right) from error


def check_writable(folder: Path, key: str, needed_bytes: int) -> None:
    """Refuses a folder that could not be made or written to, without making it.

    Args:
        folder: need not exist.
        key: the config key that named it.
        needed_bytes: what a run will write at the most.

    Raises:
        UserError: if something on the way is no folder, forbids writing, or its disk is too full.
    """
    parent = folder.absolute()
    try:
        while not parent.exists():
            parent = parent.parent
    except OSError as error:
        raise UserError(key, f"{parent}: {error.strerror}", "name a folder that you may write to") from error
    if not parent.is_dir():
        raise UserError(key, f"{parent} is a file", "name a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(key, f"no right to write in {parent}", "name a folder that you may write to")
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(key, f"cannot write in {parent} ({why})", "name another folder") from error
    free = shutil.disk_usage(parent).free
    if free < needed_bytes:
        raise UserError(
            key,
            f"{free / 2**20:.0f} MiB are free in {parent}",
            f"a run writes up to {needed_bytes / 2**20:.0f} MiB: make room or name another folder",
        )
