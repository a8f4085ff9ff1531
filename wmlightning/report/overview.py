"""One line for each result, and what they come to over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd

from wmlightning.report.drawing import Look, label, records, triggers_of
from wmlightning.results.front import best_bargain
from wmlightning.results.table import judged

#: Of a sparkline, in its own units.
SPARK_WIDTH, SPARK_HEIGHT = 60, 16


@dataclass(frozen=True)
class Result:
    """A training, or an attack with all its strengths. Accuracies in per cent, NaN where there is none.

    Attributes:
        folder: of its card, below the folder of runs.
        victim: fingerprint of the model.
        attack: ``none`` for a training.
        detects: whether the attack yields findings instead of surrogates.
        strengths: in words.
        clean: clean accuracy; of an attack, at the thief's best bargain, as ``lost``, ``new`` and ``decoys``.
        lost: percentage points of clean accuracy that the thief pays.
        new: triggers that still work: new ones, but of a key that is learned by heart those it was trained on.
        before: of the same triggers, how many worked before the attack.
        bargain: its strength.
        spark: triggers left over strength, as an SVG path.
        spark_told: the same in words.
        score: of a detection, with its ``p``, and the same of the unmarked twin; of a claim there is the ``p``.
        seconds: of training or attack.
    """

    folder: str
    victim: str
    dataset: str
    watermark: str
    key: str
    model: str
    seed: int
    attack: str
    settings: str
    detects: bool = False
    strengths: str = ""
    clean: float = math.nan
    lost: float = math.nan
    new: float = math.nan
    decoys: float = math.nan
    before: float = math.nan
    bargain: str = ""
    spark: str = ""
    spark_told: str = ""
    score: float = math.nan
    p: float = math.nan
    twin_score: float = math.nan
    twin_p: float = math.nan
    seconds: float = math.nan

    @property
    def label(self) -> str:
        """Watermark and key."""
        return label(self.watermark, self.key)

    @property
    def triggers(self) -> str:
        """Those that are counted."""
        return triggers_of(self.key)


def results(frame: pd.DataFrame) -> list[Result]:
    """A result for each card that the table was made of, in its order."""
    folders: dict[str, list[dict[str, Any]]] = {}
    for row in records(judged(frame)):
        folders.setdefault(row["folder"], []).append(row)
    return [_result(rows) for rows in folders.values()]


def _result(rows: Sequence[Mapping[str, Any]]) -> Result:
    first = rows[0]
    names = ("folder", "victim", "dataset", "watermark", "key", "model", "attack")
    common: dict[str, Any] = {**{name: first[name] for name in names}, "seed": int(first["seed"])}
    told: dict[str, Any]
    if first["attack"] == "none":
        told = {"settings": "", "seconds": first["train_seconds"], **_accuracies(first)}
    elif first["attack_type"] == "detection":
        told = {"detects": True, "settings": first["settings"], "seconds": first["seconds"], "score": first["score"]}
        told |= {"p": first["p_value"], "twin_score": first["twin_score"], "twin_p": first["twin_p_value"]}
        told |= _accuracies(first)
    elif first["attack_type"] == "claim":  # on a model that it leaves as it is
        told = {"settings": first["settings"], "seconds": first["seconds"], "p": first["p_value"], **_accuracies(first)}
    else:
        told = _removal(first, [row for row in rows if not row["is_victim"]])
    return Result(**common, **told)


def _accuracies(row: Mapping[str, Any]) -> dict[str, float]:
    columns = {"clean": "clean_acc", "new": "kept", "decoys": "decoy_acc"}
    return {name: 100 * row[column] for name, column in columns.items()}


def _removal(victim: Mapping[str, Any], surrogates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    before = {"before": 100 * victim["kept"]}
    if not surrogates:
        return {"settings": victim["settings"], **before}
    clean = [_known(row["clean_acc"], -math.inf) for row in surrogates]
    left = [_known(row["kept"], 0.0) for row in surrogates]
    best = surrogates[best_bargain(victim["victim_clean_acc"], clean, left)]
    final = [row for row in surrogates if row["final"]]
    strengths = sorted({row["strength"] for row in surrogates})
    few = len(strengths) <= 2
    told = ", ".join(f"{s:g}" for s in strengths) if few else f"{strengths[0]:g} to {strengths[-1]:g}"
    return {
        **_accuracies(best),
        **before,
        "settings": ", ".join(dict.fromkeys(row["settings"] for row in surrogates if row["settings"])),
        "strengths": told,
        "lost": 100 * best["clean_lost"],
        "bargain": f"{best['strength_name'] or 'strength'} {best['strength']:g}",
        "spark": _spark([victim["kept"], *(row["kept"] for row in final)]),
        "spark_told": _spark_told(victim, final),
        "seconds": sum(row["seconds"] for row in final if not math.isnan(row["seconds"])),
    }


def _known(value: float, otherwise: float) -> float:
    return otherwise if math.isnan(value) else value


def _spark(shares: Sequence[float]) -> str:
    if len(shares) < 2 or any(map(math.isnan, shares)):
        return ""
    step = (SPARK_WIDTH - 4) / (len(shares) - 1)
    points = [f"{2 + i * step:.1f} {2 + (1 - share) * (SPARK_HEIGHT - 4):.1f}" for i, share in enumerate(shares)]
    return "M" + "L".join(points)


def _spark_told(victim: Mapping[str, Any], drawn: Sequence[Mapping[str, Any]]) -> str:
    if not drawn:
        return ""
    before, end = victim["kept"], drawn[-1]
    least = min(before, *(row["kept"] for row in drawn))
    told = f"{triggers_of(victim['key'])} left: {100 * before:.0f} % untouched"
    told += f", {100 * end['kept']:.0f} % at {end['strength_name'] or 'strength'} {end['strength']:g}"
    return told + (f", {100 * least:.0f} % at the least" if least < min(before, end["kept"]) else "")


@dataclass(frozen=True)
class Mean:
    """Over seeds; ``mean`` is NaN where there is nothing."""

    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Of the numbers among the values."""
        known = [value for value in values if not math.isnan(value)]
        return cls(fmean(known), min(known), max(known), len(known)) if known else cls()


@dataclass(frozen=True)
class Line:
    """A watermark and key at a glance.

    Attributes:
        n: models.
        seeds: of them, different ones.
        trained: accuracies before any attack.
        triggers: those that are counted.
        attacked: for each removal attack of the table, triggers left and points lost.
        detected: for each detection, the p of each model. A mean of them would be no p.
    """

    label: str
    triggers: str
    look: Look
    n: int
    seeds: int
    trained: Sequence[Mean]
    attacked: Sequence[tuple[Mean, Mean]]
    detected: Sequence[Sequence[float]]

    @property
    def pooled(self) -> bool:
        """Whether models differ in more than their seed."""
        return self.n > self.seeds


@dataclass(frozen=True)
class Glance:
    """A task: its watermarks and keys against the attacks."""

    dataset: str
    model: str
    attacks: Sequence[str]
    detections: Sequence[str]
    lines: Sequence[Line]


def glances(found: Sequence[Result], known: Mapping[tuple[str, str], Look]) -> list[Glance]:
    """What the results come to: a table for each task."""
    tasks = dict.fromkeys((result.dataset, result.model) for result in found)
    return [_glance(*task, [r for r in found if (r.dataset, r.model) == task], known) for task in tasks]


def _glance(dataset: str, model: str, found: Sequence[Result], known: Mapping[tuple[str, str], Look]) -> Glance:
    removals = list(dict.fromkeys(_named(r) for r in found if r.strengths))
    detections = list(dict.fromkeys(_named(r) for r in found if r.detects and not math.isnan(r.p)))
    lines = []
    for kind in dict.fromkeys((r.watermark, r.key) for r in found):
        here = [r for r in found if (r.watermark, r.key) == kind]
        models = [r for r in here if r.attack == "none"]
        attacked = []
        for name in removals:
            these = [r for r in here if r.strengths and _named(r) == name]
            attacked.append((Mean.of([r.new for r in these]), Mean.of([r.lost for r in these])))
        detected = [
            [r.p for r in here if r.detects and _named(r) == name and not math.isnan(r.p)] for name in detections
        ]
        trained = [Mean.of([getattr(r, part) for r in models]) for part in ("clean", "new", "decoys")]
        n, seeds = len({r.victim for r in here}), len({r.seed for r in here})
        lines.append(Line(label(*kind), triggers_of(kind[1]), known[kind], n, seeds, trained, attacked, detected))
    return Glance(dataset, model, removals, detections, lines)


def _named(result: Result) -> str:
    return f"{result.attack} ({result.settings})" if result.settings else result.attack
