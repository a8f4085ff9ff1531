"""Images that somebody else's data set lent to a key: a source that lies in the key itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wmlightning.data.source import SPLITS, MemorySource, Split
from wmlightning.data.splits import Roles


class HeldSource(MemorySource):
    """The clean images that triggers are made of, and nothing else of the task.

    Its training split holds images that the model may be trained on, its test split such as no training saw. With them
    in the key, triggers can be made anew and checked where the task's data are not at hand.

    Args:
        name: of the task.
        classes: all classes of the task, whether images of them are held or not.
        shape: ``(c, h, w)``.
        splits: images uint8 ``(n, c, h, w)`` and labels int64 ``(n,)`` of both splits.
    """

    def __init__(
        self, name: str, classes: Sequence[str], shape: Sequence[int], splits: Mapping[Split, tuple[Tensor, Tensor]]
    ) -> None:
        super().__init__(name, classes, shape)
        self._held = dict(splits)

    def read(self, split: Split) -> tuple[Tensor, Tensor]:
        """See :meth:`MemorySource.read`."""
        return self._held[split]

    def identity(self) -> dict[str, str | int]:
        """See :meth:`Source.identity`; names every byte."""
        digest = hashlib.sha256()
        for split in SPLITS:
            images, _ = self._read_once(split)
            digest.update(f"{split} {'x'.join(map(str, images.shape))}\n".encode())
            digest.update(images.contiguous().numpy().tobytes())
        return {**super().identity(), "pixels": digest.hexdigest()}

    def stored_as(self) -> str:
        """See :meth:`Source.stored_as`."""
        return "the key"

    def roles(self) -> Roles:
        """Trained triggers may be made of all images of the one split, new ones of all images of the other."""
        n_train, n_test = (len(self.labels(split)) for split in SPLITS)
        nobody = torch.empty(0, dtype=torch.int64)
        return Roles(train=torch.arange(n_train), val=nobody, attacker=nobody, judge=torch.arange(n_test))

    def tensors(self) -> dict[str, Tensor]:
        """What a key stores of it, by name."""
        parts = {split: self._read_once(split) for split in SPLITS}
        return {
            f"held.{split}.{part}": parts[split][i] for split in SPLITS for i, part in enumerate(("images", "labels"))
        }
