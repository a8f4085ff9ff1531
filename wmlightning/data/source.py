"""The contract of a data source: labelled images in a training and a test split, read by index."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from wmlightning.errors import UserError, listed

Split = Literal["train", "test"]
SPLITS: tuple[Split, Split] = ("train", "test")


class Source(ABC):
    """Where the images of a task come from.

    What must be known before anything is read (classes, shape) are attributes; labels are cheap; images are read
    on demand and by index, so that a source may hold them in memory or leave them on disk.

    Args:
        name: the word a user types as ``dataset=``.
        classes: class names, in the order of the labels.
        shape: ``(c, h, w)`` of every image.
    """

    #: Images lie in memory: batches are indexed directly instead of being read by worker processes.
    in_memory = True
    #: Published and the same for everybody: whoever verifies has them from elsewhere. A claimant may have chosen other
    #: images with the secret in view, so that labels of a key must be drawn for these very images.
    public = False
    #: Names of what was left out because it is broken.
    skipped: tuple[str, ...] = ()

    def __init__(self, name: str, classes: Sequence[str], shape: Sequence[int]) -> None:
        self.name = name
        self.classes = tuple(map(str, classes))
        if any(isinstance(n, (bool, float)) or int(n) < 1 for n in shape):
            raise UserError("dataset.source.shape", f"{list(shape)} is no shape", "[channels, height, width] in pixels")
        c, h, w = shape
        self.shape = (int(c), int(h), int(w))

    @abstractmethod
    def labels(self, split: Split) -> Tensor:
        """All labels of a split: int64 ``(n,)``."""

    @abstractmethod
    def images(self, split: Split, index: Tensor) -> Tensor:
        """The images at ``index`` (int64 ``(m,)``): uint8 ``(m, c, h, w)``."""

    def identity(self) -> dict[str, str | int]:
        """What tells these data from others: part of a model's fingerprint, and shown in its card."""
        digest = hashlib.sha256()
        for split in SPLITS:
            digest.update(self.labels(split).numpy().astype("<i8").tobytes() + b"/")
        return {"name": self.name, "labels": digest.hexdigest()[:16], "stored_as": self.stored_as()}

    def stored_as(self) -> str:
        """How the images are stored, in words: a JPEG copy is not the original."""
        return "memory"

    def class_number(self, value: str | int, key: str) -> int:
        """Turns a class name or number into its number.

        Raises:
            UserError: naming ``key``, if there is no such class.
        """
        text = str(value)
        if text in self.classes:
            return self.classes.index(text)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.classes):
            return value
        right = f"choose one of {listed(self.classes)}"
        if isinstance(value, bool) or not isinstance(value, (str, int)):  # true, null or 1e3 is no word to YAML
            right += f"; a name in quotes is a word: \"{key}='NAME'\""
        raise UserError(key, f"{text!r} is no class of {self.name}", right)


class MemorySource(Source):
    """A source that reads each split once and keeps it as a tensor. Subclasses write :meth:`read`."""

    def __init__(self, name: str, classes: Sequence[str], shape: Sequence[int]) -> None:
        super().__init__(name, classes, shape)
        self._splits: dict[Split, tuple[Tensor, Tensor]] = {}

    @abstractmethod
    def read(self, split: Split) -> tuple[Tensor, Tensor]:
        """Reads a split: images uint8 ``(n, c, h, w)`` and labels int64 ``(n,)``."""

    def _read_once(self, split: Split) -> tuple[Tensor, Tensor]:
        if split not in self._splits:
            images, labels = self.read(split)
            if tuple(images.shape[1:]) != self.shape or images.dtype != torch.uint8:
                found = f"{images.dtype} {tuple(images.shape[1:])}"
                raise UserError("dataset.source.shape", f"{self.name} has images {found}", f"not {self.shape}")
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
                raise UserError(
                    "dataset.source.classes",
                    f"{self.name} has labels {int(labels.min())}..{int(labels.max())}",
                    f"{len(self.classes)} classes are named",
                )
            self._splits[split] = (images, labels)
        return self._splits[split]

    def labels(self, split: Split) -> Tensor:
        """See :meth:`Source.labels`."""
        return self._read_once(split)[1]

    def images(self, split: Split, index: Tensor) -> Tensor:
        """See :meth:`Source.images`."""
        return self._read_once(split)[0].index_select(0, index)
