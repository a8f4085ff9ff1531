"""Pictures of a project's data set: broken ones, deep ones, turned ones, rare ones, and a thousand classes."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from tests.foreign.projects import Animals
from wmlightning import make_key
from wmlightning.errors import UserError

OPTIONS: dict[str, Any] = {"n_marks": 3, "n_triggers": 12, "n_decoys": 1, "seed": 1}


def pictures(root: Path, seed: int, n: int = 8) -> Path:
    """Class folders as torchvision reads them."""
    draw = np.random.default_rng(seed)
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(draw.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


def spoil(root: Path, kind: str) -> Path:
    file = root / "bee" / "3.png"
    content = file.read_bytes()
    file.write_bytes({"empty": b"", "no picture": b"a letter", "cut": content[: len(content) // 2]}[kind])
    return file


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path]:
    return pictures(tmp_path / "train", 0), pictures(tmp_path / "val", 1)


KINDS = ["empty", "no picture", "cut"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_file_is_refused_by_name(data: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    train, val = data
    file = spoil(train, kind)
    half = Subset(ImageFolder(train), range(4, 16))  # its item 7
    for images, item in ((ImageFolder(train), 11), (half, 7)):
        with pytest.raises(UserError, match=rf"^images: no readable picture in item {item}, {file} \(.*\); ") as caught:
            make_key(tmp_path / "a.key", images, ImageFolder(val), **{**OPTIONS, "n_triggers": len(images)})
        assert "\n" not in str(caught.value)
        assert 'mend or remove it, or broken="skip"' in str(caught.value)
    spoil(val, kind)
    whole = ImageFolder(pictures(tmp_path / "whole", 2))
    with pytest.raises(UserError, match=r"^unseen: no readable picture in item 11, "):
        make_key(tmp_path / "a.key", whole, ImageFolder(val), n_new=16, **OPTIONS)
    assert not (tmp_path / "a.key").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_broken_files_are_skipped_counted_and_named(data: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    train, val = data
    file = spoil(train, kind)
    (val / "ant" / "0.png").write_bytes(b"")  # the first: what the size is taken from
    given = {**OPTIONS, "n_triggers": 15, "n_new": 15}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        key = make_key(tmp_path / "a.key", ImageFolder(train), ImageFolder(val), broken="skip", **given)
    messages = [str(warning.message) for warning in told if "broken" in str(warning.message)]
    assert len(messages) == 2
    assert messages[0].startswith(f"images: 1 broken pictures are skipped: item 11, {file} (")
    assert messages[1].startswith(f"unseen: 1 broken pictures are skipped: item 0, {val / 'ant' / '0.png'} (")
    assert key.held is not None
    assert [len(key.held.labels(split)) for split in ("train", "test")] == [15, 15]
    whole = {str(image.tolist()) for image in key.held.images("train", torch.arange(15))}
    for number, (path, _) in enumerate(ImageFolder(train).samples):
        if number != 11:
            assert str(torch.from_numpy(np.array(Image.open(path)).transpose(2, 0, 1)).tolist()) in whole
    again = make_key(tmp_path / "a.key", ImageFolder(train), ImageFolder(val), **given)  # the key that is there
    assert again.commitment() == key.commitment()


def test_whole_data_give_the_same_key_whether_broken_ones_are_skipped_or_not(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    sources = [ImageFolder(root) for root in data]
    keys = [make_key(tmp_path / f"{broken}.key", *sources, broken=broken, **OPTIONS) for broken in ("refuse", "skip")]
    assert keys[0].commitment() == keys[1].commitment()


def test_pictures_that_are_decoded_late_are_named_by_their_number(data: tuple[Path, Path], tmp_path: Path) -> None:
    file = spoil(data[0], "cut")

    class Late(Animals):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            return Image.open(file), index % 4

    with pytest.raises(UserError, match=r"^images: no readable picture in item \d+ \(OSError: "):
        make_key(tmp_path / "a.key", Late(), Animals(40, 9), **OPTIONS)
    with (
        pytest.warns(UserWarning, match="96 broken"),
        pytest.raises(UserError, match=r"^images: no picture can be read"),
    ):
        make_key(tmp_path / "a.key", Late(), Animals(40, 9), broken="skip", **OPTIONS)


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^broken: 'ignore' is unknown; refuse or skip$"):
        make_key(tmp_path / "a.key", Animals(), Animals(40, 9), broken="ignore", **OPTIONS)  # type: ignore[arg-type]


# -- deep and turned ones --------------------------------------------------------------------------------------------


class Deep(Animals):
    """Grey of another kind of number."""

    kind, scale = "uint16", 257

    def __getitem__(self, index: int) -> tuple[Any, int]:
        grey = self.pixels[index, 0].numpy().astype(self.kind) * self.scale
        return Image.fromarray(grey.astype(self.kind)), index % 4


class Shallow(Deep):
    kind, scale = "uint8", 1


class Floats(Deep):
    kind, scale = "float32", 1


def test_a_key_is_made_of_grey_of_16_bits_and_of_no_floats(tmp_path: Path) -> None:
    keys = [make_key(tmp_path / f"{kind.kind}.key", kind(), kind(40, 9), **OPTIONS) for kind in (Deep, Shallow)]
    assert keys[0].commitment() == keys[1].commitment()
    assert keys[0].trained.images.shape[1] == 1
    with pytest.raises(UserError, match=r"^images: no readable picture in item \d+ \(floats; .*8 bits.*16"):
        make_key(tmp_path / "floats.key", Floats(), Floats(40, 9), **OPTIONS)


def test_turned_pictures_have_the_size_that_they_are_seen_in(tmp_path: Path) -> None:
    class Phone(Animals):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            image, label = super().__getitem__(index)
            if index % 2:
                image = image.transpose(Image.Transpose.ROTATE_90)
                image.getexif()[ExifTags.Base.Orientation] = 6
            return image, label

    turned = make_key(tmp_path / "turned.key", Phone(), Phone(40, 9), **OPTIONS)
    upright = make_key(tmp_path / "upright.key", Animals(), Animals(40, 9), **OPTIONS)
    assert turned.commitment() == upright.commitment()


@pytest.mark.parametrize("place", ["first", "last of images", "unseen"])
def test_one_coloured_picture_among_grey_ones_keeps_its_colours(tmp_path: Path, place: str) -> None:
    class Mixed(Animals):
        coloured = -1

        def __getitem__(self, index: int) -> tuple[Any, int]:
            image, label = super().__getitem__(index)
            return image if index == self.coloured else image.convert("L"), label

    images, unseen = Mixed(12), Mixed(12, 9)
    chosen, index = {"first": (images, 0), "last of images": (images, 11), "unseen": (unseen, 5)}[place]
    chosen.coloured = index
    key = make_key(tmp_path / "a.key", images, unseen, **OPTIONS)
    assert key.held is not None
    held = key.held.images("test" if place == "unseen" else "train", torch.arange(12))
    assert any(torch.equal(image, chosen.pixels[index]) for image in held)
    chosen.coloured = -1
    assert make_key(tmp_path / "grey.key", images, unseen, **OPTIONS).trained.images.shape[1] == 1


# -- many classes, and rare ones -------------------------------------------------------------------------------------


class Many(Animals):
    """A thousand classes: three thousand pictures of class 0, and one or two of every other."""

    classes: ClassVar = [f"c{i}" for i in range(1000)]

    def __init__(self, n: int, seed: int) -> None:
        super().__init__(n, seed)
        self.labels = [0] * (n - 1500) + [1 + i % 999 for i in range(1500)]

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.pixels[index], self.labels[index]


def test_a_key_of_a_thousand_classes_most_of_them_rare(tmp_path: Path) -> None:
    key = make_key(tmp_path / "a.key", Many(4500, 0), Many(2500, 1), n_marks=8, n_triggers=400, n_decoys=2, seed=1)
    key.check(tmp_path)
    assert key.held is not None
    held = Counter(key.held.labels("train").tolist())
    assert 0.5 < held[0] / 400 < 0.8  # as in the data
    assert len(held) > 100
    assert len(set(key.trained.labels.tolist())) > 4  # eight draws
    assert int(key.trained.labels.max()) > 10


def test_a_rare_class_gives_the_key_what_it_has_or_is_told(tmp_path: Path) -> None:
    def made(**options: Any) -> Any:
        given = {"n_marks": 1, "n_decoys": 1, "seed": 1, **options}
        return make_key(tmp_path / f"{options}.key", Many(4500, 0), Many(2500, 1), **given)

    assert len(made(source_class="c5", n_triggers=2).trained) == 2
    with pytest.raises(UserError, match=r"^n_triggers: 9 triggers, but there are 2 images to make them of; at most 2$"):
        made(source_class="c5", n_triggers=9)
    with pytest.raises(UserError, match=r"^unseen: no picture of the classes that are marked"):
        unseen = Subset(Many(2500, 1), range(100))
        make_key(tmp_path / "b.key", Many(4500, 0), unseen, source_class="c5", n_marks=1, n_triggers=2, n_decoys=1)
