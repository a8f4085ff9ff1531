"""How many queries decide: stolen models as they are, after attacks, and through HTTP.

``python experiments/ownership/power.py --runs DIR`` asks every watermarked model of a run store, and every surrogate
that attacks left of it at the strengths below, with the framework's own tests at p <= 0.001; the same through HTTP;
lets a stranger claim the model; and asks an unmarked model of the same data. It writes ``power.csv``: a row for each
model, surrogate and question. What is in it is not asked again, unless in another way: such rows go. Models are asked
side by side, one on each core.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.append(str(Path(__file__).resolve().parents[1]))
import workers
from asking import Claim, Held, key_name, marked_runs, put, service, twins_of
from torch import nn

from wmlightning import load_run
from wmlightning.files import write_bytes
from wmlightning.ownership.questions import DecoyKeys, Question, Terms
from wmlightning.ownership.suspects.base import Suspect
from wmlightning.ownership.suspects.oip import Oip
from wmlightning.results.card import fingerprint
from wmlightning.store import Run

HERE = Path(__file__).resolve().parent
ALPHA = 0.001
TERMS = Terms(ALPHA, queries=200, budget=5000)
#: Of a single mark: strangers who match often are told from the owner by more triggers than the framework asks about,
#: which expects a suspect that answers to few of them. That is for the study to choose, before it asks. More than these
#: change nothing: the strangers that are left match every time.
TERMS_OF_DECOYS = Terms(ALPHA, queries=40, budget=5000, settled=True)
#: Strengths of surrogates that are asked, by attack.
STRENGTHS = {
    "prune": (0.5, 0.7, 0.9),
    "finetune": (0.01, 0.03, 0.1),
    "fineprune": (0.6, 0.9),
    "overwrite": (0.01, 0.03),
}
#: A key of one mark takes thousands of queries: it is put fewer times.
TURNS, TURNS_OF_DECOYS = 20, 3
#: Raise it when the same model is asked otherwise, or answers are worth something else.
QUESTIONS_VERSION = 2
#: How the rows of a table were asked for.
ASKED_AS = fingerprint(
    {
        "version": QUESTIONS_VERSION,
        "terms": [asdict(terms) for terms in (TERMS, TERMS_OF_DECOYS)],
        "turns": [TURNS, TURNS_OF_DECOYS],
    }
)
#: What a row is about: no two questions are put twice.
ABOUT = ["model", "attack", "strength"]
COLUMNS = [
    *("model", "dataset", "stored_as", "watermark", "key", "seed", "attack", "strength", "clean_acc", "turn"),
    *("test", "decided", "queries", "triggers", "matches", "p_value", "seconds"),
    *("most triggers", "most images", "asked_as"),
]


def main() -> None:
    """Asks, and writes after each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=HERE.parents[1] / "runs" / "embedding")
    parser.add_argument("--out", type=Path, default=HERE / "power.csv")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--jobs", type=int, help="models asked side by side; without it as many as there are cores")
    options = parser.parse_args()
    frame = known(options.out)
    done = set(frame[ABOUT].itertuples(index=False, name=None))
    marked = marked_runs(options.runs, options.seeds)
    write_bytes(options.out, frame.to_csv(index=False).encode())
    with workers.pool(options.jobs) as pool:
        asked = [pool.submit(_ask, one, twins_of(one, options.runs), done) for one in marked]
        for one in as_completed(asked):
            if rows := one.result():
                new = pd.DataFrame(rows, columns=COLUMNS)
                frame = pd.concat([frame, new], ignore_index=True) if len(frame) else new
                frame = frame.sort_values("model", kind="stable", ignore_index=True)
                write_bytes(options.out, frame.to_csv(index=False).encode())


def known(out: Path) -> pd.DataFrame:
    """The rows that need not be asked for again: those of an earlier call that asked in the same way."""
    frame = pd.read_csv(out) if out.exists() else pd.DataFrame()
    frame = frame.reindex(columns=COLUMNS)
    return frame[frame.asked_as == ASKED_AS]


def _ask(folder: Path, unmarked: list[Path], done: set[tuple[str, str, float]]) -> list[dict[str, Any]]:
    run = load_run(folder)
    if not any(card["type"] == "removal" for card in run.attacks().values()):
        return []
    started = time.monotonic()
    rows = list(_rows(run, [load_run(other) for other in unmarked], done))
    print(f"{folder.name}: {len(rows)} claims in {time.monotonic() - started:.0f} s", flush=True)
    return rows


def _rows(run: Run, unmarked: list[Run], done: set[tuple[str, str, float]]) -> Iterator[dict[str, Any]]:
    claim, config = Claim(run), run.card["config"]
    one_mark = isinstance(claim.question(TERMS, 0), DecoyKeys)
    terms = TERMS_OF_DECOYS if one_mark else TERMS
    turns = range(TURNS_OF_DECOYS if one_mark else TURNS)
    questions = [claim.question(terms, turn) for turn in turns]
    about = {
        "model": run.folder.name,
        "dataset": config["dataset"]["name"],
        "stored_as": run.card["data"]["stored_as"],
        "watermark": str(config["watermark"]["_target_"]).rsplit(".", 1)[1].lower(),
        "key": key_name(config),
        "seed": run.card["seed"],
        "most triggers": terms.queries,
        "most images": terms.budget,
        "asked_as": ASKED_AS,
    }

    def put_all(attack: str, strength: float, clean: float, asked: list[Question], suspect: Suspect) -> Iterator[Any]:
        row = {**about, "attack": attack, "strength": strength, "clean_acc": clean}
        for turn, question in enumerate(asked):
            yield {**row, "turn": turn, **_found(question, suspect, claim)}

    for attack, strength, clean, network in _stolen(run):
        if (run.folder.name, attack, strength) in done:
            continue
        suspect = Held(run, network)
        yield from put_all(attack, strength, clean, questions, suspect)
        if attack != "none":
            continue
        strangers = [claim.strangers(terms, turn) for turn in turns]
        yield from put_all("a stranger claims it", strength, clean, strangers, suspect)
        for innocent in unmarked:
            yield from put_all("an unmarked model", strength, clean, questions, Held(innocent, innocent.network))
        with service(run) as url:
            yield from put_all("HTTP", strength, clean, questions, Oip(url, "classifier"))


def _found(question: Question, suspect: Suspect, claim: Claim) -> dict[str, Any]:
    started = time.monotonic()
    result, queries = put(question, suspect, claim.maker)
    return {
        "test": result.test,
        "decided": result.p_value <= ALPHA,
        "queries": queries,
        "triggers": result.n,
        "matches": result.matches,
        "p_value": result.p_value,
        "seconds": round(time.monotonic() - started, 3),
    }


def _stolen(run: Run) -> Iterator[tuple[str, float, float, nn.Module]]:
    """Attack, strength, clean accuracy and network: the model itself, then what attacks left of it."""
    cards = sorted(run.attacks().items())
    victim = next(card["victim"] for _, card in cards if card["type"] == "removal")
    yield "none", 0.0, victim["metrics"]["attack/clean_acc"], run.network
    for folder, card in cards:
        for number, row in enumerate(card.get("curve", ())):
            if row["final"] and row["strength"] in STRENGTHS.get(card["attack"], ()):
                yield card["attack"], row["strength"], row["metrics"]["attack/clean_acc"], run.surrogate(folder, number)


if __name__ == "__main__":
    main()
