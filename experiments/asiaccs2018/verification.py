"""Remote verification: how many queries decide, from what ``experiments/ownership/power.py`` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pandas as pd
from embedding import KEYS, MODEL, WATERMARKS, told

_ORDER = (KEYS["paper"], KEYS["negatives"], KEYS["8 marks"], KEYS["paper, random labels"])
#: What a row is about.
ABOUT = [*MODEL, "attack", "strength"]
#: A question, apart from the suspect that it is put to.
_QUESTION = [*MODEL, "turn"]
_FOUND = ["decided", "queries", "triggers", "matches", "p_value"]


def read(path: Path) -> pd.DataFrame:
    """What ``power.py`` wrote; no row if there is no file."""
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["model", *_QUESTION, *ABOUT[-2:], *_FOUND])


def fingerprints(frame: pd.DataFrame) -> pd.Series[str]:
    """Of the models that were asked."""
    return frame.model.astype(str).str.rsplit("-", n=1).str[-1]


def of_models(frame: pd.DataFrame, trained: pd.DataFrame) -> pd.DataFrame:
    """The rows of models of the study, with the names that its tables give to keys."""
    names = dict(zip(trained.fingerprint, trained.key.map(KEYS), strict=True))
    return frame.assign(key=fingerprints(frame).map(names)).dropna(subset=["key"]).astype({"decided": bool})


def table(frame: pd.DataFrame, columns: dict[str, tuple[str, float]]) -> list[str]:
    """Median of the queries that decided (p <= 0.001), and how often they did; where none did, the median p-value.

    Args:
        frame: see :func:`of_models`.
        columns: attack and strength, by the column's title.
    """
    lines = [
        f"| data | watermark | key | triggers asked about | {' | '.join(columns)} |",
        "|---|---|---|---:|" + "---:|" * len(columns),
    ]
    for names, part in _by_key(frame):
        cells = [_cell(part[(part.attack == a) & (part.strength == s)]) for a, s in columns.values()]
        asked = part[part.attack == "none"].triggers
        few = f"{asked.min():.0f}" if asked.nunique() == 1 else f"{asked.min():.0f} to {asked.max():.0f}"
        lines.append(f"| {' | '.join([*names, few if len(asked) else '', *cells])} |")
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


def terms(frame: pd.DataFrame) -> str:
    """What was asked, as the rows tell: how often, about how many triggers, with how many images."""
    as_it_is = frame[frame.attack == "none"]
    if not len(as_it_is):
        return "No model was asked."
    single = as_it_is.key.isin([KEYS["paper"], KEYS["negatives"]])
    told_of = []
    for keys, part in (("several marks or labels", as_it_is[~single]), ("one mark", as_it_is[single])):
        if len(part):
            turns = _listed(part.groupby("model").turn.nunique())
            most = _listed(part["most triggers"]) if "most triggers" in part else ""
            about = f" of at most {most} triggers" if most else ""
            told_of.append(f"a key of {keys} in {turns} orders{about}")
    budget = _listed(as_it_is["most images"]) if "most images" in as_it_is else ""
    asked = f"Each model was asked with {' and '.join(told_of)}"
    return f"{asked}, with at most {budget} images each." if budget else f"{asked}."


def of_http(frame: pd.DataFrame) -> str:
    """Whether the way to a model changes its answers."""
    parts = [frame[frame.attack == attack].set_index(_QUESTION)[_FOUND] for attack in ("none", "HTTP")]
    here, there = parts[0].align(parts[1], join="inner", axis=0)
    if not len(there):
        return ""
    same = int((here == there).all(axis=1).sum())
    if same == len(there):
        return f"Through HTTP all {same} questions have the same answers, which are not counted again."
    return f"Through HTTP the same questions have the same outcome {same} times of {len(there)}."


def _listed(values: pd.Series) -> str:
    return " or ".join(f"{int(value):,}" for value in sorted(values.dropna().unique()))


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
        passes = [f"{int((luckiest >= 100 * share).sum())} of {len(part)}" for share in COUNTED]
        lines.append(f"| {' | '.join([dataset, watermark, KEYS[key], told(luckiest, 0, ' %'), *passes])} |")
    return lines
