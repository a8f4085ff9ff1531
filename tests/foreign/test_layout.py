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
    layout = Layout.of(batch)
    assert all(map(torch.equal, layout.read(batch), (X, Y)))
    alone = layout.batch(NEW_X, NEW_Y)
    assert same(alone, make(NEW_X, NEW_Y))
    assert same(layout.joined(batch, alone), make(torch.cat([X, NEW_X]), torch.cat([Y, NEW_Y])))
    assert same(batch, make(X, Y)), "the project's own batch is left as it was"


def test_type_and_layout_of_the_projects_rows_win() -> None:
    clean = (X.bfloat16().to(memory_format=torch.channels_last), Y.int())
    layout = Layout.of(clean)
    images, labels = layout.joined(clean, layout.batch(NEW_X, NEW_Y))
    assert images.dtype == torch.bfloat16 and labels.dtype == torch.int32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images[5:], NEW_X.bfloat16())


def test_other_entries_are_filled_as_the_user_says() -> None:
    names = ["a", "b", "c", "d", "e"]
    batch = {"x": X, "y": Y, "weight": torch.ones(5), "name": names}
    with pytest.raises(UserError, match=r"^fill: the batch has 'weight': float32 \(5,\) beside .*; .*'weight': 0"):
        Layout.of(batch)
    layout = Layout.of(batch, fill={"weight": 0.5, "name": "?"})
    joined = layout.joined(batch, layout.batch(NEW_X, NEW_Y))
    assert joined["weight"].tolist() == [1] * 5 + [0.5] * 2
    assert joined["name"] == [*names, "?", "?"]


@pytest.mark.parametrize(
    ("batch", "given", "told"),
    [
        (X, {}, "batch: the project's batches are Tensor"),
        ((Y, Y), {}, r"images: there are none in batches of 0: int64 \(5,\), 1: int64 \(5,\)"),
        ((X, X, Y), {}, r"images: may be any of \[0, 1\]"),
        ((X, Y, Y), {}, r"labels: may be any of \[1, 2\].*; labels=1"),
        ((X, torch.rand(5, 4)), {}, "labels: there are none .*soft or several labels cannot be watermarked"),
        ((X, torch.rand(5)), {}, "labels: there are none"),
        ((X, Y > 2), {}, "labels: there are none"),
        ((X, Y[:4]), {}, "labels: there are none"),
        ((X[0], Y), {}, "images: there are none"),
        ((X, Y), {"labels": 0}, r"labels: 0 holds none .*; one of \[1\]"),
        ((X, Y), {"images": "pixels"}, "images: 'pixels' holds none"),
        (([X, Y], [X, Y]), {}, "images: there are none in batches of 0: list, 1: list"),
    ],
)
def test_what_cannot_be_told_is_asked(batch: Any, given: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=rf"^{told}"):
        Layout.of(batch, **given)


def test_named_places() -> None:
    layout = Layout.of((Y.flip(0), X, Y, 2 * X), labels=2, images=1, fill={0: -1, 3: 0.0})
    joined = layout.joined((Y.flip(0), X, Y, 2 * X), layout.batch(NEW_X, NEW_Y))
    assert joined[0].tolist() == [4, 3, 2, 1, 0, -1, -1]
    assert torch.equal(joined[2], torch.cat([Y, NEW_Y]))
    assert torch.equal(joined[3][5:], torch.zeros(2, 3, 4, 4))


def test_batch_whose_labels_became_soft_on_the_way() -> None:
    layout = Layout.of((X, Y))
    with pytest.raises(UserError, match=r"^labels: 1 holds none in batches of .* 1: float32 \(5, 4\)"):
        layout.read((X, torch.rand(5, 4)))
