"""How a model from elsewhere wants its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from wmlightning.errors import UserError
from wmlightning.ownership.suspects.base import Shape

KINDS = ("unit", "byte")
LAYOUTS = ("nchw", "nhwc")


@dataclass(frozen=True)
class Pixels:
    """Turns uint8 images into what a model takes. Our own networks normalise inside; others may want it done.

    Attributes:
        kind: ``unit``: 0..1; ``byte``: 0..255; ``None``: what the model says about itself, else ``unit``.
        layout: ``nchw``, or ``nhwc`` for models of TensorFlow's family.
        mean: of each channel, on the scale of ``kind``; subtracted first.
        std: of each channel; divided by.
    """

    kind: str | None = None
    layout: str = "nchw"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.kind not in (None, *KINDS):
            raise UserError("suspect.pixels.kind", f"{self.kind!r} is unknown", "unit or byte")
        if self.layout not in LAYOUTS:
            raise UserError("suspect.pixels.layout", f"{self.layout!r} is unknown", "nchw or nhwc")
        if (self.mean is None) != (self.std is None):
            raise UserError("suspect.pixels.mean", "needs a std, and the other way round", "give both or none")
        if self.mean is None or self.std is None:
            return
        _check_numbers(self.mean, "suspect.pixels.mean")
        _check_numbers(self.std, "suspect.pixels.std")
        if min(self.std) <= 0:
            raise UserError(
                "suspect.pixels.std", f"{self.std!r} is not positive", "one positive number for each channel"
            )
        if self.kind == "byte" and (0 < max(self.mean) <= 1 or max(self.std) < 1):
            wrong = f"{self.mean!r} with std {self.std!r} are of pixels from 0 to 1"
            raise UserError("suspect.pixels.mean", wrong, "kind=unit, or numbers of 0 to 255")
        if len(self.mean) != len(self.std) and 1 not in (len(self.mean), len(self.std)):
            wrong = f"{len(self.std)} values beside a mean of {len(self.mean)}"
            raise UserError("suspect.pixels.std", wrong, "one for each channel")
        with np.errstate(all="ignore"):
            values = self._values(max(len(self.mean), len(self.std)), self.kind)
        if not np.isfinite(values).all():
            raise UserError("suspect.pixels.std", "leads to values that no float32 can hold", "the model's own numbers")

    def check(self, shape: Shape | None) -> None:
        """Refuses a mean that does not fit the images.

        Raises:
            UserError: if there are other numbers of channels.
        """
        for name, values in (("mean", self.mean), ("std", self.std)):
            if shape is not None and values is not None and len(values) not in (1, shape[0]):
                wrong = f"{len(values)} values for {shape[0]} channels"
                raise UserError(f"suspect.pixels.{name}", wrong, "one for each channel")

    def array(self, images: Tensor, kind: str | None = None) -> npt.NDArray[Any]:
        """The images as a model takes them: float32, or uint8 for plain bytes.

        Args:
            images: uint8 ``(n, c, h, w)``.
            kind: what the model says about itself.
        """
        plain = images.contiguous().numpy()
        if (self.kind or kind) == "byte" and self.mean is None:
            return self._laid_out(plain.copy())  # a model may write to what it gets, and these are the owner's
        return self._laid_out(self._looked_up(plain, self._values(images.shape[1], kind)))

    def numbers(self, images: Tensor, kind: str | None = None) -> npt.NDArray[Any]:
        """Like ``array``, for JSON: as few digits as name the float32 exactly, a third of the bytes."""
        if (self.kind or kind) == "byte" and self.mean is None:
            return self.array(images, kind)
        exact = self._values(images.shape[1], kind)
        short = np.array([[float(f"{value:.9g}") for value in row] for row in exact])
        return self._laid_out(self._looked_up(images.contiguous().numpy(), short))

    def _values(self, channels: int, kind: str | None) -> npt.NDArray[np.float32]:
        """What each of the 256 values becomes, for each channel."""
        values = np.arange(256, dtype=np.float32)
        if (self.kind or kind) != "byte":
            values /= np.float32(255)  # the same division that our networks' images go through
        table = np.repeat(values[None], channels, axis=0)
        if self.mean is not None and self.std is not None:
            mean, std = (np.asarray(given, np.float32).reshape(-1, 1) for given in (self.mean, self.std))
            table = (table - mean) / std
        return table

    def _looked_up(self, images: npt.NDArray[np.uint8], table: npt.NDArray[Any]) -> npt.NDArray[Any]:
        channel = np.arange(images.shape[1]).reshape(1, -1, 1, 1)
        found: npt.NDArray[Any] = table[channel, images]
        return found

    def _laid_out(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if self.layout == "nhwc" else images


def pixels_of(given: Pixels | None) -> Pixels:
    """What a config holds, or the default.

    Raises:
        UserError: if it is something else.
    """
    if not isinstance(given, Pixels | None):
        raise UserError("suspect.pixels", f"{given!r} is something else", "kind, layout, mean and std, or null")
    return given or Pixels()


def _check_numbers(values: Any, key: str) -> None:
    numbers = isinstance(values, (list, tuple)) and all(type(x) in (int, float) and abs(x) < 1e38 for x in values)
    if not numbers or not values:
        raise UserError(key, f"{values!r} is no list of numbers", "a list of one number for each channel")
