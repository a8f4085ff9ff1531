"""The client of the Open Inference Protocol: what models say about themselves, and what they answer."""

from __future__ import annotations

import json
import math
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import few
from tests.ownership.services import (
    METADATA,
    SHAPE,
    Call,
    K,
    Reply,
    images,
    labels,
    oip,
    oip_answer,
    oip_service,
    one_hot,
    quick,
    serving,
)
from tests.ownership.test_reading import JSON
from wmlightning.errors import UserError
from wmlightning.ownership.suspects.base import Answer, Unreachable
from wmlightning.ownership.suspects.oip import Oip
from wmlightning.ownership.suspects.pixels import Pixels


def described(**changes: Any) -> dict[str, Any]:
    """The metadata with another input or output."""
    first = {key: {**METADATA[key][0], **changes.pop(key[:-1], {})} for key in ("inputs", "outputs")}  # type: ignore[index, dict-item]
    return {**METADATA, "inputs": [first["inputs"]], "outputs": [first["outputs"]], **changes}


def opened(metadata: Any = METADATA, **options: Any) -> tuple[Oip, list[Call]]:
    with serving(oip_service(metadata)) as service:
        suspect = oip(service.url, **options)
        suspect.open(SHAPE, K)
    return suspect, service.calls


def test_what_is_sent() -> None:
    with serving(oip_service()) as service:
        suspect = oip(service.url, version="3", batch_size=4)
        suspect.open(SHAPE, K)
        assert (suspect.shape, suspect.n_classes) == (SHAPE, K)
        assert [answer.label for answer in suspect.ask(images(10))] == labels(10)
    paths = [call.path for call in service.calls]
    assert paths == ["/v2/models/m/versions/3", *["/v2/models/m/versions/3/infer"] * 4]
    request = next(json.loads(call.body) for call in service.calls[1:] if len(call.pixels) == 4)
    assert request["inputs"][0]["shape"] == [4, *SHAPE]
    assert request["inputs"][0]["datatype"] == "UINT8"
    assert len(request["inputs"][0]["data"]) == 64
    assert request["outputs"] == [{"name": "out"}]
    assert sorted(len(call.pixels) for call in service.calls[1:]) == [1, 2, 3, 4], "the first comes alone"


def test_floats_where_the_model_takes_floats() -> None:
    suspect, _ = opened(described(input={"datatype": "FP32"}))
    tensor = json.loads(suspect.encode(images(1) + 255))["inputs"][0]
    assert tensor["datatype"] == "FP32"
    assert max(tensor["data"]) == 1.0
    suspect, _ = opened(described(input={"datatype": "FP32"}), pixels=Pixels("byte"))
    assert max(json.loads(suspect.encode(images(1) + 255))["inputs"][0]["data"]) == 255


@pytest.mark.parametrize(
    ("pixels", "key", "right"),
    [
        (Pixels("unit"), "suspect.pixels.kind", "byte, or suspect.datatype=FP32"),
        (Pixels(mean=[0.5], std=[0.5]), "suspect.pixels.mean", "null, or suspect.datatype=FP32"),
        (Pixels("byte", mean=[128], std=[64]), "suspect.pixels.mean", "null, or suspect.datatype=FP32"),
    ],
)
def test_floats_are_not_sent_to_a_model_of_bytes(pixels: Pixels, key: str, right: str) -> None:
    """A service that casts them sees a black image, and a stolen model answers to no trigger."""
    for metadata, datatype in ((METADATA, None), ({"name": "m"}, "UINT8")):
        with serving(oip_service(metadata)) as service, pytest.raises(UserError, match="takes UINT8") as caught:
            oip(service.url, pixels=pixels, datatype=datatype).open(SHAPE, K)
        assert caught.value.key == key
        assert right in str(caught.value)
        assert service.n_images == 0
    suspect, _ = opened(pixels=pixels, datatype="FP32")
    assert json.loads(suspect.encode(images(1)))["inputs"][0]["datatype"] == "FP32"


def test_labels_where_there_are_no_scores() -> None:
    def whole(call: Call) -> Reply:
        return Reply(oip_answer([[pixel % K] for pixel in call.pixels], shape=[len(call.pixels)], datatype="INT64"))

    metadata = described(output={"datatype": "INT64", "shape": [-1]})
    with serving(oip_service(metadata, whole)) as service:
        suspect = oip(service.url)
        suspect.open(SHAPE, K)
        assert [answer.label for answer in suspect.ask(images(10))] == labels(10)


def test_scores_rather_than_labels() -> None:
    outputs = [{"name": "l", "datatype": "INT64", "shape": [-1]}, *METADATA["outputs"]]  # type: ignore[misc]
    assert opened({**METADATA, "outputs": outputs})[0].output == "out"
    assert opened({**METADATA, "outputs": outputs}, answers="labels")[0].output == "l"
    assert opened({**METADATA, "outputs": outputs}, output="l")[0].answers == "labels"


def tensor(name: str, datatype: str, *sides: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(sides)}


@pytest.mark.parametrize(
    ("outputs", "chosen"),
    [
        ([tensor("emb", "FP32", -1, 512), tensor("logits", "FP32", -1, K)], "logits"),
        ([tensor("emb", "FP32", -1, 512), tensor("any", "FP32", -1, -1), tensor("logits", "FP32", -1, K)], "logits"),
        ([tensor("emb", "FP32", -1, 512), tensor("any", "FP32", -1, -1)], "any"),
        ([tensor("emb", "FP32", -1, 512), tensor("label", "INT64", -1)], "label"),
        ([tensor("label", "INT64", -1), tensor("any", "FP32", -1, -1)], "any"),
    ],
)
def test_the_output_that_is_as_wide_as_the_task(outputs: list[dict[str, Any]], chosen: str) -> None:
    assert opened({**METADATA, "outputs": outputs})[0].output == chosen


def test_no_output_is_as_wide_as_the_task() -> None:
    outputs = [tensor("emb", "FP32", -1, 512), tensor("logits", "FP32", -1, 9)]
    with pytest.raises(UserError, match="no scores of 10 classes; one of emb, logits") as caught:
        opened({**METADATA, "outputs": outputs})
    assert caught.value.key == "suspect.output"
    with pytest.raises(UserError, match="tells 512 classes apart"):
        opened({**METADATA, "outputs": outputs}, output="emb")


@pytest.mark.parametrize("metadata", [{"name": "m"}, {**METADATA, "outputs": [{"name": "out"}]}])
def test_labels_of_a_model_that_says_little(metadata: dict[str, Any]) -> None:
    def label(call: Call) -> Reply:
        return Reply(oip_answer([[3]], shape=[1], datatype="INT64"))

    with serving(oip_service(metadata, label)) as service:
        suspect = oip(service.url, datatype="UINT8")
        suspect.open(SHAPE, K)
        with pytest.raises(UserError, match=r"another number of scores; .* suspect\.answers=labels"):
            suspect.ask(images(9))
        suspect = oip(service.url, datatype="UINT8", answers="labels", batch_size=1)
        suspect.open(SHAPE, K)
        assert [answer.label for answer in suspect.ask(images(9))] == [3] * 9


@pytest.mark.parametrize("options", [{}, {"input": "x"}, {"output": "x"}])
def test_long_names_are_cut(options: dict[str, str]) -> None:
    long = ["y" * 2_000_000, "z" * 2_000_000]
    many = {key: [{"name": name} for name in long] for key in ("inputs", "outputs")}
    one = {**METADATA, "inputs": [{"name": long[0], "datatype": "BYTES"}]}
    for metadata in (many, one, {**METADATA, **many, "inputs": METADATA["inputs"]}):
        try:
            opened(metadata, **options)
        except UserError as error:
            assert len(str(error)) < 500
        else:
            assert not options


def test_model_of_one_image() -> None:
    suspect, _ = opened(described(input={"shape": [1, *SHAPE]}, output={"shape": [1, K]}))
    assert suspect.batch_size == 1

    def single(call: Call) -> Reply:
        return Reply(oip_answer([one_hot(json.loads(call.body)["inputs"][0]["data"][0] % K)], shape=[K]))

    with serving(oip_service(described(input={"shape": SHAPE}, output={"shape": [K]}), single)) as service:
        suspect = oip(service.url)
        suspect.open(SHAPE, K)
        assert [answer.label for answer in suspect.ask(images(5))] == labels(5)
    assert json.loads(service.calls[1].body)["inputs"][0]["shape"] == list(SHAPE)


def test_model_that_says_little() -> None:
    suspect, _ = opened({"name": "m", "inputs": [], "outputs": []})
    assert (suspect.input, suspect.datatype, suspect.output, suspect.answers) == ("input", "FP32", None, "scores")
    suspect, _ = opened({"name": "m"}, input="x", datatype="UINT8", output="y", answers="labels")
    assert (suspect.input, suspect.datatype, suspect.output, suspect.answers) == ("x", "UINT8", "y", "labels")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (described(input={"shape": [-1, 1, 5, 5]}), "takes 1x5x5 images"),
        (described(input={"shape": [-1, 3, 4, 4]}), "takes 3x4x4 images"),
        (described(output={"shape": [-1, 100]}), "100 classes"),
        (described(input={"shape": [8, *SHAPE]}), "takes 8 images at once"),
        (described(input={"shape": [-1, 16]}), "has the shape"),
        (described(input={"datatype": "BYTES"}), "BYTES"),
        (described(output={"datatype": "BYTES"}), "no scores and no labels"),
        (described(output={"shape": [-1, 4, 4]}), "no scores and no labels"),
        ({**METADATA, "inputs": [{"name": "a"}, {"name": "b"}]}, "several inputs"),
        ({**METADATA, "inputs": [{"name": "a"}, {"name": "Bearer-s3cr3t"}]}, r"one of a, \*\*\*$"),
        (described(input={"datatype": "Bearer-s3cr3t"}), r"takes '\*\*\*'"),
        ({**METADATA, "inputs": 3}, "cannot be read"),
        ({**METADATA, "inputs": [3]}, "cannot be read"),
        ({**METADATA, "inputs": [{"name": "\x1b[31m"}]}, "cannot be read"),
        (described(input={"shape": ["n", 1, 4, 4]}), "cannot be read"),
        (["m"], "cannot be read"),
        (Reply(b"<html>"), "gives no JSON"),
        (Reply({"error": "no such model"}, 404), "no such model"),
        (Reply({}, 401), "HTTP 401"),
        (Reply({}, 400), "HTTP 400"),
    ],
)
def test_wrong_model_is_told_before_an_image_is_sent(metadata: Any, words: str) -> None:
    with serving(oip_service(metadata)) as service, pytest.raises(UserError, match=words) as caught:
        oip(service.url, quick(headers={"Authorization": "Bearer-s3cr3t"})).open(SHAPE, K)
    assert not isinstance(caught.value, Unreachable)
    assert "\n" not in str(caught.value)
    assert service.n_images == 0


def test_metadata_is_asked_for_again() -> None:
    fates = iter([500, 429])

    def late(call: Call) -> Reply | None:
        status = next(fates, None)
        return Reply({}, status) if status else oip_service()(call)

    with serving(late) as service:
        oip(service.url).open(SHAPE, K)
    with serving(lambda _: Reply({}, 503)) as service, pytest.raises(Unreachable, match="HTTP 503"):
        oip(service.url).open(SHAPE, K)
    assert len(service.calls) == 3


@pytest.mark.parametrize("first", [-1, 1])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_grey_images_without_a_channel(first: int, layout: str) -> None:
    """As Keras has MNIST: ``(n, h, w)``."""
    metadata = described(input={"shape": [first, *SHAPE[1:]]}, output={"shape": [first, K]})
    with serving(oip_service(metadata)) as service:
        suspect = oip(service.url, batch_size=4, pixels=Pixels(layout=layout))
        suspect.open(SHAPE, K)
        assert suspect.shape == SHAPE
        assert [answer.label for answer in suspect.ask(images(9))] == labels(9)
        shapes = [json.loads(call.body)["inputs"][0]["shape"] for call in service.calls if call.method == "POST"]
        assert {tuple(shape[1:]) for shape in shapes} == {SHAPE[1:]}
        assert max(shape[0] for shape in shapes) == (4 if first == -1 else 1)
        with pytest.raises(UserError, match=r"suspect\.input: .* without channels; a key of grey images"):
            oip(service.url, pixels=Pixels(layout=layout)).open((3, *SHAPE[1:]), K)


@pytest.mark.parametrize("options", [{"input": "x"}, {"output": "x"}, {"datatype": "BYTES"}, {"answers": "top"}])
def test_bad_options(options: dict[str, Any]) -> None:
    with serving(oip_service()) as service, pytest.raises(UserError, match=rf"suspect\.{next(iter(options))}"):
        oip(service.url, **options).open(SHAPE, K)


@pytest.mark.parametrize("name", ["a?b", "a/b", "a b", "ü#%", "a%2Fb"])
def test_names_that_mean_something_else_in_an_address(name: str) -> None:
    quoted = quote(name, safe="")
    with serving(oip_service()) as service:
        url = service.url.removesuffix("/predict") + "/x%3Fy/v2/?a=%2Fb&c"
        suspect = Oip(url, name, version=name, http=quick())
        suspect.open(SHAPE, K)
        assert [answer.label for answer in suspect.ask(images(3))] == labels(3)
    path = f"/x%3Fy/v2/models/{quoted}/versions/{quoted}"
    assert [call.path for call in service.calls] == [f"{path}?a=%2Fb&c", *[f"{path}/infer?a=%2Fb&c"] * 2]


def test_an_explicit_answer_wins() -> None:
    """Labels that are called floats, and scores that are called whole numbers."""

    def floats(call: Call) -> Reply:
        rows = [[float(pixel % K)] for pixel in call.pixels]
        return Reply(oip_answer(rows, shape=[len(rows), 1]))

    metadata = described(output={"shape": [-1, 1]})
    with serving(oip_service(metadata, floats)) as service:
        for options in ({"answers": "labels", "output": "out"}, {"answers": "labels"}):
            suspect = oip(service.url, **options)
            suspect.open(SHAPE, K)
            assert [answer.label for answer in suspect.ask(images(10))] == labels(10)
        with pytest.raises(UserError, match="no scores and no labels"):
            oip(service.url).open(SHAPE, K)
    whole = described(output={"datatype": "INT64"})
    assert opened(whole, answers="scores")[0].answers == "scores"
    for metadata, kind in ((METADATA, "labels"), (described(output={"shape": [-1]}), "scores")):
        with pytest.raises(UserError, match=f"gives no {kind}") as caught:  # not by its shape
            opened(metadata, answers=kind)
        assert caught.value.key == "suspect.output"


def test_opened_again_it_is_looked_up_again() -> None:
    other = described(input={"name": "other", "datatype": "FP32", "shape": [1, *SHAPE]}, output={"name": "y"})
    told = iter([other, METADATA])
    with serving(lambda call: Reply(next(told))) as service:
        suspect = oip(service.url)
        before = suspect.identity()
        suspect.open(SHAPE, K)
        assert (suspect.input, suspect.output, suspect.batch_size) == ("other", "y", 1)
        suspect.open(SHAPE, K)
    assert (suspect.input, suspect.datatype, suspect.output, suspect.batch_size) == ("in", "UINT8", "out", 16)
    assert suspect.identity() == before


NAN = [math.nan] * K


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (oip_answer([NAN, one_hot(1)]), ["not a number", None]),
        (oip_answer([one_hot(1)]), ["wrong count"] * 2),
        (oip_answer([one_hot(1)] * 3), ["wrong count"] * 2),
        (oip_answer([one_hot(1)] * 2, data=None), ["malformed"] * 2),
        (oip_answer([one_hot(1)] * 2, shape=[2, 9]), ["malformed"] * 2),
        (oip_answer([one_hot(1)] * 2, shape=None), ["malformed"] * 2),
        (oip_answer([[0.0] * 9] * 2, shape=[2, 9]), ["wrong number of classes"] * 2),
        (oip_answer([one_hot(1)] * 2, name="other"), ["malformed"] * 2),
        ({"outputs": []}, ["malformed"] * 2),
        ({"outputs": {"out": 3}}, ["malformed"] * 2),
        ({"outputs": [3]}, ["malformed"] * 2),
        ([], ["malformed"] * 2),
        ({"error": "no"}, ["malformed"] * 2),
    ],
)
def test_bad_answers(content: Any, why: list[str | None]) -> None:
    def second(call: Call) -> Reply | None:
        return Reply(content) if call.number == 4 else oip_service()(call)

    with serving(oip_service(answer=second)) as service:
        suspect = oip(service.url, quick(concurrency=1), batch_size=2)
        suspect.open(SHAPE, K)
        answers = suspect.ask(images(8))  # the first two come one by one
    assert [answer.missing for answer in answers] == [*[None] * 4, *why, None, None]
    assert [answers[i].label for i in (0, 1, 2, 3, 6, 7)] == [0, 1, 2, 3, 6, 7]


def test_wrong_number_of_scores_at_first_is_told() -> None:
    def nine(call: Call) -> Reply:
        return Reply(oip_answer([[0.0] * 9] * len(call.pixels), shape=[len(call.pixels), 9]))

    with serving(oip_service(described(output={"shape": [-1, -1]}), nine)) as service:
        suspect = oip(service.url)
        suspect.open(SHAPE, K)
        with pytest.raises(UserError, match="another number of scores"):
            suspect.ask(images(40))
    assert service.n_images == 1


@few
@given(JSON, st.integers(1, 4))
def test_any_answer_can_be_read(content: Any, n: int) -> None:
    suspect = Oip("http://x", "m")
    suspect.n_classes, suspect.answers = K, "scores"
    for found in (content, {"outputs": content}, {"outputs": [content]}, oip_answer([one_hot(1)], data=content)):
        answers = suspect.decode(found, n)
        assert len(answers) == n
        assert all(isinstance(answer, Answer) for answer in answers)
