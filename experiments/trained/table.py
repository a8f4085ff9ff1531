"""What it costs to put a watermark into a model that is already trained: a table from cards of ``run.sh``.

Writes ``results.csv`` (one row a run) and the table and sentences of this folder's README. Unmarked models that were
trained on in the same way are the control.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.append(str(Path(__file__).resolve().parents[1]))
import pages

from wmlightning.files import write_bytes
from wmlightning.results.card import read_card

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.csv"
RUNS = HERE.parents[1] / "runs"
SHARES = {"clean before": 2, "clean after": 2, "trained triggers": 1, "new triggers": 1, "decoys": 1}
CONTROL = "no triggers"
KEYS = {"negatives": "one mark, negatives", "marks": "8 marks, negatives"}


def read(folder: Path, starts: Path) -> pd.DataFrame:
    """One row for each finished run below ``folder`` that began from a finished one below ``starts``."""
    rows: list[dict[str, Any]] = []
    for place in sorted(folder.iterdir()):
        card = read_card(place)
        if card is None or not card.get("start", {}).get("run") or "guard" not in card:
            continue
        start = read_card(starts / card["start"]["run"])
        if start is None:
            raise SystemExit(f"error: {starts} does not hold {card['start']['run']}, which {place.name} began from")
        before, after, guard = start["metrics"], card["metrics"], card["guard"]
        watermark = card["config"]["watermark"].get("_target_")
        rows.append(
            {
                "dataset": card["config"]["dataset"]["name"],
                "stored as": card["data"]["stored_as"],
                "watermark": watermark.rsplit(".", 1)[-1].lower() if watermark else "none",
                "key": next((text for tag, text in KEYS.items() if tag in card["config"]["tags"]), CONTROL),
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
                **pages.made_with(card),
            }
        )
    if not rows:
        raise SystemExit(f"error: {folder} holds no finished run of experiments/trained/run.sh")
    keys = [CONTROL, *KEYS.values()]
    rows.sort(key=lambda row: (row["dataset"] != "mnist", keys.index(row["key"]), row["watermark"], row["seed"]))
    return pd.DataFrame(rows)


def from_csv() -> pd.DataFrame:
    """What :func:`read` gave."""
    return pd.read_csv(RESULTS)


def markdown(runs: pd.DataFrame) -> str:
    """One line a key: the mean over seeds, and from where to where they reach."""
    columns = ["watermark", "key", "seeds", *SHARES, "epochs", "seconds"]
    lines = []
    for (dataset, stored), part in runs.groupby(["dataset", "stored as"], sort=False):
        lines += [f"**{dataset}** ({stored}; {part['precision'].iloc[0]})", ""]
        lines += [f"| {' | '.join(columns)} |", "|---|---|" + "---:|" * (len(columns) - 2)]
        for (watermark, key), rows in part.groupby(["watermark", "key"], sort=False):
            seeds = ", ".join(map(str, rows["seed"]))
            shares = [pages.spread(rows[name], digits) for name, digits in SHARES.items()]
            stopped = f", {rows['stopped'].sum()} stopped" if rows["stopped"].any() else ""
            epochs = f"{rows['epochs'].iloc[0]}{stopped}"
            cells = [watermark, key, seeds, *shares, epochs, f"{rows['seconds'].min():.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def told(runs: pd.DataFrame) -> str:
    """What a watermark costs beside the same training without triggers, and where rows come from."""
    stopped = f"the guard ended {int(runs.stopped.sum())} early"
    kept = f"{len(runs)} models that were trained on, seeds {pages.listed(runs.seed)}; {stopped}. {pages.origin(runs)}"
    return pages.filled(*(_cost(*part) for part in runs.groupby("dataset", sort=False)), kept)


def _cost(dataset: str, runs: pd.DataFrame) -> str:
    plain = runs[runs.key == CONTROL].set_index("seed")["clean after"]
    marked = runs[runs.key != CONTROL]
    gained = marked["clean after"] - marked["clean before"]
    text = f"**{dataset}**: clean accuracy after marking less before: {_range(gained)} points."
    if not len(plain):
        return f"{text} The same training without triggers was not run: what of this is the watermark's is not known."
    lost = marked["clean after"] - marked.seed.map(plain)
    alone = runs[runs.key == CONTROL]
    return (
        f"{text} The same training without triggers: {_range(alone['clean after'] - alone['clean before'])} points. "
        f"So the watermark's own share is {_range(lost)} points, model by model of the same seed."
    )


def _range(values: pd.Series) -> str:
    low, high = pages.signed(values.min()), pages.signed(values.max())
    return low if low == high else f"{low} to {high}"


def main() -> None:
    """Reads cards, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=RUNS / "trained")
    parser.add_argument("--starts", type=Path, default=RUNS / "asiaccs2018-paper")
    options = parser.parse_args()
    runs = read(options.runs, options.starts)
    write_bytes(RESULTS, runs.round(3).to_csv(index=False).encode())
    frame = from_csv()
    pages.include(HERE / "README.md", "table", markdown(frame))
    pages.include(HERE / "README.md", "told", f"{told(frame)} {pages.rendered_today()}")
    print(markdown(frame))


if __name__ == "__main__":
    main()
