"""What it costs to put a watermark into a model that is already trained: a table from cards of ``run.sh``.

Writes ``results.csv`` (one row a run) and ``table.md`` beside this file, so that no number is typed by hand.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

from wmlightning.files import write_bytes

HERE = Path(__file__).resolve().parent
RUNS = HERE.parents[1] / "runs"
SHARES = ("clean before", "clean after", "trained triggers", "new triggers", "decoys")
KEYS = {"negatives": "one mark, negatives", "marks": "8 marks"}


def read(folder: Path, starts: Path) -> pd.DataFrame:
    """One row for each finished run below ``folder`` that began from a finished one below ``starts``."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*/card.json")):
        card = json.loads(path.read_text())
        if not card.get("start", {}).get("run"):
            continue
        before = json.loads((starts / card["start"]["run"] / "card.json").read_text())["metrics"]
        after, guard, watermark = card["metrics"], card["guard"], card["config"]["watermark"]
        rows.append(
            {
                "dataset": card["config"]["dataset"]["name"],
                "stored as": card["data"]["stored_as"],
                "watermark": watermark["_target_"].rsplit(".", 1)[-1].lower(),
                "key": next(text for tag, text in KEYS.items() if tag in card["config"]["tags"]),
                "seed": card["seed"],
                "clean before": 100 * before["test/clean_acc"],
                "clean after": 100 * after["test/clean_acc"],
                "trained triggers": 100 * after["test/trigger_acc"],
                "new triggers": 100 * after["test/trigger_new_acc"],
                "decoys": 100 * after["test/decoy_acc"],
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
    order = ["dataset", "key", "watermark", "seed"]
    return pd.DataFrame(rows).sort_values(order, ascending=[False, False, False, True])


def markdown(runs: pd.DataFrame) -> str:
    """One line a run."""
    columns = ["watermark", "key", "seed", *SHARES, "epochs", "seconds"]
    lines = []
    for (dataset, stored), part in runs.groupby(["dataset", "stored as"], sort=False):
        lines += [f"**{dataset}** ({stored}; {part['precision'].iloc[0]})", ""]
        lines += [f"| {' | '.join(columns)} |", "|---|---|" + "---:|" * (len(columns) - 2)]
        for row in part.to_dict("records"):
            shares = [f"{row[name]:.2f}" if "clean" in name else f"{row[name]:.1f}" for name in SHARES]
            epochs = f"{row['epochs kept']} of {row['epochs']}" if row["stopped"] else f"{row['epochs']}"
            cells = [row["watermark"], row["key"], row["seed"], *shares, epochs, f"{row['seconds']:.0f}"]
            lines.append(f"| {' | '.join(map(str, cells))} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Reads cards, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=RUNS / "trained")
    parser.add_argument("--starts", type=Path, default=RUNS / "asiaccs2018-paper")
    options = parser.parse_args()
    runs = read(options.runs, options.starts)
    write_bytes(HERE / "results.csv", runs.round(3).to_csv(index=False).encode())
    write_bytes(HERE / "table.md", markdown(runs).encode())
    print(markdown(runs))


if __name__ == "__main__":
    main()
