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
    """Median of the queries that decided (p <= 0.001), and how often they did.

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
    return f"{decided.queries.median():.0f}{often}" if len(decided) else "never"


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
            share = f"{100 * of_one.matches.sum() / of_one.triggers.sum():.0f} %" if len(of_one) else ""
            cells += [share, f"{int(of_one.decided.sum())} of {len(of_one)}"]
        lines.append(f"| {' | '.join([*names, *cells])} |")
    return lines
