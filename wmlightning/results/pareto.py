"""What a thief pays in accuracy for what is left of the watermark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wmlightning.results import canvas
from wmlightning.results.canvas import COLOURS, GREY, MARKERS, shown
from wmlightning.results.front import pareto_front
from wmlightning.results.rows import is_by_heart

_LOST, _LEFT = "clean_lost_mean", "kept_mean"
_TICKS = (-5, -1, 0, 1, 2, 5, 10, 20, 50, 100)


def pareto(summary: pd.DataFrame) -> dict[str, Figure]:
    """A panel for each data set and kind of key: accuracy lost against triggers that still work.

    Each point is a surrogate, mean over seeds, as large as its attack was long. A front for each watermark, over its
    surrogates and the untouched model, shows the best that a thief can do.

    Args:
        summary: from :func:`~wmlightning.results.table.aggregate`, every epoch: a thief may stop after any.

    Returns:
        Figures by name; none without removal attacks on watermarked models.
    """
    points = summary[(summary["attack_type"] == "removal") & summary[_LOST].notna() & summary[_LEFT].notna()]
    if points["is_victim"].all():
        return {}
    colours = canvas.styles(list(points["watermark"]), COLOURS)
    markers = canvas.styles(list(points.loc[~points["is_victim"], "attack"]), MARKERS)
    columns = list(dict.fromkeys(points["key"]))
    return {
        f"pareto{more}": _figure(points, (rows, keys), colours, markers)
        for more, rows, keys in canvas.pages(canvas.tasks(points), columns)
    }


def _figure(
    points: pd.DataFrame,
    layout: tuple[Sequence[canvas.Task], Sequence[str]],
    colours: dict[str, str],
    markers: dict[str, str],
) -> Figure:
    rows, columns = layout
    labels = canvas.task_labels(points)
    figure, panels = canvas.grid(len(rows), len(columns), 3.4, 2.9, 1.5)
    low, high = points[_LOST].min(), points[_LOST].max()
    for i, (dataset, model) in enumerate(rows):
        of_task = points[(points["dataset"] == dataset) & (points["model"] == model)]
        for j, key in enumerate(columns):
            axes, here = panels[i][j], of_task[of_task["key"] == key]
            if here.empty:
                canvas.nothing(axes)
            _draw(axes, here, colours, markers)
            _loss_axis(axes, low, high)
            if i == 0:
                title = f"key: {shown(key)}" + ("\n(trained triggers)" if is_by_heart(key) else "")
                axes.set_title(title, fontsize=10)
        panels[i][0].set_ylabel(f"{labels[dataset, model]}\nnew triggers that still work (%)", fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("accuracy lost (percentage points, log. beyond 1)", fontsize=9)
    figure.suptitle("What a thief pays for what is left of the watermark", fontweight="bold")
    _legend(figure, points, colours, markers)
    return figure


def _draw(axes: Axes, points: pd.DataFrame, colours: dict[str, str], markers: dict[str, str]) -> None:
    for watermark, part in points.groupby("watermark", sort=False):
        colour = colours[str(watermark)]
        front = part[pareto_front(part[_LOST], part[_LEFT])].sort_values([_LOST, _LEFT])
        axes.step(front[_LOST], front[_LEFT], where="post", color=colour, linewidth=1.2, alpha=0.8)
        for attack, surrogates in part[~part["is_victim"]].groupby("attack", sort=False):
            axes.scatter(
                surrogates[_LOST],
                surrogates[_LEFT],
                s=[_area(seconds) for seconds in surrogates["seconds_mean"]],
                marker=markers[str(attack)],
                facecolor=colour,
                edgecolor="white",
                linewidth=0.5,
                alpha=0.75,
            )
        victims = part[part["is_victim"]]
        axes.plot(victims[_LOST], victims[_LEFT], "+", color="black", markersize=9, zorder=5)


def _loss_axis(axes: Axes, low: float, high: float) -> None:
    """Even up to one point of loss, where good attacks differ; logarithmic beyond, where all are bad."""
    axes.set_xscale("symlog", linthresh=1, linscale=1)
    ticks = [tick for tick in _TICKS if min(low, 0) <= tick <= max(high, 1)]
    axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(min(low * 1.2, -0.3), max(high * 1.2, 1.2))


def _area(seconds: float) -> float:
    """Of a marker; ten times as long is one step larger."""
    return 18 + 26 * math.log10(1 + min(seconds, 1e6)) if seconds > 0 else 18


def _legend(figure: Figure, points: pd.DataFrame, colours: dict[str, str], markers: dict[str, str]) -> None:
    dot: dict[str, Any] = {"color": GREY, "linestyle": ""}
    marks = [Line2D([], [], marker=m, label=shown(name), **dot) for name, m in markers.items()]
    more = [
        Line2D([], [], marker="+", color="black", linestyle="", markersize=9, label="untouched model"),
        Line2D([], [], color=GREY, linewidth=1.2, label="best for the thief"),
    ]
    longest = points["seconds_mean"].max()
    sizes = [
        Line2D([], [], marker="o", markersize=math.sqrt(_area(s)), label=f"attack of {s} s", **dot)
        for s in (1, 60, 3600)
        if s <= max(longest, 1)
    ]
    canvas.legend(figure, [canvas.swatch(colour, name) for name, colour in colours.items()], marks, more, sizes)
