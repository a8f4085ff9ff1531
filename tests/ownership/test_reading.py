"""What an answer says: a label only where there is one, whatever arrives."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import few, many
from tests.ownership.services import K, one_hot
from wmlightning.errors import UserError
from wmlightning.ownership.suspects import reading
from wmlightning.ownership.suspects.base import Answer
from wmlightning.ownership.suspects.json_api import JsonApi
from wmlightning.ownership.suspects.pixels import Pixels

NAMES = {"cat": 0, "dog": 1, "7": 7}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([*NAMES, 10**400]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def proper(answer: Answer) -> bool:
    return (answer.label is None) != (answer.missing is None) and (answer.label is None or 0 <= answer.label < K)


@many
@given(JSON)
def test_anything_is_an_answer(value: Any) -> None:
    assert proper(reading.of_label(value, K))
    assert proper(reading.of_name(value, NAMES, K))
    assert proper(reading.of_scores(value, K))
    assert proper(reading.of_top(value, "label", "score", None, K))
    assert proper(reading.of_top(value, "", "0", NAMES, K))
    for scores in (True, False):
        for shape in (value, [1, K], [1], [2, 3]):
            for n in (1, 2):
                found = reading.of_tensor(value, shape, n, scores, K)
                assert len(found) == n
                assert all(map(proper, found))


@few
@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_can_be_parsed(body: bytes) -> None:
    value = reading.parse(body)
    assert reading.reach(value, "a.0.b") is reading.NOTHING or isinstance(value, (dict, list))


@few
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=K, max_size=K))
def test_scores_as_numpy_reads_them(row: list[float]) -> None:
    assert reading.of_scores(row, K).label == int(np.argmax(row))
    assert reading.of_tensor(row, [1, K], 1, True, K)[0].label == int(np.argmax(row))
    assert reading.of_array(np.array([row]), 1, K)[0].label == int(np.argmax(row))


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ([math.nan, *[0.0] * 9], "not a number"),
        ([math.inf, *[0.0] * 9], "not a number"),
        ([-math.inf] * 10, "not a number"),
        ([0.0] * 9, "wrong number of classes"),
        ([0.0] * 11, "wrong number of classes"),
        ([None, *[0.0] * 9], "malformed"),
        (["1", *[0.0] * 9], "malformed"),
        ([True] * 10, "malformed"),
        ([], "malformed"),
        ({}, "malformed"),
        ([10**400, *[0.0] * 9], "malformed"),
    ],
)
def test_bad_scores(row: Any, why: str) -> None:
    assert reading.of_scores(row, K).missing == why


def test_minus_infinity_is_the_logarithm_of_nothing() -> None:
    assert reading.of_scores([-math.inf] * 9 + [-1.0], K).label == 9


@pytest.mark.parametrize("scores", [[-math.inf, -math.inf], [0.5, math.inf], [math.nan, 0.5]])
def test_scores_of_the_best_classes_are_read_like_all_scores(scores: list[float]) -> None:
    items = [{"label": 3 + i, "score": score} for i, score in enumerate(scores)]
    assert reading.of_top(items, "label", "score", None, K).missing == "not a number"
    assert reading.of_scores(scores, None).missing == "not a number"
    items.append({"label": 7, "score": -1.0})
    assert reading.of_top(items, "label", "score", None, K).label == (7 if scores[0] == -math.inf else None)


def test_one_bad_row_does_not_spoil_the_others() -> None:
    rows = [one_hot(1), [math.nan] * K, one_hot(3), [None] * K]
    flat = [value for row in rows for value in row]
    for data in (rows, flat):
        found = reading.of_tensor(data, [4, K], 4, True, K)
        assert [answer.label for answer in found] == [1, None, 3, None]
        assert [answer.missing for answer in found] == [None, "not a number", None, "malformed"]
    found = reading.of_tensor([1, 99, 3, "x"], [4], 4, False, K)
    assert [answer.missing for answer in found] == [None, "out of range", None, "malformed"]


@pytest.mark.parametrize(
    ("data", "shape", "why"),
    [
        (one_hot(1) * 2, [2, K], "wrong count"),
        ([], [0, K], "wrong count"),
        (one_hot(1), [K], "malformed"),
        (one_hot(1), [1, K, 1], "malformed"),
        (one_hot(1)[:9], [1, K], "malformed"),
        (one_hot(1), [-1, -K], "malformed"),
        (one_hot(1), [True, K], "malformed"),
        ([one_hot(1), 3], [1, K], "malformed"),
        ([[one_hot(1)]], [1, K], "malformed"),
        (one_hot(1)[:9], [1, 9], "wrong number of classes"),
        ([], [2**39, 2**39], "malformed"),
        ("abc", [1, K], "malformed"),
    ],
)
def test_bad_tensors(data: Any, shape: Any, why: str) -> None:
    assert [answer.missing for answer in reading.of_tensor(data, shape, 1, True, K)] == [why]


def test_top_k_in_any_order() -> None:
    items = [{"l": "dog", "s": 0.2}, {"l": "cat", "s": 0.7}, {"l": "cow", "s": 0.1}]
    assert reading.of_top(items, "l", "s", NAMES, K).label == 0
    items[2]["s"] = 0.9
    assert reading.of_top(items, "l", "s", NAMES, K).missing == "unknown name"
    items[2]["s"] = math.nan
    assert reading.of_top(items, "l", "s", NAMES, K).missing == "not a number"
    assert reading.of_top([{"l": 3, "s": 1}], "l", "s", None, K).label == 3
    assert reading.of_top([{"l": 3}], "l", "s", None, K).missing == "malformed"


@pytest.mark.parametrize(
    ("array", "labels"),
    [
        (np.array([3, 4]), [3, 4]),
        (np.array([[3], [4]]), [3, 4]),
        (np.array([3.0, 4.0]), [3, 4]),
        (np.array([3, 10]), [3, None]),
        (np.array([3, -1]), [3, None]),
        (np.array([3, 0.5]), [3, None]),
        (np.array([3, np.nan]), [3, None]),
        (np.array([one_hot(5), [np.nan] * K]), [5, None]),
        (np.array([one_hot(5), [np.inf] * K]), [5, None]),
        (np.array([one_hot(5), [-np.inf] * K]), [5, None]),
        (np.array([[-np.inf] * 9 + [-1.0], [-np.inf] * K], dtype=np.float16), [9, None]),
        (np.eye(K, dtype=np.int64)[:2], [0, 1]),
        (np.array([3]), [None, None]),
        (np.zeros((2, 9)), [None, None]),
        (np.zeros((2, 0)), [None, None]),
        (np.zeros((2, 3, 4)), [None, None]),
        (np.array(["a", "b"]), [None, None]),
        (np.array([True, False]), [None, None]),
        (np.array(3), [None, None]),
        (np.array([{}, None]), [None, None]),
    ],
)
def test_arrays(array: Any, labels: list[int | None]) -> None:
    assert [answer.label for answer in reading.of_array(array, 2, K)] == labels


# -- pixels ----------------------------------------------------------------------------------------------------------


def ramp(channels: int = 3) -> torch.Tensor:
    return torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(2, channels, 1, 1)


def test_unit_pixels_are_what_our_networks_see() -> None:
    ours = ramp().float().div_(255).numpy()
    assert np.array_equal(Pixels().array(ramp()), ours)
    sent = json.loads(json.dumps(Pixels().numbers(ramp()).tolist()))
    assert np.array_equal(np.asarray(sent).astype(np.float32), ours), "as they arrive"
    assert len(json.dumps(sent)) < 0.65 * len(json.dumps(ours.astype(float).tolist()))


@few
@given(st.floats(0, 1), st.floats(0.01, 10))
def test_short_numbers_are_exact(mean: float, std: float) -> None:
    pixels = Pixels(mean=[mean, 0, 0.5], std=[std, 1, 0.25])
    assert np.array_equal(pixels.numbers(ramp()).astype(np.float32), pixels.array(ramp()))
    wanted = (ramp()[:, 0].float() / 255 - mean) / std
    assert np.allclose(pixels.array(ramp())[:, 0], wanted, rtol=1e-4, atol=1e-5)


def test_bytes_stay_bytes() -> None:
    for pixels in (Pixels("byte"), Pixels()):
        found = pixels.array(ramp(), "byte")
        assert found.dtype == np.uint8
        assert np.array_equal(found, ramp().numpy())
        assert pixels.numbers(ramp(), "byte").dtype == np.uint8
    assert Pixels("unit").array(ramp(), "byte").max() == 1, "what the user says goes"


def test_layouts() -> None:
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    assert np.array_equal(Pixels("byte", "nhwc").array(images), images.permute(0, 2, 3, 1).numpy())
    assert Pixels(layout="nhwc").numbers(images).shape == (2, 4, 5, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "float"},
        {"layout": "chwn"},
        {"mean": [0.5]},
        {"std": [0.5]},
        {"mean": [0.5], "std": [0]},
        {"mean": [0.5], "std": []},
        {"kind": "byte", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        {"kind": "byte", "mean": [0], "std": [0.5]},
        {"kind": "byte", "mean": [0.5], "std": [1]},
    ],
)
def test_bad_pixels(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"suspect\.pixels"):
        Pixels(**options)


@pytest.mark.parametrize(("mean", "std"), [([0], [1]), ([127.5], [127.5]), ([123.7, 0, 0], [58.4, 1, 1]), ([0], [255])])
def test_pixels_of_bytes(mean: list[float], std: list[float]) -> None:
    assert Pixels("byte", mean=mean, std=std).array(torch.zeros(1, 3, 2, 2, dtype=torch.uint8)).shape == (1, 3, 2, 2)


def test_mean_must_fit_the_channels() -> None:
    Pixels(mean=[0.5], std=[1]).check((3, 2, 2))
    with pytest.raises(UserError, match="2 values for 3 channels"):
        Pixels(mean=[0.5, 0.5], std=[1, 1]).check((3, 2, 2))


# -- a mapping, without a service ------------------------------------------------------------------------------------


def mapping(image: dict[str, Any], answer: dict[str, Any] | None = None, **options: Any) -> JsonApi:
    found = JsonApi("http://x/", image, answer or {}, **options)
    found.open((3, 4, 5), K)
    return found


def pictures(n: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_png_loses_nothing() -> None:
    import io
    from base64 import b64decode

    from PIL import Image

    for channels in (1, 3, 4):
        image = torch.randint(0, 256, (channels, 6, 7), dtype=torch.uint8)
        api = JsonApi("http://x/", {"path": "a.b", "prefix": "data:,"}, {})
        api.open((channels, 6, 7), K)
        text = json.loads(api.encode(image[None]))["a"]["b"]
        assert text.startswith("data:,")
        back = np.asarray(Image.open(io.BytesIO(b64decode(text[6:]))))
        assert np.array_equal(back.reshape(6, 7, channels), image.permute(1, 2, 0).numpy())
    with pytest.raises(UserError, match="no PNG holds 2x6x7"):
        JsonApi("http://x/", {"path": "a"}, {}).open((2, 6, 7), K)


def test_where_images_go() -> None:
    two = pictures(2)
    many_form = {"path": "instances", "kind": "list", "many": True, "item": "b64"}
    api = mapping(many_form, batch_size=2, body={"signature": "s"}, pixels=Pixels("byte"))
    sent = json.loads(api.encode(two))
    assert sent == {"signature": "s", "instances": [{"b64": image.tolist()} for image in two]}
    api = mapping({"path": "in.1.x", "kind": "flat"}, body={"in": [0, {}]}, pixels=Pixels("byte"))
    assert json.loads(api.encode(two[:1])) == {"in": [0, {"x": two[0].flatten().tolist()}]}
    assert api.body == {"in": [0, {}]}, "the template is as it was"
    assert json.loads(api.encode(two[1:]))["in"][1]["x"] == two[1].flatten().tolist()


def test_where_answers_come_out() -> None:
    batch = {"path": "x", "kind": "list", "many": True}
    api = mapping(batch, {"path": "p", "item": "out.scores", "kind": "scores"}, batch_size=3)
    content = {"p": [{"out": {"scores": one_hot(2)}}, {"out": {}}, {"out": {"scores": one_hot(4)}}]}
    assert [answer.label for answer in api.decode(content, 3)] == [2, None, 4]
    assert {answer.missing for answer in api.decode(content, 2)} == {"wrong count"}
    assert {answer.missing for answer in api.decode({"p": 3}, 2)} == {"malformed"}
    assert {answer.missing for answer in api.decode([], 2)} == {"malformed"}
    api = mapping({"path": "x"}, {"path": "0.name", "kind": "label_name"}, names=["cat", "dog", *"abcdefgh"])
    assert api.decode([{"name": "dog"}], 1)[0].label == 1
    assert api.decode([{"name": "cow"}], 1)[0].missing == "unknown name"
    api = mapping({"path": "x"}, {"path": "", "kind": "top_k", "label": "n", "score": "s"}, names={"cat": 4})
    assert api.decode([{"n": "cat", "s": 1}], 1)[0].label == 4


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"image": {}}, "suspect.image"),
        ({"image": {"path": ""}}, "suspect.image.path"),
        ({"image": {"path": "x", "kind": "jpeg"}}, "suspect.image.kind"),
        ({"image": {"path": "x", "other": 1}}, "suspect.image"),
        ({"image": {"path": "a.b"}, "body": {"a": 3}}, "suspect.image.path"),
        ({"image": {"path": "a.3"}, "body": {"a": []}}, "suspect.image.path"),
        ({"image": {"path": "a.b"}, "body": {"a": []}}, "suspect.image.path"),
        ({"answer": {"kind": "guess"}}, "suspect.answer.kind"),
        ({"answer": {"kind": "label_name"}}, "suspect.names"),
        ({"names": {"cat": "zero"}}, "suspect.names"),
        ({"names": "cat"}, "suspect.names"),
        ({"names": ["cat", "cat"]}, "suspect.names"),
        ({"names": {"7": 1, 7: 2}}, "suspect.names"),
        ({"names": ["cat", None]}, "suspect.names"),
        ({"names": ["cat", True]}, "suspect.names"),
        ({"names": []}, "suspect.names"),
        ({"names": {0: 3, 1: 5}}, "suspect.names"),
        ({"names": [3, 5], "answer": {"kind": "scores"}}, "suspect.names"),
        ({"pixels": Pixels("unit", mean=[0.5], std=[0.5])}, "suspect.pixels.mean"),
        ({"method": "GET"}, "suspect.method"),
        ({"batch_size": 2}, "suspect.batch_size"),
        ({"batch_size": 0}, "suspect.batch_size"),
    ],
)
def test_bad_mappings(options: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError) as caught:
        JsonApi(**{"url": "http://x/", "image": {"path": "x"}, "answer": {}, **options})
    assert caught.value.key == key


@pytest.mark.parametrize("names", [["cat"], [*"abcdefghijk"], {"cat": K}])
def test_names_must_fit_the_task(names: Any) -> None:
    with pytest.raises(UserError, match="the key's task has 10 classes") as caught:
        mapping({"path": "x"}, {"kind": "label_name"}, names=names)
    assert caught.value.key == "suspect.names"


def test_whole_numbers_are_places_in_lists() -> None:
    assert mapping({"path": "x"}, {"path": 1}).decode([3, 4], 1)[0].label == 4
    assert mapping({"path": "x"}, {"path": 0}).decode([3, 4], 1)[0].label == 3
    api = mapping({"path": "x", "kind": "flat", "many": True}, {"path": "p", "item": 0})
    assert api.decode({"p": [[3, 4]]}, 1)[0].label == 3
    api = mapping({"path": "x"}, {"path": "", "kind": "top_k", "label": 0, "score": 1})
    assert api.decode([[5, 0.1], [6, 0.9]], 1)[0].label == 6
    api = mapping({"path": 0, "kind": "flat", "many": True, "item": 5}, pixels=Pixels("byte"))
    sent = json.loads(api.encode(pictures(1)))
    assert list(sent) == ["0"]
    assert list(sent["0"][0]) == ["5"]


def test_another_mapping_is_another_suspect() -> None:
    one, same, other = (mapping({"path": "x"}, {"path": path}).identity() for path in "aab")
    assert one == same != other
