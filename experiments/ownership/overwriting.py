"""Does the owner's proof outlive a thief who embeds a watermark of their own?

``python experiments/ownership/overwriting.py --runs DIR`` puts the owner's question to what ``attack=overwrite`` left
of each watermarked model of a run store, writes ``overwriting.csv`` and ``overwriting.json`` (how it was measured), and
renders its part of this folder's README. Models are asked side by side, one on each core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.append(str(Path(__file__).resolve().parents[1]))
import pages
import workers
from asking import Claim, Held, key_name, marked_runs, put

from wmlightning import load_run
from wmlightning.files import write_bytes, write_json
from wmlightning.ownership.questions import Terms
from wmlightning.store import Run

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "overwriting.csv"
RECORD = HERE / "overwriting.json"
README = HERE / "README.md"
ALPHA, TURNS = 0.001, 20
TERMS = Terms(ALPHA, queries=200, budget=5000)
MODEL = ["dataset", "stored_as", "watermark", "key", "thief"]
#: Learning rates that leave the model its accuracy.
GENTLE = (0.01, 0.03)


def main() -> None:
    """Asks, writes, renders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    options = parser.parse_args()
    with workers.pool() as pool:
        rows = [row for rows in pool.map(_asked, marked_runs(options.runs)) for row in rows]
    if not rows:
        raise SystemExit(f"error: {options.runs} holds no watermarked model that was overwritten")
    frame = pd.DataFrame(rows).sort_values([*MODEL, "seed", "learning_rate"], ignore_index=True)
    write_bytes(RESULTS, frame.to_csv(index=False, float_format="%.6g").encode())
    write_json(RECORD, pages.measured(triggers=TERMS.queries))
    frame = pd.read_csv(RESULTS)
    pages.include(README, "overwriting table", table(frame))
    pages.include(README, "overwriting", told(frame))
    print(table(frame))


def _asked(folder: Path) -> list[dict[str, Any]]:
    return list(_rows(load_run(folder)))


def _rows(run: Run) -> Iterator[dict[str, Any]]:
    attacks = [(place, found) for place, found in sorted(run.attacks().items()) if found["attack"] == "overwrite"]
    if not attacks:
        return
    claim, config = Claim(run), run.card["config"]
    questions = [claim.question(TERMS, turn) for turn in range(TURNS)]
    for place, found in attacks:
        about = {
            "model": run.folder.name,
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
        cells = [pages.spread(100 * part[name], 1) for name in ("clean", "owner", "thiefs")]
        queries = part.queries.median()
        proof = f"{part.decided.sum()} of {part.claims.sum()} ({len(part)} model{'s' * (len(part) > 1)})"
        asked = "" if pd.isna(queries) else f"{queries:.0f}"
        lines.append(f"| {data} | {mark}, {key} | {thief} | {rate} | {' | '.join(cells)} | {proof} | {asked} |")
    return "\n".join(lines)


def told(frame: pd.DataFrame) -> str:
    """What the table says, at the learning rates that leave the model its accuracy, and where it comes from."""
    record = json.loads(RECORD.read_text())
    whole = frame[frame.learning_rate == 0].set_index(["model", "thief"])
    left = frame[frame.learning_rate.isin(GENTLE)]
    lost = 100 * (whole.clean.reindex(pd.MultiIndex.from_frame(left[["model", "thief"]])).to_numpy() - left.clean)
    rows = left.groupby([*MODEL, "learning_rate"])
    owners, shares = 100 * rows.owner.mean(), 100 * rows.decided.sum() / rows.claims.sum()
    rates, data = " and ".join(f"{rate:g}" for rate in GENTLE), pages.listed(frame.dataset)
    same, other = (left[(left.watermark == left.thief) == wanted] for wanted in (True, False))
    return pages.filled(
        f"""**This is the attack to fear.** At learning rates {rates} it costs the thief {lost.median():.2f} points of
        clean accuracy in the median ({lost.min():.2f} to {lost.max():.2f} in single models). {owners.min():.0f} to
        {owners.max():.0f} % of the owner's new triggers are left (a row's mean), and of the owner's claims with up to
        {record["triggers"]} triggers {shares.min():.0f} to {shares.max():.0f} % still reach p <= {ALPHA:g}
        ({_reached(left)} claims to {len(left)} overwritten models): {_reached(same)} after a mark of the same kind,
        {_reached(other)} after another. The thief's own triggers then work in {100 * left.thiefs.mean():.1f} %, and the
        thief may claim the model: the older commitment decides. Data: {data}; seeds {pages.listed(frame.seed)}.""",
        pages.told(record),
    )


def _reached(part: pd.DataFrame) -> str:
    return f"{int(part.decided.sum()):,} of {int(part.claims.sum()):,}"


if __name__ == "__main__":
    main()
