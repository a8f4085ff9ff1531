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
#: Their single mark is one of a handful of classes: most of what tells keys apart by rank cannot be shown of it.
HANDFUL = ("unrelated",)
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
#: Names a model of the study.
MODEL = ["dataset", "watermark", "key", "seed"]
COLUMNS = [
    *MODEL,
    *METRICS.values(),
    *("decoys, luckiest", "triggers", "stored as", "precision", "epochs", "seconds"),
    *("threads", "platform", "device", "cpu", "cores", "fingerprint", "commit"),
]
#: The one pair of the paper's figures that is established: clean accuracy without and with a watermark, by data set.
PAPER = {"cifar10": {"none": "78.6", "not named": "78.41"}}
PAPER_SOURCE = "*the paper's, as told by the press, quoting a co-author*"


def read(folder: Path) -> pd.DataFrame:
    """One row for each model of the study below ``folder``; accuracies in per cent.

    Marked ones have the tags of the study. Of the unmarked ones those count that were trained as a marked one was,
    but for the watermark: a store may hold others.
    """
    cards = [card for place in sorted(folder.iterdir()) if (card := read_card(place)) is not None]
    trained = [card for card in cards if card.get("kind") == "train"]
    marked = [card for card in trained if card["config"]["watermark"]["_target_"] and _tag(card)]
    tasks = [_task(card) for card in marked]
    twins = [card for card in trained if not card["config"]["watermark"]["_target_"] and _task(card) in tasks]
    found = pd.DataFrame([_row(card) for card in (*marked, *twins)], columns=COLUMNS)
    for names, part in found.groupby(MODEL):
        if len(part) > 1:
            wrong = f"{len(part)} models of {' '.join(map(str, names))} ({', '.join(part.fingerprint)})"
            raise SystemExit(f"error: {folder} has {wrong}; keep one, or name another STORE")
    return ordered(found)


def _tag(card: dict[str, Any]) -> str:
    tags = card["config"]["tags"]
    return next((tag for tag in TAGS if tag in tags), "") if "asiaccs2018" in tags else ""


def _task(card: dict[str, Any]) -> tuple[Any, ...]:
    """What a model and its unmarked twin have in common."""
    return tuple(card["config"][name] for name in ("dataset", "model", "recipe", "trainer", "precision", "seed"))


def _row(card: dict[str, Any]) -> dict[str, Any]:
    config, environment = card["config"], card["environment"]
    target = config["watermark"]["_target_"]
    row = {"dataset": config["dataset"]["name"], "seed": card["seed"]}
    row |= {"watermark": target.rsplit(".", 1)[-1].lower() if target else "none", "key": TAGS.get(_tag(card), "")}
    row |= {name: 100 * card["metrics"].get(metric, float("nan")) for metric, name in METRICS.items()}
    row |= {"decoys, luckiest": 100 * card["metrics"].get("test/decoy_acc_max", float("nan"))}
    row |= {"triggers": card["data"]["triggers"], "stored as": card["data"]["stored_as"]}
    row |= {"precision": card["precision"], "epochs": card["epochs"], "seconds": card["seconds"]["train"]}
    row |= {"threads": card["threads"], "device": card["device"], "platform": environment["platform"]}
    row |= {name: environment.get(name) for name in ("cpu", "cores")}  # older cards do not tell
    return row | {"fingerprint": card["fingerprint"], "commit": environment["git_commit"]}


def from_csv(path: Path) -> pd.DataFrame:
    """What :func:`read` gave; no row if there is no file."""
    found = pd.read_csv(path) if path.exists() else pd.DataFrame()
    return found.reindex(columns=COLUMNS).fillna({"key": ""})


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """In the order of the tables."""
    order = {name: i for i, name in enumerate((*WATERMARKS, *KEYS))}
    return table.sort_values(MODEL, key=lambda c: c.map(lambda v: order.get(v, v)) if c.name in MODEL[1:3] else c)


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
        for name, clean in PAPER.get(str(dataset), {}).items():
            lines.append(f"| {name} | {PAPER_SOURCE} | {clean} |{'  |' * len(METRICS)}")
        for (watermark, key), group in part.groupby(["watermark", "key"], sort=False):
            cells = [told(group[name], 2 if name == "clean" else 1) for name in METRICS.values()]
            cells.append("" if group.seconds.isna().all() else f"{group.seconds.min():.0f}")
            fewer = "" if len(group) == most else f" ({len(group)} of {most} seeds)"
            lines.append(f"| {watermark} | {KEYS[key]}{fewer} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def told(values: pd.Series, places: int = 1, unit: str = "") -> str:
    """The mean, and behind it the range where it is wider than the rounding; nothing where nothing is known."""
    values = values.dropna()
    if not len(values):
        return ""
    numbers = (round(number, places) + 0.0 for number in (values.mean(), values.min(), values.max()))  # not -0.0
    mean, low, high = (f"{number:.{places}f}" for number in numbers)
    return f"{mean}{unit}" if low == high else f"{mean}{unit} ({low} to {high})"
