"""A service that speaks the Open Inference Protocol v2 over REST: KServe, Triton, MLServer, our own ``serve.py``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import httpx
from torch import Tensor

from wmlightning.errors import UserError, listed
from wmlightning.ownership.suspects.base import MALFORMED, Answer, Shape, missing, reading
from wmlightning.ownership.suspects.http import Http
from wmlightning.ownership.suspects.pixels import Pixels, pixels_of
from wmlightning.ownership.suspects.reading import of_tensor
from wmlightning.ownership.suspects.remote import RemoteSuspect

_FLOATS = ("FP16", "FP32", "FP64", "BF16")
_MOST = 100  # characters of a name in an error message
_WHOLE = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")


class Oip(RemoteSuspect):
    """A model behind the Open Inference Protocol. What it takes and gives, it says itself.

    Args:
        url: of the service, without ``/v2``.
        model: name of the model there.
        version: of the model; ``None``: the service's choice.
        input: name of the input; ``None``: the only one.
        datatype: of the input, where the service does not tell or tells wrong.
        output: name of the output to read; ``None``: scores if there are any, else labels.
        answers: ``scores`` or ``labels``: what the output holds, where the service does not tell.
        pixels: what the model takes.
        batch_size: images in one request.
        http: how to ask.
    """

    def __init__(
        self,
        url: str,
        model: str,
        version: str | int | None = None,
        input: str | None = None,
        datatype: str | None = None,
        output: str | None = None,
        answers: str | None = None,
        pixels: Pixels | None = None,
        batch_size: int = 16,
        http: Http | None = None,
    ) -> None:
        super().__init__(_before_v2(str(url)), batch_size, http)
        if datatype not in (None, "UINT8", *_FLOATS):
            raise UserError("suspect.datatype", f"{datatype!r} is unknown", f"one of {listed(('UINT8', *_FLOATS))}")
        if answers not in (None, "scores", "labels"):
            raise UserError("suspect.answers", f"{answers!r} is unknown", "scores or labels")
        self.model = _word(model, "suspect.model")
        self.version = None if version is None else _word(version, "suspect.version")
        for key, name in (("model", self.model), ("version", self.version)):
            if name in (".", ".."):
                raise UserError(f"suspect.{key}", f"{name!r} would be another address", f"the {key}'s name")
        self.input = None if input is None else _word(input, "suspect.input")
        self.output = None if output is None else _word(output, "suspect.output")
        self.datatype, self.answers = datatype, answers
        self.pixels = pixels_of(pixels)
        self.name = f"{self.name} {self.model}"
        self._batched, self._grey, self._batch_size = True, False, self.batch_size
        self._classes: int | None = None
        self._given = self.input, self.datatype, self.output, self.answers
        self._how = reading(*self._given, self.pixels)

    def _address(self, end: str = "") -> httpx.URL:
        """Of the model. Names may hold what means something else in an address, so nothing is put together decoded."""
        base, mark, query = self.channel.url.raw_path.partition(b"?")
        version = f"/versions/{quote(self.version, safe='')}" if self.version is not None else ""
        path = f"/v2/models/{quote(self.model, safe='')}{version}{end}".encode()
        return self.channel.url.copy_with(raw_path=base.rstrip(b"/") + path + mark + query)

    @property
    def endpoint(self) -> httpx.URL:
        """See :class:`RemoteSuspect`."""
        return self._address("/infer")

    def identity(self) -> dict[str, Any]:
        """See :meth:`Suspect.identity`."""
        return {"kind": "oip", "name": self.name, "version": self.version, "reading": self._how}

    def open(self, shape: Shape | None = None, n_classes: int | None = None) -> None:
        """See :meth:`Suspect.open`. The task's classes tell which of several outputs is meant."""
        self._classes = n_classes
        super().open(shape, n_classes)

    def connect(self, shape: Shape | None) -> None:
        """Asks the service about the model.

        Raises:
            UserError: if it is not there, or takes and gives something else than images and classes.
        """
        self.pixels.check(shape)
        self.input, self.datatype, self.output, self.answers = self._given  # and not what was found when last opened
        self._batched, self._grey, self.batch_size = True, False, self._batch_size
        content = self.fetch(self._address())
        inputs, outputs = (_tensors(content, key) for key in ("inputs", "outputs"))
        if inputs is None or outputs is None:
            wrong = f"{self.name}: what it says about its model cannot be read"
            raise UserError("suspect.url", wrong, "a service of the Open Inference Protocol")
        self._choose_input(inputs, any(len(sides) == 2 for _, sides in outputs.values()))
        if self._grey and shape is not None and shape[0] != 1:
            raise UserError("suspect.input", f"{self.name} takes images without channels", "a key of grey images")
        self._choose_output(outputs)

    def _choose_input(self, inputs: dict[str, tuple[str, list[int]]], in_batches: bool) -> None:
        if inputs and self.input is None and len(inputs) > 1:
            raise UserError("suspect.input", f"{self.name} has several inputs", f"one of {self._named(inputs)}")
        name = self.input or next(iter(inputs), "input")
        if inputs and name not in inputs:
            raise UserError("suspect.input", f"{self.name} has no {name!r}", f"one of {self._named(inputs)}")
        datatype, sides = inputs.get(name, ("", []))
        self.input, self.datatype = name, self.datatype or datatype or "FP32"
        if self.datatype not in ("UINT8", *_FLOATS):
            wrong = f"{self._short(name)!r} takes {self.channel.clean(self.datatype)[:20]!r}"
            raise UserError("suspect.input", wrong, "an input of images")
        self._check_pixels(name)
        if len(sides) == 4:
            if sides[0] > 1:
                right = "a model that takes any number of images, or one"
                raise UserError("suspect.model", f"{self.name} takes {sides[0]} images at once, never fewer", right)
            self.batch_size = 1 if sides[0] == 1 else self.batch_size
            sides = sides[1:]
        elif len(sides) == 3 and in_batches and sides[0] in (-1, 1):  # grey, and nothing says so
            self._grey, self.batch_size = True, 1 if sides[0] == 1 else self.batch_size
            sides = [1, *sides[1:]] if self.pixels.layout == "nchw" else [*sides[1:], 1]
        elif len(sides) == 3:
            self._batched, self.batch_size = False, 1
        elif sides:
            raise UserError("suspect.input", f"{self._short(name)!r} has the shape {sides[:8]}", "an input of images")
        if len(sides) == 3 and min(sides) > 0:
            c, h, w = sides if self.pixels.layout == "nchw" else (sides[2], sides[0], sides[1])
            self.shape = (c, h, w)

    def _check_pixels(self, name: str) -> None:
        """A service would cast floats to whole numbers: nearly all of 0..1 becomes 0."""
        if self.datatype != "UINT8" or (self.pixels.mean is None and self.pixels.kind != "unit"):
            return
        key, right = ("kind", "byte") if self.pixels.mean is None else ("mean", "mean and std null")
        wrong = f"makes floats, and {self._short(name)!r} takes UINT8"
        raise UserError(f"suspect.pixels.{key}", wrong, f"{right}, or suspect.datatype=FP32")

    def _choose_output(self, outputs: dict[str, tuple[str, list[int]]]) -> None:
        if outputs and self.output is not None and self.output not in outputs:
            raise UserError("suspect.output", f"{self.name} has no {self.output!r}", f"one of {self._named(outputs)}")
        if not self._batched:
            outputs = {name: (datatype, [1, *sides]) for name, (datatype, sides) in outputs.items()}
        offered = {name: found for name, found in outputs.items() if self.output in (None, name)}
        wanted = [self.answers] if self.answers else ["scores", "labels"]
        fitting = [
            (name, kind) for kind in wanted for name, found in offered.items() if _kind(*found) in (kind, "unknown")
        ]
        if not fitting and self.answers and len(offered) == 1:  # the user knows better than the service
            fitting = [(name, self.answers) for name, (_, sides) in offered.items() if _may_hold(self.answers, sides)]
        if fitting:
            self.output, self.answers = min(fitting, key=lambda one: self._misfit(one[1], outputs[one[0]][1]))
            if len(offered) > 1 and self._misfit(self.answers, outputs[self.output][1]) > 1:
                wrong = f"{self.name} gives no scores of {self._classes} classes"
                raise UserError("suspect.output", wrong, f"one of {self._named(outputs)}, or another model")
        elif offered:
            raise UserError(
                "suspect.output", f"{self.name} gives no {' and no '.join(wanted)}", "another output or model"
            )
        self.answers = self.answers or "scores"
        sides = outputs.get(self.output or "", ("", []))[1]
        if self.answers == "scores" and len(sides) == 2 and sides[1] > 0:
            self.n_classes = sides[1]
        unsaid = self._given[3] is None and self.n_classes is None
        self.hint = ", and suspect.answers=labels reads labels" if unsaid else ""

    def _misfit(self, kind: str, sides: list[int]) -> int:
        """How far an output is from what is looked for: 0 is as wide as the task, 2 has another width."""
        if kind == "labels" or len(sides) != 2 or sides[1] < 1 or self._classes is None:
            return 1
        return 0 if sides[1] == self._classes else 2

    def _short(self, name: str) -> str:
        """A service may have given it any length, and put into it what we sent."""
        name = self.channel.clean(name)
        return name if len(name) <= _MOST else f"{name[:_MOST]}..."

    def _named(self, tensors: Iterable[str]) -> str:
        return listed(map(self._short, tensors))

    def encode(self, images: Tensor) -> bytes:
        """A request with one flat tensor."""
        kind = "byte" if self.datatype == "UINT8" else "unit"
        pixels = self.pixels.numbers(images, kind)
        shape = list(pixels.shape if self._batched else pixels.shape[1:])
        if self._grey:  # (n, h, w)
            shape = [len(images), *images.shape[2:]]
        tensor = {"name": self.input, "shape": shape, "datatype": self.datatype, "data": pixels.reshape(-1).tolist()}
        request: dict[str, Any] = {"inputs": [tensor]}
        if self.output is not None:
            request["outputs"] = [{"name": self.output}]
        return json.dumps(request, separators=(",", ":"), allow_nan=False).encode()

    def decode(self, content: Any, n: int) -> list[Answer]:
        """Reads the chosen output."""
        outputs = content.get("outputs") if isinstance(content, dict) else None
        for output in outputs if isinstance(outputs, list) else []:
            if isinstance(output, dict) and self.output in (None, output.get("name")):
                data, shape = output.get("data"), output.get("shape")
                scores = self.answers == "scores"
                one = not self._batched or n == 1  # some leave out the first side of one image
                if one and isinstance(shape, list) and len(shape) == (1 if scores else 0):
                    shape = [1, *shape]
                return of_tensor(data, shape, n, scores, self.n_classes)
        return missing(MALFORMED, n)


def _kind(datatype: str, sides: list[int]) -> str:
    """What an output may hold, by what is said about it."""
    if datatype in _FLOATS and (len(sides) == 2 and sides[1] != 1):
        return "scores"
    if datatype in _WHOLE and (len(sides) == 1 or (len(sides) == 2 and sides[1] == 1)):
        return "labels"
    return "unknown" if not sides and datatype in ("", *_FLOATS) else "other"


def _may_hold(kind: str, sides: list[int]) -> bool:
    """Whether an output has the shape for it, whatever numbers it holds."""
    flat = len(sides) == 1 or (len(sides) == 2 and sides[1] in (1, -1))
    return not sides or (flat if kind == "labels" else len(sides) == 2)


def _word(value: Any, key: str) -> str:
    """A name; typed without quotes it may have become a whole number."""
    if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
        raise UserError(key, f"{value!r} is no name", "a word, in quotes if it looks like a number")
    return str(value)


def _before_v2(url: str) -> str:
    address, mark, query = url.partition("?")
    return address.rstrip("/").removesuffix("/v2") + mark + query


def _tensors(content: Any, key: str) -> dict[str, tuple[str, list[int]]] | None:
    """Name, datatype and shape of what a model takes or gives; ``None`` if that cannot be read."""
    found = content.get(key, []) if isinstance(content, dict) else None
    if found is None and isinstance(content, dict):
        return {}
    if not isinstance(found, list):
        return None
    tensors = {}
    for item in found:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str) or not item["name"].isprintable():
            return None  # names are shown in error messages
        shape = item.get("shape", [])
        if not isinstance(shape, list) or not all(isinstance(side, int) and abs(side) < 2**31 for side in shape):
            return None
        tensors[item["name"]] = (item["datatype"] if isinstance(item.get("datatype"), str) else "", shape)
    return tensors
