"""Hugging Face parquet with pictures of any size: unpacked once into class folders, then read like those."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from wmlightning.data.folder import ImageFolder
from wmlightning.data.listing import hidden, is_picture
from wmlightning.data.source import SPLITS, Split
from wmlightning.errors import UserError, listed

_ELSE = "a folder with train-*.parquet and test-*.parquet, an image column {bytes, path} and an integer label"
_ROWS = 200  # held in memory at once
_LABELS = ("label", "labels")  # what a column of labels is called, if nothing else tells


class ParquetFolder(ImageFolder):
    """Parquet files ``train-*`` and ``test-*`` (or ``validation-*``) below ``root``, as the Hugging Face hub has them.

    Rows of a parquet file cannot be read one by one without reading hundreds, so that streaming in random order needs
    the pictures as files: they are unpacked, as they are, to ``<data_dir>/unpacked/``, once. It takes the room that the
    parquet files take, once more.

    Args:
        root: the folder.
        data_dir: where data sets lie.
        size: see :class:`ImageFolder`, like the rest.
        channels: 1 (grey) or 3 (colour).
        in_memory: ``true``, ``false`` or ``auto``.
        broken: ``refuse`` or ``skip``.
        name: name of the data set.
        image_column: where the pictures are; ``None``: in the only column that can be.
        label_column: where the labels are; ``None``: in the only column with class names, else in the one called so.

    Raises:
        UserError: if there are no such files, or they cannot be read or unpacked.
    """

    def __init__(
        self,
        root: str | None,
        data_dir: str,
        size: int = 32,
        channels: int = 3,
        in_memory: bool | Literal["auto"] = "auto",
        broken: Literal["refuse", "skip"] = "refuse",
        name: str = "parquet",
        image_column: str | None = None,
        label_column: str | None = None,
    ) -> None:
        if root is None:
            raise UserError("dataset.root", "no folder is named", _ELSE)
        files = {split: _files(Path(root), split) for split in SPLITS}
        try:
            unpacked, names = _unpacked(files, Path(data_dir) / "unpacked", Columns(image_column, label_column))
        except (OSError, pa.ArrowException, ValueError, LookupError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError("dataset.root", f"cannot unpack the parquet files in {root} ({reason})", _ELSE) from error
        super().__init__(str(unpacked), size, channels, in_memory, broken, name)
        self.classes = names

    def stored_as(self) -> str:
        """See :meth:`Source.stored_as`."""
        return "parquet, unpacked"


@dataclass(frozen=True)
class Columns:
    """Columns with pictures and with labels, where they are named; and the key that names them."""

    image: str | None = None
    label: str | None = None
    key: str = "dataset.{}"

    def of(self, schema: pa.Schema) -> tuple[str, str]:
        """Those of a file.

        Raises:
            ValueError: if there is none of either.
            UserError: if one is named that cannot be, or it cannot be told which one it is.
        """
        images = [f.name for f in schema if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
        labels = [f.name for f in schema if pa.types.is_integer(f.type)]
        if not images or not labels:
            raise ValueError(f"no image struct or no integer label among the columns {schema.names}")
        likely = [name for name in labels if _names_in(schema, name)] or [n for n in labels if n in _LABELS]
        image, label = self.key.format("image"), self.key.format("label")
        return _column(image, self.image, images, images), _column(label, self.label, likely, labels)


def _column(key: str, named: str | None, likely: list[str], possible: list[str]) -> str:
    if named is not None and named not in possible:
        raise UserError(key, f"{named!r} is no column of that kind", f"one of {listed(possible)}")
    if named is None and len(likely) != 1:
        wrong = f"it may be any of the columns {listed(likely or possible)}"
        raise UserError(key, wrong, f"{key}={(likely or possible)[0]}, say")
    return named if named is not None else likely[0]


def _files(root: Path, split: Split) -> list[Path]:
    for name in ("train",) if split == "train" else ("test", "validation", "val"):
        found = sorted(root.rglob(f"{name}-*.parquet"))
        if shown := [file for file in found if not any(map(hidden, file.relative_to(root).parts))]:
            return shown
    raise UserError("dataset.root", f"no {split} files in {root}", _ELSE)


def _unpacked(files: dict[Split, list[Path]], to: Path, columns: Columns) -> tuple[Path, tuple[str, ...]]:
    """The folder with the pictures of these files, made if it is not there, and the names of the classes."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for file in files[split]:
            status = file.stat()
            digest.update(os.fsencode(f"{split} {file.name} {status.st_size} {status.st_mtime_ns}\n"))
    if columns != Columns():
        digest.update(os.fsencode(f"{columns.image} {columns.label}\n"))
    folder = to / digest.hexdigest()[:16]
    names = _class_names(files, columns)
    if not folder.is_dir():
        to.mkdir(parents=True, exist_ok=True)
        with FileLock(to / f".{folder.name}.lock"):
            if not folder.is_dir():
                _unpack(files, folder, len(names), columns)
    return folder, names


def _unpack(files: dict[Split, list[Path]], folder: Path, n_classes: int, columns: Columns) -> None:
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for split in SPLITS:
            for label in range(n_classes):
                (beside / split / f"{label:04d}").mkdir(parents=True)
            number = 0
            for file in files[split]:
                image, label_column = columns.of(pq.read_schema(file))
                for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=[image, label_column]):
                    for row in batch.to_pylist():
                        label, picture = row[label_column], row[image] or {}
                        if label is None or not 0 <= label < n_classes:
                            raise ValueError(f"row {number} of {split} has the label {label}, of {n_classes} classes")
                        stored = Path(str(picture.get("path") or "")).name
                        ending = Path(stored).suffix if is_picture(stored) else ".png"  # readers go by the content
                        place = beside / split / f"{label:04d}" / f"{number:08d}{ending.lower()}"
                        place.write_bytes(picture.get("bytes") or b"")
                        number += 1
        beside.chmod(0o755)
        beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _names_in(schema: pa.Schema, column: str) -> list[str]:
    """Class names that the hub noted for a column; none, if it did not."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        return [str(name) for name in info["names"]]
    except (LookupError, TypeError, ValueError):
        return []


def _class_names(files: dict[Split, list[Path]], columns: Columns) -> tuple[str, ...]:
    schema = pq.read_schema(files["train"][0])
    _, label = columns.of(schema)
    if names := _names_in(schema, label):
        return tuple(names)
    highest = -1
    for file in files["train"]:
        for batch in pq.ParquetFile(file).iter_batches(columns=[label]):
            highest = max(highest, *(value for value in batch.column(0).to_pylist() if value is not None), -1)
    return tuple(map(str, range(highest + 1)))
