"""One option at a time: a table for each line of ``run.sh``, rendered from cards into this folder's README.

A run belongs to a table if it differs from the paper's key in nothing but the table's option, and what the table fixes;
its precision is that of most runs of the same data and network. Data sets that the store lacks keep their rows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.append(str(Path(__file__).resolve().parents[1]))
import pages
import sentences

from wmlightning.files import write_bytes
from wmlightning.results.card import read_card

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.csv"
GROUP = "ablations"
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
    runs = read(options.runs)
    if RESULTS.exists():
        before = pd.read_csv(RESULTS)
        runs = pd.concat([before[~before.dataset.isin(runs.dataset)], runs], ignore_index=True)
    write_bytes(RESULTS, runs.to_csv(index=False, float_format="%.6g").encode())
    page = rendered(pd.read_csv(RESULTS))
    pages.include(HERE / "README.md", "tables", f"{page}\n\n{pages.rendered_today()}")
    print(page)


def read(folder: Path) -> pd.DataFrame:
    """One row for each finished run of the sweep below ``folder``; accuracies in per cent."""
    rows = []
    for place in sorted(folder.iterdir()):
        card = read_card(place)
        if card is None or card.get("kind") != "train" or card["group"] != GROUP:
            continue
        watermark, data = card["config"]["watermark"], card["data"]
        row = {"watermark": watermark["_target_"].rsplit(".", 1)[-1].lower(), "precision": card["precision"]}
        row |= {name: watermark.get(name, PAPER[name]) for name in PAPER}
        row |= {"dataset": card["config"]["dataset"]["name"], "model": _last(card["config"]["model"])}
        row |= {"seed": card["seed"], "epochs": card["epochs"], "stored as": data["stored_as"]}
        row |= {"train": data["train"], "test": data["test"], "n": watermark["n_new"]}
        row |= {"fingerprint": card["fingerprint"], **pages.made_with(card), "seconds": card["seconds"]["train"]}
        rows.append(row | {name: 100 * card["metrics"].get(metric, float("nan")) for name, metric in METRICS.items()})
    if not rows:
        raise SystemExit(f"error: {folder} holds no finished run of experiments/ablations/run.sh")
    return pd.DataFrame(rows)


def _last(config: dict[str, Any]) -> str:
    return str(config["_target_"]).rsplit(".", 1)[-1]


def rendered(runs: pd.DataFrame) -> str:
    """A section for each data set and network, from rows of ``results.csv``."""
    return "\n\n".join(_section(*names, part) for names, part in runs.groupby(["dataset", "model"], sort=False))


def _section(dataset: str, model: str, runs: pd.DataFrame) -> str:
    usual, epochs = str(runs.precision.mode().iloc[0]), pages.listed(runs.epochs)
    images = f"{pages.listed(runs.train)} training images, so that 1 % are {runs.train.iloc[0] // 100} triggers"
    told = f"{len(runs)} models, {model}, {epochs} epochs, {usual} where nothing else is said, seeds"
    tested = f"{runs.test.iloc[0]} test images: one more right answer is {100 / runs.test.iloc[0]:.2g} points"
    parts = [f"## {dataset} ({pages.listed(runs['stored as'])})"]
    parts += [f"{told} {pages.listed(runs.seed)}. {images}; {tested}. {pages.origin(runs)}", "SENTENCES"]
    found = []
    for title, option, fixed in TABLES:
        of_table = _chosen(runs, option, {**PAPER, "precision": usual, **fixed})
        lines = _table(of_table, option)
        parts.append(f"### {title}\n\n" + ("\n".join(lines) if len(of_table) else "Not run yet."))
        found += [sentences.told(option, of_table)] if len(of_table) else []
    return "\n\n".join(parts).replace("SENTENCES", "\n".join(found))


def _chosen(runs: pd.DataFrame, option: str, base: dict[str, Any]) -> pd.DataFrame:
    """Runs that differ in the option alone, of watermarks that were tried with several values of it."""
    for name, value in base.items():
        if name != option:
            runs = runs[runs[name] == value]
    return runs[runs.groupby("watermark")[option].transform("nunique") > 1]


def _table(runs: pd.DataFrame, option: str) -> list[str]:
    """Mean over seeds, and the range behind it."""
    timed = ["seconds"] if option == "precision" else []
    head = [f"| watermark | {option} | {' | '.join([*METRICS, 'n', 'seeds', *timed])} |"]
    lines = [*head, "|---|---|" + "---:|" * (len(METRICS) + 2 + len(timed))]
    for (watermark, value), group in runs.groupby(["watermark", option]):
        cells = [pages.spread(group[name], 2 if name == "clean" else 1) for name in METRICS]
        cells += [
            pages.listed(group.n),
            str(len(group)),
            *("" if group[name].isna().all() else f"{group[name].min():.1f}" for name in timed),
        ]
        lines.append(f"| {watermark} | {value} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
