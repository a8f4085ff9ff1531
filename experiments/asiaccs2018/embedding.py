"""Fidelity and effectiveness: what a watermark costs and gives, from the cards of trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from wmlightning.results.card import read_card

METRICS = {
    "test/clean_acc": "clean",
    "test/source_acc": "source class",
    "test/trigger_acc": "trained triggers",
    "test/trigger_new_acc": "new triggers",
    "test/decoy_acc": "decoys",
}
WATERMARKS = ("none", "noise", "content", "unrelated")
#: Keys by the tag that their experiment's yaml gives them, and what the tables call them.
TAGS = {
    "paper": "paper",
    "fresh": "paper, fresh noise",
    "negatives": "negatives",
    "marks": "8 marks",
    "random": "paper, random labels",
}
KEYS = {
    "": "",
    "paper": "one mark, as in the paper",
    "paper, fresh noise": "fresh noise for each image",
    "negatives": "one mark, negatives",
    "8 marks": "8 marks, negatives",
    "paper, random labels": "a label for each trigger",
}


def read(folder: Path) -> pd.DataFrame:
    """One row for each finished run of the study below ``folder``; accuracies in per cent."""
    rows: list[dict[str, Any]] = []
    for place in sorted(folder.iterdir()):
        card = read_card(place)
        if card is None or card.get("kind") != "train":
            continue
        config = card["config"]
        target = config["watermark"]["_target_"]
        watermark = target.rsplit(".", 1)[-1].lower() if target else "none"
        tags = [tag for tag in TAGS if tag in config["tags"]]
        if target and not ("asiaccs2018" in config["tags"] and tags):
            continue
        key = TAGS[tags[0]] if target else ""
        row = {"dataset": config["dataset"]["name"], "watermark": watermark, "key": key, "seed": card["seed"]}
        row |= {name: 100 * card["metrics"].get(metric, float("nan")) for metric, name in METRICS.items()}
        row |= {"decoys, luckiest": 100 * card["metrics"].get("test/decoy_acc_max", float("nan"))}
        row |= {"triggers": card["data"]["triggers"], "stored as": card["data"]["stored_as"]}
        row |= {"precision": card["precision"], "epochs": card["epochs"], "seconds": card["seconds"]["train"]}
        row |= {"threads": card["threads"], "platform": card["environment"]["platform"], "device": card["device"]}
        row |= {"fingerprint": card["fingerprint"], "commit": card["environment"]["git_commit"]}
        rows.append(row)
    return ordered(pd.DataFrame(rows))


def from_csv(path: Path) -> pd.DataFrame:
    """What :func:`read` gave."""
    return pd.read_csv(path).fillna({"key": ""})


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """In the order of the tables."""
    order = {name: i for i, name in enumerate((*WATERMARKS, *KEYS))}
    columns = ["dataset", "watermark", "key", "seed"]
    return table.sort_values(columns, key=lambda c: c.map(lambda v: order.get(v, v)) if c.name in columns[1:3] else c)


def markdown(runs: pd.DataFrame) -> str:
    """Mean over seeds; behind it the range where it is wider than the rounding. Of the seconds, the least disturbed."""
    lines = []
    for dataset, part in runs.groupby("dataset", sort=False):
        most = part.groupby(["watermark", "key"])["seed"].nunique().max()
        stored = ", ".join(part["stored as"].unique())
        seeds = ", ".join(str(seed) for seed in sorted(part["seed"].unique()))
        how = f"{part['epochs'].max()} epochs, {part['precision'].iloc[0]}, seeds {seeds}"
        lines += [f"**{dataset}** ({stored}; {how})", ""]
        lines += [f"| watermark | key | {' | '.join(METRICS.values())} | seconds |"]
        lines += ["|---|---|" + "---:|" * (len(METRICS) + 1)]
        for (watermark, key), group in part.groupby(["watermark", "key"], sort=False):
            cells = [_cell(group[name]) for name in METRICS.values()]
            fewer = "" if len(group) == most else f" ({len(group)} of {most} seeds)"
            lines.append(f"| {watermark} | {KEYS[key]}{fewer} | {' | '.join(cells)} | {group['seconds'].min():.0f} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def _cell(values: pd.Series) -> str:
    if values.isna().all():
        return ""
    places = 2 if values.name == "clean" else 1
    mean, low, high = (f"{number:.{places}f}" for number in (values.mean(), values.min(), values.max()))
    return mean if low == high else f"{mean} ({low} to {high})"
