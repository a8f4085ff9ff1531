"""Noise: one secret Gaussian pattern, added to images of the task."""

from __future__ import annotations

import torch
from torch import Tensor

from wmlightning.config import switch
from wmlightning.errors import UserError
from wmlightning.watermarks.base import Mark, MarkingWatermark


class Noise(MarkingWatermark):
    """Adds a pattern that is drawn from the secret once and is the same on all images of a mark.

    From Zhang et al. (ASIACCS 2018), "noise"; the pattern's strength is ours, the paper's is not known.

    Args:
        strength: standard deviation of the pattern as a share of the full pixel range, in (0, 1].
        fresh: draw a pattern for each image instead (ablation: such triggers are memorised, not learned).
    """

    def __init__(self, strength: float = 0.2, fresh: bool = False) -> None:
        if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 < strength <= 1:
            raise UserError("watermark.strength", f"{strength!r} is out of range", "a number in (0, 1]")
        self.strength = strength
        self.fresh = switch(fresh, "watermark.fresh")

    def apply(self, images: Tensor, mark: Mark, batch: str) -> Tensor:
        """See :meth:`MarkingWatermark.apply`."""
        _, c, h, w = images.shape
        n = len(images) if self.fresh else 1
        draws = mark.stream(f"fresh pattern/{batch}" if self.fresh else "pattern").normal((n, c, h, w))
        pattern = torch.from_numpy(draws * (self.strength * 255)).round().to(torch.int16)
        return (images.to(torch.int16) + pattern).clamp(0, 255).to(torch.uint8)
