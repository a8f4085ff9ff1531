"""What it costs to put a watermark into a model that is already trained: a table from cards of ``run.sh``.

Writes ``results.csv`` (one row a run) and ``table.md`` beside this file, so that no number is typed by hand. Unmarked
models that were trained on in the same way are the control.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

from wmlightning.files import write_bytes

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.csv"
RUNS = HERE.parents[1] / "runs"
SHARES = {"clean before": 2, "clean after": 2, "trained triggers": 1, "new triggers": 1, "decoys": 1}
KEYS = {"negatives": "one mark, negatives", "marks": "8 marks, negatives"}


def read(folder: Path, starts: Path) -> pd.DataFrame:
    """One row for each finished run below ``folder`` that began from a finished one below ``starts``."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*/card.json")):
        card = json.loads(path.read_text())
        if not card.get("start", {}).get("run"):
            continue
        before = json.loads((starts / card["start"]["run"] / "card.json").read_text())["metrics"]
        after, guard, watermark = card["metrics"], card["guard"], card["config"]["watermark"].get("_target_")
        rows.append(
            {
                "dataset": card["config"]["dataset"]["name"],
                "stored as": card["data"]["stored_as"],
                "watermark": watermark.rsplit(".", 1)[-1].lower() if watermark else "none",
                "key": next((text for tag, text in KEYS.items() if tag in card["config"]["tags"]), ""),
                "seed": card["seed"],
                "clean before": 100 * before["test/clean_acc"],
                "clean after": 100 * after["test/clean_acc"],
                "trained triggers": 100 * after.get("test/trigger_acc", float("nan")),
                "new triggers": 100 * after.get("test/trigger_new_acc", float("nan")),
                "decoys": 100 * after.get("test/decoy_acc", float("nan")),
                "epochs kept": guard["epochs_kept"],
                "epochs": card["epochs"],
                "stopped": guard["stopped"],
                "seconds": card["seconds"]["train"],
                "precision": card["precision"],
                "fingerprint": card["fingerprint"],
                "start": card["start"]["run"],
                "commit": card["environment"]["git_commit"],
            }
        )
    keys = ["", *KEYS.values()]
    rows.sort(key=lambda row: (row["dataset"] != "mnist", keys.index(row["key"]), row["watermark"], row["seed"]))
    return pd.DataFrame(rows)


def from_csv() -> pd.DataFrame:
    """What :func:`read` gave."""
    return pd.read_csv(RESULTS).fillna({"key": ""})


def markdown(runs: pd.DataFrame) -> str:
    """One line a key: the mean over seeds, and from where to where they reach."""
    columns = ["watermark", "key", "seeds", *SHARES, "epochs", "seconds"]
    lines = []
    for (dataset, stored), part in runs.groupby(["dataset", "stored as"], sort=False):
        lines += [f"**{dataset}** ({stored}; {part['precision'].iloc[0]})", ""]
        lines += [f"| {' | '.join(columns)} |", "|---|---|" + "---:|" * (len(columns) - 2)]
        for (watermark, key), rows in part.groupby(["watermark", "key"], sort=False):
            seeds = ", ".join(map(str, rows["seed"]))
            shares = [_told(rows[name], digits) for name, digits in SHARES.items()]
            stopped = f", {rows['stopped'].sum()} stopped" if rows["stopped"].any() else ""
            epochs = f"{rows['epochs'].iloc[0]}{stopped}"
            cells = [watermark, key, seeds, *shares, epochs, _told(rows["seconds"], 0)]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _told(values: pd.Series, digits: int) -> str:
    if values.isna().all():
        return ""
    mean, low, high = (f"{value:.{digits}f}" for value in (values.mean(), values.min(), values.max()))
    return mean if low == high else f"{mean} ({low} to {high})"


def main() -> None:
    """Reads cards, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=RUNS / "trained")
    parser.add_argument("--starts", type=Path, default=RUNS / "asiaccs2018-paper")
    options = parser.parse_args()
    runs = read(options.runs, options.starts)
    write_bytes(RESULTS, runs.round(3).to_csv(index=False).encode())
    page = markdown(from_csv())
    write_bytes(HERE / "table.md", page.encode())
    print(page)


if __name__ == "__main__":
    main()
