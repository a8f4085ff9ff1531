"""The key of a project that is not ours: all that is needed lies in it, and nothing in it can be exchanged."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import Subset

from tests.foreign.projects import CLASSES, SHAPE, Animals, Module, loader, owners_key, to_input
from tests.helpers import random_images, tiny_trainer
from wmlightning import Watermark, make_key
from wmlightning.data.batches import ImageSet
from wmlightning.data.held import HeldSource
from wmlightning.errors import UserError
from wmlightning.ownership.key import Key, read_key, write_key
from wmlightning.ownership.sealing import PASSPHRASE
from wmlightning.secret import Secret

SEED = 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "owner.key"


@pytest.fixture
def key(path: Path) -> Key:
    return owners_key(path)


def stored_in(images: torch.Tensor, data: Animals) -> bool:
    return all(any(torch.equal(image, other) for other in data.pixels) for image in images)


def test_holds_what_its_triggers_are_made_of(key: Key, path: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = read_key(path)
    assert again.canonical() == key.canonical()
    maker = again.check(tmp_path / "nowhere")
    assert len(again.trained) == 12 and len(again.new) == 12
    assert maker.source.classes == tuple(CLASSES)
    made = maker.make()
    assert len(made.negatives) == 4
    assert again.held is not None
    held = {split: again.held.images(split, torch.arange(12)) for split in ("train", "test")}
    assert stored_in(held["train"], Animals(96)) and stored_in(held["test"], Animals(40, seed=9))
    assert made.originals is not None and stored_in(made.originals, Animals(96))
    assert [again.held.labels(split).shape for split in ("train", "test")] == [(12,), (12,)]


def test_taken_if_it_is_there(key: Key, path: Path) -> None:
    class Gone(Animals):
        def __getitem__(self, index: int) -> Any:
            raise OSError("no disk")

    before = path.read_bytes()
    again = make_key(path, Gone(), Gone(), n_marks=3, n_triggers=12, negatives=1 / 3, n_decoys=2)
    assert again.commitment() == key.commitment()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"n_triggers": 13}, "another watermark"),
        ({"strength": 0.3}, "another watermark"),
        ({"watermark": "content"}, "another watermark"),
        ({"size": 32}, "another size"),
        ({"size": 32, "n_marks": 4}, "another watermark and size"),
    ],
)
def test_key_for_something_else_is_not_overwritten(key: Key, path: Path, options: dict[str, Any], told: str) -> None:
    before = path.read_bytes()
    with pytest.raises(UserError, match=rf"^key: .* was made for {told}"):
        owners_key(path, **options)
    with pytest.raises(UserError, match="another classes"):
        make_key(path, Animals(96), Animals(40, seed=9), 5, n_marks=3, n_triggers=12, negatives=1 / 3, n_decoys=2)
    assert path.read_bytes() == before


def test_secret_is_the_systems_unless_a_seed_is_named(tmp_path: Path) -> None:
    keys = [owners_key(tmp_path / f"{i}.key", seed=seed) for i, seed in enumerate([None, None, 1, 1, 2])]
    assert len({key.secret.reveal() for key in keys}) == 4
    assert keys[2].commitment() == keys[3].commitment()


@pytest.mark.parametrize(
    ("watermark", "options"),
    [
        ("noise", {"n_marks": 1, "strength": 0.3}),
        ("noise", {"label": "random"}),
        ("content", {"n_letters": 1, "text": None, "scale": 1}),
        ("unrelated", {"unrelated": "procedural"}),
        ("noise", {"source_class": "cow", "n_triggers": 8}),
        ("noise", {"n_new": 5}),
    ],
)
def test_every_watermark(path: Path, tmp_path: Path, watermark: str, options: dict[str, Any]) -> None:
    key = owners_key(path, watermark=watermark, size=(24, 24), **options)
    maker = read_key(path).check(tmp_path)
    assert key.trained.images.shape[1:] == (3, 24, 24)
    if "source_class" in options:
        assert key.held is not None and set(key.held.labels("train").tolist()) == {2}
    if options.get("n_marks") == 1:
        assert maker.n_negatives == 4
    assert len(key.new) == options.get("n_new", options.get("n_triggers", 12))


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trained", "new"])
@pytest.mark.parametrize("part", ["images", "labels", "groups"])
def test_exchanged_triggers_are_refused(key: Key, tmp_path: Path, name: str, part: str) -> None:
    images: ImageSet = getattr(key, name)
    values = getattr(images, part).clone()
    values.view(-1)[3] += 1
    forged = dataclasses.replace(key, **{name: dataclasses.replace(images, **{part: values})})
    assert forged.commitment() != key.commitment()
    write_key(forged, tmp_path / "forged.key")  # with a checksum that fits
    with pytest.raises(UserError, match=rf"^key: its {name} triggers do not follow from its secret"):
        read_key(tmp_path / "forged.key").check(tmp_path)


def held_with(key: Key, split: str, part: int, change: Any) -> HeldSource:
    source = key.held
    assert source is not None
    splits: dict[Any, Any] = {}
    for name in ("train", "test"):
        values = [source.images(name, torch.arange(12)).clone(), source.labels(name).clone()]  # type: ignore[arg-type]
        if name == split:
            values[part] = change(values[part])
        splits[name] = tuple(values)
    return HeldSource(source.name, source.classes, source.shape, splits)


def up(values: torch.Tensor) -> torch.Tensor:
    values.view(-1)[5] ^= 1
    return values


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("part", [0, 1])
def test_exchanged_pictures_are_refused(key: Key, tmp_path: Path, split: str, part: int) -> None:
    held = held_with(key, split, part, up)
    forged = dataclasses.replace(key, held=held)
    assert forged.commitment() != key.commitment()
    write_key(forged, tmp_path / "forged.key")
    with pytest.raises(UserError, match=r"^key: it was made on data"):
        read_key(tmp_path / "forged.key").check(tmp_path)
    told = dataclasses.replace(forged, config={**key.config, "data": held.identity()})
    assert told.commitment() != key.commitment()
    with pytest.raises(UserError, match="do not follow"):  # the identity is made to fit too
        told.check(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images.float(),
        lambda images: images[:, :1],
        lambda images: images[:5],
        lambda images: images[0],
        lambda images: images[:0],
    ],
)
def test_pictures_that_are_none_are_told_in_one_line(key: Key, tmp_path: Path, change: Any) -> None:
    broken = held_with(key, "train", 0, change)
    tensors = {
        f"held.{s}.{p}": broken._held[s][i] for s in ("train", "test") for i, p in enumerate(("images", "labels"))
    }

    class Raw(HeldSource):
        def tensors(self) -> dict[str, torch.Tensor]:
            return tensors

    raw = Raw(broken.name, broken.classes, broken.shape, broken._held)
    write_key(dataclasses.replace(key, held=raw), tmp_path / "broken.key")
    with pytest.raises(UserError, match=r"^[\w.]+: .*; "):
        read_key(tmp_path / "broken.key").check(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("seed", 1), None),  # means nothing here
        (("watermark", "strength", 0.3), "do not follow"),
        (("watermark", "n_triggers", 11), "do not follow"),
        (("watermark", "n_marks", 2), "do not follow"),
        (("dataset", "source", "classes", [*CLASSES, "eel"]), "do not follow"),
        (("dataset", "source", "shape", [1, 10, 12]), r"has images torch\.uint8"),
        (("data", "pixels", "0" * 64), "made on data"),
        (("watermark", "_target_", "os.system"), "not ours"),
        (("dataset", "source", "name", "${oc.env:HOME}"), "interpolation"),
        (("dataset", "source", 5), "is no key"),
        (("dataset", "source", {}), "is no key"),
        (("dataset", "source", "shape", [3]), "is no key"),
        (("dataset", "source", "classes", 7), "is no key"),
    ],
)
def test_changed_config(key: Key, tmp_path: Path, change: tuple[Any, ...], told: str | None) -> None:
    config = json.loads(json.dumps(key.config))
    node = config
    for name in change[:-2]:
        node = node[name]
    node[change[-2]] = change[-1]
    write_key(dataclasses.replace(key, config=config), tmp_path / "changed.key")

    def checked() -> str:
        again = read_key(tmp_path / "changed.key")
        again.check(tmp_path)
        return again.commitment()

    if told is None:
        assert checked() != key.commitment()
    else:
        with pytest.raises(UserError, match=rf"{told}"):
            checked()


def test_other_secret_is_refused(key: Key, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not follow"):
        dataclasses.replace(key, secret=Secret(bytes(32))).check(tmp_path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_altered_byte_passes(key: Key, path: Path, data: st.DataObject) -> None:
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 400))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    altered = path.with_name("altered.key")
    altered.write_bytes(content)
    with pytest.raises(UserError, match=r"^key: .*; "):
        read_key(altered)


def test_passphrase(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography")
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    key = owners_key(path)
    assert key.held is not None
    assert key.held.images("test", torch.tensor([0])).numpy().tobytes() not in path.read_bytes()
    assert read_key(path).commitment() == key.commitment()


def test_keys_of_our_own_runs_are_what_they_were() -> None:
    """The same bytes are committed to as before there were keys that hold pictures."""
    triggers = ImageSet(torch.arange(12, dtype=torch.uint8).view(3, 1, 2, 2), torch.tensor([0, 1, 1]), torch.arange(3))
    config = {"seed": 3, "dataset": {"source": {}}, "watermark": {"n_marks": 3}, "data": {"labels": "ab"}}
    key = Key(Secret(bytes(range(32))), config, triggers, triggers)
    assert key.commitment() == "30ef18ced18ddaf151221eee8720500d8ebd34bf94390d85c108981e51cac4a4"
    assert key.commitment() == hashlib.sha256(key.canonical()).hexdigest()


# -- the project's pictures ------------------------------------------------------------------------------------------


class Items:
    """A data set of given items."""

    def __init__(self, items: list[Any], **attributes: Any) -> None:
        self.items = items
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


PIXELS = random_images(60, SHAPE, 4)
LABELS = torch.arange(60) % 4


def as_items(kind: str) -> Any:
    arrays = PIXELS.permute(0, 2, 3, 1).numpy()
    if kind == "tensors":
        return PIXELS, LABELS
    makers = {
        "pil": lambda i: (Image.fromarray(arrays[i]), int(LABELS[i])),
        "uint8 tensor": lambda i: (PIXELS[i], LABELS[i]),
        "array": lambda i: (arrays[i], np.int64(LABELS[i])),
        "turned round": lambda i: [int(LABELS[i]), Image.fromarray(arrays[i])],
        "dict": lambda i: {"label": int(LABELS[i]), "image": Image.fromarray(arrays[i]), "note": "x"},
    }
    return Items([makers[kind](i) for i in range(60)])


@pytest.mark.parametrize("kind", ["tensors", "pil", "uint8 tensor", "array", "turned round", "dict"])
def test_every_kind_of_data_set_gives_the_same_key(tmp_path: Path, kind: str) -> None:
    def made(kind: str, classes: Any) -> Key:
        unseen = Animals(40, seed=9)
        return make_key(tmp_path / f"{kind}.key", as_items(kind), unseen, classes, seed=SEED, n_triggers=20, n_decoys=1)

    assert made(kind, 4).commitment() == owners_of_tensors(tmp_path).commitment()
    with pytest.raises(UserError, match=r"^classes: the data do not tell their classes"):
        made(f"{kind}", None)


def owners_of_tensors(tmp_path: Path) -> Key:
    given: dict[str, Any] = {"seed": SEED, "n_triggers": 20, "n_decoys": 1}
    return make_key(tmp_path / "reference.key", as_items("tensors"), Animals(40, seed=9), 4, **given)


def test_grey_pictures(path: Path) -> None:
    grey = Items([(Image.fromarray(PIXELS[i, 0].numpy()), i % 4) for i in range(60)], classes=CLASSES)
    unseen = Items([(PIXELS[i, 1].numpy(), i % 4) for i in range(30)])
    assert make_key(path, grey, unseen, n_triggers=8).trained.images.shape == (8, 1, 10, 12)


def test_pictures_of_all_sizes_need_one(path: Path) -> None:
    sizes = Items([(Image.new("RGB", (20 + i % 5, 30), (i, 0, 0)), i % 4) for i in range(40)], classes=CLASSES)
    unseen = Items([(Image.new("RGB", (30, 20), (0, i + 1, 0)), i % 4) for i in range(20)])
    with pytest.raises(UserError, match=r"^size: pictures of \d+x30 and of \d+x30 pixels; size=224"):
        make_key(path, sizes, unseen, n_triggers=8)
    assert make_key(path, sizes, unseen, n_triggers=8, size=16).new.images.shape == (8, 3, 16, 16)


class Feature:
    def __init__(self, names: list[str]) -> None:
        self.names = names


def test_hugging_face_features(path: Path) -> None:
    def items(n: int, first: int) -> Items:
        found = [{"img": PIXELS[i], "fine": i % 6, "coarse": i % 2} for i in range(first, first + n)]
        fine, coarse = Feature([f"f{i}" for i in range(6)]), Feature(["a", "b"])
        return Items(found, features={"img": None, "fine": fine, "coarse": coarse})

    with pytest.raises(UserError, match=r"^fields: several class numbers .*'fine': int, 'coarse': int"):
        make_key(path, items(40, 0), items(20, 40), 6, n_triggers=8)
    key = make_key(path, items(40, 0), items(20, 40), n_triggers=8, fields=("img", "fine"))
    assert key.config["dataset"]["source"]["classes"] == [f"f{i}" for i in range(6)]


FLOATS = Items([(PIXELS[i].float(), i % 4) for i in range(60)])


@pytest.mark.parametrize(
    ("images", "unseen", "told"),
    [
        (FLOATS, Animals(40), r"images: no pictures in its items \(0: float32 \(3, 10, 12\), 1: int\); .* transform"),
        (Items([]), Animals(40), "images: there are no pictures"),
        (iter([1]), Animals(40), "images: .* has no length"),
        (Items([PIXELS[0]] * 60), Animals(40), r"images: no pictures in its items \(no tuples or dicts\)"),
        (Items([(PIXELS[0], 1.5)] * 60), Animals(40), "images: no class numbers"),
        (Items([(PIXELS[0], 7)] * 60), Animals(40), "classes: item .* of images is of class 7, but there are 4"),
        (Items([(PIXELS[0, :2], 1)] * 60), Animals(40), r"images: pixels of shape \(2, 10, 12\)"),
        ((PIXELS, LABELS[:9]), Animals(40), "images: 60 images and 9 labels"),
        (Animals(6), Animals(40, seed=9), "n_triggers: 12 triggers, but there are 6 images"),
        (Animals(40), Animals(40), "unseen: .* pictures looked at are training images"),
        (Animals(40), Subset(Animals(40), range(20)), "unseen: .* training images"),
    ],
)
def test_what_is_no_data_set(path: Path, images: Any, unseen: Any, told: str) -> None:
    with pytest.raises(UserError, match=rf"^{told}"):
        make_key(path, images, unseen, 4, n_marks=3, n_triggers=12)
    assert not path.exists()


def test_training_pictures_are_no_unseen_ones(path: Path) -> None:
    data = Animals(96)
    with pytest.raises(UserError, match=r"^unseen: the same data as images; pictures that no training sees"):
        make_key(path, data, data)


def test_a_few_doubles_are_left_out(path: Path) -> None:
    pixels = torch.cat([Animals(40, seed=9).pixels, Animals(96).pixels[:4]])
    with pytest.warns(UserWarning, match=r"unseen: [34] of the 4[34] pictures looked at are training images"):
        key = make_key(path, Animals(96), (pixels, torch.arange(44) % 4), n_triggers=90, seed=1, n_decoys=1)
    assert key.held is not None
    n_new = len(key.held.labels("test"))
    assert 40 <= n_new < 42
    trained, new = (key.held.images(split, torch.arange(n)) for split, n in (("train", 90), ("test", n_new)))
    assert not {image.numpy().tobytes() for image in trained} & {image.numpy().tobytes() for image in new}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"watermark": "nois"}, "watermark: 'nois' is unknown; one of content, noise, unrelated"),
        ({"watermark": "none"}, "watermark: 'none' is unknown"),
        ({"strenth": 0.3}, "strenth: noise has no such option"),
        ({"n_triggers": 0}, "n_triggers: "),
        ({"n_triggers": 0.1}, "n_triggers: "),
        ({"n_triggers": 2}, "watermark.n_triggers: 2 triggers for 3 marks"),
        ({"n_marks": 0}, "watermark.n_marks"),
        ({"strength": 0}, "watermark.strength"),
        ({"classes": ["a"]}, "classes: a; two or more"),
        ({"classes": ["a", "a"]}, "classes: a, a; two or more, all different"),
        ({"size": "big"}, "size: 'big' is no size"),
        ({"size": 0}, "size: 0 is no size"),
        ({"fields": ("image", 1)}, "fields: items of images have no 'image'"),
        ({"watermark": "unrelated", "pictures": 1}, "pictures: unrelated has no such option"),
        ({"watermark": "unrelated", "unrelated": "imagenet"}, "unrelated: no data set is called 'imagenet'; one of"),
        ({"source_class": "cat"}, "watermark.source_class: 'cat' is no class"),
    ],
)
def test_mistakes(path: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=rf"^{told}"):
        owners_key(path, **options)
    assert not path.exists()


def test_a_mark_that_changes_no_picture(path: Path) -> None:
    dark, unseen = Animals(96), Animals(40, seed=9)
    for data in (dark, unseen):
        data.pixels //= 8
    with pytest.raises(UserError, match=r"^watermark: mark 1 changes none of its 4 triggers"):
        make_key(
            path,
            dark,
            unseen,
            watermark="content",
            n_triggers=12,
            n_marks=3,
            text="A",
            n_letters=1,
            color=0,
            opacity=0.01,
        )
    assert not path.exists()


def test_the_key_of_another_seed_is_not_taken(key: Key, path: Path) -> None:
    with pytest.raises(UserError, match=r"^key: .* was made for another seed; its own, or another file"):
        owners_key(path, seed=2)
    assert owners_key(path, seed=None).commitment() == key.commitment()


@pytest.mark.parametrize("whole", [True, False])
def test_shared_pictures_of_one_data_set_are_refused(path: Path, whole: bool) -> None:
    data = Animals(96)
    images = data if whole else Subset(data, range(60))
    with pytest.raises(UserError, match=r"^unseen: (40|4) of the 40 pictures are training images"):
        make_key(path, images, Subset(data, range(56, 96)), n_triggers=8)
    make_key(path, Subset(data, range(60)), Subset(data, range(60, 96)), n_triggers=8)


def test_few_pictures_that_were_compared_stand_for_all(path: Path) -> None:
    """Of two hundred training images ten are held: all unseen ones may be training images, and few of them are met."""
    pixels = random_images(200, SHAPE, 3)
    train, unseen = (pixels, torch.arange(200) % 4), (pixels[100:].clone(), torch.arange(100) % 4)
    with pytest.raises(UserError, match=r"^unseen: .* training images, of which 1 in 20 was compared"):
        make_key(path, train, unseen, 4, n_triggers=10, n_new=90, seed=1)
    other = random_images(100, SHAPE, 5), torch.arange(100) % 4
    assert len(make_key(path, train, other, 4, n_triggers=10, n_new=90, seed=1).new) == 90


PATCH = """
from wmlightning.watermarks.base import MarkingWatermark


class Corner(MarkingWatermark):
    def apply(self, images, mark, batch):
        marked = images.clone()
        marked[..., :3, :3] = int(mark.stream("grey").integer(256))
        return marked
"""


def test_a_watermark_of_ones_own(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "watermark").mkdir()
    (tmp_path / "grey_corner.py").write_text(PATCH)
    (tmp_path / "watermark" / "corner.yaml").write_text("defaults: [base]\n_target_: grey_corner.Corner\n")
    with pytest.raises(UserError, match=r"^watermark: 'corner' is unknown"):
        owners_key(path, watermark="corner")
    key = owners_key(path, watermark="corner", config_dir=tmp_path)
    with pytest.raises(UserError, match=r"^key: .*'grey_corner.Corner', which is not ours; trust="):
        tiny_trainer(callbacks=[Watermark(path, to_input)]).fit(Module(), loader())
    ours, module = Watermark(path, to_input, trust=["grey_corner.Corner"]), Module()
    tiny_trainer(callbacks=[ours]).fit(module, loader())
    assert sum(len(labels) - 12 for *_, labels in module.seen) == 16
    assert owners_key(path, watermark="corner", config_dir=tmp_path).commitment() == key.commitment()


@pytest.mark.parametrize("name", ["image_folder", "parquet"])
def test_other_pictures_that_lie_nowhere(path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"^unrelated: {name} lacks dataset.root; one of .*mnist5k.* in config_dir$"):
        owners_key(path, watermark="unrelated", unrelated=name)
