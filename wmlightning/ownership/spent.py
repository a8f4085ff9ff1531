"""Triggers that suspects have seen: a file beside the key, with their hashes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from wmlightning.data.batches import ImageSet
from wmlightning.errors import UserError
from wmlightning.files import write_bytes
from wmlightning.ownership.transcript import image_digests


class Spent:
    """What a query shows is known to whom it was shown to.

    Args:
        key: path of the key.
    """

    def __init__(self, key: Path) -> None:
        self.path = key.with_suffix(".spent.json")

    def _read(self) -> set[str]:
        if not self.path.exists():
            return set()
        try:
            return set(map(str, json.loads(self.path.read_text())))
        except (ValueError, TypeError) as error:
            raise UserError("key", f"{self.path} is damaged", "a copy that is whole, or remove it") from error

    def fresh(self, triggers: ImageSet, transcript: Path) -> Tensor:
        """Which triggers no other suspect has seen: int64. This one may be asked again: it knows them already.

        Raises:
            UserError: if none is left.
        """
        spent = self._read()
        ours = transcript.read_text() if transcript.exists() else ""
        digests = image_digests(triggers.images)
        fresh = [i for i, digest in enumerate(digests) if digest not in spent or digest in ours]
        if not fresh:
            raise UserError("triggers", f"all {len(triggers)} are spent, see {self.path}", "the other kind of triggers")
        return torch.tensor(fresh, dtype=torch.int64)

    def add(self, triggers: ImageSet, shown: set[str]) -> None:
        """Notes which of the key's triggers were shown, by the hashes of all images that were."""
        new = shown.intersection(image_digests(triggers.images))
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):  # others may be verifying with this key
            content = json.dumps(sorted(self._read() | new)) + "\n"
            write_bytes(self.path, content.encode(), private=True)
