"""What a thief pays in accuracy for what is left of the watermark, over all surrogates: means over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from wmlightning.report.curves import spelled_strength
from wmlightning.report.drawing import Axis, Look, loss_axis, percent_axis, records, spelled, triggers_of
from wmlightning.results.front import pareto_front

#: More symbols than this in one drawing hide each other, and fill the page.
_MOST = 800


@dataclass(frozen=True)
class Point:
    """A surrogate, or an untouched model: the mean over its seeds.

    Attributes:
        x: its place.
        y: its place.
        line: number of its watermark in the plot.
        look: colour of its watermark, symbol of its attack.
        is_victim: whether it is untouched.
        on_front: whether no other surrogate of its watermark is better for the thief.
        told: what it is, and its values.
        cells: the same for a table: watermark, seeds, attack, strength, points lost, triggers left.
    """

    x: float
    y: float
    line: int
    look: Look
    is_victim: bool
    on_front: bool
    told: str
    cells: Sequence[str]


@dataclass(frozen=True)
class Plot:
    """One task and one kind of key.

    Attributes:
        dataset: of the task.
        model: of the task.
        key: what its keys have in common; empty without a watermark.
        triggers: those that are counted.
        alternative: the drawing in words.
        x: accuracy lost.
        y: triggers left.
        fronts: number and look of a watermark, and its staircase as an SVG path.
        points: symbols; those on a front come last.
        legend: watermarks and attacks with their looks.
        left_out: points that are not drawn.
        pooled: whether points are means over runs that differ in more than their seed.
    """

    dataset: str
    model: str
    key: str
    triggers: str
    alternative: str
    x: Axis
    y: Axis
    fronts: Sequence[tuple[int, Look, str]]
    points: Sequence[Point]
    watermarks: Sequence[tuple[str, Look]]
    attacks: Sequence[tuple[str, Look]]
    left_out: int
    pooled: bool


def plots(summary: pd.DataFrame, known: Mapping[tuple[str, str], Look]) -> list[Plot]:
    """A plot for each task and kind of key that a removal attack met.

    Args:
        summary: from :func:`~wmlightning.results.table.aggregate`, every epoch: a thief may stop after any.
        known: from :func:`~wmlightning.report.drawing.looks`.
    """
    measured = summary["clean_lost_mean"].notna() & summary["kept_mean"].notna()
    usable = summary[(summary["attack_type"] == "removal") & measured]
    attacks = {name: i for i, name in enumerate(dict.fromkeys(usable.loc[~usable["is_victim"], "attack"]))}
    found = []
    for (dataset, model, key), part in usable.groupby(["dataset", "model", "key"], sort=False):
        if not part["is_victim"].all():
            found.append(_plot((str(dataset), str(model), str(key)), part, known, attacks))
    return found


def _plot(
    about: tuple[str, str, str],
    part: pd.DataFrame,
    known: Mapping[tuple[str, str], Look],
    attacks: Mapping[str, int],
) -> Plot:
    part = part.assign(lost=part["clean_lost_mean"], left=part["kept_mean"])
    x = loss_axis(part["lost"], "clean accuracy lost (points)")
    y = percent_axis("%")
    which = triggers_of(about[2])
    fronts, points, watermarks, told = [], [], [], []
    for number, ((watermark, key), group) in enumerate(part.groupby(["watermark", "key"], sort=False)):
        look = known[str(watermark), str(key)]
        watermarks.append((str(watermark), look))
        flags = pareto_front(group["lost"], group["left"])
        best = group[flags].sort_values(["lost", "left"])
        places = [(x.at(a), y.at(b)) for a, b in zip(best["lost"], best["left"], strict=True)]
        fronts.append((number, look, _steps(places)))
        told.append(f"{watermark}: {_told_front(best, which)}")
        for one, on_front in zip(records(group), flags.tolist(), strict=True):
            symbol = Look(look.colour, attacks.get(one["attack"], 0) % 6)
            points.append(_point(one, (x.at(one["lost"]), y.at(one["left"])), number, symbol, on_front))
    # One untouched model is enough: every attack repeats it.
    points = list({(point.x, point.y, point.told): point for point in points}.values())
    best_points = sorted((point for point in points if point.on_front), key=lambda point: (point.x, -point.y))
    victims = [point for point in points if point.is_victim and not point.on_front]
    others = [point for point in points if not point.on_front and not point.is_victim]
    every = max(1, -(-len(others) // _MOST))
    alternative = f"Scatter plot of {len(points)} models. Best for the thief: {'; '.join(told)}."
    present = set(part.loc[~part["is_victim"], "attack"])
    shapes = [(name, Look(-1, i % 6)) for name, i in attacks.items() if name in present]
    drawn = [*others[::every], *best_points, *victims]
    left_out, pooled = len(points) - len(drawn), bool((part["n_runs"] > part["n_seeds"]).any())
    return Plot(*about, which, alternative, x, y, fronts, drawn, watermarks, shapes, left_out, pooled)


def _told_front(best: pd.DataFrame, which: str) -> str:
    cheap = best[best["lost"] <= 2]
    last = (cheap if len(cheap) else best).iloc[-1]
    return f"{last['left']:.1f} % of {which} left for {last['lost']:.1f} points"


def _steps(points: Sequence[tuple[float, float]]) -> str:
    """A staircase: a loss between two points buys no more than the smaller one."""
    if not points:
        return ""
    return f"M{points[0][0]:g} {points[0][1]:g}" + "".join(f"H{a:g}V{b:g}" for a, b in points[1:])


def _point(row: Mapping[str, Any], place: tuple[float, float], number: int, look: Look, on_front: bool) -> Point:
    strength = spelled_strength(row)
    attack = "" if row["is_victim"] else row["attack"] + (f" ({row['settings']})" if row["settings"] else "")
    cells = [row["watermark"], str(row["n_seeds"]), attack, strength, spelled(row["lost"], 2), f"{row['left']:.1f}"]
    done = (
        "untouched" if row["is_victim"] else f"{attack}{_after(row)}, {row['strength_name'] or 'strength'} {strength}"
    )
    values = f"{spelled(row['lost'], 2)} points lost, {row['left']:.1f} % left"
    if not pd.isna(row["decoy_acc_mean"]):
        values += f", decoys {row['decoy_acc_mean']:.1f} %"
    over = f"mean of {row['n_seeds']} seeds" if row["n_seeds"] > 1 else "one seed"
    told = f"{row['watermark']}, {over}: {done}: {values}"
    return Point(*place, number, look, bool(row["is_victim"]), on_front, told, cells)


def _after(row: Mapping[str, Any]) -> str:
    epochs = row["epochs"]
    return f" ({epochs} epochs)" if not pd.isna(epochs) and epochs > 0 else ""
