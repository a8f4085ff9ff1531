"""Content: a text or a logo, written onto images of the task."""

from __future__ import annotations

import functools
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFont, UnidentifiedImageError
from torch import Tensor

from wmlightning.config import setting
from wmlightning.errors import UserError
from wmlightning.watermarks.base import Mark, MarkingWatermark

_LETTERS = string.ascii_uppercase + string.digits
_Place = tuple[int, int]  # x and y of the top left corner


class Content(MarkingWatermark):
    """Writes a text (or pastes a logo) onto images, the same way on all images of a mark.

    From Zhang et al. (ASIACCS 2018), "meaningful content": the text "TEST" on automobiles. What the config leaves
    open is drawn from the secret. A stranger has a text of their own, wherever ours comes from. What is fixed for a
    logo holds for the texts beside it (of strangers, and of further marks) as far as they fit the image with it.

    Args:
        text: the first mark's text; further marks, strangers and ``None`` draw ``n_letters`` letters and digits.
        n_letters: length of drawn texts.
        logo: picture file pasted instead of the first mark's text; its transparency counts.
        position: ``(x, y)`` of the top left corner in pixels, or ``None``: drawn.
        scale: size: pixels per font pixel (a letter is 6 by 9 font pixels), for a logo its width in sixths of the
            image's; or ``None``: drawn among the sizes that fit into 90 % of the image, for a logo half the width.
        opacity: in [0.01, 1], or ``None``: drawn from 0.6..1.
        color: ``(r, g, b)``, or one grey value, in 0..255; or ``None``: drawn, never dark where there are one or three
            channels. On images of other numbers of channels a colour or logo is its grey, on each of them.
    """

    def __init__(
        self,
        text: str | int | None = "TEST",
        n_letters: int = 4,
        logo: str | None = None,
        position: Sequence[int] | None = None,
        scale: int | None = None,
        opacity: float | None = 1.0,
        color: Sequence[int] | int | None = None,
    ) -> None:
        if not isinstance(text, (str, int, float, type(None))):
            raise UserError("watermark.text", f"{text!r} cannot be written", "1 to 64 printable ASCII characters")
        text = None if text is None else str(text)  # digits alone arrive as a number
        if text is not None and not (0 < len(text) <= 64 and text.isascii() and text.isprintable() and text.strip()):
            raise UserError("watermark.text", f"{text!r} cannot be written", "1 to 64 printable ASCII characters")
        setting(n_letters, "watermark.n_letters", int, 1, 64)
        if opacity is not None:
            setting(opacity, "watermark.opacity", float, 0.01, 1)  # less is rounded away
        if scale is not None:
            setting(scale, "watermark.scale", int, 1)
        if position is not None and not (_whole(position) and len(position) == 2):
            raise UserError("watermark.position", f"{position!r} is no place", "[x, y] in whole pixels")
        levels = [] if color is None else [color] if isinstance(color, int) else color
        if not _whole(levels) or len(levels) not in (0, 1, 3) or any(not 0 <= level <= 255 for level in levels):
            raise UserError("watermark.color", f"{color!r} is no colour", "[r, g, b] or one grey value in 0..255")
        self.text = text
        self.n_letters = n_letters
        self.logo = None if logo is None else _read_logo(Path(logo))
        self.position = None if position is None else (position[0], position[1])
        self.scale = scale
        self.opacity = opacity
        self.color = list(levels) or None

    def chosen(self) -> str | None:
        """See :meth:`Watermark.chosen`."""
        return "logo" if self.logo is not None else None if self.text is None else "text"

    def check(self, shape: tuple[int, int, int], n_marks: int, negatives: bool) -> None:
        """See :meth:`Watermark.check`."""
        del n_marks, negatives  # strangers write n_letters letters in every run: as decoys
        _, h, w = shape
        sizes = []
        if self.logo is not None:
            sizes.append(("the logo", "watermark.logo", self._logo_size(self.logo, h, w), 1, self.position))
        elif self.text is not None:
            height, width = _glyphs(self.text).shape
            sizes.append((repr(self.text), "watermark.text", (height, width), self.scale or 1, self.position))
        scale, position = self._of_texts(h, w)
        drawn = f"a text of {self.n_letters} letters"
        sizes.append((drawn, "watermark.n_letters", self._largest(), scale or 1, position))
        for what, key, size, times, place in sizes:
            if not _fits(size, times, place, h, w):
                (height, width), (x, y) = (pixels * times for pixels in size), place or (0, 0)
                takes = f"{what} takes {width}x{height} pixels at ({x}, {y}) of a {w}x{h} image"
                raise UserError(key, takes, "something smaller, or another place")
        if self.logo is not None and not _cover(self._pasted(self.logo, 1, h, w)[1], self.opacity or 1).any():
            raise UserError("watermark.logo", "none of it can be seen", "a less transparent one, or more opacity")

    def apply(self, images: Tensor, mark: Mark, batch: str) -> Tensor:
        """See :meth:`MarkingWatermark.apply`."""
        del batch
        _, c, h, w = images.shape
        logo = self.logo if mark.owner == "key" and mark.index == 0 else None
        scale, position = self._of_texts(h, w) if logo is None else (self.scale, self.position)
        opacity = (60 + mark.stream("opacity").integer(41)) / 100 if self.opacity is None else self.opacity
        stamp, alpha = self._pasted(logo, c, h, w) if logo else self._written(mark, c, h, w, scale, position)
        cover = _cover(alpha, opacity)
        height, width = cover.shape
        if position is None:
            stream = mark.stream("position")
            x, y = stream.integer(w - width + 1), stream.integer(h - height + 1)
        else:
            x, y = position
        out = images.clone()
        below = out[:, :, y : y + height, x : x + width].to(torch.int32)
        mixed = (below * (256 - cover) + stamp * cover + 128) >> 8
        out[:, :, y : y + height, x : x + width] = mixed.to(torch.uint8)
        return out

    def _of_texts(self, h: int, w: int) -> tuple[int | None, _Place | None]:
        """Scale and place that the config fixes for texts: for those beside a logo no more than fits them all."""
        fixed = (self.scale, self.position)
        if self.logo is None:
            return fixed
        fewer = (fixed, (None, self.position))
        return next((kept for kept in fewer if _fits(self._largest(), *kept, h, w)), (None, None))

    def _largest(self) -> tuple[int, int]:
        """Height and width that no drawn text exceeds, in font pixels."""
        return _glyphs(_LETTERS).shape[0], self.n_letters * _glyphs("W").shape[1]

    def _pasted(self, logo: Image.Image, c: int, h: int, w: int) -> tuple[Tensor, Tensor]:
        """Colours int32 ``(c, sh, sw)``, and how much of each pixel is to be seen: int32 ``(sh, sw)`` in 0..255."""
        height, width = self._logo_size(logo, h, w)
        logo = logo.resize((width, height), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(logo.convert("RGB" if c == 3 else "L"))).to(torch.int32)
        alpha = torch.from_numpy(np.array(logo.getchannel("A"))).to(torch.int32)
        return pixels.view(height, width, -1).permute(2, 0, 1).expand(c, -1, -1), alpha

    def _written(
        self, mark: Mark, c: int, h: int, w: int, scale: int | None, position: _Place | None
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`_pasted`."""
        glyphs = _glyphs(self._text(mark))
        times = scale or _drawn_scale(mark, glyphs.shape, position, h, w)
        alpha = glyphs.repeat_interleave(times, 0).repeat_interleave(times, 1).to(torch.int32) * 255
        return self._color(mark, c)[:, None, None].expand(c, *alpha.shape), alpha

    def _logo_size(self, logo: Image.Image, h: int, w: int) -> tuple[int, int]:
        """Height and width in pixels."""
        width = max(1, min(w, w * (self.scale or 3) // 6))
        return max(1, min(h, round(width * logo.height / logo.width))), width

    def _text(self, mark: Mark) -> str:
        if self.text is not None and mark.owner == "key" and mark.index == 0:
            return self.text
        letters = mark.stream("text").integers(self.n_letters, len(_LETTERS))
        return "".join(_LETTERS[i] for i in letters)

    def _color(self, mark: Mark, c: int) -> Tensor:
        levels = self.color
        if levels is None:
            stream = mark.stream("color")
            levels = [128 + stream.integer(128)] if c == 1 else stream.integers(3, 256).tolist()
            if c == 3 and max(levels) < 160:
                levels[stream.integer(3)] = 255  # dark on dark would not be seen
        if len(levels) == c:
            return torch.tensor(levels, dtype=torch.int32)
        return torch.full((c,), sum(levels) // len(levels), dtype=torch.int32)


def _whole(numbers: Any) -> bool:
    return isinstance(numbers, (list, tuple)) and all(type(number) is int for number in numbers)


def _fits(size: tuple[int, int], scale: int | None, position: _Place | None, h: int, w: int) -> bool:
    (height, width), times, (x, y) = size, scale or 1, position or (0, 0)
    return 0 <= x <= w - width * times and 0 <= y <= h - height * times


def _cover(alpha: Tensor, opacity: float) -> Tensor:
    """How much of what is below a stamp it covers, in 0..256."""
    return (alpha * round(256 * opacity) + 127) // 255


def _drawn_scale(mark: Mark, size: Sequence[int], position: _Place | None, h: int, w: int) -> int:
    x, y = position or (0, 0)
    room = min(9 * h // 10, h - y), min(9 * w // 10, w - x)
    largest = max(1, min(room[0] // size[0], room[1] // size[1]))
    return 1 + mark.stream("scale").integer(largest)


def _glyphs(text: str) -> Tensor:
    """The text in Pillow's built-in bitmap font, cropped: bool ``(height, width)``.

    A bitmap font has the same pixels everywhere; outlines depend on the version of the font renderer.
    """
    mask = _font().getmask(text)
    pixels = torch.tensor(list(mask), dtype=torch.uint8).view(mask.size[1], mask.size[0]) > 0
    rows, columns = pixels.any(1).nonzero().flatten(), pixels.any(0).nonzero().flatten()
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@functools.cache
def _font() -> ImageFont.ImageFont:
    return ImageFont.load_default_imagefont()


def _read_logo(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            picture: Image.Image = image.convert("RGBA")
            return picture
    except (OSError, UnidentifiedImageError) as error:
        raise UserError("watermark.logo", f"{path} is no readable picture", "a PNG or another picture file") from error
