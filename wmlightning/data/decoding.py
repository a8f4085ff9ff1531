"""Pictures of any kind to pixels: upright, of 8 bits, of the size and with the channels that are wanted."""

from __future__ import annotations

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from wmlightning.data.broken import BROKEN_PICTURE
from wmlightning.data.depth import grey_bits, in_8_bits


def fit_image(image: Image.Image, shape: tuple[int, int, int]) -> Tensor:
    """Turns a picture upright, scales it to cover ``(h, w)``, crops it at the centre, and gives it the wanted channels.

    Three are colours. Any other number of channels are all the same grey: whatever they stand for is not in a picture.

    Pillow's resampling works in fixed-point arithmetic, so that the bytes do not depend on the platform.

    Args:
        image: any picture; transparency is dropped, of an animation the first picture is taken.
        shape: ``(c, h, w)``.

    Returns:
        uint8 ``(c, h, w)``.

    Raises:
        ValueError: for grey that does not say which value is white; see :func:`wmlightning.data.depth.grey_bits`. What
            else Pillow raises is in :data:`wmlightning.data.broken.BROKEN_PICTURE`.
    """
    c, h, w = shape
    image = readable(image)
    if image.mode == "P" and "transparency" in image.info:  # in one step with the palette, Pillow warns of its loss
        image = image.convert("RGBA")
    image = image.convert("RGB" if c == 3 else "L")
    if image.size != (w, h):
        image = ImageOps.fit(image, (w, h), Image.Resampling.BICUBIC)
    pixels = np.array(image)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy() if c == 3 else np.repeat(pixels[None], c, 0))


def readable(image: Image.Image) -> Image.Image:
    """The picture, decoded, :func:`upright`, and with grey of 8 bits where it was deeper.

    Raises:
        ValueError: see :func:`fit_image`.
    """
    image.load()
    bits = grey_bits(image)  # asked first: what is turned has forgotten its format
    return in_8_bits(upright(image), bits)


def upright(image: Image.Image) -> Image.Image:
    """The picture as it was seen: cameras store it as the sensor lies and note how to turn it (EXIF orientation)."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except BROKEN_PICTURE:  # spoiled notes do not spoil the picture
        return image
    return ImageOps.exif_transpose(image) if turned else image


def fit_images(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Fits images uint8 ``(n, c, h, w)`` to another shape: see :func:`fit_image`."""
    if tuple(images.shape[1:]) == shape:
        return images
    out = torch.empty((len(images), *shape), dtype=torch.uint8)
    for i, image in enumerate(visible(images).numpy()):
        out[i] = fit_image(Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)), shape)
    return out


def visible(images: Tensor) -> Tensor:
    """Images ``(..., c, h, w)`` as they can be shown, with one or three channels: of others, the mean."""
    if images.shape[-3] in (1, 3):
        return images
    return images.double().mean(-3, keepdim=True).to(images.dtype)
