"""Augmentation of whole batches, on the device they are on."""

from __future__ import annotations

import torch
from torch import Tensor

from wmlightning.config import switch
from wmlightning.errors import UserError


class ShiftFlip:
    """Shifts every image by its own random offset and mirrors some: the crop-with-padding of the CIFAR recipes.

    One gather for the batch instead of a transform for each image. What comes in from outside is black.

    Args:
        shift: largest offset in pixels, in each direction.
        flip: whether every other image (at random) is mirrored left to right.

    Raises:
        UserError: if ``shift`` is negative or no whole number, or ``flip`` is neither true nor false.
    """

    def __init__(self, shift: int = 0, flip: bool = False) -> None:
        if type(shift) is not int or shift < 0:
            raise UserError("recipe.augment.shift", f"{shift!r} pixels", "a whole number of at least 0")
        self.shift = shift
        self.flip = switch(flip, "recipe.augment.flip")

    def __call__(self, images: Tensor, keep: Tensor, draw: torch.Generator) -> Tensor:
        """Augments a batch.

        Args:
            images: uint8 ``(n, c, h, w)``.
            keep: bool ``(n,)``; images that stay as they are.
            draw: generator on the images' device.

        Returns:
            uint8 ``(n, c, h, w)``.
        """
        n, c, h, w = images.shape
        device, s = images.device, self.shift
        offset = torch.randint(0, 2 * s + 1, (n, 2), generator=draw, device=device)
        offset = torch.where(keep[:, None], s, offset)
        rows = offset[:, :1] + torch.arange(h, device=device)
        columns = offset[:, 1:] + torch.arange(w, device=device)
        if self.flip:
            mirrored = (torch.rand(n, generator=draw, device=device) < 0.5) & ~keep
            columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        padded = torch.nn.functional.pad(images, (s, s, s, s))
        flat = rows[:, :, None] * (w + 2 * s) + columns[:, None, :]
        flat = flat.view(n, 1, h * w).expand(n, c, h * w)
        return padded.view(n, c, -1).gather(2, flat).view(n, c, h, w)
