"""Rows of ``run.sh``'s runs: ``results.csv``, from which ``experiments/front.py`` takes what the README says."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

sys.path.append(str(Path(__file__).resolve().parents[1]))
import pages

from wmlightning.files import write_bytes
from wmlightning.results.card import read_card

RESULTS = Path(__file__).resolve().parent / "results.csv"
GROUP = "extra"
METRICS = {
    "clean": "test/clean_acc",
    "trained triggers": "test/trigger_acc",
    "new triggers": "test/trigger_new_acc",
    "decoys": "test/decoy_acc",
}


def main() -> None:
    """Reads cards, writes rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for place in sorted(options.runs.iterdir()):
        card = read_card(place)
        if card is None or card.get("kind") != "train" or card["group"] != GROUP:
            continue
        watermark = card["config"]["watermark"]
        row = {"dataset": card["config"]["dataset"]["name"], "stored as": card["data"]["stored_as"]}
        row |= {"watermark": watermark["_target_"].rsplit(".", 1)[-1].lower(), "negatives": watermark["negatives"]}
        row |= {"epochs": card["epochs"], "seed": card["seed"]}
        row |= {name: 100 * card["metrics"].get(metric, float("nan")) for name, metric in METRICS.items()}
        rows.append(row | {"fingerprint": card["fingerprint"], **pages.made_with(card)})
    if not rows:
        raise SystemExit(f"error: {options.runs} holds no finished run of experiments/extra/run.sh")
    frame = pd.DataFrame(rows).sort_values(["dataset", "watermark", "negatives", "seed"])
    write_bytes(RESULTS, frame.round(3).to_csv(index=False).encode())
    print(frame.to_string(index=False))


if __name__ == "__main__":
    main()
