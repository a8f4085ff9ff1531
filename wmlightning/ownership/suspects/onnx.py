"""An ONNX file."""

from __future__ import annotations

import mmap
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from wmlightning.config import setting
from wmlightning.errors import UserError
from wmlightning.files import file_digest
from wmlightning.ownership.suspects.base import Shape
from wmlightning.ownership.suspects.local import LocalSuspect, file_identity, model_file
from wmlightning.ownership.suspects.pixels import Pixels, pixels_of

#: How a model names a file of weights beside it: an entry of ``external_data`` in protobuf, with the value's length.
_BESIDE = re.compile(rb"\x0a\x08location\x12([\x80-\xff]*[\x00-\x7f])", re.DOTALL)
_FLOATS = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


class Onnx(LocalSuspect):
    """A model that onnxruntime computes (extra ``onnx``). Custom operators, which would be code, are not loaded.

    Args:
        path: of the file.
        output: name of the output to read; ``None``: the only one, or the first.
        pixels: what the model takes.
        batch_size: images computed at once; a model made for a fixed number gets that number.
        threads: of onnxruntime; ``None``: as it likes.
    """

    def __init__(
        self,
        path: str,
        output: str | None = None,
        pixels: Pixels | None = None,
        batch_size: int = 500,
        threads: int | None = None,
    ) -> None:
        self.path = path
        self.name = str(path)
        self.output = output
        self.pixels = pixels_of(pixels)
        self.batch_size = setting(batch_size, "suspect.batch_size", int, 1)
        self.threads = None if threads is None else setting(threads, "suspect.threads", int, 1)
        self._session: Any = None
        self._input: Any = None
        self._output = ""

    def connect(self, shape: Shape | None) -> None:
        """Loads the file and reads what it takes and gives."""
        self.pixels.check(shape)
        file = model_file(self.path)
        try:
            runtime = import_module("onnxruntime")
        except ImportError as error:
            raise UserError("suspect", "onnxruntime is not installed", "pip install 'wmlightning[onnx]'") from error
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised; the rest is noise
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        try:
            self._session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0][:150]
            raise UserError("suspect.path", f"cannot read {file} ({reason})", "an ONNX model") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or inputs[0].type not in (*_FLOATS, "tensor(uint8)"):
            found = [f"{item.name}: {item.type}" for item in inputs]
            raise UserError("suspect.path", f"{file} takes {found}", "a model with one input of images")
        names = [item.name for item in outputs]
        self._output = names[0] if self.output is None else self.output
        if self._output not in names:
            raise UserError("suspect.output", f"there is no {self._output!r}", f"one of {names}")
        self._input = inputs[0]
        self._read_sizes(inputs[0].shape, outputs[names.index(self._output)].shape)

    def _read_sizes(self, taken: list[Any], given: list[Any]) -> None:
        """Sizes that are numbers are promises; names and ``None`` stand for any."""
        fixed = [side if isinstance(side, int) else None for side in taken]
        if len(fixed) == 4:
            n, *sides = fixed
            c, h, w = sides if self.pixels.layout == "nchw" else (sides[2], sides[0], sides[1])
            self.batch_size = n or self.batch_size
            self.shape = None if c is None or h is None or w is None else (c, h, w)
        if len(given) == 2 and isinstance(given[1], int) and given[1] > 1:
            self.n_classes = given[1]

    def identity(self) -> dict[str, Any]:
        """See :meth:`Suspect.identity`. Weights may lie in files beside the model's."""
        file = model_file(self.path)
        beside = {name: file_digest(file.parent / name) for name in _files_beside(file)}
        return file_identity("onnx", file, self.pixels, self.output) | ({"beside": beside} if beside else {})

    def compute(self, images: Tensor) -> Any:
        """Whatever it gives. Where it takes a fixed number of images, the last ones are filled up with themselves."""
        kind = "byte" if self._input.type == "tensor(uint8)" else None
        array = self.pixels.array(images, kind)
        if self._input.type in _FLOATS:
            array = array.astype(_FLOATS[self._input.type])
        n, fixed = len(array), self._input.shape[0]
        if isinstance(fixed, int) and n < fixed:
            array = np.concatenate([array, array[-1:].repeat(fixed - n, 0)])
        return self._session.run([self._output], {self._input.name: array})[0][:n]


def _files_beside(file: Path) -> list[str]:
    """Names of the files that hold weights of a model, as it gives them."""
    if not file.stat().st_size:
        return []
    found = set()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for match in _BESIDE.finditer(content):
            size = sum((byte & 127) << 7 * i for i, byte in enumerate(match[1][:2]))
            name = content[match.end() : match.end() + size].decode("utf-8", "replace")
            if name.isprintable() and _is_below(file.parent, name):
                found.add(name)
    return sorted(found)


def _is_below(folder: Path, name: str) -> bool:
    """Whether there is such a file there. A stranger's model may name anything, and onnxruntime takes no other."""
    try:
        return not Path(name).is_absolute() and ".." not in Path(name).parts and (folder / name).is_file()
    except OSError:  # no name that this system allows, or a folder that we may not look into
        return False
