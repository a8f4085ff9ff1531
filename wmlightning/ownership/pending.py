"""A secret that is settled before its key can be made: the same for all processes that ask for one key.

Training settles the secret first, and writes the key when data and options have passed. Several processes may be at
that: two commands, the jobs of a sweep, the ranks of one training. What the first of them draws lies in a private file
beside the key that is to be, and goes when the key is there.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from wmlightning.errors import UserError
from wmlightning.files import write_bytes
from wmlightning.ownership.sealing import opened, sealed
from wmlightning.secret import Secret


@contextmanager
def alone_at(key: Path) -> Iterator[Path]:
    """One process at a time settles what a key is. Gives the lock's file."""
    lock = key.with_name(f".{key.name}.lock")
    with FileLock(lock):
        yield lock


def pending(key: Path) -> Path:
    """Where the secret of a key lies that is to be."""
    return key.with_name(f".{key.name}.secret")


def read(key: Path) -> Secret | None:
    """The secret that was drawn for a key that is to be, if one was.

    Raises:
        UserError: if it is damaged, or encrypted by another passphrase.
    """
    path = pending(key)
    try:
        return Secret(opened(path.read_bytes(), path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError("key", f"{path} is damaged", "remove it: no key was made of it") from error


def draw(key: Path) -> Secret:
    """Draws a secret from the system's generator, and writes it down."""
    secret = Secret(secrets.token_bytes(32))
    write_bytes(pending(key), sealed(secret.reveal()), private=True)
    return secret


def made(key: Path) -> None:
    """The key is there: it holds the secret."""
    pending(key).unlink(missing_ok=True)


def forget(key: Path, folders: list[Path]) -> None:
    """Removes a secret that no key was made of, and the folders that were made for it, innermost first."""
    with alone_at(key) as lock:
        if not pending(key).exists():
            return
        pending(key).unlink()
        with suppress(OSError):  # whoever waits for it sees that it is gone
            lock.unlink()
    with suppress(OSError):  # somebody else has put something there
        for folder in folders:
            folder.rmdir()
