"""Pictures that runs left, small enough to travel inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from wmlightning.results.found import check_readable

#: What PIL raises for what is no picture.
BROKEN = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
#: A picture with more pixels is none of ours.
_PIXELS = 30_000_000
_COLOURS = 128


@dataclass(frozen=True)
class Picture:
    """A picture as a ``data:`` address, with its size in pixels."""

    address: str
    width: int
    height: int


def embedded(path: Path, widest: int = 1600) -> Picture:
    """Reads a PNG and makes it small, without its metadata.

    Args:
        path: a file, not a link.
        widest: pixels; a wider picture is scaled down.

    Raises:
        BROKEN: if it is none, or one that would fill the memory.
    """
    check_readable(path)
    return shrunk(path.read_bytes(), widest)


def shrunk(png: bytes, widest: int) -> Picture:
    """The same for a PNG in memory."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        if image.width * image.height > _PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are too many")
        picture = image.convert("RGB")
    if picture.width > widest:
        height = max(1, round(picture.height * widest / picture.width))
        picture = picture.resize((widest, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # Few colours: recovered images and triggers are small and blown up, so that a palette loses next to nothing.
    picture.quantize(_COLOURS, method=Image.Quantize.FASTOCTREE).save(buffer, format="png")
    address = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(address, picture.width, picture.height)
