from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tests.helpers import (
    SECRET,
    ArraySource,
    all_sets,
    digest,
    digest_triggers,
    few,
    job_of,
    maker_of,
    many,
    numbered,
    random_images,
    random_source,
    read_numbers,
)
from wmlightning.cli import CONF
from wmlightning.data.procedural import Procedural
from wmlightning.errors import UserError
from wmlightning.secret import Secret
from wmlightning.testing import check_marks, check_watermark
from wmlightning.testing.watermarks import KEYS, check_elsewhere
from wmlightning.watermarks.base import Mark, MarkingWatermark, Owner
from wmlightning.watermarks.content import Content
from wmlightning.watermarks.noise import Noise
from wmlightning.watermarks.unrelated import Unrelated

SECRETS = st.integers(0, 2**32).map(Secret.from_seed)
SHAPES = st.tuples(st.sampled_from([1, 2, 3, 4]), st.integers(28, 40), st.integers(28, 40))
MARKING: dict[str, MarkingWatermark] = {
    "content": Content(opacity=None),
    "noise": Noise(0.2),
    "fresh": Noise(0.2, fresh=True),
}


def own(secret: Secret = SECRET, index: int = 0) -> Mark:
    return Mark(secret, "key", 0, index)


def flat(value: int, shape: tuple[int, int, int] = (1, 28, 28), n: int = 2) -> Tensor:
    return torch.full((n, *shape), value, dtype=torch.uint8)


def box(changed: Tensor) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) of what is true in ``(h, w)``."""
    rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


# -- every marking watermark -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MARKING)
@few
@given(secret=SECRETS, shape=SHAPES, n=st.integers(0, 4), seed=st.integers(0, 99))
def test_marks_keep_the_contract_on_any_images(
    name: str, secret: Secret, shape: tuple[int, int, int], n: int, seed: int
) -> None:
    check_marks(MARKING[name], random_images(n, shape, seed), own(secret))


@pytest.mark.parametrize("name", MARKING)
@few
@given(seeds=st.lists(st.integers(0, 2**32), min_size=2, max_size=2, unique=True), shape=SHAPES)
def test_another_secret_owner_stranger_or_index_is_another_mark(
    name: str, seeds: list[int], shape: tuple[int, int, int]
) -> None:
    images = random_images(1, shape)
    secrets = [Secret.from_seed(seed) for seed in seeds]
    owners: list[tuple[Owner, int, int]] = [("key", 0, 0), ("key", 0, 1), ("negative", 0, 0), ("decoy", 0, 0)]
    marks = [Mark(secret, *owner) for secret in secrets for owner in [*owners, ("decoy", 1, 0)]]
    if name == "content":  # the text of the first mark is given: what is drawn around it may coincide
        marks = [mark for mark in marks if mark.owner != "key" or mark.index]
    made = [digest(MARKING[name].apply(images, mark, "trained")) for mark in marks]
    assert len(set(made)) == len(made)


# -- noise -----------------------------------------------------------------------------------------------------------


@few
@given(secret=SECRETS, shape=SHAPES, n=st.integers(2, 4))
def test_noise_is_one_pattern_for_all_images_of_a_mark(secret: Secret, shape: tuple[int, int, int], n: int) -> None:
    noise = Noise(0.1)  # too weak to reach black or white from the middle
    trained = noise.apply(flat(128, shape, n), own(secret), "trained").int() - 128
    new = noise.apply(flat(120, shape, n), own(secret), "new").int() - 120
    assert (trained == trained[0]).all()
    assert torch.equal(trained, new)
    assert trained[0].unique().numel() > 20  # a pattern, not a shade
    for shade in (0, 255):  # beyond black and white it is cut off, not wrapped around
        marked = noise.apply(flat(shade, shape, 1), own(secret), "trained")[0].int()
        assert torch.equal(marked, (shade + trained[0]).clamp(0, 255))


@pytest.mark.parametrize("strength", [0.02, 0.1, 0.15])
def test_strength_is_the_patterns_standard_deviation(strength: float) -> None:
    pattern = Noise(strength).apply(flat(128, (3, 64, 64), 1), own(), "trained").double() - 128
    assert abs(float(pattern.std()) - 255 * strength) < 0.05 * 255 * strength
    assert abs(float(pattern.mean())) < 0.05 * 255 * strength


@few
@given(secret=SECRETS)
def test_fresh_noise_differs_from_image_to_image_and_from_set_to_set(secret: Secret) -> None:
    noise = Noise(0.1, fresh=True)
    sets = [noise.apply(flat(128, n=3), own(secret), name) for name in ("trained", "new")]
    assert len({digest(image) for images in sets for image in images}) == 6


def test_noise_of_the_makers_triggers_is_one_pattern_a_mark_or_fresh() -> None:
    grey = flat(128, (1, 10, 10), 60)
    source = ArraySource((grey, torch.arange(60) % 3), (grey, torch.arange(60) % 3), 3)
    for fresh in (False, True):
        maker, _, _ = maker_of(Noise(0.1, fresh), source, n_triggers=12, n_new=9, n_marks=3, n_decoys=2)
        triggers = maker.make()
        both = torch.cat([triggers.trained.images, triggers.new.images])
        marks = torch.cat([triggers.trained.groups, triggers.new.groups])
        patterns = [{digest(image) for image in both[marks == mark]} for mark in range(3)]
        assert [len(found) for found in patterns] == ([7, 7, 7] if fresh else [1, 1, 1])
        assert len(set.union(*patterns)) == (21 if fresh else 3)
        others = {digest(image) for image in torch.cat([triggers.negatives.images, triggers.decoys.images])}
        assert not others & set.union(*patterns)


@pytest.mark.parametrize("strength", [0, -0.1, 1.01, float("nan")])
def test_noise_of_no_strength_is_refused(strength: float) -> None:
    with pytest.raises(UserError, match=r"watermark\.strength"):
        Noise(strength)


# -- content ---------------------------------------------------------------------------------------------------------


def _drawn(text: str, scale: int) -> Tensor:
    """The text by Pillow's own drawing, cropped and enlarged: bool ``(h, w)``."""
    canvas = Image.new("1", (400, 30))
    ImageDraw.Draw(canvas).text((5, 5), text, fill=1, font=ImageFont.load_default_imagefont())
    letters = np.array(canvas.crop(canvas.getbbox())).astype(np.uint8)
    return torch.from_numpy(np.kron(letters, np.ones((scale, scale), np.uint8))).bool()


@few
@given(
    text=st.text("ABCgQy0159#@ ", min_size=1, max_size=3).filter(str.strip),
    scale=st.integers(1, 2),
    position=st.tuples(st.integers(0, 3), st.integers(0, 12)),
    opacity=st.sampled_from([0.25, 0.5, 0.77, 1.0]),
    color=st.lists(st.integers(0, 255), min_size=3, max_size=3),
    secret=SECRETS,
)
def test_what_the_config_fixes_is_written_pixel_for_pixel(
    text: str, scale: int, position: tuple[int, int], opacity: float, color: list[int], secret: Secret
) -> None:
    images = random_images(2, (3, 30, 45), 3)
    content = Content(text, 2, None, position, scale, opacity, color)
    content.check((3, 30, 45), 1, False)
    ink = _drawn(text, scale)
    expected = images.clone()
    share = round(256 * opacity)
    for (row, column), inked in np.ndenumerate(ink.numpy()):
        for c in range(3 if inked else 0):
            x, y = column + position[0], row + position[1]
            for image in range(2):
                mixed = int(images[image, c, y, x]) * (256 - share) + color[c] * share
                expected[image, c, y, x] = (mixed + 128) // 256
    assert torch.equal(content.apply(images, own(secret), "trained"), expected)


@few
@given(secret=SECRETS, index=st.integers(0, 2), c=st.sampled_from([1, 3]))
def test_what_the_config_leaves_open_is_drawn_within_its_bounds(secret: Secret, index: int, c: int) -> None:
    content = Content(text=None, n_letters=2, opacity=None)
    marked = content.apply(flat(0, (c, 40, 50), 3), own(secret, index), "trained")
    assert (marked == marked[0]).all()  # the same on all images of the mark
    ink = marked[0].amax(0) > 0
    left, top, right, bottom = box(ink)
    assert right - left <= 45  # 90 % of the image
    assert bottom - top <= 36
    assert len(torch.unique(marked[0].flatten(1)[:, ink.flatten()], dim=1).T) == 1  # one colour
    assert int(marked.max()) >= round(128 * 0.6)  # never dark, however transparent
    assert ink.sum() > 10


@pytest.mark.parametrize("c", [1, 3])
def test_drawn_places_sizes_colours_and_opacities_vary(c: int) -> None:
    places, sizes, colours, texts = set(), set(), set(), set()
    for seed in range(40):
        mark = own(Secret.from_seed(seed))
        marked = Content(text="HI").apply(flat(0, (c, 40, 50), 1), mark, "trained")[0]
        left, top, right, bottom = box(marked.amax(0) > 0)
        places.add((left, top))
        sizes.add((right - left, bottom - top))
        colours.add(tuple(marked.flatten(1).amax(1).tolist()))
        plain = Content(text=None, n_letters=2, position=(0, 0), scale=1, color=255)
        texts.add(digest(plain.apply(flat(0), mark, "trained")))
    base_width, base_height = _drawn("HI", 1).shape[::-1]
    assert {(base_width * i, base_height * i) for i in range(1, 5)} == sizes  # whole multiples; 5 would be too wide
    assert min(len(places), len(colours), len(texts)) > 25
    white = Content(text="HI", position=(0, 0), scale=1, opacity=None, color=255)
    shades = {int(white.apply(flat(0), own(Secret.from_seed(s)), "trained").max()) for s in range(60)}
    assert min(shades) >= 150
    assert max(shades) <= 255
    assert len(shades) > 15


@few
@given(secret=SECRETS, place=st.tuples(st.integers(0, 15), st.integers(0, 18)), color=st.integers(1, 255))
def test_what_is_fixed_stays_while_the_rest_is_drawn(secret: Secret, place: tuple[int, int], color: int) -> None:
    def ink(**options: Any) -> Tensor:
        marked = Content(text="HI", **options).apply(flat(0, (1, 40, 50), 1), own(secret), "trained")
        assert marked.max() > 0
        return marked[0, 0]

    assert box(ink(position=place, scale=2) > 0)[:2] == place
    left, top, right, bottom = box(ink(scale=2) > 0)
    assert (bottom - top, right - left) == _drawn("HI", 2).shape
    assert set(ink(color=color).unique().tolist()) == {0, color}
    assert set(ink(color=[color, color, color]).unique().tolist()) == {0, color}


def test_only_the_keys_first_mark_has_the_given_text() -> None:
    content = Content(text="TEST", position=(0, 0), scale=1, color=255)
    made = {}
    for owner, stranger, index in [("key", 0, 0), ("key", 0, 1), ("negative", 0, 0), ("decoy", 0, 0), ("decoy", 1, 0)]:
        mark = Mark(SECRET, owner, stranger, index)  # type: ignore[arg-type]
        made[owner, stranger, index] = content.apply(flat(0, n=1), mark, "trained")[0, 0] > 0
    ours = _drawn("TEST", 1)
    height, width = ours.shape
    assert torch.equal(made["key", 0, 0][:height, :width], ours)
    assert len({digest(mark) for mark in made.values()}) == len(made)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"text": ""}, "text"),
        ({"text": "  "}, "text"),
        ({"text": "A\nB"}, "text"),
        ({"text": "é"}, "text"),
        ({"text": "A" * 65}, "text"),
        ({"n_letters": 0}, "n_letters"),
        ({"n_letters": 65}, "n_letters"),
        ({"opacity": 0}, "opacity"),
        ({"opacity": 1.1}, "opacity"),
        ({"scale": 0}, "scale"),
        ({"position": [1]}, "position"),
        ({"position": [1, 2, 3]}, "position"),
        ({"color": 256}, "color"),
        ({"color": -1}, "color"),
        ({"color": [1, 2]}, "color"),
        ({"color": [1, 2, 300]}, "color"),
        ({"logo": "no-such-file.png"}, "logo"),
    ],
)
def test_content_that_cannot_be_is_refused(options: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError) as caught:
        Content(**options)
    assert caught.value.key == f"watermark.{key}"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"text": "LONGER"},
        {"text": "TEST", "scale": 2},
        {"text": "TEST", "position": (6, 0)},
        {"text": "TEST", "position": (0, 23)},
        {"text": "TEST", "position": (-1, 0)},
        {"text": None, "n_letters": 5},
    ],
)
def test_a_text_too_long_for_the_image_is_refused_before_any_image_is_read(options: dict[str, Any]) -> None:
    content = Content(**options)
    with pytest.raises(UserError, match=r"of a 28x28 image") as caught:
        content.check((1, 28, 28), 1, False)
    assert "\n" not in str(caught.value)
    content.check((1, 64, 64), 1, False) if options.get("position") != (-1, 0) else None


def _logo(path: Path, pixels: np.ndarray) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


@many
@given(
    shape=st.tuples(st.sampled_from([1, 3]), st.sampled_from([8, 28]), st.sampled_from([12, 28, 40])),
    text=st.sampled_from([None, "I", "TEST", "gQ"]),
    n_letters=st.sampled_from([1, 2, 6]),
    position=st.none() | st.sampled_from([(0, 0), (4, 2), (14, 14), (18, 20)]),
    scale=st.none() | st.integers(1, 6),
    pasted=st.booleans(),
    n_marks=st.integers(1, 2),
    negatives=st.booleans(),
    seed=st.integers(0, 99),
)
def test_what_passes_the_check_can_be_made(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    text: str | None,
    n_letters: int,
    position: tuple[int, int] | None,
    scale: int | None,
    pasted: bool,
    n_marks: int,
    negatives: bool,
    seed: int,
) -> None:
    logo = None
    if pasted:
        logo = _logo(tmp_path_factory.mktemp("logo") / "logo.png", np.full((20, 30, 4), 255, np.uint8))
    content = Content(text, n_letters, logo, position, scale)
    try:
        content.check(shape, n_marks, negatives)
    except UserError:
        return
    secret = Secret.from_seed(seed)
    marks = [own(secret, index) for index in range(n_marks)]
    marks += [Mark(secret, "decoy", stranger, 0) for stranger in range(3)]  # strangers are always tested
    marks += [Mark(secret, "negative", stranger, 0) for stranger in range(3 * negatives)]
    images = flat(0, shape, 1)
    for mark in marks:
        assert content.apply(images, mark, "trained").max() > 0


def test_strangers_texts_must_fit_without_negatives_too() -> None:
    # Decoys are made in every run, and strangers write n_letters letters.
    content = Content(text="A", n_letters=8)
    with pytest.raises(UserError, match="letters"):
        content.check((1, 28, 28), 1, False)


def test_a_drawn_size_leaves_room_at_a_fixed_place() -> None:
    content = Content(text="A", n_letters=1, position=(18, 18))
    content.check((1, 28, 28), 1, False)
    for seed in range(10):
        marked = content.apply(flat(0), own(Secret.from_seed(seed)), "trained")
        assert box(marked[0, 0] > 0)[:2] == (18, 18)


@pytest.mark.parametrize("opacity", [0.001, 0.002, 0.01])
def test_whatever_opacity_is_accepted_can_be_seen(opacity: float) -> None:
    try:
        content = Content(opacity=opacity, color=255)
    except UserError:
        return
    assert content.apply(flat(0), own(), "trained").max() > 0


@pytest.mark.parametrize("c", [1, 2, 3, 4])
def test_a_logo_is_pasted_with_its_transparency(tmp_path: Path, c: int) -> None:
    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[..., 0] = 200  # red
    pixels[:, :10, 3] = 255  # solid, half transparent, transparent: ten columns each
    pixels[:, 10:20, 3] = 128
    logo = _logo(tmp_path / "logo.png", pixels)
    content = Content("A", 1, logo, (2, 3), scale=3)
    content.check((c, 60, 60), 1, True)
    images = flat(100, (c, 60, 60))
    marked = content.apply(images, own(), "trained").int()
    # Scale 3: half the image's width, so 30 by 20 as it is, without resampling.
    solid, half = (200, 150) if c == 3 else (60, 80)  # the grey of this red is 60
    area = marked[:, 0 if c == 3 else c - 1, 3:23, 2:32]
    assert (area[:, :, :10] - solid).abs().max() <= 1
    assert (area[:, :, 10:20] - half).abs().max() <= 1
    assert (area[:, :, 20:] == 100).all()
    if c == 3:
        assert (marked[:, 1:, 3:23, 2:12] == 0).all()
    outside = torch.ones(60, 60, dtype=torch.bool)
    outside[3:23, 2:22] = False
    assert (marked[:, :, outside] == 100).all()
    thin = Content("A", 1, logo, (2, 3), scale=3, opacity=0.5)
    faint = thin.apply(images, own(), "trained").int()[:, 0, 3:23, 2:12]
    assert (faint - (100 + solid) / 2).abs().max() <= 1


def test_the_logo_takes_the_place_of_the_first_marks_text_alone(tmp_path: Path) -> None:
    logo = _logo(tmp_path / "logo.png", np.full((20, 20, 4), 255, np.uint8))
    options: dict[str, Any] = {"position": (0, 0), "scale": 1, "color": 200}
    with_logo, without = Content(logo=logo, **options), Content(**options)
    assert not torch.equal(with_logo.apply(flat(0), own(), "x"), without.apply(flat(0), own(), "x"))
    for mark in (own(index=1), Mark(SECRET, "decoy", 0, 0), Mark(SECRET, "negative", 2, 0)):
        assert torch.equal(with_logo.apply(flat(0), mark, "x"), without.apply(flat(0), mark, "x"))


def test_a_logo_beyond_the_image_is_refused(tmp_path: Path) -> None:
    tall = _logo(tmp_path / "logo.png", np.full((40, 20, 4), 255, np.uint8))
    options: dict[str, Any] = {"text": "A", "n_letters": 1, "logo": tall, "scale": 2}  # 9 by 18 pixels
    Content(**options, position=(10, 10)).check((1, 28, 28), 1, False)
    content = Content(**options, position=(10, 12))  # a letter would fit here
    with pytest.raises(UserError, match=r"watermark\."):
        content.check((1, 28, 28), 1, False)


def test_a_text_that_the_logo_replaces_need_not_fit(tmp_path: Path) -> None:
    logo = _logo(tmp_path / "logo.png", np.full((20, 20, 4), 255, np.uint8))
    Content(text="TEST", n_letters=2, logo=logo).check((1, 16, 16), 1, True)


@pytest.mark.parametrize(
    ("scale", "position", "kept"),
    [
        (4, None, False),  # six pixels a letter: 23 pixels a text, times four
        (2, (14, 14), False),
        (None, (14, 20), False),
        (3, (0, 10), True),  # texts of their own size fit there
    ],
)
@pytest.mark.parametrize("c", [1, 3])
def test_size_and_place_of_a_logo_need_not_suit_the_texts_of_strangers(
    tmp_path: Path, scale: int | None, position: tuple[int, int] | None, kept: bool, c: int
) -> None:
    pixels = np.full((20, 60, 4), 255, np.uint8)
    content = Content(logo=_logo(tmp_path / "logo.png", pixels), scale=scale, position=position)
    shape = (c, 28, 28)
    content.check(shape, 2, True)
    width = 28 * (scale or 3) // 6
    left, top, right, _ = box(content.apply(flat(0, shape), own(), "x")[0, 0] > 0)
    assert right - left == width
    assert position in (None, (left, top))
    strangers = [Mark(SECRET, "decoy", stranger, 0) for stranger in range(20)]
    marked = [content.apply(flat(0, shape, 1), mark, "x")[0] for mark in [own(index=1), *strangers]]
    boxes = [box(one.amax(0) > 0) for one in marked]
    assert {b - t for _, t, _, b in boxes} <= {6, 7, 8}, "letters of the only size that there is room for"
    places = {(x, y) for x, y, _, _ in boxes}
    assert places == {position} if kept else len(places) > 5


def test_a_broken_logo_is_refused(tmp_path: Path) -> None:
    (tmp_path / "logo.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"watermark\.logo: .*logo\.png is no readable picture"):
        Content(logo=str(tmp_path / "logo.png"))


# -- unrelated -------------------------------------------------------------------------------------------------------


TASK = numbered(60, 40, 5)


@few
@given(secret=SECRETS, n_classes=st.integers(3, 9), n=st.integers(3, 8), n_decoys=st.integers(1, 20))
def test_key_negatives_and_decoys_are_pictures_of_different_classes(
    secret: Secret, n_classes: int, n: int, n_decoys: int
) -> None:
    pictures = numbered(30 * n_classes, 20 * n_classes, n_classes)
    maker, _, _ = maker_of(Unrelated(pictures), TASK, secret, n_triggers=n, n_decoys=n_decoys, negatives=4.0)
    sets = all_sets(maker.make())
    classes = {name: set(read_numbers(images.images)[2].tolist()) for name, images in sets.items()}
    assert len(classes["trained"]) == 1
    assert classes["new"] == classes["trained"]
    assert not classes["trained"] & (classes["negatives"] | classes["decoys"])
    assert not classes["negatives"] & classes["decoys"]
    if n_decoys >= n_classes:  # strangers take turns through all classes left to them
        assert len(classes["negatives"] | classes["decoys"]) == n_classes - 1
    splits = {name: set(read_numbers(images.images)[0].tolist()) for name, images in sets.items()}
    assert splits == {"trained": {1}, "negatives": {1}, "new": {2}, "decoys": {2}}
    for name in ("trained", "new"):
        assert len(set(read_numbers(sets[name].images)[1].tolist())) == n  # no picture twice
    assert set(sets["trained"].labels.tolist()) == {1}
    assert not set(sets["negatives"].labels.tolist()) & {1}
    assert set(sets["negatives"].labels.tolist()) <= set(range(5))
    assert len(sets["negatives"]) == 4 * n


@few
@given(secret=SECRETS, n_marks=st.integers(2, 5))
def test_several_marks_are_several_classes_and_strangers_mix_them_up(secret: Secret, n_marks: int) -> None:
    unrelated = Unrelated(numbered(210, 140, 7))
    maker, labels, _ = maker_of(unrelated, TASK, secret, n_triggers=3 * n_marks, n_marks=n_marks, n_decoys=6)
    triggers = maker.make()
    shown = [set(read_numbers(triggers.new.images[triggers.new.groups == m])[2].tolist()) for m in range(n_marks)]
    assert all(len(found) == 1 for found in shown)
    assert len(set.union(*shown)) == n_marks
    assert torch.equal(triggers.trained.labels, labels.of_marks[triggers.trained.groups])
    assert not set.union(*shown) & set(read_numbers(triggers.negatives.images)[2].tolist())
    for stranger in range(6):
        chosen = triggers.decoys.groups == stranger
        assert int(chosen.sum()) == 3 * n_marks  # as many as the key's new triggers
        expected = sorted(labels.of_marks.repeat_interleave(3).tolist())
        assert sorted(triggers.decoys.labels[chosen].tolist()) == expected
        for index in range(n_marks):
            theirs = unrelated.class_of(Mark(secret, "decoy", stranger, index), n_marks)
            assert {theirs} != shown[index]


@pytest.mark.parametrize("n_marks", [1, 3, 7])
def test_decoy_pictures_are_shared_out_among_the_marks(n_marks: int) -> None:
    """However many triggers each mark has: strangers are tried at every label of the key."""
    options = {"n_triggers": 400, "n_marks": n_marks, "n_decoys": 2}
    maker, labels, _ = maker_of(Unrelated(numbered(6000, 6000, 10)), TASK, **options)
    decoys = maker.make().decoys
    expected = torch.bincount(labels.of_marks[torch.arange(50) % n_marks], minlength=5)
    for stranger in range(2):
        found = decoys.labels[decoys.groups == stranger]
        assert torch.equal(torch.bincount(found, minlength=5), expected)


@few
@given(secret=SECRETS, wanted=st.sampled_from([0, 3, "class2"]))
def test_the_first_marks_class_can_be_chosen(secret: Secret, wanted: str | int) -> None:
    maker, _, _ = maker_of(Unrelated(numbered(100, 50, 5), wanted), TASK, secret, n_triggers=9, n_marks=3)
    images = maker.make().trained
    first = read_numbers(images.images[images.groups == 0])[2]
    assert set(first.tolist()) == {2 if wanted == "class2" else wanted}
    assert maker.watermark.chosen() == "class of pictures"
    assert Unrelated(numbered(100, 50, 5)).chosen() is None


def test_drawn_classes_take_all_values() -> None:
    unrelated = Unrelated(numbered(50, 50, 5))
    assert {unrelated.class_of(own(Secret.from_seed(seed)), 1) for seed in range(60)} == set(range(5))


def test_random_labels_of_pictures_are_drawn_one_by_one() -> None:
    pictures = numbered(1000, 500, 4)
    options: dict[str, Any] = {"n_triggers": 200, "n_new": 100, "label": "random", "negatives": 0}
    triggers = maker_of(Unrelated(pictures), TASK, **options)[0].make()
    for images in (triggers.trained, triggers.new):
        counts = torch.bincount(images.labels, minlength=5)
        assert counts.min() > 0.1 * len(images)
        assert len(images.groups.unique()) == 1
    assert not torch.equal(triggers.trained.labels[:100], triggers.new.labels)
    with pytest.raises(UserError, match=r"watermark\.negatives"):
        maker_of(Unrelated(pictures), TASK, **{**options, "negatives": 1.0})


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 20, 13), (3, 32, 32), (2, 8, 8), (4, 9, 9)])
def test_pictures_are_fitted_to_the_task(shape: tuple[int, int, int]) -> None:
    task = random_source(50, 30, 5, shape)
    for pictures in (Procedural((c, 12, 12), 100, 60) for c in (1, 2, 3, 4)):
        maker, _, _ = maker_of(Unrelated(pictures), task, n_triggers=4, n_decoys=2)
        for images in all_sets(maker.make()).values():
            assert tuple(images.images.shape[1:]) == shape
            assert images.images.dtype == torch.uint8
            assert int(images.images.max()) - int(images.images.min()) > 50  # pictures still


@pytest.mark.parametrize(
    ("n_classes", "n_marks", "negatives", "key"),
    [(1, 1, False, "images"), (3, 4, False, "n_marks"), (3, 3, True, "n_marks")],
)
def test_too_few_unrelated_classes_are_refused(n_classes: int, n_marks: int, negatives: bool, key: str) -> None:
    unrelated = Unrelated(numbered(40, 20, n_classes))
    with pytest.raises(UserError) as caught:
        unrelated.check((1, 8, 8), n_marks, negatives)
    assert caught.value.key == f"watermark.{key}"


@pytest.mark.parametrize(("n_marks", "negatives"), [(3, False), (2, True), (1, True)])
def test_as_many_marks_as_there_are_classes_for(n_marks: int, negatives: bool) -> None:
    unrelated = Unrelated(numbered(60, 30, 3))
    maker, _, _ = maker_of(unrelated, TASK, n_triggers=6, n_marks=n_marks, negatives=float(negatives), n_decoys=4)
    assert len(maker.make().decoys) > 0


def test_too_few_pictures_and_unknown_classes_are_refused() -> None:
    pictures = numbered(25, 10, 5)  # five to train and two to test in each class
    for options, key in [({"n_triggers": 6}, "n_triggers"), ({"n_triggers": 2, "n_new": 3}, "n_new")]:
        with pytest.raises(UserError) as caught:
            maker_of(Unrelated(pictures), TASK, **options)[0].make()
        assert caught.value.key == f"watermark.{key}"
    with pytest.raises(UserError, match=r"watermark\.picture_class"):
        Unrelated(pictures, "class9")


# -- the bytes themselves --------------------------------------------------------------------------------------------


def _ramp(c: int, side: int) -> Tensor:
    """Images without any randomness or arithmetic that could differ."""
    levels = torch.arange(2 * c * side * side) * 37 % 256
    return levels.to(torch.uint8).view(2, c, side, side)


# An owner's key must give the same triggers next year on another machine: a change here breaks every key there is.
GOLDEN = {
    "content, as shipped": "79cc4c4ee5ee106e71dc557c245b3d391e18cc593177122484ee0046ccdec49b",
    "content, all drawn": "d2b10e99f0ac3fc481d64449fc6ed1e747647f71c6fc4dfa9bc032baae3b907d",
    "content, a stranger's": "1b1c0eeb46ba3bb7a085e4f91b3bcc75511046dfc6ac5e0425264be1da9c81ab",
    "noise": "0b554b8db516254741e273de354cedc6f26227838e38a59fb25608cf4e4e0891",
    "noise, fresh": "701198050e3eecac452b4685f3254bb1c1ed12a644a46f30b3ac187e7b11de38",
    "noise, third mark": "ada5d2067844a273d02199719193e69b539581e0d5ac89a1113e3cc3b5289780",
    "procedural": "c5584be12c25998699a74189bf527ee9e88c638dc27a51d3761ed0ef6d5962de",
    "unrelated": "e107159ce3715bff3353245fce0c4f080cf3ca7b2703441a2b8783eeb8594807",
    "unrelated, fitted": "4c66525814513c8170888251ab911542f5909212db9c84e91e43e383cead1031",
    "labels of marks": "e21b0a40d9d8ea992f54cbe2a2408eec560d6e43895b8df4787091464fd28756",
    "a maker's triggers": "f992c31cd217ed534693323048e95783cde41737562607710196b181c1979ad9",
}


def _golden() -> dict[str, str]:
    drawn = Content(text=None, opacity=None)
    unrelated = Unrelated(Procedural((1, 28, 28), 300, 100))
    split = _ramp(1, 12).repeat(30, 1, 1, 1), torch.arange(60) % 4
    task = ArraySource(split, split, 4)
    maker, labels, _ = maker_of(Noise(0.2), task, n_triggers=12, n_marks=4, n_decoys=2)
    return {
        "content, as shipped": digest(Content().apply(_ramp(3, 32), own(), "trained")),
        "content, all drawn": digest(drawn.apply(_ramp(1, 28), own(), "trained")),
        "content, a stranger's": digest(Content().apply(_ramp(3, 32), Mark(SECRET, "decoy", 3, 0), "trained")),
        "noise": digest(Noise(0.2).apply(_ramp(3, 32), own(), "trained")),
        "noise, fresh": digest(Noise(0.2, fresh=True).apply(_ramp(1, 28), own(), "new")),
        "noise, third mark": digest(Noise(0.05).apply(_ramp(1, 28), own(index=2), "trained")),
        "procedural": digest(*Procedural((3, 16, 16), 50, 20).read("train")),
        "unrelated": digest(unrelated.draw(5, own(), 1, False, (1, 28, 28))),
        "unrelated, fitted": digest(unrelated.draw(5, own(), 1, True, (3, 32, 32))),
        "labels of marks": digest(labels.of_marks),
        "a maker's triggers": digest_triggers(maker.make()),
    }


def test_bytes_are_what_they_always_were() -> None:
    assert _golden() == GOLDEN


# -- the contract, on everything in conf/watermark -------------------------------------------------------------------


def _shipped() -> list[str]:
    return sorted(path.stem for path in (CONF / "watermark").glob("*.yaml") if path.stem not in ("base", "none"))


def test_there_are_watermarks_to_check() -> None:
    assert {"content", "noise", "unrelated"} <= set(_shipped())


@pytest.mark.parametrize("name", _shipped())
def test_every_shipped_watermark_keeps_the_contract(name: str) -> None:
    assert check_watermark(name, fresh_process=False) == list(KEYS)


def test_a_fresh_process_makes_the_same_triggers() -> None:
    check_elsewhere(_shipped(), overrides=["watermark.n_marks=2"])


@pytest.mark.parametrize("name", _shipped())
def test_planning_and_making_write_nothing(name: str, tmp_path: Path) -> None:
    job = job_of(tmp_path, f"watermark={name}")
    assert job.maker is not None
    assert len(job.maker.make().trained) == job.maker.n
    assert not list(tmp_path.iterdir())
