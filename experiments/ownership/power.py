"""How many queries decide: stolen models as they are, after attacks, and through HTTP.

``python experiments/ownership/power.py --runs DIR`` asks every watermarked model of a run store, and every surrogate
that ``prune`` and ``finetune`` left of it at the strengths below, with the framework's own tests at p <= 0.001; the
same through HTTP; lets a stranger claim the model; and asks an unmarked model of the same data. It writes
``power.csv``: a row for each model, surrogate and question. Models that are in it are not asked again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from asking import Claim, Held, key_name, put, service
from torch import nn

from wmlightning import load_run
from wmlightning.files import write_bytes
from wmlightning.ownership.questions import DecoyKeys, Question, Terms
from wmlightning.ownership.suspects.base import Suspect
from wmlightning.ownership.suspects.oip import Oip
from wmlightning.results.card import read_card
from wmlightning.store import Run

HERE = Path(__file__).resolve().parent
ALPHA = 0.001
TERMS = Terms(ALPHA, queries=40, budget=5000)
#: Strengths of surrogates that are asked, by attack.
STRENGTHS = {"prune": (0.5, 0.7, 0.9), "finetune": (0.01, 0.03, 0.1)}
#: A key of one mark takes thousands of queries: it is put fewer times.
TURNS, TURNS_OF_DECOYS = 20, 3


def main() -> None:
    """Asks, and writes after each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=HERE.parents[1] / "runs" / "embedding")
    parser.add_argument("--out", type=Path, default=HERE / "power.csv")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    options = parser.parse_args()
    frame = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame({"model": []})
    for folder in _runs(options.runs, marked=True):
        run = load_run(folder)
        if run.card["seed"] not in options.seeds or folder.name in set(frame.model) or not run.attacks():
            continue
        started = time.monotonic()
        unmarked = [load_run(other) for other in _runs(options.runs, marked=False) if _same_task(other, folder)]
        frame = pd.concat([frame, pd.DataFrame(list(_rows(run, unmarked)))], ignore_index=True)
        write_bytes(options.out, frame.to_csv(index=False).encode())
        print(f"{folder.name}: {time.monotonic() - started:.0f} s", flush=True)


def _runs(folder: Path, marked: bool) -> list[Path]:
    """Finished trainings, with a watermark or without."""
    cards = {path: read_card(path) for path in sorted(folder.iterdir())}
    found = {path: card for path, card in cards.items() if card is not None and card.get("kind") == "train"}
    return [path for path, card in found.items() if bool(card["config"]["watermark"].get("_target_")) == marked]


def _same_task(one: Path, other: Path) -> bool:
    cards = read_card(one), read_card(other)
    assert None not in cards
    return len({(card["config"]["dataset"]["name"], card["seed"]) for card in cards if card is not None}) == 1


def _rows(run: Run, unmarked: list[Run]) -> Iterator[dict[str, Any]]:
    claim, config = Claim(run), run.card["config"]
    one_mark = isinstance(claim.question(TERMS, 0), DecoyKeys)
    turns = range(TURNS_OF_DECOYS if one_mark else TURNS)
    questions = [claim.question(TERMS, turn) for turn in turns]
    watermark = str(config["watermark"]["_target_"]).rsplit(".", 1)[1].lower()
    about = {
        "model": run.folder.name,
        "dataset": config["dataset"]["name"],
        "stored_as": run.card["data"]["stored_as"],
        "watermark": watermark,
        "key": key_name(config),
        "seed": run.card["seed"],
    }
    for attack, strength, clean, network in _stolen(run):
        suspect = Held(run, network)
        for turn, question in enumerate(questions):
            found = _found(question, suspect, claim)
            yield {**about, "attack": attack, "strength": strength, "clean_acc": clean, "turn": turn, **found}
        if attack == "none":
            row = {**about, "strength": strength, "clean_acc": clean}
            for turn in turns:
                found = _found(claim.strangers(TERMS, turn), suspect, claim)
                yield {**row, "attack": "a stranger claims it", "turn": turn, **found}
            for innocent in unmarked:
                for turn, question in enumerate(questions):
                    found = _found(question, Held(innocent, innocent.network), claim)
                    yield {**row, "attack": "an unmarked model", "turn": turn, **found}
            with service(run) as url:
                for turn, question in enumerate(questions):
                    yield {**row, "attack": "HTTP", "turn": turn, **_found(question, Oip(url, "classifier"), claim)}


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
