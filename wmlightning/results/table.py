"""All cards below a folder in one tidy table, and its summary over seeds."""

from __future__ import annotations

import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from wmlightning.errors import UserError, listed
from wmlightning.results.card import FILE, read_card
from wmlightning.results.fields import cleaned, spelled
from wmlightning.results.found import check_readable, places
from wmlightning.results.privacy import WITHHELD
from wmlightning.results.rows import ACCURACIES, COLUMNS, Row, is_by_heart, rows_of

_DTYPES = {"text": "object", "real": "float64", "whole": "Int64", "flag": "bool"}

#: What makes rows of different seeds one line of the summary.
GROUP = (
    *("dataset", "watermark", "key", "model", "attack", "attack_type", "settings"),
    *("strength_name", "strength_scale", "strength", "is_victim"),
)
#: Given in per cent, or percentage points, in the summary.
PERCENT = (*ACCURACIES, "kept", "clean_lost")
MEASURED = (*PERCENT, "score", "p_value", "twin_score", "twin_p_value", "seconds")


def on_stderr(line: str) -> None:
    """Where complaints go unless the caller wants them elsewhere."""
    print(line, file=sys.stderr)


def read_all(folder: Path, complain: Callable[[str], None] = on_stderr) -> pd.DataFrame:
    """The tidy table: one row for each model, attack, strength, epoch and seed.

    A training has one row, with ``attack`` "none". A removal attack has a row for each surrogate and one for its victim
    (``is_victim``), judged on the same images, with strength 0, or NaN where strengths are on a logarithmic scale. A
    detection or a claim has one row, on its victim. Accuracies are shares.

    Args:
        folder: looked through to the bottom, except for links, hidden folders and ``logs``. A model or an attack that
            lies there twice is counted once; of an attack that an earlier version of the program carried out too, the
            newest counts.
        complain: gets one line for each card that cannot be used. A card cut short is none.
    """
    rows: list[Row] = []
    seen: set[tuple[str, str, str]] = set()
    for place in places(folder, FILE):
        where = cleaned(place.relative_to(folder).as_posix(), 4096)
        try:
            found = rows_of(card, where) if (card := _read(place)) is not None else []
        except UserError as error:
            complain(f"skipped {where}: {error}")
            continue
        except RecursionError:
            complain(f"skipped {where}: nested too deep")
            continue
        except (OSError, ValueError) as error:  # no right to read it, a field of another type, a number without end
            complain(f"skipped {where}: {cleaned(str(error), 4096)}")
            continue
        if found and (name := tuple(found[0][part] for part in ("victim", "attack", "attack_fingerprint"))) not in seen:
            seen.add(name)
            rows += found
    rows = _each_once(_newest(rows))
    _tell_apart(rows)
    return frame_of(sorted(rows, key=_order))


def _newest(rows: Sequence[Row]) -> list[Row]:
    """Without attacks that a later version of the program carried out on the same model in the same way."""
    names = sorted({name for row in rows for name in row.get("versions", ())})

    def about(row: Row) -> tuple[tuple[str, ...], tuple[int, ...]]:
        versions = row.get("versions", {})
        return (row["victim"], row["attack"], row.get("way", "")), tuple(versions.get(name, 0) for name in names)

    newest: dict[tuple[str, ...], tuple[int, ...]] = {}
    for way, version in map(about, rows):
        newest[way] = max(newest.get(way, ()), version)
    return [row for row in rows if not row.get("way") or about(row)[1] == newest[about(row)[0]]]


def _each_once(rows: Sequence[Row]) -> list[Row]:
    """Without surrogates that another list of strengths had made before, down to the last bit."""
    kept: list[Row] = []
    seen: set[tuple[str, ...]] = set()
    for row in rows:
        if row["attack_type"] == "removal" and not row["is_victim"]:
            named = ("victim", "attack", "settings", "strength", "epochs", "final", "precision", *ACCURACIES)
            name = tuple(f"{row.get(part)}" for part in (*named, "options", "thief"))
            if name in seen:
                continue
            seen.add(name)
        kept.append(row)
    return kept


def _tell_apart(rows: list[Row]) -> None:
    """Adds what was chosen otherwise for others of the same name on the same task.

    To the key, options of watermarks; to the settings, those of attacks. Without it, a sweep over an option would end
    as one mean in the summary.
    """
    _number_hidden(rows)
    _add_differing(rows, "key", "marks", ("dataset", "model", "watermark", "key"))
    attacks = [row for row in rows if not (row["is_victim"] and row["attack_type"] == "removal")]
    _add_differing(attacks, "settings", "options", ("dataset", "model", "attack"))  # their victim is the same for all


def _number_hidden(rows: Iterable[Row]) -> None:
    """Numbers the values of an option that is withheld, where there are several.

    In the order of models' fingerprints, which tells nothing of the values; one value has one number in all tasks.
    """
    first: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    options = [(row, name, value) for row in rows for name, value in row["hidden"].items()]
    for row, name, value in options:
        values = first[row["watermark"], name]
        values[value] = min(values.get(value, row["victim"]), row["victim"])
    ranks = {about: sorted(values, key=values.__getitem__) for about, values in first.items()}
    for row, name, value in options:
        if len(ranked := ranks[row["watermark"], name]) > 1:
            row["marks"] = {**row["marks"], name: f"{WITHHELD} {ranked.index(value) + 1}"}


def _add_differing(rows: Iterable[Row], column: str, options: str, alike: tuple[str, ...]) -> None:
    """Adds to a column those ``options`` in which rows differ that are ``alike`` in other columns."""
    chosen: dict[tuple[str, ...], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    groups = [(row, chosen[tuple(row[name] for name in alike)]) for row in rows]
    for row, values in groups:
        for name, value in row.get(options, {}).items():
            values[name].add(value)
    for row, values in groups:
        differing = {name: value for name, value in row.get(options, {}).items() if len(values[name]) > 1}
        row[column] = ", ".join(filter(None, [row[column], spelled(differing)]))


def _read(place: Path) -> dict[str, Any] | None:
    check_readable(place / FILE)
    return read_card(place)


def _order(row: Row) -> tuple[Any, ...]:
    """Where a row of either table belongs: the plain before the special, numbers by size."""
    strength = row["strength"]
    n_marks = re.match(r"\d+", row["key"])
    return (
        row["dataset"],
        (row["watermark"] != "none", row["watermark"]),
        (not row["key"].startswith("paper"), int(n_marks[0]) if n_marks else 1, _by_size(row["key"])),
        row["model"],
        (row["attack"] != "none", row["attack"]),
        not row["is_victim"],
        row["settings"],
        row.get("seed", 0),
        row.get("victim", ""),
        -math.inf if math.isnan(strength) else strength,
        -1 if pd.isna(row.get("epochs")) else row["epochs"],
        row.get("folder", ""),
    )


def _by_size(text: str) -> list[Any]:
    """For sorting: 60 before 100. Words and numbers take turns, so that any two texts compare."""
    return [float(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+(?:\.\d+)?)", text))]


def frame_of(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a table whose columns have the same types whatever is in them, or if nothing is."""
    rows = list(rows)
    table: pd.DataFrame = pd.DataFrame(
        {name: pd.Series([row[name] for row in rows], dtype=_DTYPES[kind]) for name, kind in COLUMNS.items()}
    )
    return table


def from_csv(path: Path) -> pd.DataFrame:
    """Reads the tidy table back from ``results.csv``."""
    return pd.read_csv(
        path,
        dtype={name: _DTYPES[kind] for name, kind in COLUMNS.items()},
        keep_default_na=False,  # a watermark called "NA" is not a missing one
        na_values={name: [""] for name, kind in COLUMNS.items() if kind in ("real", "whole")},
    )


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    """With ``kept``: how many new triggers work; of a key that is learned by heart, how many of the trained ones."""
    by_heart = frame["key"].map(is_by_heart).astype(bool)
    with_kept: pd.DataFrame = frame.assign(kept=frame["trigger_acc"].where(by_heart, frame["trigger_new_acc"]))
    return with_kept


def aggregate(frame: pd.DataFrame, every_epoch: bool = False) -> pd.DataFrame:
    """Over seeds: mean, least and greatest of what was measured.

    Args:
        frame: from :func:`read_all`.
        every_epoch: one line for each epoch; otherwise only the last of each strength counts.

    Returns:
        One line for each of :data:`GROUP`, with ``X_mean``, ``X_min`` and ``X_max`` for each of :data:`MEASURED`,
        accuracies in per cent; ``n_seeds``, and ``n_runs``, which is larger where runs differ in more than their seed.
    """
    kept = judged(frame if every_epoch else frame[frame["final"]])
    victims = kept["is_victim"] & (kept["attack_type"] == "removal")
    # Every card of a removal attack repeats its victim, which is still one model.
    once = kept[victims].drop_duplicates(["victim", "attack", "strength_name", "strength_scale", "seed"])
    kept = kept[~victims | kept.index.isin(once.index)]
    kept = kept.assign(**{name: 100 * kept[name] for name in PERCENT})
    names = [*GROUP, "epochs"] if every_epoch else list(GROUP)
    grouped = kept.groupby(names, sort=False, dropna=False)
    stats = {f"{name}_{how}": (name, how) for name in MEASURED for how in ("mean", "min", "max")}
    summary = grouped.agg(n_seeds=("seed", "nunique"), n_runs=("seed", "size"), **stats).reset_index()
    order = sorted(range(len(summary)), key=lambda i: _order(summary.iloc[i].to_dict()))
    ordered: pd.DataFrame = summary.iloc[order].reset_index(drop=True)
    return ordered


def select(frame: pd.DataFrame, conditions: Iterable[str], option: str = "where") -> pd.DataFrame:
    """The rows that conditions of the form ``column=value`` leave.

    Several values of one column widen the choice, conditions on several columns narrow it.

    Args:
        frame: from :func:`read_all`.
        conditions: what has to hold.
        option: that named them, for errors.

    Raises:
        UserError: for a condition that cannot be understood.
    """
    masks: dict[str, pd.Series[bool]] = {}
    for condition in conditions:
        name, equals, value = condition.partition("=")
        if not equals:
            raise UserError(option, f"{condition!r} names no value", "write COLUMN=VALUE, as in attack=prune")
        if name not in frame.columns:
            raise UserError(option, f"there is no column {name!r}", f"there are {listed(frame.columns, len(COLUMNS))}")
        mask = _holds(frame[name], COLUMNS[name], value, option)
        masks[name] = masks[name] | mask if name in masks else mask
    for mask in masks.values():
        frame = frame[mask.loc[frame.index]]
    selected: pd.DataFrame = frame.reset_index(drop=True)
    return selected


def _holds(column: pd.Series[Any], kind: str, value: str, option: str) -> pd.Series[bool]:
    if kind == "text":
        return column == value
    if kind == "flag":
        if value.lower() not in ("true", "false"):
            raise UserError(option, f"{column.name}={value} is neither true nor false", "write true or false")
        return column == (value.lower() == "true")
    try:
        number = float(value)
    except ValueError:
        raise UserError(option, f"{value!r} is no number", f"{column.name} holds numbers") from None
    near = (column.astype("float64") - number).abs() <= 1e-6 * abs(number)  # as far as printed numbers go
    return near.astype(bool)
