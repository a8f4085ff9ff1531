"""The figures of a folder of runs, as files."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from wmlightning.files import write_bytes
from wmlightning.results.canvas import png
from wmlightning.results.curves import curves
from wmlightning.results.pareto import pareto


def write_figures(summary: pd.DataFrame, folder: Path) -> list[Path]:
    """Draws all there is to draw.

    Args:
        summary: from :func:`~wmlightning.results.table.aggregate`.
        folder: exists.

    Returns:
        The PNG files written.
    """
    written: list[Path] = []
    for name, figure in {**{f"curve-{name}": f for name, f in curves(summary).items()}, **pareto(summary)}.items():
        path = folder / f"{_stem(name)}.png"
        while path in written:  # two names that differ only in what a file may not be called
            path = path.with_stem(f"{path.stem}-2")
        write_bytes(path, png(figure))
        written.append(path)
    return written


def _stem(name: str) -> str:
    """A file name that stays in its folder, on every system."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", name)[:80]
