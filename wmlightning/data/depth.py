"""Grey pictures of more than 8 bits: brought to 8 where it is known which value is white."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

_BITS, _PHOTOMETRIC = 258, 262  # tags of a TIFF
_ZERO_IS_WHITE = 0
_OF_16_BITS = ("PNG", "PPM")  # formats without deeper grey: Pillow hands 16 bits over in 32


class UnclearGreyError(ValueError):
    """Grey pixels that do not say which value is white: any guess would make some pictures black or white."""

    def __init__(self, found: str) -> None:
        super().__init__(f"{found}; save it with 8 bits a pixel, or with 16 of which 0 is black")


def check_header(image: Image.Image) -> None:
    """Refuses what can be refused before pixels are decoded.

    Raises:
        UnclearGreyError: for pixels that are floats, and for 16 bits of which 0 is white, which Pillow does not turn.
    """
    if image.mode == "F":
        raise UnclearGreyError("floats")
    if image.mode.startswith("I") and _tag(image, _PHOTOMETRIC) == _ZERO_IS_WHITE:
        raise UnclearGreyError("16 bits of which 0 is white")


def grey_bits(image: Image.Image) -> int:
    """How many bits of a pixel count: 16 or 12 for deep grey, else 8.

    Grey of 32 bits counts as what the format says, and else as 8 bits if it holds no other values.

    Raises:
        UnclearGreyError: for grey that is neither.
    """
    check_header(image)
    if image.mode.startswith("I;16"):
        return int(_tag(image, _BITS) or 16)
    if image.mode == "I" and image.format in _OF_16_BITS:
        return 16
    if image.mode == "I":
        low, high = (int(value) for value in image.getextrema())  # type: ignore[arg-type]
        if low < 0 or high > 255:
            raise UnclearGreyError(f"whole numbers from {low} to {high} in more than 16 bits")
    return 8


def in_8_bits(image: Image.Image, bits: int) -> Image.Image:
    """Deep grey without its lower bits, which ``convert()`` would keep, clipping the rest. What is not deep, as it is.

    Args:
        image: as it was decoded or turned.
        bits: see :func:`grey_bits`.
    """
    return image if bits == 8 else Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))


def _tag(image: Image.Image, number: int) -> Any:
    """A tag of a TIFF; ``None`` if there is none or the picture is no TIFF."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value
