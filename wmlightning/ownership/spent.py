"""Triggers that suspects have seen, or that are set aside for one: a file beside the key, with their hashes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from wmlightning.errors import UserError
from wmlightning.files import write_bytes


class Spent:
    """What a query shows is known to whom it was shown to.

    Args:
        key: path of the key.
    """

    def __init__(self, key: Path) -> None:
        self.path = key.with_suffix(".spent.json")

    def noted(self) -> set[str]:
        """Hashes of the triggers that nobody else is to be shown.

        Raises:
            UserError: if the file is damaged.
        """
        if not self.path.exists():
            return set()
        try:
            return set(map(str, json.loads(self.path.read_text())))
        except (ValueError, TypeError) as error:
            raise UserError("key", f"{self.path} is damaged", "a copy that is whole, or remove it") from error

    def reserve(self, triggers: Iterable[str]) -> None:
        """Sets triggers aside before the first of them leaves: a kill then cannot make one pass for unseen.

        Raises:
            UserError: if another verification has taken one of them meanwhile.
        """
        wanted = set(triggers)
        with self._changing() as noted:
            if wanted & noted:
                wrong = f"{self.path} changed while this verification was planned"
                raise UserError("key", wrong, "the same command again")
            noted |= wanted

    def release(self, triggers: Iterable[str]) -> None:
        """Gives back triggers that no suspect has seen."""
        with self._changing() as noted:
            noted -= set(triggers)

    @contextmanager
    def _changing(self) -> Iterator[set[str]]:
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):  # others may be verifying with this key
            before = self.noted()
            after = set(before)
            yield after
            if after != before:
                write_bytes(self.path, (json.dumps(sorted(after)) + "\n").encode(), private=True)
