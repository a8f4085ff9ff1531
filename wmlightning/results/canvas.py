"""What all figures share: colours, panels, and text that is drawn as it stands."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import TypeVar

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wmlightning.results.fields import cleaned

DPI = 150

#: Okabe and Ito's colours, which people with any colour vision tell apart; without yellow, which is pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX<>*"
GREY = "#707070"

#: More panels side by side than this make a second picture.
_MOST = 6

Name = TypeVar("Name")
#: A data set and a model: one row of panels.
Task = tuple[str, str]


def shown(text: str, longest: int = 26) -> str:
    """Text for a figure: not too long, a dollar starts no formula, an underscore in front hides no legend's entry."""
    return (" " if text.startswith("_") else "") + cleaned(text, longest).replace("$", r"\$")


def styles(names: Sequence[str], of: Sequence[str]) -> dict[str, str]:
    """A colour or marker for each name; they start again when they run out."""
    return dict(zip(dict.fromkeys(names), cycle(of), strict=False))


def tasks(summary: pd.DataFrame) -> list[Task]:
    """Data sets and models, in the summary's order."""
    return list(dict.fromkeys(zip(summary["dataset"], summary["model"], strict=True)))


def task_labels(summary: pd.DataFrame) -> dict[Task, str]:
    """What to write beside their panels: the model only where a data set has several."""
    found = tasks(summary)
    datasets = [dataset for dataset, _ in found]
    return {
        task: "\n".join(shown(part) for part in (task if datasets.count(task[0]) > 1 else task[:1])) for task in found
    }


def pages(rows: Sequence[Name], columns: Sequence[str]) -> Iterator[tuple[str, Sequence[Name], Sequence[str]]]:
    """Cuts a grid of panels into pictures of a bearable size; with each, what to append to its name."""
    number = 0
    for top in range(0, len(rows), _MOST):
        for left in range(0, len(columns), _MOST):
            number += 1
            yield f"-{number}" if number > 1 else "", rows[top : top + _MOST], columns[left : left + _MOST]


def grid(n_rows: int, n_columns: int, width: float, height: float, legend: float) -> tuple[Figure, list[list[Axes]]]:
    """A figure of panels that share their y axis, 0 to 100 %.

    Args:
        n_rows: of panels.
        n_columns: of panels.
        width: of a panel, in inches.
        height: of a panel.
        legend: room below and above all panels.
    """
    figure = Figure(figsize=(max(width * n_columns, 5.6) + 0.7, height * n_rows + legend), dpi=DPI)
    figure.set_layout_engine("constrained", h_pad=0.06, w_pad=0.06)
    FigureCanvasAgg(figure)
    panels = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)
    for axes in panels.flat:
        axes.set_ylim(-3, 103)
        axes.set_yticks(range(0, 101, 25))
        axes.grid(True, color="#E4E4E4", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, [list(line) for line in panels]


def nothing(axes: Axes) -> None:
    """Says that a panel is empty because there is nothing to show."""
    axes.text(0.5, 0.5, "no runs", transform=axes.transAxes, ha="center", va="center", color=GREY)


def legend(figure: Figure, *groups: Sequence[Line2D]) -> None:
    """One legend below all panels; each group has columns of its own."""
    height = max(3, *(min(len(group), _MOST) for group in groups))
    handles: list[Line2D] = []
    for group in groups:
        handles += group
        handles += [Line2D([], [], linestyle="", label=" ")] * (-len(group) % height)
    n_columns = len(handles) // height
    drawn = figure.legend(handles=handles, loc="outside lower center", ncols=n_columns, fontsize=8, frameon=False)
    width = drawn.get_window_extent().width / figure.dpi + 0.2
    if width > figure.get_figwidth():
        figure.set_figwidth(width)


def swatch(colour: str, label: str) -> Line2D:
    """A legend's entry for a colour."""
    return Line2D([], [], color=colour, linewidth=5, label=shown(label))


def png(figure: Figure) -> bytes:
    """The picture file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
