"""Robustness curves: what each strength of an attack leaves of accuracy and watermark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas as pd

from wmlightning.report.drawing import Axis, Look, label, percent_axis, records, strength_axis
from wmlightning.results.rows import is_by_heart
from wmlightning.results.series import Series, series

#: Column of the summary, and its name; a drawing for each of the first two. A line of trained triggers says so itself.
MEASURED = (
    ("kept", "new triggers that still work"),
    ("clean_acc", "clean accuracy"),
    ("decoy_acc", "decoys"),
)


#: Between symbols of different lines at the same strength.
_WIDEST = 3.6


@dataclass(frozen=True)
class Drawn:
    """A line in a drawing.

    Attributes:
        number: of the line in its chart.
        look: how it is drawn.
        line: through the means, as an SVG path; empty for a single one.
        whiskers: from the least to the greatest over seeds: place, top and bottom.
        points: places of its symbols.
    """

    number: int
    look: Look
    line: str
    whiskers: Sequence[tuple[float, float, float]]
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One drawing: a measure over strength.

    Attributes:
        title: the measure.
        alternative: the drawing in words.
        cut: whether its axis does not start at 0.
    """

    title: str
    alternative: str
    y: Axis
    cut: bool
    lines: Sequence[Drawn]


@dataclass(frozen=True)
class Value:
    """One row of the chart's table: a line at a strength."""

    x: float
    strength: str
    is_victim: bool
    number: int
    label: str
    cells: Sequence[str]


@dataclass(frozen=True)
class Chart:
    """One attack on one task.

    Attributes:
        dataset: of the task.
        model: of the task.
        title: of the attack.
        x: the axis that all panels share.
        panels: drawings.
        legend: the lines' labels and looks, by their numbers.
        values: the same as a table.
        spread: whether lines are means over several seeds.
        log: whether the untouched model has a place of its own.
        pooled: whether lines are means over runs that differ in more than their seed.
    """

    dataset: str
    model: str
    title: str
    x: Axis
    panels: Sequence[Panel]
    legend: Sequence[tuple[str, Look]]
    values: Sequence[Value]
    spread: bool
    log: bool
    pooled: bool


def charts(summary: pd.DataFrame, known: Mapping[tuple[str, str], Look]) -> list[Chart]:
    """A chart for each task, removal attack and choice of settings.

    Args:
        summary: from :func:`~wmlightning.results.table.aggregate`.
        known: from :func:`~wmlightning.report.drawing.looks`.
    """
    found = []
    for one in series(summary):
        for (dataset, model), part in one.summary.groupby(["dataset", "model"], sort=False):
            found.append(_chart(str(dataset), str(model), one, part, known))
    order = list(dict.fromkeys(summary["dataset"]))
    return sorted(found, key=lambda chart: order.index(chart.dataset))


def _chart(dataset: str, model: str, one: Series, part: pd.DataFrame, known: Mapping[tuple[str, str], Look]) -> Chart:
    part = part[(part["is_victim"] | (part["strength"] > 0)) if one.log else part["strength"].notna()]
    x = strength_axis(part["strength"], one.log, one.strength_name or "strength")
    lines: list[_Line] = []
    for (watermark, key), group in part.groupby(["watermark", "key"], sort=False):
        kind = str(watermark), str(key)
        named = label(*kind) + (" (trained triggers)" if is_by_heart(str(key)) else "")
        lines.append(_Line(len(lines), named, known[kind], records(group, "strength")))
    shifts = _shifts(len(lines), sorted({x.at(strength) for strength in part["strength"]}))
    panels = []
    for name, measure in MEASURED[:2]:
        cut = name == "clean_acc" and bool(part["clean_acc_mean"].notna().any())  # differences there are small
        y = percent_axis("%", part[f"{name}_min"].min(), part[f"{name}_max"].max()) if cut else percent_axis("%")
        drawn = [_drawn(line, name, x, y, shift) for line, shift in zip(lines, shifts, strict=True)]
        told = _alternative(measure, x.title, lines, name)
        panels.append(Panel(measure, told, y, y.ticks[0][1] != "0", [line for line in drawn if line.points]))
    values = [value for line in lines for value in _values(line, x)]
    values.sort(key=lambda value: (value.x, value.number))
    return Chart(
        dataset,
        model,
        one.title,
        x,
        panels,
        [(line.label, line.look) for line in lines],
        values,
        bool((part["n_seeds"] > 1).any()),
        one.log,
        bool((part["n_runs"] > part["n_seeds"]).any()),
    )


@dataclass(frozen=True)
class _Line:
    number: int
    label: str
    look: Look
    rows: Sequence[Mapping[str, Any]]

    def with_(self, name: str) -> list[Mapping[str, Any]]:
        """Its rows in which the measure is known."""
        return [row for row in self.rows if not math.isnan(row[f"{name}_mean"])]


def _shifts(n: int, places: Sequence[float]) -> list[float]:
    """To the side for each of ``n`` lines, so that symbols do not hide each other where all lines agree."""
    room = min((b - a for a, b in pairwise(places)), default=_WIDEST * n)
    step = min(_WIDEST, 0.7 * room / max(n, 1))
    return [(i - (n - 1) / 2) * step for i in range(n)]


def _drawn(line: _Line, name: str, x: Axis, y: Axis, shift: float) -> Drawn:
    points, joined, whiskers = [], [], []
    for row in line.with_(name):
        place = round(x.at(row["strength"]) + shift, 1)
        points.append((place, y.at(row[f"{name}_mean"])))
        if not math.isnan(row["strength"]):  # else it has a place, but no strength that a line could start from
            joined.append(points[-1])
        if row[f"{name}_min"] < row[f"{name}_max"]:
            whiskers.append((place, y.at(row[f"{name}_max"]), y.at(row[f"{name}_min"])))
    return Drawn(line.number, line.look, _path(joined) if len(joined) > 1 else "", whiskers, points)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def spelled_strength(row: Mapping[str, Any]) -> str:
    """A strength for people."""
    return "untouched" if row["is_victim"] else f"{row['strength']:g}"


def _values(line: _Line, x: Axis) -> list[Value]:
    return [
        Value(
            x.at(row["strength"]),
            spelled_strength(row),
            bool(row["is_victim"]),
            line.number,
            line.label,
            [_cell(row, name) for name, _ in MEASURED],
        )
        for row in line.rows
    ]


def _cell(row: Mapping[str, Any], name: str) -> str:
    mean, low, high = (row[f"{name}_{how}"] for how in ("mean", "min", "max"))
    if math.isnan(mean):
        return ""
    spread = f" ({low:.1f} to {high:.1f})" if f"{low:.1f}" != f"{high:.1f}" else ""
    return f"{mean:.1f}{spread}"


def _alternative(measure: str, title: str, lines: Sequence[_Line], name: str) -> str:
    """The drawing in words: where each line begins and ends."""
    told = []
    for line in lines:
        if rows := sorted(line.with_(name), key=lambda row: not row["is_victim"]):  # the rest by strength, as they are
            ends = [f"{row[f'{name}_mean']:.1f} % at {spelled_strength(row)}" for row in (rows[0], rows[-1])]
            told.append(f"{line.label}: {ends[0]}, {ends[1]}")
    return f"Line chart, {measure} in per cent over {title}. {'; '.join(told)}."
