"""The figures of a folder of runs, as files."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from wmlightning.files import write_bytes
from wmlightning.results.canvas import png
from wmlightning.results.curves import curves
from wmlightning.results.pareto import pareto
from wmlightning.results.table import aggregate


def write_figures(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Draws all there is to draw.

    Args:
        frame: from :func:`~wmlightning.results.table.read_all`.
        folder: exists.

    Returns:
        The PNG files written.
    """
    written: list[Path] = []
    drawn = {f"curve-{name}": figure for name, figure in curves(aggregate(frame)).items()}
    for name, figure in {**drawn, **pareto(aggregate(frame, every_epoch=True))}.items():
        path = folder / f"{_stem(name)}.png"
        while path in written:  # two names that differ only in what a file may not be called
            path = path.with_stem(f"{path.stem}-2")
        write_bytes(path, png(figure))
        written.append(path)
    return written


def _stem(name: str) -> str:
    """A file name that stays in its folder, on every system."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", name)[:80]
