"""The Open Inference Protocol v2 over REST, as far as a classifier of images needs it: documents, read and written."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

INPUT, SCORES, LABEL = "image", "scores", "label"
#: What a request may hold besides pixels: names, shapes, parameters.
_OTHER_VALUES = 1000


class Refused(Exception):
    """A request that cannot be answered, told to the client.

    Args:
        status: of HTTP.
        message: names nothing of this machine.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class _Document(BaseModel):
    model_config = ConfigDict(protected_namespaces=())  # the protocol has fields called model_name


class InputTensor(_Document):
    """One input: ``image``, UINT8 in 0..255 or FP32 in [0, 1]."""

    name: str = Field(examples=[INPUT])
    shape: list[int] = Field(min_length=1, max_length=16)
    datatype: str = Field(examples=["UINT8", "FP32"])
    parameters: dict[str, Any] | None = None
    data: list[Any] = Field(description="numbers in row-major order, flat or nested")


class WantedOutput(_Document):
    """An output that is to be returned."""

    name: str = Field(examples=[SCORES, LABEL])
    parameters: dict[str, Any] | None = None


class InferenceRequest(_Document):
    """What is asked."""

    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: list[InputTensor]
    outputs: list[WantedOutput] | None = None


class OutputTensor(_Document):
    """One output."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float] | list[int]


class InferenceResponse(_Document):
    """What is answered."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class TensorMetadata(_Document):
    """What a model takes or gives; -1 stands for any number."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(_Document):
    """What a model is."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(_Document):
    """What a server is."""

    name: str
    version: str
    extensions: list[str]


class Live(_Document):
    """Whether the server lives."""

    live: bool


class Ready(_Document):
    """Whether the server can be asked."""

    ready: bool


class ModelReady(_Document):
    """Whether a model can be asked."""

    name: str
    ready: bool


class ErrorDocument(_Document):
    """Why there is no answer."""

    error: str


@dataclass(frozen=True)
class Question:
    """A request that was read.

    Attributes:
        id: to be given back.
        images: uint8, or float32 in [0, 1], ``(n, c, h, w)``.
        outputs: names of the outputs wanted.
    """

    id: str | None
    images: npt.NDArray[Any]
    outputs: list[str]


def read_question(body: bytes, shape: tuple[int, int, int], max_batch: int) -> Question:
    """Reads a request.

    Args:
        body: JSON.
        shape: of an image.
        max_batch: images at most.

    Raises:
        Refused: if it is not one, or asks for what there is not.
    """
    if (
        body.count(b",") > max_batch * math.prod(shape) + _OTHER_VALUES
    ):  # an object for each would take many times the body
        raise _too_many(max_batch)
    try:
        request = InferenceRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Refused(400, f"{place[:80]}: {first['msg'][:120]}" if place else "the body is no JSON") from error
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
        raise Refused(400, f"there is one input, named {INPUT!r}")
    outputs = [SCORES, LABEL] if not request.outputs else [output.name for output in request.outputs]
    if not {*outputs} <= {SCORES, LABEL} or len({*outputs}) < len(outputs):
        raise Refused(400, f"the outputs are {SCORES!r} and {LABEL!r}, each at most once")
    return Question(request.id, _images(request.inputs[0], shape, max_batch), outputs)


def _images(tensor: InputTensor, shape: tuple[int, int, int], max_batch: int) -> npt.NDArray[Any]:
    n, *sides = tensor.shape
    if tuple(sides) != shape:
        raise Refused(400, f"the input's shape is [n, {', '.join(map(str, shape))}]")
    if not 1 <= n <= max_batch:
        raise _too_many(max_batch)
    values = _flat(tensor.data, tensor.shape)
    # Looked at before numpy sees them: of a long word it would make as many characters of every other value.
    kinds = set(map(type, values))
    if tensor.datatype == "UINT8":
        if kinds != {int} or min(values) < 0 or max(values) > 255:
            raise Refused(400, "data: UINT8 holds whole numbers from 0 to 255")
        return np.array(values, np.uint8).reshape(tensor.shape)
    if tensor.datatype == "FP32":
        if not kinds <= {int, float} or not all(0 <= value <= 1 for value in values):
            raise Refused(400, "data: pixels are numbers from 0 to 1")
        return np.array(values, np.float64).astype(np.float32).reshape(tensor.shape)
    raise Refused(400, "datatype: UINT8 or FP32; binary tensors are not understood")


def _flat(data: list[Any], shape: list[int]) -> list[Any]:
    """The values of a tensor, which is flat or nested as its shape says."""
    if len(data) == math.prod(shape) and type(data[0]) is not list:
        return data
    fits = len(data) == shape[0]
    for side in shape[1:]:
        if not fits or not all(type(part) is list and len(part) == side for part in data):
            raise Refused(400, "data: as many numbers as the shape says, flat or nested as it says")
        data = [value for part in data for value in part]
    return data


def _too_many(max_batch: int) -> Refused:
    return Refused(400, f"at least 1 and at most {max_batch} images in one request")


def write_answer(question: Question, name: str, version: str, scores: npt.NDArray[np.float32]) -> bytes:
    """The response to a question, as JSON.

    Raises:
        Refused: if the model computed no number.
    """
    n = len(scores)
    values: dict[str, tuple[list[int], str, npt.NDArray[Any]]] = {
        SCORES: (list(scores.shape), "FP32", scores),
        LABEL: ([n], "INT64", scores.argmax(1)),
    }
    outputs = []
    for wanted in question.outputs:
        shape, datatype, array = values[wanted]
        outputs.append({"name": wanted, "shape": shape, "datatype": datatype, "data": array.reshape(-1).tolist()})
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": outputs}
    if question.id is not None:
        answer["id"] = question.id
    try:
        return json.dumps(answer, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        raise Refused(500, "the model's scores are no numbers") from error
