"""Remote verification: how many queries decide, from what ``experiments/ownership/power.py`` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pandas as pd
from embedding import KEYS, WATERMARKS

#: How power.py calls keys, by how the tables of this study do.
_NAMES = {"8 marks, negatives": "8 marks, negatives", "random labels": KEYS["paper, random labels"]}
_ORDER = (KEYS["paper"], KEYS["negatives"], KEYS["8 marks"], KEYS["paper, random labels"])


def read(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows, with the names of this study's tables."""
    return frame.assign(key=frame.key.replace(_NAMES))


def table(frame: pd.DataFrame, columns: dict[str, tuple[str, float]]) -> list[str]:
    """Median of the queries that decided (p <= 0.001), and how often they did; where none did, the median p-value.

    Args:
        frame: see :func:`read`.
        columns: attack and strength, by the column's title.
    """
    lines = [f"| data | watermark | key | {' | '.join(columns)} |", "|---|---|---|" + "---:|" * len(columns)]
    for names, part in _by_key(frame):
        cells = [_cell(part[(part.attack == a) & (part.strength == s)]) for a, s in columns.values()]
        lines.append(f"| {' | '.join([*names, *cells])} |")
    return lines


def _by_key(frame: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Rows of each data set, watermark and key, in the order of the tables."""
    groups = dict(iter(frame.groupby(["dataset", "watermark", "key"])))
    for names in product(sorted(frame.dataset.unique()), WATERMARKS, _ORDER):
        if names in groups:
            yield names, groups[names]


def _cell(part: pd.DataFrame) -> str:
    if not len(part):
        return ""
    decided = part[part.decided]
    often = "" if len(decided) == len(part) else f" ({len(decided)} of {len(part)})"
    return f"{decided.queries.median():.0f}{often}" if len(decided) else f"never (p = {part.p_value.median():.2g})"


def claims_table(frame: pd.DataFrame) -> list[str]:
    """A count of matches, which is the paper's way of verifying, beside what a test proves, by who claims what."""
    who = {"the owner": "none", "a stranger, of the owner's model": "a stranger claims it"}
    who["the owner, of an unmarked model"] = "an unmarked model"
    head = " | ".join(f"{name}: matches | proven" for name in who)
    lines = [f"| data | watermark | key | {head} |", "|---|---|---|" + "---:|---:|" * len(who)]
    for names, part in _by_key(frame):
        cells = []
        for attack in who.values():
            of_one = part[part.attack == attack]
            share = f"{of_one.matches.sum():.0f} of {of_one.triggers.sum():.0f}" if len(of_one) else ""
            cells += [share, f"{int(of_one.decided.sum())} of {len(of_one)}"]
        lines.append(f"| {' | '.join([*names, *cells])} |")
    return lines


#: Shares of matching triggers at which a verifier who counts would be convinced.
COUNTED = (0.5, 0.9)


def strangers_table(trained: pd.DataFrame) -> list[str]:
    """Whom a count of matches would convince: of twenty strangers, the luckiest at each model.

    Args:
        trained: from ``embedding.read``.
    """
    known = trained[trained["decoys, luckiest"].notna()]
    head = " | ".join(f"models where a stranger passes at {share:.0%}" for share in COUNTED)
    lines = [
        f"| data | watermark | key | luckiest stranger: triggers that match | {head} |",
        "|---|---|---|---:|---:|---:|",
    ]
    for (dataset, watermark, key), part in known.groupby(["dataset", "watermark", "key"], sort=False):
        luckiest = part["decoys, luckiest"]
        mean, low, high = (f"{value:.0f}" for value in (luckiest.mean(), luckiest.min(), luckiest.max()))
        told = f"{mean} %" if low == high else f"{mean} % ({low} to {high})"
        passes = [f"{int((luckiest >= 100 * share).sum())} of {len(part)}" for share in COUNTED]
        lines.append(f"| {' | '.join([dataset, watermark, KEYS[key], told, *passes])} |")
    return lines
