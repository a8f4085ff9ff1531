"""Rows are added to batches of any kind, or it is said why not."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from wmlightning.embed.layout import Layout
from wmlightning.errors import UserError

X, Y = torch.rand(5, 3, 4, 4), torch.arange(5)
NEW_X, NEW_Y = torch.rand(2, 3, 4, 4), torch.tensor([1, 0])


class Pair(NamedTuple):
    pixels: Tensor
    classes: Tensor


class Encoding(UserDict):  # type: ignore[type-arg]
    """As Hugging Face makes them."""


BATCHES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda x, y: (x, y),
    "list": lambda x, y: [x, y],
    "turned round": lambda x, y: (y, x),
    "named": Pair,
    "dict": lambda x, y: {"labels": y, "pixel_values": x},
    "encoding": lambda x, y: Encoding({"pixel_values": x, "labels": y}),
    "shared entries": lambda x, y: {"image": x, "label": y, "task": "animals", "scale": torch.tensor(2.0)},
}


def same(a: Any, b: Any) -> bool:
    assert type(a) is type(b)
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, (dict, UserDict)):
        return list(a) == list(b) and all(same(a[place], b[place]) for place in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, (tuple, list)) else bool(a == b)


@pytest.mark.parametrize("kind", BATCHES)
def test_rows_are_added(kind: str) -> None:
    make = BATCHES[kind]
    batch = make(X, Y)
    layout = Layout.of(batch, 9)
    assert all(map(torch.equal, layout.read(batch), (X, Y)))
    alone = layout.batch(NEW_X, NEW_Y)
    assert same(alone, make(NEW_X, NEW_Y))
    assert same(layout.joined(batch, NEW_X, NEW_Y), make(torch.cat([X, NEW_X]), torch.cat([Y, NEW_Y])))
    assert same(batch, make(X, Y)), "the project's own batch is left as it was"


def test_type_and_layout_of_the_projects_rows_win() -> None:
    clean = (X.bfloat16().to(memory_format=torch.channels_last), Y.int())
    images, labels = Layout.of(clean, 9).joined(clean, NEW_X, NEW_Y)
    assert images.dtype == torch.bfloat16 and labels.dtype == torch.int32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images[5:], NEW_X.bfloat16())


def test_other_entries_are_filled_as_the_user_says() -> None:
    names = ["a", "b", "c", "d", "e"]
    batch = {"x": X, "y": Y, "weight": torch.ones(5), "name": names}
    with pytest.raises(UserError, match=r"^fill: the batch has 'weight': float32 \(5,\) beside .*; .*'weight': 0"):
        Layout.of(batch, 9)
    layout = Layout.of(batch, 9, fill={"weight": 0.5, "name": "?"})
    joined = layout.joined(batch, NEW_X, NEW_Y)
    assert joined["weight"].tolist() == [1] * 5 + [0.5] * 2
    assert joined["name"] == [*names, "?", "?"]


@pytest.mark.parametrize(
    ("batch", "given", "told"),
    [
        (X, {}, "batch: the project's batches are Tensor"),
        ((Y, Y), {}, r"images: there are none in batches of 0: int64 \(5,\), 1: int64 \(5,\)"),
        ((X, X, Y), {}, r"images: may be any of \[0, 1\]"),
        ((X, Y, Y), {}, r"labels: may be any of \[1, 2\].*; labels=1"),
        ((X, torch.rand(5, 4)), {}, "labels: there are none .* or a tensor \\(n, 9\\)"),
        ((X, torch.rand(5)), {}, "labels: there are none"),
        ((X, Y > 2), {}, "labels: there are none"),
        ((X, Y[:4]), {}, "labels: there are none"),
        ((X[0], Y), {}, "images: there are none"),
        ((X, Y), {"labels": 0}, r"labels: 0 holds none .*; one of \[1\]"),
        ((X, Y), {"images": "pixels"}, "images: 'pixels' holds none"),
        (
            ([X, Y], [X, Y]),
            {},
            r"images: may be any of \[\(0, 0\), \(1, 0\)\] .*; images=\(0, 0\); of several train loaders the one that",
        ),
        (({"x": X}, (Y, Y)), {}, r"labels: may be any of \[\(1, 0\), \(1, 1\)\] in batches of \(0, 'x'\): float32"),
    ],
)
def test_what_cannot_be_told_is_asked(batch: Any, given: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=rf"^{told}"):
        Layout.of(batch, 9, **given)


def test_named_places() -> None:
    layout = Layout.of((Y.flip(0), X, Y, 2 * X), 9, labels=2, images=1, fill={0: -1, 3: 0.0})
    joined = layout.joined((Y.flip(0), X, Y, 2 * X), NEW_X, NEW_Y)
    assert joined[0].tolist() == [4, 3, 2, 1, 0, -1, -1]
    assert torch.equal(joined[2], torch.cat([Y, NEW_Y]))
    assert torch.equal(joined[3][5:], torch.zeros(2, 3, 4, 4))


def test_batch_whose_labels_became_something_else_on_the_way() -> None:
    layout = Layout.of((X, Y), 9)
    with pytest.raises(UserError, match=r"^labels: 1 holds none in batches of .* 1: float32 \(5, 4\)"):
        layout.read((X, torch.rand(5, 4)))


HOT = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0]])


@pytest.mark.parametrize(
    ("labels", "n_classes", "expected"),
    [
        (Y[:, None], 9, NEW_Y[:, None]),
        (Y.short()[:, None], 9, NEW_Y.short()[:, None]),
        (Y.float(), 2, NEW_Y.float()),
        (Y.double()[:, None], 2, NEW_Y.double()[:, None]),
        (torch.rand(5, 4), 4, HOT.float()),
        (torch.zeros(5, 4, dtype=torch.int32), 4, HOT.int()),
    ],
    ids=["column", "short column", "two classes", "two classes, column", "soft", "one-hot"],
)
def test_labels_of_any_form(labels: Tensor, n_classes: int, expected: Tensor) -> None:
    layout = Layout.of((X, labels), n_classes)
    joined = layout.joined((X, labels), NEW_X, NEW_Y)[1]
    assert joined.dtype == labels.dtype and torch.equal(joined, torch.cat([labels, expected]))
    assert torch.equal(layout.batch(NEW_X, NEW_Y)[1], expected)


def test_form_of_labels_may_change_from_batch_to_batch() -> None:
    """Projects mix some batches only."""
    joined = Layout.of((X, Y), 4).joined((X, torch.rand(5, 4)), NEW_X, NEW_Y)
    assert torch.equal(joined[1][5:], HOT.float())


NESTED: dict[str, tuple[Callable[[Tensor, Tensor], Any], dict[str, Any]]] = {
    "label within": (lambda x, y: {"image": x, "target": {"label": y, "task": "animals"}}, {}),
    "both within": (lambda x, y: [({"pixels": x}, torch.tensor(2.0)), (y, "animals")], {}),
    "named": (lambda x, y: {"image": x, "a": {"b": Y, "c": y}}, {"labels": ("a", "c"), "fill": {("a", "b"): 3}}),
    "named by number": (lambda x, y: (x, {"c": [Y, y]}), {"labels": (1, "c", 1), "fill": {(1, "c", 0): 3}}),
}


@pytest.mark.parametrize("kind", NESTED)
def test_entries_within_others(kind: str) -> None:
    make, given = NESTED[kind]
    layout = Layout.of(make(X, Y), 9, **given)
    joined = layout.joined(make(X, Y), NEW_X, NEW_Y)
    assert all(map(torch.equal, layout.read(joined), (torch.cat([X, NEW_X]), torch.cat([Y, NEW_Y]))))
    if not given:
        assert same(layout.batch(NEW_X, NEW_Y), make(NEW_X, NEW_Y))
    else:
        filled = joined["a"]["b"] if kind == "named" else joined[1]["c"][0]
        assert filled.tolist() == [*range(5), 3, 3]


@pytest.mark.parametrize(("images", "place"), [(("b", 0), "b"), (("a", "x"), "a")])
def test_one_of_several_loaders(images: Any, place: str) -> None:
    """Its batches grow; the others, even of as many images, are let alone."""
    batch = {"a": {"x": X, "y": Y}, "b": [2 * X, Y.flip(0)], "c": (X[:2], Y[:2], ["d", "e"])}
    joined = Layout.of(batch, 9, images=images).joined(batch, NEW_X, NEW_Y)
    assert all(same(joined[name], batch[name]) for name in set(batch) - {place})
    grown = list(joined[place].values()) if place == "a" else joined[place]
    assert [len(entry) for entry in grown] == [7, 7]
    assert torch.equal(grown[0][5:], NEW_X) and torch.equal(grown[1][5:], NEW_Y)


def test_batches_that_are_looked_at_only() -> None:
    """No labels, or names that nobody filled in: what is not told is as for the first image."""
    for batch, expected in (
        ((X, ["a", "b", "c", "d", "e"], Y), ["a", "a"]),
        ((X, Y, Y + 1), [1, 1]),
        ({"x": X, "weight": torch.rand(5, 4)}, None),
        ([X], None),
    ):
        layout = Layout.of(batch, 9, joins=False)
        made = layout.batch(NEW_X, NEW_Y)
        assert type(made) is type(batch) and torch.equal(layout.images_of(made), NEW_X)
        if expected is not None:
            assert list(made[1] if isinstance(made[1], list) else made[2].tolist()) in (expected, [1, 1])
    assert len(Layout.of({"x": X, "weight": torch.rand(5, 4)}, 9, joins=False).batch(NEW_X, NEW_Y)["weight"]) == 2
    with pytest.raises(UserError, match=r"^images: may be any of \[0, 1\]"):
        Layout.of((X, X), 9, joins=False)


def test_lists_with_one_thing_for_each_image_are_entries() -> None:
    boxes = [{"box": torch.rand(2, 4)} for _ in range(5)]
    with pytest.raises(UserError, match=r"^fill: the batch has 2: list beside"):
        Layout.of((X, Y, boxes), 9)
    joined = Layout.of((X, Y, boxes), 9, fill={2: None}).joined((X, Y, boxes), NEW_X, NEW_Y)
    assert joined[2] == [*boxes, None, None]


VIEWS: dict[str, tuple[Any, Any, Any]] = {
    "one vector": (torch.rand(5, 3), [1.0, 0.0, 2.0], torch.tensor([[1.0, 0, 2]] * 2)),
    "a number": (torch.arange(5), 7, torch.tensor([7, 7])),
    "labels": (Y.flip(0), "labels", NEW_Y),
    "soft labels": (torch.rand(5, 9), "labels", torch.eye(9)[NEW_Y]),
    "images": (2 * X, "images", NEW_X),
    "a function": (X[:, :, :2], lambda images, labels: images[:, :, :2] + labels[:, None, None, None], None),
    "names": (list("abcde"), lambda images, labels: [str(int(label)) for label in labels], ["1", "0"]),
}


@pytest.mark.parametrize("kind", VIEWS)
def test_what_marked_images_get(kind: str) -> None:
    entry, value, expected = VIEWS[kind]
    batch = (X, Y, entry)
    joined = Layout.of(batch, 9, images=0, labels=1, fill={2: value}).joined(batch, NEW_X, NEW_Y)
    if expected is None:
        expected = NEW_X[:, :, :2] + NEW_Y[:, None, None, None]
    assert same(joined[2], [*entry, *expected] if isinstance(entry, list) else torch.cat([entry, expected]))


@pytest.mark.parametrize(
    ("entry", "value", "told"),
    [
        (torch.rand(5, 3), [1.0, 2.0], r"\[1\.0, 2\.0\] does not fit in 2: float32 \(1, 3\)"),
        (torch.rand(5, 3), "labels", "'labels' does not fit"),
        (torch.rand(5, 3), "label", "'label' does not fit"),
        (torch.rand(5, 3), None, "None does not fit"),
        (torch.rand(5, 3, 2, 2), "images", r"float32 \(1, 3, 4, 4\) does not fit in 2"),
        (torch.rand(5, 3), lambda images, labels: torch.rand(7, 3), r"float32 \(7, 3\) does not fit"),
        (list("abcde"), lambda images, labels: "?", "str does not fit"),
    ],
)
def test_what_does_not_fit_is_told_before_a_step(entry: Any, value: Any, told: str) -> None:
    with pytest.raises(UserError, match=rf"^fill: {told}.*; a value, 'images', 'labels', or a function"):
        Layout.of((X, Y, entry), 9, images=0, labels=1, fill={2: value})


def test_what_is_suggested() -> None:
    for entry, value in ((Y.flip(0), "'labels'"), (2 * X, "'images'"), (Y + 70, "0"), (torch.rand(5), "0")):
        with pytest.raises(UserError, match=rf"^fill: .* get there: fill=\{{2: {value}\}}$"):
            Layout.of((X, Y, entry), 9, images=0, labels=1)
