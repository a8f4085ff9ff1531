"""Renders this folder's tables and figures from the cards of ``run.sh``: ``make attack-table ARGS='--runs DIR'``.

Writes ``results.csv`` (one row for each model, attack, strength, epoch and seed), the figures, and ``table.md``, and
puts the latter between the markers in this folder's README, so that no number is typed by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from wmlightning.files import write_bytes
from wmlightning.results.figures import write_figures
from wmlightning.results.table import aggregate, read_all
from wmlightning.results.text import csv

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
START, END = "<!-- attack table: start -->", "<!-- attack table: end -->"
KEYS = {"paper": "one mark, as in the paper", "negatives": "one mark, negatives"}
#: Percentage points of clean accuracy that a thief is ready to lose.
LOSS = 2.0
GONE = 50.0


def bargains(frame: pd.DataFrame) -> pd.DataFrame:
    """For each model and removal attack: what is left for an owner when little is lost, and what removal costs.

    Of the surrogates after their last epoch that lose at most :data:`LOSS` points, that with the fewest new triggers;
    and the least loss among all surrogates, whatever their epoch, on which fewer than half of the new triggers work.
    """
    frame = frame[(frame.attack_type == "removal") & ~frame.is_victim].copy()
    for name in ("clean_acc", "clean_lost", "trigger_new_acc", "decoy_acc"):
        frame[name] *= 100
    rows = []
    for names, part in frame.groupby(["dataset", "watermark", "key", "attack", "seed"]):
        cheap = part[part.final & (part.clean_lost <= LOSS)]
        gone = part[part.trigger_new_acc < GONE]
        best = cheap.loc[cheap.trigger_new_acc.idxmin()] if len(cheap) else None
        least = gone.loc[gone.clean_lost.idxmin()] if len(gone) else None
        rows.append(
            {
                **dict(zip(("dataset", "watermark", "key", "attack", "seed"), names, strict=True)),
                "left": best.trigger_new_acc if best is not None else float("nan"),
                "decoys": best.decoy_acc if best is not None else float("nan"),
                "strength": best.strength if best is not None else float("nan"),
                "price": least.clean_lost if least is not None else float("nan"),
                "at": least.strength if least is not None else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def removal_table(found: pd.DataFrame) -> list[str]:
    """Mean over seeds of :func:`bargains`, with the range behind it."""
    lines = [
        "| data | watermark | key | attack | new triggers left at a loss of 2 points or less | decoys there "
        "| least loss that leaves fewer than half of the new triggers | seeds |",
        "|---|---|---|---|---:|---:|---:|---:|",
    ]
    for names, part in found.groupby(["dataset", "watermark", "key", "attack"]):
        dataset, watermark, key, attack = names
        price = "not at any strength tried"
        if part.price.notna().any():
            price = f"{_range(part.price.dropna())} points ({part.price.notna().sum()} of {len(part)} models)"
        cells = [dataset, watermark, KEYS.get(key, key), attack, _range(part.left), _range(part.decoys), price]
        lines.append(f"| {' | '.join(cells)} | {len(part)} |")
    return lines


def inversion_table(frame: pd.DataFrame) -> list[str]:
    """Scores of recovered images, against strangers' marks and against the unmarked model."""
    found = frame[frame.attack_type == "detection"]
    lines = [
        "| data | watermark | key | score | p (each seed) | score, unmarked model | p (each seed) |",
        "|---|---|---|---:|---|---:|---|",
    ]
    for names, part in found.groupby(["dataset", "watermark", "key"]):
        dataset, watermark, key = names
        cells = [dataset, watermark, KEYS.get(key, key), f"{part.score.mean():.3f}", _each(part.p_value)]
        cells += [f"{part.twin_score.mean():.3f}", _each(part.twin_p_value)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def costs(frame: pd.DataFrame) -> list[str]:
    """How many models, attacks and seconds the tables rest on."""
    attacks = frame[frame.attack != "none"]
    models = frame[(frame.attack == "none") & frame.victim.isin(attacks.victim)]
    spent = attacks[~attacks.is_victim | (attacks.attack_type == "detection")]
    spent = spent[spent.final].groupby("attack").seconds.sum()
    told = ", ".join(f"{name} {seconds / 60:.0f} min" for name, seconds in spent.items())
    n_attacks = attacks.attack_fingerprint.nunique()
    return [
        f"{models.victim.nunique()} models trained ({models.train_seconds.sum() / 60:.0f} min), {n_attacks} attacks "
        f"({told}); one thread each, two jobs side by side on two cores; {', '.join(sorted(frame.precision.unique()))}."
    ]


def _range(values: pd.Series[float]) -> str:
    values = values.dropna()
    if not len(values):
        return "every strength costs more"
    low, mean, high = (f"{value:.1f}" for value in (values.min(), values.mean(), values.max()))
    return mean if low == high else f"{mean} ({low} to {high})"


def _each(values: pd.Series[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values.dropna())


def main() -> None:
    """Reads the cards and writes the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/embedding"))
    options = parser.parse_args()
    frame = read_all(options.runs)
    frame = frame[frame.key.isin(KEYS) & frame.attack.isin(["none", "prune", "finetune", "inversion"])]
    attacked = frame[frame.attack != "none"]
    write_bytes(HERE / "results.csv", csv(attacked).encode())
    (HERE / "figures").mkdir(exist_ok=True)
    write_figures(aggregate(attacked), HERE / "figures")
    parts = [costs(frame), removal_table(bargains(attacked)), inversion_table(attacked)]
    text = "\n\n".join("\n".join(part) for part in parts)
    write_bytes(HERE / "table.md", (text + "\n").encode())
    if README.exists():
        before, rest = README.read_text().split(START)
        write_bytes(README, f"{before}{START}\n\n{text}\n\n{END}{rest.split(END)[1]}".encode())
    print(text)


if __name__ == "__main__":
    main()
