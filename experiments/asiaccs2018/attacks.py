"""Robustness: what removal attacks leave and cost, and whether inversion shows the secret, from attacks' cards."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from embedding import KEYS, MODEL, told

from wmlightning.attacks.exposure import EXPOSURE_VERSION
from wmlightning.results import table
from wmlightning.results.card import read_card
from wmlightning.results.front import ACCEPTABLE_LOSS, best_bargain
from wmlightning.results.rows import COLUMNS
from wmlightning.results.text import csv

#: Percentage points of clean accuracy that a thief is ready to lose: those of reports, cards and dashboards.
LOSS = 100 * ACCEPTABLE_LOSS
#: Per cent of new triggers below which a watermark counts as removed.
GONE = 50.0
ATTACKS = ("prune", "finetune", "fineprune", "overwrite", "inversion")
#: Of :func:`bargains`.
BARGAIN = [*MODEL, "attack", "left", "decoys", "lost", "price", "weakest", "strongest"]
#: Which models a row is about, and what was done to them.
ABOUT = [*MODEL, "attack"]


def read(runs: Path, trained: pd.DataFrame) -> pd.DataFrame:
    """The tidy table of attacks on models of the study, with ``strangers``: how many an inversion is compared with.

    Args:
        runs: the store.
        trained: from ``embedding.read``; its names of keys are used.
    """
    frame = table.read_all(runs)
    frame = frame[frame.attack.isin(ATTACKS) & frame.victim.isin(trained.fingerprint)]
    frame = frame.assign(key=frame.victim.map(dict(zip(trained.fingerprint, trained.key, strict=True))))
    inverted = frame.attack_type == "detection"
    cards = {folder: read_card(runs / folder) or {} for folder in frame[inverted].folder}
    # Where nothing newer is there, the table has what an earlier test found; a study takes none of its p-values.
    of_now = [name for name, card in cards.items() if card["identity"].get("exposure") == EXPOSURE_VERSION]
    frame = frame[~inverted | frame.folder.isin(of_now)]
    strangers = {folder: cards[folder]["findings"].get("n_null") for folder in of_now}
    return frame.assign(strangers=frame.folder.map(strangers).astype("Int64"))


def from_csv(path: Path) -> pd.DataFrame:
    """What :func:`write_csv` wrote; no row if there is no file."""
    if not path.exists():
        return table.frame_of([]).assign(strangers=pd.Series(dtype="Int64"))
    found = table.from_csv(path)
    strangers = found["strangers"] if "strangers" in found else float("nan")
    return found.assign(strangers=pd.to_numeric(strangers, errors="coerce")).astype({"strangers": "Int64"})


def write_csv(frame: pd.DataFrame) -> str:
    """The table as text."""
    kept = [name for name in (*COLUMNS, "strangers") if name not in ("train_seconds", "group")]
    return csv(frame[kept])


def bargains(frame: pd.DataFrame) -> pd.DataFrame:
    """For each model and removal attack: what is left for an owner when little is lost, and what removal costs.

    ``left``, ``decoys`` and ``lost`` are of the surrogate that a thief would choose, as in reports, cards and
    dashboards; ``price`` is the least loss, and ``weakest`` the least strength, among surrogates on which fewer than
    half of the new triggers work. All of them count, after whatever epoch. ``strongest`` is the greatest strength.
    """
    frame = frame[(frame.attack_type == "removal") & ~frame.is_victim].copy()
    # As many digits as the CSV file has, so that the page is the same from there: 0.7979999781 is 0.798.
    frame["lost"] = (100 * frame.clean_lost).round(4)
    frame["left"], frame["decoys"] = 100 * frame.trigger_new_acc, 100 * frame.decoy_acc
    rows = []
    for names, part in frame.groupby(ABOUT):
        best = part.iloc[best_bargain(part.victim_clean_acc.iloc[0], list(part.clean_acc), list(part.left))]
        gone = part[part.left < GONE]
        row = dict(zip(ABOUT, names, strict=True)) | {name: best[name] for name in ("left", "decoys", "lost")}
        row |= {"price": gone.lost.min(), "weakest": gone.strength.min(), "strongest": part.strength.max()}
        rows.append(row)
    return pd.DataFrame(rows, columns=BARGAIN)


def removal_table(found: pd.DataFrame) -> list[str]:
    """Mean over seeds of :func:`bargains`, with the range behind it."""
    lines = [
        f"| data | watermark | key | attack | new triggers left at the best bargain (loss {LOSS:g} points or less) "
        "| decoys there | points lost there | least loss that leaves fewer than half of the new triggers | models |",
        "|---|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for names, part in found.groupby(["dataset", "watermark", "key", "attack"]):
        dataset, watermark, key, attack = names
        price = "not at any strength tried"
        if part.price.notna().any():
            price = f"{told(part.price)} points ({part.price.notna().sum()} of {len(part)} models)"
        left = told(part.left) + ("" if part.lost.max() <= LOSS else " (some lose more)")
        cells = [dataset, watermark, KEYS.get(key, key), attack, left, told(part.decoys), told(part.lost), price]
        lines.append(f"| {' | '.join(cells)} | {len(part)} |")
    return lines


def inversion_table(frame: pd.DataFrame) -> list[str]:
    """Scores of recovered images, against strangers' marks and against the unmarked model."""
    found = frame[frame.attack_type == "detection"]
    lines = [
        "| data | watermark | key | strangers | score | p (each seed) | score, unmarked model | p (each seed) |",
        "|---|---|---|---:|---:|---|---:|---|",
    ]
    for names, part in found.groupby(["dataset", "watermark", "key"]):
        dataset, watermark, key = names
        strangers = ", ".join(str(number) for number in sorted(part.strangers.dropna().unique()))
        cells = [dataset, watermark, KEYS.get(key, key), strangers, told(part.score, 3), _each(part.p_value)]
        cells += [told(part.twin_score, 3), _each(part.twin_p_value)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def costs(trained: pd.DataFrame, frame: pd.DataFrame) -> list[str]:
    """Seconds of each part, mean over models of which they are known.

    Args:
        trained: from ``embedding.read``.
        frame: from :func:`read`.
    """
    parts = [("training", trained[["dataset", "seconds"]])]
    last = frame[frame.final & (~frame.is_victim | (frame.attack_type == "detection"))].dropna(subset=["seconds"])
    spent = last.groupby(["attack", "dataset", "attack_fingerprint"], as_index=False).seconds.sum()
    parts += [(attack, rows[["dataset", "seconds"]]) for attack, rows in spent.groupby("attack")]
    lines = ["| data | part | models | seconds |", "|---|---|---:|---:|"]
    for dataset in sorted(trained.dataset.unique()):
        for part, rows in parts:
            seconds = rows[rows.dataset == dataset].seconds.dropna()
            if len(seconds):
                lines.append(f"| {dataset} | {part} | {len(seconds)} | {told(seconds)} |")
    return lines


def _each(values: pd.Series[float]) -> str:
    return ", ".join("not computed" if pd.isna(value) else f"{value:.2f}" for value in values)
