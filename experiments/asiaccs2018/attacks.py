"""Robustness: what removal attacks leave and cost, and whether inversion shows the secret, from attacks' cards."""

from __future__ import annotations

import pandas as pd
from embedding import KEYS

#: Percentage points of clean accuracy that a thief is ready to lose.
LOSS = 2.0
#: Per cent of new triggers below which a watermark counts as removed.
GONE = 50.0


def bargains(frame: pd.DataFrame) -> pd.DataFrame:
    """For each model and removal attack: what is left for an owner when little is lost, and what removal costs.

    Of the surrogates after their last epoch that lose at most :data:`LOSS` points, that with the fewest new triggers;
    and the least loss among all surrogates, whatever their epoch, on which fewer than half of the new triggers work.
    """
    frame = frame[(frame.attack_type == "removal") & ~frame.is_victim].copy()
    for name in ("clean_acc", "clean_lost", "trigger_new_acc", "decoy_acc"):
        frame[name] *= 100
    rows = []
    for names, part in frame.groupby(["dataset", "watermark", "key", "attack", "seed"]):
        cheap = part[part.final & (part.clean_lost <= LOSS)]
        gone = part[part.trigger_new_acc < GONE]
        best = cheap.loc[cheap.trigger_new_acc.idxmin()] if len(cheap) else None
        least = gone.loc[gone.clean_lost.idxmin()] if len(gone) else None
        rows.append(
            {
                **dict(zip(("dataset", "watermark", "key", "attack", "seed"), names, strict=True)),
                "left": best.trigger_new_acc if best is not None else float("nan"),
                "decoys": best.decoy_acc if best is not None else float("nan"),
                "strength": best.strength if best is not None else float("nan"),
                "price": least.clean_lost if least is not None else float("nan"),
                "at": least.strength if least is not None else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def removal_table(found: pd.DataFrame) -> list[str]:
    """Mean over seeds of :func:`bargains`, with the range behind it."""
    lines = [
        "| data | watermark | key | attack | new triggers left at a loss of 2 points or less | decoys there "
        "| least loss that leaves fewer than half of the new triggers | seeds |",
        "|---|---|---|---|---:|---:|---:|---:|",
    ]
    for names, part in found.groupby(["dataset", "watermark", "key", "attack"]):
        dataset, watermark, key, attack = names
        price = "not at any strength tried"
        if part.price.notna().any():
            price = f"{_range(part.price.dropna())} points ({part.price.notna().sum()} of {len(part)} models)"
        cells = [dataset, watermark, KEYS.get(key, key), attack, _range(part.left), _range(part.decoys), price]
        lines.append(f"| {' | '.join(cells)} | {len(part)} |")
    return lines


def inversion_table(frame: pd.DataFrame) -> list[str]:
    """Scores of recovered images, against strangers' marks and against the unmarked model."""
    found = frame[frame.attack_type == "detection"]
    lines = [
        "| data | watermark | key | score | p (each seed) | score, unmarked model | p (each seed) |",
        "|---|---|---|---:|---|---:|---|",
    ]
    for names, part in found.groupby(["dataset", "watermark", "key"]):
        dataset, watermark, key = names
        cells = [dataset, watermark, KEYS.get(key, key), _range(part.score, 3), _each(part.p_value)]
        cells += [_range(part.twin_score, 3), _each(part.twin_p_value)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def costs(trained: pd.DataFrame, frame: pd.DataFrame) -> list[str]:
    """Seconds of each part, mean over models of which they are known.

    Args:
        trained: from ``embedding.read``.
        frame: the tidy table of attacks.
    """
    parts = [("training", trained[["dataset", "seconds"]])]
    last = frame[frame.final & (~frame.is_victim | (frame.attack_type == "detection"))].dropna(subset=["seconds"])
    spent = last.groupby(["attack", "dataset", "attack_fingerprint"], as_index=False).seconds.sum()
    parts += [(attack, rows[["dataset", "seconds"]]) for attack, rows in spent.groupby("attack")]
    lines = ["| data | part | models | seconds |", "|---|---|---:|---:|"]
    for dataset in sorted(trained.dataset.unique()):
        for part, rows in parts:
            seconds = rows[rows.dataset == dataset].seconds.dropna()
            if len(seconds):
                lines.append(f"| {dataset} | {part} | {len(seconds)} | {_range(seconds)} |")
    return lines


def _range(values: pd.Series[float], digits: int = 1) -> str:
    values = values.dropna()
    if not len(values):
        return "every strength costs more"
    low, mean, high = (f"{value:.{digits}f}" for value in (values.min(), values.mean(), values.max()))
    return mean if low == high else f"{mean} ({low} to {high})"


def _each(values: pd.Series[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values.dropna())
