"""Does the owner's proof outlive a thief who embeds a watermark of their own?

``python experiments/ownership/overwriting.py --runs DIR`` puts the owner's question to what ``attack=overwrite`` left
of each watermarked model of a run store, writes ``overwriting.csv``, and renders the table of this folder's README.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from asking import Claim, Held, key_name, marked_runs, put

from wmlightning import load_run
from wmlightning.files import write_bytes
from wmlightning.ownership.questions import Terms

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "overwriting.csv"
README, START, END = HERE / "README.md", "<!-- overwriting table: start -->", "<!-- overwriting table: end -->"
ALPHA, TURNS = 0.001, 20
TERMS = Terms(ALPHA, queries=200, budget=5000)
MODEL = ["dataset", "stored_as", "watermark", "key", "thief"]


def main() -> None:
    """Asks, writes, renders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    options = parser.parse_args()
    rows = [row for folder in marked_runs(options.runs) for row in _asked(folder)]
    frame = pd.DataFrame(rows).sort_values([*MODEL, "seed", "learning_rate"], ignore_index=True)
    write_bytes(RESULTS, frame.to_csv(index=False, float_format="%.6g").encode())
    text, rendered = README.read_text(), table(pd.read_csv(RESULTS))
    before, after = text.index(START) + len(START), text.index(END)
    write_bytes(README, f"{text[:before]}\n\n{rendered}\n\n{text[after:]}".encode())
    print(rendered)


def _asked(folder: Path) -> Iterator[dict[str, Any]]:
    run = load_run(folder)
    attacks = [(place, found) for place, found in sorted(run.attacks().items()) if found["attack"] == "overwrite"]
    if not attacks:
        return
    claim, config = Claim(run), run.card["config"]
    questions = [claim.question(TERMS, turn) for turn in range(TURNS)]
    for place, found in attacks:
        about = {
            "model": folder.name,
            "dataset": config["dataset"]["name"],
            "stored_as": run.card["data"]["stored_as"],
            "watermark": _last(config["watermark"]),
            "key": key_name(config),
            "seed": run.card["seed"],
            "thief": _last(found["config"]["attack"]["overwrite"]["watermark"]),
        }
        victim = {**about, "learning_rate": 0.0, **_numbers(found["victim"]["metrics"], None)}
        yield {**victim, **_put(questions, Held(run, run.network), claim)}
        for number, row in enumerate(found["curve"]):
            if row["final"]:
                left = {"learning_rate": row["strength"], **_numbers(row["metrics"], row["measured"])}
                yield {**about, **left, **_put(questions, Held(run, run.surrogate(place, number)), claim)}


def _last(config: dict[str, Any]) -> str:
    return str(config["_target_"]).rsplit(".", 1)[1].lower()


def _numbers(metrics: dict[str, float], measured: dict[str, float] | None) -> dict[str, float]:
    thiefs = float("nan") if measured is None else measured["thief's triggers"]
    return {"clean": metrics["attack/clean_acc"], "owner": metrics["attack/trigger_new_acc"], "thiefs": thiefs}


def _put(questions: list[Any], suspect: Held, claim: Claim) -> dict[str, float]:
    found = [put(question, suspect, claim.maker) for question in questions]
    decided = [queries for result, queries in found if result.p_value <= ALPHA]
    return {"claims": len(found), "decided": len(decided), "queries": pd.Series(decided, dtype=float).median()}


def table(frame: pd.DataFrame) -> str:
    """One line for each kind of model, thief and learning rate, from rows of ``overwriting.csv``."""
    lines = [
        "| data | owner's mark | thief's mark | learning rate | clean | owner's new triggers | thief's new triggers "
        "| owner's claims that reach p <= 0.001 | queries (median) |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for (dataset, stored, mark, key, thief, lr), part in frame.groupby([*MODEL, "learning_rate"], sort=False):
        data = f"{dataset} ({stored})"
        rate = f"{lr:g}" if lr else "as it is"
        cells = [_told(part[name]) for name in ("clean", "owner", "thiefs")]
        queries = part.queries.median()
        proof = f"{part.decided.sum()} of {part.claims.sum()} ({len(part)} model{'s' * (len(part) > 1)})"
        asked = "" if pd.isna(queries) else f"{queries:.0f}"
        lines.append(f"| {data} | {mark}, {key} | {thief} | {rate} | {' | '.join(cells)} | {proof} | {asked} |")
    return "\n".join(lines)


def _told(shares: pd.Series) -> str:
    if shares.isna().all():
        return ""
    mean, low, high = (f"{100 * value:.1f}" for value in (shares.mean(), shares.min(), shares.max()))
    return mean if low == high else f"{mean} ({low} to {high})"


if __name__ == "__main__":
    main()
