"""A user's own images: one folder a class, any size, resized when read."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wmlightning.config import setting, switch
from wmlightning.data.broken import (
    BROKEN_PICTURE,
    described,
    find_broken,
    find_broken_once,
    read_header,
    reason,
    refuse,
)
from wmlightning.data.decoding import fit_image
from wmlightning.data.listing import Entry, Listing, hidden, list_pictures
from wmlightning.data.source import SPLITS, Source, Split
from wmlightning.errors import UserError, listed

_TRAIN, _TEST = ("train",), ("test", "val", "validation", "valid")  # folders of the splits; the first one there
_LIKE_SPLITS = {*_TRAIN, *_TEST, "training", "testing", "dev", "eval"}
_MEMORY_LIMIT = 2 * 2**30  # bytes of pixels that in_memory=auto is willing to hold


class ImageFolder(Source):
    """Class folders below ``root/train`` and ``root/test``, or below ``root`` alone.

    Instead of ``test`` it may be ``val``, ``validation`` or ``valid``. Without such folders every fifth image of a
    class is a test image, or the last of fewer than five. Hidden files and folders do not count.

    Pictures are turned as their camera noted, scaled to cover the square and cropped at the centre. Grey that does not
    say which value is white (floats, and 32 bits beyond 0 to 255) is broken.

    Files that are no whole pictures are refused or skipped. To refuse, empty files and, where pictures are streamed,
    headers are looked at before training; what breaks further on ends the training when it is reached. To skip, every
    picture is decoded once (the next run remembers), and the broken ones count as if they were not there, except that
    the others stay in the split that they are in.

    Args:
        root: the folder.
        size: height and width that images are resized to, in pixels.
        channels: 1 (grey) or 3 (colour).
        in_memory: ``true``, ``false`` (read by worker processes), or ``auto``: if all pixels take at most 2 GiB.
        broken: ``refuse`` or ``skip``.
        name: name of the data set.
    """

    def __init__(
        self,
        root: str | None,
        size: int = 32,
        channels: int = 3,
        in_memory: bool | Literal["auto"] = "auto",
        broken: Literal["refuse", "skip"] = "refuse",
        name: str = "image_folder",
    ) -> None:
        if root is None:
            raise UserError("dataset.root", "no folder is named", "dataset.root=FOLDER, one sub-folder a class")
        if type(channels) is not int or channels not in (1, 3):
            raise UserError("dataset.channels", f"{channels!r} channels", "1 (grey) or 3 (colour)")
        setting(size, "dataset.size", int, 1)
        if broken not in ("refuse", "skip"):
            raise UserError("dataset.broken", f"{broken!r} is unknown", "refuse or skip")
        self.root = Path(root)
        self.broken = broken
        self._folders = self._find_splits()
        classes = _folders_in(self._split_root("train"))
        if len(classes) < 2:
            raise UserError("dataset.root", f"{len(classes)} class folders in {root}", "two or more are needed")
        super().__init__(name, classes, (channels, size, size))
        tested = self._split_root("test")
        if lost := [n for n in _folders_in(tested) if n not in classes and list_pictures(tested / n, self.root)]:
            wrong = f"no train images of {listed(lost)}, which {tested} has"
            raise UserError("dataset.root", wrong, "the same sub-folders in both")
        self._all = {split: self._list(split) for split in SPLITS}
        fits = sum(map(len, self._all.values())) * channels * size * size <= _MEMORY_LIMIT
        self.in_memory = fits if in_memory == "auto" else switch(in_memory, "dataset.source.in_memory")

    def _find_splits(self) -> dict[Split, str]:
        """Names of the splits' folders; none, if the classes lie in ``root``."""
        found: dict[Split, str] = {}
        names: tuple[tuple[Split, tuple[str, ...]], ...] = (("train", _TRAIN), ("test", _TEST))
        for split, words in names:
            found |= next(({split: word} for word in words if (self.root / word).is_dir()), {})
        if len(found) == len(names):
            return found
        there = _folders_in(self.root) if self.root.is_dir() else []
        if len(like := [name for name in there if name.lower() in _LIKE_SPLITS]) > 1:
            wrong = f"folders in {self.root} are named like splits and not like classes ({listed(like)})"
            raise UserError("dataset.root", wrong, "train and test (or val), each with one sub-folder a class")
        return {}

    def _split_root(self, split: Split) -> Path:
        folder = self.root / self._folders.get(split, "")
        if not folder.is_dir():
            raise UserError("dataset.root", f"{folder} is no folder", "name a folder with one sub-folder a class")
        return folder

    def _list(self, split: Split) -> Listing:
        found: list[tuple[Entry, int]] = []
        for number, name in enumerate(self.classes):
            files = list_pictures(self._split_root(split) / name, self.root)
            if not self._folders:
                files = [file for i, file in enumerate(files) if _is_test(i, len(files)) == (split == "test")]
            found += [(file, number) for file in files]
        listing = Listing(found)
        self._check_classes(split, listing)
        return listing

    def _check_classes(self, split: Split, files: Listing) -> None:
        counts = np.bincount(files.labels, minlength=len(self.classes))
        if not counts.all():
            folder = self._split_root(split) / self.classes[int(counts.argmin())]
            right = "every class needs some"
            if not self._folders:
                right = "every class needs two whole pictures" + (": remove the broken ones" if self.skipped else "")
            raise UserError("dataset.root", f"no {split} images in {folder}", right)

    @cached_property
    def _files(self) -> dict[Split, Listing]:
        """The files that are used, once it is known which ones are broken."""
        both = [(split, self._all[split]) for split in SPLITS]
        if self.broken == "skip":
            read = partial(_read, shape=self.shape)
            bad = {split: find_broken_once(self.root, files, read, split) for split, files in both}
        elif self.in_memory:  # headers are read with the rest, before training
            bad = {split: dict.fromkeys(np.flatnonzero(files.sizes == 0).tolist(), "") for split, files in both}
        else:
            bad = {split: find_broken(self.root, files, read_header) for split, files in both}
        broken = {files[i]: why for split, files in both for i, why in bad[split].items()}
        if not broken:
            return self._all
        if self.broken == "refuse":
            raise refuse(self.root, broken)
        self.skipped = tuple(broken)
        told = described(broken)
        warnings.warn(f"{len(broken)} broken pictures in {self.root} are skipped: {told}", stacklevel=2)
        kept = {split: files.without(bad[split]) for split, files in both}
        for split, files in kept.items():
            self._check_classes(split, files)
        return kept

    def labels(self, split: Split) -> Tensor:
        """See :meth:`Source.labels`.

        Raises:
            UserError: naming the files that are no readable images, as far as that is found out before training.
        """
        return torch.from_numpy(self._files[split].labels)

    @cached_property
    def _pixels(self) -> dict[Split, Tensor]:
        return {split: self._decode(list(self._files[split])) for split in SPLITS}

    def images(self, split: Split, index: Tensor) -> Tensor:
        """See :meth:`Source.images`.

        Raises:
            UserError: naming the file, if it is no readable image.
        """
        if self.in_memory:
            return self._pixels[split].index_select(0, index)
        files = self._files[split]
        return self._decode([files[i] for i in index.tolist()])

    def _decode(self, names: Sequence[str]) -> Tensor:
        pixels = torch.empty((len(names), *self.shape), dtype=torch.uint8)
        broken = {}
        for i, name in enumerate(names):
            try:
                pixels[i] = _read(self.root / name, self.shape)
            except BROKEN_PICTURE as error:
                broken[name] = reason(error)
        if broken:
            raise refuse(self.root, broken)
        return pixels

    def identity(self) -> dict[str, str | int]:
        """See :meth:`Source.identity`; files are told apart by path and size, and so are those that are skipped."""
        digest = hashlib.sha256()
        for split in SPLITS:
            files = self._files[split]
            for name, size in zip(files, files.sizes.tolist(), strict=True):
                digest.update(os.fsencode(f"{name} {size}\n"))
        found = {**super().identity(), "files": digest.hexdigest()[:16]}
        if self.skipped:
            found["without"] = hashlib.sha256(os.fsencode("\n".join(self.skipped))).hexdigest()[:16]
        return found

    def stored_as(self) -> str:
        """See :meth:`Source.stored_as`."""
        return "image files"


def _folders_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not hidden(p.name))


def _is_test(index: int, n: int) -> bool:
    """Whether a picture of a class of ``n`` is tested. A single one is not, so that it is missed and told."""
    return index % 5 == 4 or (index == n - 1 and 1 < n < 5)


def _read(file: Path, shape: tuple[int, int, int]) -> Tensor:
    with Image.open(file) as image:
        return fit_image(image, shape)
