"""Renders the README's table from the cards of ``experiments/embedding/run.sh``: ``make table``.

Writes ``results.csv`` (one row a run) and ``table.md`` (mean and range over seeds) beside this file, and puts the table
between the markers in the README, so that no number is typed by hand.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

from wmlightning.files import write_bytes

HERE = Path(__file__).resolve().parent
README = HERE.parents[1] / "README.md"
START, END = "<!-- embedding table: start -->", "<!-- embedding table: end -->"

METRICS = {
    "test/clean_acc": "clean",
    "test/source_acc": "source class",
    "test/trigger_acc": "trained triggers",
    "test/trigger_new_acc": "new triggers",
    "test/decoy_acc": "decoys",
}
WATERMARKS = ("none", "noise", "content", "unrelated")
KEYS = ("", "paper", "negatives", "marks")
NAMES = {"": "", "paper": "one mark, as in the paper", "negatives": "one mark, negatives", "marks": "8 marks"}


def read(folder: Path) -> pd.DataFrame:
    """One row for each finished run below ``folder``."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*/card.json")):
        card = json.loads(path.read_text())
        config = card["config"]
        key = next((tag for tag in config["tags"] if tag in KEYS and tag), "")
        target = config["watermark"]["_target_"]
        watermark = target.rsplit(".", 1)[-1].lower() if target else "none"
        if watermark != "none" and not key:
            continue
        row = {"dataset": config["dataset"]["name"], "watermark": watermark, "key": key, "seed": card["seed"]}
        row |= {name: 100 * card["metrics"].get(metric, float("nan")) for metric, name in METRICS.items()}
        row |= {"decoys, luckiest": 100 * card["metrics"].get("test/decoy_acc_max", float("nan"))}
        row |= {"triggers": card["data"]["triggers"], "stored as": card["data"]["stored_as"]}
        row |= {"precision": card["precision"], "epochs": card["epochs"], "seconds": card["seconds"]["train"]}
        row |= {"fingerprint": card["fingerprint"], "commit": card["environment"]["git_commit"]}
        rows.append(row)
    table = pd.DataFrame(rows)
    order = {**{name: i for i, name in enumerate(WATERMARKS)}, **{name: i for i, name in enumerate(KEYS)}}
    columns = ["dataset", "watermark", "key", "seed"]
    return table.sort_values(columns, key=lambda c: c.map(lambda v: order.get(v, v)) if c.name in columns[1:3] else c)


def markdown(runs: pd.DataFrame) -> str:
    """Mean over seeds; behind it the range where it is wider than the rounding."""
    lines = []
    for dataset, part in runs.groupby("dataset", sort=False):
        n_seeds = part["seed"].nunique()
        stored = ", ".join(part["stored as"].unique())
        seeds = ", ".join(str(seed) for seed in sorted(part["seed"].unique()))
        how = f"{part['epochs'].max()} epochs, {part['precision'].iloc[0]}, seeds {seeds}"
        lines += [f"**{dataset}** ({stored}; {how})", ""]
        lines += [f"| watermark | key | {' | '.join(METRICS.values())} |", "|---|---|" + "---:|" * len(METRICS)]
        for (watermark, key), group in part.groupby(["watermark", "key"], sort=False):
            cells = [_cell(group[name]) for name in METRICS.values()]
            fewer = "" if len(group) == n_seeds else f" ({len(group)} of {n_seeds} seeds)"
            lines.append(f"| {watermark} | {NAMES[key]}{fewer} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _cell(values: pd.Series) -> str:
    if values.isna().all():
        return ""
    mean, low, high = (f"{number:.1f}" for number in (values.mean(), values.min(), values.max()))
    if values.name == "clean":
        mean, low, high = (f"{number:.2f}" for number in (values.mean(), values.min(), values.max()))
    return mean if low == high else f"{mean} ({low} to {high})"


def main() -> None:
    """Reads cards, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=HERE.parents[1] / "runs" / "embedding")
    options = parser.parse_args()
    runs = read(options.runs)
    table = markdown(runs)
    write_bytes(HERE / "results.csv", runs.round(3).to_csv(index=False).encode())
    write_bytes(HERE / "table.md", table.encode())
    text = README.read_text()
    before, after = text.index(START) + len(START), text.index(END)
    write_bytes(README, f"{text[:before]}\n\n{table}\n{text[after:]}".encode())
    print(table)


if __name__ == "__main__":
    main()
