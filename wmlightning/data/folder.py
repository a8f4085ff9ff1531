"""A user's own images: one folder a class, any size, resized when read."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from wmlightning.data.source import SPLITS, Source, Split
from wmlightning.errors import UserError

_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
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
_MEMORY_LIMIT = 2 * 2**30  # bytes of pixels that in_memory=auto is willing to hold


class ImageFolder(Source):
    """Class folders below ``root/train`` and ``root/test``, or below ``root`` alone.

    Without ``train`` and ``test`` folders every fifth image of a class is a test image. Pictures are scaled to
    cover the square and cropped at the centre.

    Args:
        root: the folder.
        size: height and width that images are resized to, in pixels.
        channels: 1 (grey) or 3 (colour).
        in_memory: ``true``, ``false`` (read by worker processes), or ``auto``: if all pixels take at most 2 GiB.
        name: name of the data set.
    """

    def __init__(
        self,
        root: str | None,
        size: int = 32,
        channels: int = 3,
        in_memory: bool | Literal["auto"] = "auto",
        name: str = "image_folder",
    ) -> None:
        if root is None:
            raise UserError("dataset.root", "no folder is named", "dataset.root=FOLDER, one sub-folder a class")
        if channels not in (1, 3):
            raise UserError("dataset.channels", f"{channels} channels", "1 (grey) or 3 (colour)")
        if size < 1:
            raise UserError("dataset.size", f"{size} pixels", "a positive number")
        self.root = Path(root)
        classes = sorted(p.name for p in self._split_root("train").iterdir() if p.is_dir())
        if len(classes) < 2:
            raise UserError("dataset.root", f"{len(classes)} class folders in {root}", "two or more are needed")
        super().__init__(name, classes, (channels, size, size))
        self._files: dict[Split, list[tuple[Path, int]]] = {}
        self._pixels: dict[Split, Tensor] = {}
        count = len(self._list("train")) + len(self._list("test"))
        fits = count * channels * size * size <= _MEMORY_LIMIT
        self.in_memory = fits if in_memory == "auto" else in_memory

    def _has_splits(self) -> bool:
        return (self.root / "train").is_dir() and (self.root / "test").is_dir()

    def _split_root(self, split: Split) -> Path:
        folder = self.root / split if self._has_splits() else self.root
        if not folder.is_dir():
            raise UserError("dataset.root", f"{folder} is no folder", "name a folder with one sub-folder a class")
        return folder

    def _list(self, split: Split) -> list[tuple[Path, int]]:
        if split not in self._files:
            found: list[tuple[Path, int]] = []
            for number, name in enumerate(self.classes):
                folder = self._split_root(split) / name
                files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _ENDINGS)
                if not self._has_splits():
                    files = [p for i, p in enumerate(files) if (i % 5 == 4) == (split == "test")]
                if not files:
                    raise UserError("dataset.root", f"no {split} images in {folder}", "every class needs some")
                found += [(file, number) for file in files]
            self._files[split] = found
        return self._files[split]

    def labels(self, split: Split) -> Tensor:
        """See :meth:`Source.labels`."""
        return torch.tensor([label for _, label in self._list(split)])

    def images(self, split: Split, index: Tensor) -> Tensor:
        """See :meth:`Source.images`.

        Raises:
            UserError: naming the file, if it is no readable image.
        """
        if self.in_memory:
            if split not in self._pixels:
                self._pixels[split] = self._decode([file for file, _ in self._list(split)])
            return self._pixels[split].index_select(0, index)
        files = self._list(split)
        return self._decode([files[i][0] for i in index.tolist()])

    def _decode(self, files: list[Path]) -> Tensor:
        pixels = torch.empty((len(files), *self.shape), dtype=torch.uint8)
        for i, file in enumerate(files):
            try:
                with Image.open(file) as image:
                    pixels[i] = fit_image(image, self.shape)
            except BROKEN_PICTURE as error:
                raise UserError("dataset.root", f"{file} is no readable image", "mend or remove it") from error
        return pixels

    def identity(self) -> dict[str, str | int]:
        """See :meth:`Source.identity`; files are told apart by path and size."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for file, _ in self._list(split):
                digest.update(f"{file.relative_to(self.root)} {file.stat().st_size}\n".encode())
        return {**super().identity(), "files": digest.hexdigest()[:16]}

    def stored_as(self) -> str:
        """See :meth:`Source.stored_as`."""
        return "image files"


def fit_image(image: Image.Image, shape: tuple[int, int, int]) -> Tensor:
    """Scales a picture to cover ``(h, w)``, crops it at the centre, and gives it the wanted channels.

    Pillow's resampling works in fixed-point arithmetic, so that the bytes do not depend on the platform.

    Args:
        image: any picture; transparency is dropped.
        shape: ``(c, h, w)`` with c = 1 or 3.

    Returns:
        uint8 ``(c, h, w)``.
    """
    c, h, w = shape
    if image.mode.startswith("I;16"):  # 16 bits a pixel, which convert() would clip instead of scale
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("L" if c == 1 else "RGB")
    if image.size != (w, h):
        image = ImageOps.fit(image, (w, h), Image.Resampling.BICUBIC)
    pixels = np.array(image)
    return torch.from_numpy(pixels[None] if c == 1 else pixels.transpose(2, 0, 1).copy())


def fit_images(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Fits images uint8 ``(n, c, h, w)`` to another shape: see :func:`fit_image`."""
    if tuple(images.shape[1:]) == shape:
        return images
    out = torch.empty((len(images), *shape), dtype=torch.uint8)
    for i, image in enumerate(images.numpy()):
        out[i] = fit_image(Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)), shape)
    return out
