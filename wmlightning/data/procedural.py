"""Pictures drawn by integer arithmetic: a data set that is always at hand, the same bytes everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wmlightning.config import setting
from wmlightning.data.source import MemorySource, Split
from wmlightning.secret import Secret

_Grid = npt.NDArray[np.int64]

#: Each pattern: x and y from the centre, a period p >= 2; true where the ink is.
_PATTERNS: dict[str, Callable[[_Grid, _Grid, int], npt.NDArray[np.bool_]]] = {
    "rows": lambda x, y, p: (y // p) % 2 == 0,
    "columns": lambda x, y, p: (x // p) % 2 == 0,
    "diagonals": lambda x, y, p: ((x + y) // p) % 2 == 0,
    "antidiagonals": lambda x, y, p: ((x - y) // p) % 2 == 0,
    "checks": lambda x, y, p: (x // p + y // p) % 2 == 0,
    "rings": lambda x, y, p: (np.sqrt(x * x + y * y).astype(np.int64) // p) % 2 == 0,
    "diamonds": lambda x, y, p: ((abs(x) + abs(y)) // p) % 2 == 0,
    "boxes": lambda x, y, p: (np.maximum(abs(x), abs(y)) // p) % 2 == 0,
    "dots": lambda x, y, p: (x % (2 * p) - p) ** 2 + (y % (2 * p) - p) ** 2 < p * p // 2,
    "zigzags": lambda x, y, p: ((y + abs(x % (2 * p) - p)) // p) % 2 == 0,
}


class Procedural(MemorySource):
    """Ten classes of line patterns with random period, place and brightness.

    Args:
        shape: ``(c, h, w)``.
        n_train: training images in all.
        n_test: test images in all.
        name: name of the data set.
    """

    public = True

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        n_train: int = 10000,
        n_test: int = 2000,
        name: str = "procedural",
    ) -> None:
        super().__init__(name, list(_PATTERNS), shape)
        self._sizes = {
            "train": setting(n_train, "dataset.source.n_train", int, 1),
            "test": setting(n_test, "dataset.source.n_test", int, 1),
        }

    def read(self, split: Split) -> tuple[Tensor, Tensor]:
        """See :meth:`MemorySource.read`."""
        n = self._sizes[split]
        c, h, w = self.shape
        stream = Secret(b"wmlightning procedural pictures ").stream(split)
        labels = np.arange(n) % len(_PATTERNS)
        shifts = stream.integers(2 * n, max(h, w)).reshape(n, 2)
        periods = 2 + stream.integers(n, max(2, min(h, w) // 8))
        ink = 160 + stream.integers(n * c, 96).reshape(n, c)
        paper = stream.integers(n * c, 64).reshape(n, c)
        y, x = np.mgrid[0:h, 0:w]
        patterns = list(_PATTERNS.values())
        images = np.empty((n, c, h, w), np.uint8)
        for i in range(n):
            inked = patterns[labels[i]](x - shifts[i, 0], y - shifts[i, 1], int(periods[i]))
            images[i] = np.where(inked, ink[i, :, None, None], paper[i, :, None, None])
        return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))

    def stored_as(self) -> str:
        """See :meth:`Source.stored_as`."""
        return "drawn"
