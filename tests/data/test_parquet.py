from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from wmlightning.data import parquet
from wmlightning.data.decoding import fit_image
from wmlightning.data.parquet import ParquetFolder
from wmlightning.errors import UserError
from wmlightning.identity import portable

NAMES = ["zebra", "a/b", "apple"]


def picture(i: int, form: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(i).integers(0, 256, (20 + i % 5, 30, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": i, "image": {"bytes": picture(seed + i), "path": f"{i}.jpg"}, "label": i % len(NAMES)} for i in range(n)
    ]


def write(
    folder: Path, split: str, content: list[dict[str, Any]], part: int = 0, names: list[str] | None = None
) -> Path:
    table = pa.Table.from_pylist(content)
    if names is not None:
        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{split}-{part:05d}-of-00002.parquet"
    pq.write_table(table, file)
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "flowers"
    write(folder / "data", "train", rows(12), 0, NAMES)
    write(folder / "data", "train", rows(9, 100), 1, NAMES)
    write(folder / "data", "validation", rows(6, 200), 0, NAMES)
    return folder


@pytest.mark.parametrize("folder", [".cache", "__MACOSX", "data/.ipynb_checkpoints"])
def test_hidden_files_are_no_data(root: Path, tmp_path: Path, folder: str) -> None:
    identity = ParquetFolder(str(root), str(tmp_path), 8).identity()
    write(root / folder, "train", rows(3), 0, NAMES)
    assert ParquetFolder(str(root), str(tmp_path), 8).identity() == identity


@pytest.mark.parametrize("in_memory", [True, False])
def test_pictures_labels_and_class_names(root: Path, tmp_path: Path, in_memory: bool) -> None:
    source = ParquetFolder(str(root), str(tmp_path / "data"), 16, 3, in_memory)
    assert source.classes == tuple(NAMES)
    assert torch.bincount(source.labels("train")).tolist() == [7, 7, 7]
    assert torch.bincount(source.labels("test")).tolist() == [2, 2, 2]
    images = source.images("train", torch.tensor([7, 0, 4]))
    # The first row of class 1, the first of class 0, and the first of class 0 in the other file.
    wanted = [picture(1), picture(0), picture(100)]
    for image, content in zip(images, wanted, strict=True):
        assert torch.equal(image, fit_image(Image.open(io.BytesIO(content)), (3, 16, 16)))


def test_it_is_unpacked_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ParquetFolder(str(root), str(tmp_path / "data"), 16).identity()
    assert first != ParquetFolder(str(root), str(tmp_path / "data"), 16, name="other").identity()
    monkeypatch.setattr(parquet, "_unpack", None)
    assert ParquetFolder(str(root), str(tmp_path / "data"), 16).identity() == first
    write(root / "data", "train", rows(12, 50), 0, NAMES)  # other pictures
    monkeypatch.undo()
    assert ParquetFolder(str(root), str(tmp_path / "data"), 16).identity() != first
    assert not [path for path in (tmp_path / "data" / "unpacked").iterdir() if path.is_dir() and path.name[0] == "."]


def test_labels_without_names_are_their_numbers(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path, split, rows(6))
    source = ParquetFolder(str(tmp_path), str(tmp_path / "data"), 16)
    assert source.classes == ("0", "1", "2")
    assert source.labels("test").tolist() == [0, 0, 1, 1, 2, 2], "not the column id"


def test_broken_rows_are_skipped_or_refused(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spoiled = rows(12)
    spoiled[0]["image"] = {"bytes": None, "path": "0.jpg"}
    spoiled[4]["image"] = None
    spoiled[8]["image"]["bytes"] = b"no picture"
    write(root / "data", "train", spoiled, 0, NAMES)
    with pytest.raises(UserError, match=r"^dataset\.root: 3 files are no readable images: .*00000000\.jpg"):
        ParquetFolder(str(root), str(tmp_path / "data"), 16, in_memory=False).labels("train")
    source = ParquetFolder(str(root), str(tmp_path / "data"), 16, broken="skip")
    with pytest.warns(UserWarning, match="3 broken pictures"):
        assert torch.bincount(source.labels("train")).tolist() == [6, 6, 6]


def mistake(root: Path, tmp_path: Path) -> str:
    with pytest.raises(UserError, match=r"^dataset\.root: ") as caught:
        ParquetFolder(str(root), str(tmp_path / "data"), 16)
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_dir() and path.name != "unpacked"]
    return str(caught.value)


def test_what_cannot_be_unpacked_is_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder is named"):
        ParquetFolder(None, str(tmp_path))
    assert "no train files in" in mistake(tmp_path / "nowhere", tmp_path)
    wrong = rows(12)
    wrong[3]["label"] = 3
    file = write(root / "data", "train", wrong, 0, NAMES)
    assert "row 3 of train has the label 3, of 3 classes" in mistake(root, tmp_path)
    wrong[3]["label"] = -1
    write(root / "data", "train", wrong, 0, NAMES)
    assert "has the label -1" in mistake(root, tmp_path)
    file.write_bytes(file.read_bytes()[:100])
    assert "cannot unpack" in mistake(root, tmp_path)
    write(root / "data", "train", [{"text": "a", "label": 1}])
    assert "no image struct" in mistake(root, tmp_path)
    for path in (root / "data").glob("validation*"):
        path.unlink()
    assert "no test files in" in mistake(root, tmp_path)


# -- several columns ---------------------------------------------------------------------------------------------------


def several(folder: Path, named: bool) -> None:
    """Two columns that tell classes, and two of pictures, or only numbers."""
    for split in ("train", "test"):
        content: list[dict[str, Any]] = [
            {"image_id": 100 + i, "image": row["image"], "sex": i % 2, "kind": row["label"]}
            for i, row in enumerate(rows(12))
        ]
        table = pa.Table.from_pylist(content)
        if named:
            features = {"sex": {"names": ["f", "m"]}, "kind": {"names": NAMES}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        folder.mkdir(exist_ok=True)
        pq.write_table(table, folder / f"{split}-0.parquet")


@pytest.mark.parametrize("named", [True, False])
def test_several_labels_are_refused_by_name(tmp_path: Path, named: bool) -> None:
    several(tmp_path / "x", named)
    options = "sex, kind" if named else "image_id, sex, kind"
    with pytest.raises(UserError, match=rf"^dataset\.label: it may be any of the columns {options}; dataset\.label="):
        ParquetFolder(str(tmp_path / "x"), str(tmp_path / "data"), 16)
    assert not (tmp_path / "data").exists()
    sexes = ParquetFolder(str(tmp_path / "x"), str(tmp_path / "data"), 16, label_column="sex")
    kinds = ParquetFolder(str(tmp_path / "x"), str(tmp_path / "data"), 16, label_column="kind")
    assert sexes.classes == (("f", "m") if named else ("0", "1"))
    assert len(kinds.classes) == 3 and kinds.identity() != sexes.identity()
    with pytest.raises(UserError, match=r"^dataset\.label: 'colour' is no column of that kind; one of image_id, sex"):
        ParquetFolder(str(tmp_path / "x"), str(tmp_path / "data"), 16, label_column="colour")


def test_several_pictures_are_refused_by_name(tmp_path: Path) -> None:
    content = [{**row, "mask": {"bytes": picture(50 + i), "path": None}} for i, row in enumerate(rows(12))]
    for split in ("train", "test"):
        write(tmp_path / "x", split, content, 0, NAMES)
    with pytest.raises(UserError, match=r"^dataset\.image: it may be any of the columns image, mask; dataset\.image="):
        ParquetFolder(str(tmp_path / "x"), str(tmp_path / "data"), 16)
    masks = ParquetFolder(str(tmp_path / "x"), str(tmp_path / "data"), 16, image_column="mask")
    wanted = fit_image(Image.open(io.BytesIO(picture(50))), (3, 16, 16))
    assert torch.equal(masks.images("train", torch.tensor([0]))[0], wanted)


def test_columns_are_no_part_of_the_fingerprint() -> None:
    """What they hold is, by the identity of the data."""
    node = {"root": "x", "image_column": None, "label_column": "sex", "size": 16}
    assert portable(node) == {"size": 16}
