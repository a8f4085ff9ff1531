"""Noise: one secret Gaussian pattern, added to images of the task."""

from __future__ import annotations

import torch
from torch import Tensor

from wmlightning.config import setting, switch
from wmlightning.watermarks.base import Mark, MarkingWatermark


class Noise(MarkingWatermark):
    """Adds a pattern that is drawn from the secret once and is the same on all images of a mark.

    From Zhang et al. (ASIACCS 2018), "noise"; the pattern's strength is ours, the paper's is not known.

    Args:
        strength: standard deviation of the pattern as a share of the full pixel range, in [0.001, 1].
        fresh: draw a pattern for each image instead (ablation: such triggers are memorised, not learned).
    """

    def __init__(self, strength: float = 0.2, fresh: bool = False) -> None:
        self.strength = setting(strength, "watermark.strength", float, 0.001, 1)  # less is rounded away
        self.fresh = switch(fresh, "watermark.fresh")

    def apply(self, images: Tensor, mark: Mark, batch: str) -> Tensor:
        """See :meth:`MarkingWatermark.apply`."""
        _, c, h, w = images.shape
        n = len(images) if self.fresh else 1
        draws = mark.stream(f"fresh pattern/{batch}" if self.fresh else "pattern").normal((n, c, h, w))
        pattern = torch.from_numpy(draws * (self.strength * 255)).round().to(torch.int16)
        return (images.to(torch.int16) + pattern).clamp(0, 255).to(torch.uint8)
