"""How accuracy and watermark fare as a removal attack grows stronger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wmlightning.results import canvas
from wmlightning.results.canvas import COLOURS, GREY, Task, shown
from wmlightning.results.rows import is_by_heart
from wmlightning.results.series import series

#: Column of the summary, its name, and how its line looks.
_LINES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("kept", "new triggers", {"linestyle": "-", "linewidth": 1.8, "marker": "o", "markersize": 3.5}),
    ("clean_acc", "clean images", {"linestyle": "--", "linewidth": 1.2}),
    ("decoy_acc", "decoys", {"linestyle": ":", "linewidth": 1.0}),
)
_NO_KEY = "no watermark"


def curves(summary: pd.DataFrame) -> dict[str, Figure]:
    """One figure for each removal attack and its settings: a row for each data set, a column for each watermark.

    Args:
        summary: from :func:`~wmlightning.results.table.aggregate`.

    Returns:
        Figures under the names of their attacks. Lines are means over seeds, bands go from the least to the greatest.
    """
    removal = summary[summary["attack_type"] == "removal"]
    keys = [key or _NO_KEY for key in removal["key"]]
    colours = canvas.styles(sorted(set(keys), key=keys.index), COLOURS)
    if _NO_KEY in colours:
        colours = {_NO_KEY: "#000000", **canvas.styles([key for key in colours if key != _NO_KEY], COLOURS[:-1])}
    found = {}
    for one in series(summary):
        part = one.summary
        stem = f"{one.attack}-{one.settings}" if one.settings else one.attack
        while stem in found:  # the same attack with another scale of strength
            stem += "-2"
        for more, rows, columns in canvas.pages(canvas.tasks(part), list(dict.fromkeys(part["watermark"]))):
            found[stem + more] = _figure(part, (rows, columns), colours, one.title)
    return found


def _figure(
    part: pd.DataFrame, layout: tuple[Sequence[Task], Sequence[str]], colours: dict[str, str], title: str
) -> Figure:
    rows, columns = layout
    labels = canvas.task_labels(part)
    figure, panels = canvas.grid(len(rows), len(columns), 2.7, 2.1, 1.3)
    for i, (dataset, model) in enumerate(rows):
        of_task = part[(part["dataset"] == dataset) & (part["model"] == model)]
        for j, watermark in enumerate(columns):
            axes, shown_here = panels[i][j], of_task[of_task["watermark"] == watermark]
            if shown_here.empty:
                canvas.nothing(axes)
            for key, lines in shown_here.groupby("key", sort=False):
                _draw(axes, lines, colours[str(key) or _NO_KEY])
            if i == 0:
                axes.set_title(shown(watermark if watermark != "none" else _NO_KEY), fontsize=10)
        panels[i][0].set_ylabel(f"{labels[dataset, model]}\naccuracy (%)", fontsize=9)
    log = part["strength_scale"].iloc[0] == "log"
    for axes in figure.axes if log else ():
        _log_axis(axes, part["strength"])
    for axes in panels[-1]:
        axes.set_xlabel(shown(part["strength_name"].iloc[0] or "strength", 36), fontsize=9)
    figure.suptitle(shown(title, 60), fontweight="bold")
    _legend(figure, part, colours, log)
    return figure


def _draw(axes: Axes, lines: pd.DataFrame, colour: str) -> None:
    """The lines of one key; on a logarithmic axis the untouched model is a mark on the left edge."""
    log = lines["strength_scale"].iloc[0] == "log"
    points = lines[lines["strength"] > 0] if log else lines[lines["strength"].notna()]
    points = points.sort_values("strength")
    for name, _, look in _LINES:
        mean, low, high = (points[f"{name}_{how}"].to_numpy(float) for how in ("mean", "min", "max"))
        strength = points["strength"].to_numpy(float)
        axes.plot(strength, mean, color=colour, **look)
        axes.fill_between(strength, low, high, color=colour, alpha=0.15, linewidth=0)
        if log:
            before = lines.loc[lines["is_victim"], f"{name}_mean"]
            edge = axes.get_yaxis_transform()
            axes.plot([0] * len(before), before, "<", color=colour, markersize=5, transform=edge, clip_on=False)


def _log_axis(axes: Axes, strengths: pd.Series[float]) -> None:
    """Logarithmic even where nothing was drawn, for want of accuracies or positive strengths."""
    axes.set_xscale("log")
    if axes.get_xlim()[0] <= 0:
        positive = strengths[strengths > 0]
        low, high = (positive.min(), positive.max()) if len(positive) else (1.0, 1.0)
        axes.set_xlim(low / 2, high * 2)


def _legend(figure: Figure, part: pd.DataFrame, colours: dict[str, str], log: bool) -> None:
    present = {key or _NO_KEY for key in part["key"]}
    keys = [canvas.swatch(colour, key) for key, colour in colours.items() if key in present]
    lines = [Line2D([], [], color=GREY, label=label, **look) for _, label, look in _LINES]
    if part["key"].map(is_by_heart).any():
        lines[0].set_label("new triggers; with random labels: trained triggers")
    more = []
    if log:
        more.append(Line2D([], [], color=GREY, marker="<", linestyle="", label="the untouched model"))
    if (part["n_seeds"] > 1).any():
        more.append(Line2D([], [], color=GREY, alpha=0.3, linewidth=7, label="least to greatest over seeds"))
    canvas.legend(figure, keys, lines, more)
