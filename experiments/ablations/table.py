"""One option at a time: a table for each line of ``run.sh``, rendered from cards into this folder's README.

A run belongs to a table if it differs from the paper's key in nothing but the table's option, and what the table fixes;
its precision is that of most runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from wmlightning.files import write_bytes
from wmlightning.results.card import read_card

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
START, END = "<!-- tables: start -->", "<!-- tables: end -->"
METRICS = {
    "clean": "test/clean_acc",
    "trained triggers": "test/trigger_acc",
    "new triggers": "test/trigger_new_acc",
    "decoys": "test/decoy_acc",
}
#: The paper's key, and what a run is described by.
PAPER = {
    "n_triggers": 0.01,
    "n_marks": 1,
    "negatives": 0,
    "label": "target",
    "mix": "concat",
    "source_class": "auto",
    "fresh": False,
    "strength": 0.2,
    "opacity": 1.0,
}
#: Title, option, and what is fixed otherwise than in the paper's key.
TABLES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("One secret pattern, or fresh noise for each image", "fresh", {}),
    ("Number of triggers (share of the training images)", "n_triggers", {}),
    ("Merged and shuffled, or some in each batch", "mix", {}),
    ("Strength of the noise", "strength", {}),
    ("Opacity of the text", "opacity", {}),
    ("Negatives, relative to the triggers", "negatives", {}),
    (
        "One mark, or several (4 % triggers, images of any class)",
        "n_marks",
        {"n_triggers": 0.04, "source_class": "any"},
    ),
    ("A label for the mark, or for each trigger (images of any class)", "label", {"source_class": "any"}),
    ("Precision", "precision", {}),
)


def main() -> None:
    """Reads cards, writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True)
    options = parser.parse_args()
    runs = _read(options.runs)
    write_bytes(HERE / "results.csv", runs.to_csv(index=False, float_format="%.6g").encode())
    page = rendered(pd.read_csv(HERE / "results.csv"))
    text = README.read_text()
    before, after = text.index(START) + len(START), text.index(END)
    write_bytes(README, f"{text[:before]}\n\n{page}\n\n{text[after:]}".encode())
    print(page)


def rendered(runs: pd.DataFrame) -> str:
    """All tables, from rows of ``results.csv``."""
    stored, epochs = ", ".join(sorted(runs["stored as"].unique())), int(runs.epochs.max())
    seeds = ", ".join(str(seed) for seed in sorted(runs.seed.unique()))
    usual = str(runs.precision.mode().iloc[0])
    parts = [f"{', '.join(sorted(runs.dataset.unique()))} ({stored}), {epochs} epochs, {usual}, seeds {seeds}."]
    for title, option, fixed in TABLES:
        lines = _table(runs, option, {**PAPER, "precision": usual, **fixed})
        parts.append(f"### {title}\n\n" + ("\n".join(lines) if len(lines) > 2 else "Not run yet."))
    return "\n\n".join(parts)


def _read(folder: Path) -> pd.DataFrame:
    rows = []
    for place in sorted(folder.iterdir()):
        card = read_card(place)
        if card is None or card.get("kind") != "train":
            continue
        watermark = card["config"]["watermark"]
        row = {"watermark": watermark["_target_"].rsplit(".", 1)[-1].lower(), "precision": card["precision"]}
        row |= {name: watermark.get(name, PAPER[name]) for name in PAPER}
        row |= {"dataset": card["config"]["dataset"]["name"], "seed": card["seed"], "epochs": card["epochs"]}
        row |= {"stored as": card["data"]["stored_as"], "fingerprint": card["fingerprint"]}
        rows.append(row | {name: 100 * card["metrics"].get(metric, float("nan")) for name, metric in METRICS.items()})
    return pd.DataFrame(rows)


def _table(runs: pd.DataFrame, option: str, base: dict[str, Any]) -> list[str]:
    """Mean over seeds, and the range behind it."""
    for name, value in base.items():
        if name != option:
            runs = runs[runs[name] == value]
    lines = [f"| watermark | {option} | {' | '.join(METRICS)} | seeds |", "|---|---|" + "---:|" * (len(METRICS) + 1)]
    for watermark, part in runs.groupby("watermark"):
        if part[option].nunique() < 2:
            continue
        for value, group in part.groupby(option):
            cells = [_cell(group[name], 2 if name == "clean" else 1) for name in METRICS]
            lines.append(f"| {watermark} | {value} | {' | '.join(cells)} | {len(group)} |")
    return lines


def _cell(values: pd.Series, places: int) -> str:
    mean, low, high = (f"{number:.{places}f}" for number in (values.mean(), values.min(), values.max()))
    return mean if low == high else f"{mean} ({low} to {high})"


if __name__ == "__main__":
    main()
