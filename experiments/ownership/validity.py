"""How often an innocent model is called owned: p-values of pairs of a model and a key that have nothing in common.

``python experiments/ownership/validity.py`` trains small networks (or finds them trained), half of them watermarked by
other owners in the paper's way, so that they answer to strangers' marks; draws a key for each pair; puts every test,
at once and in rounds; and writes ``validity.csv``, ``validity.json`` (how it was measured), ``validity.md`` (into this
folder's README, too) and ``validity.png``. A valid test gives p <= a in a share a of the pairs or less. Networks are
trained and keys drawn side by side, one on each core; the numbers do not depend on how many that are.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).resolve().parents[1]))
import pages
import workers
from asking import Held, chosen, put, triggers_asked
from hydra import compose, initialize_config_dir
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import binom

from wmlightning import load_run
from wmlightning.config import CONF
from wmlightning.files import write_bytes, write_json
from wmlightning.job import prepare
from wmlightning.ownership.questions import DecoyKeys, Question, Terms
from wmlightning.ownership.statistics.fixed import null_models
from wmlightning.pipeline import train
from wmlightning.results.canvas import COLOURS, MARKERS, png
from wmlightning.secret import Secret
from wmlightning.task import own_copy, settle

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
LEVELS = (0.05, 0.01)
#: Triggers that a question is about at most, and those of the keys: less than an owner would take, to save time.
QUERIES, OF_SEVERAL, BY_HEART, OF_ONE = 40, 64, 40, 6
KEYS = {
    "several marks": ("watermark.n_marks=8", f"watermark.n_triggers={OF_SEVERAL}", f"watermark.n_new={OF_SEVERAL}"),
    "independent labels": ("watermark.label=random", f"watermark.n_triggers={BY_HEART}"),
    "decoy keys": (f"watermark.n_triggers={OF_ONE}", f"watermark.n_new={OF_ONE}"),
}
UNUSED = ("watermark.negatives=0", "watermark.n_decoys=1")  # made with every key, and not asked about
WATERMARKS = ("noise", "content", "unrelated")
#: In rounds, the test ends when 0.01 is reached; decoys are 99 at once, and at most so many in rounds.
MODES = {
    "at once": Terms(0.01, QUERIES, 600, sequential=False),
    "in rounds": Terms(0.01, QUERIES, 1500, sequential=True),
}
#: What the page's numbers were made with; other than these are told with the command.
USUAL = {"dataset": "mnist5k", "models": 24, "epochs": 3, "pairs": 240}


def main() -> None:
    """Trains, asks and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path(os.environ.get("WML_RUNS_DIR", "runs")) / "validity")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the results")
    parser.add_argument("--dataset", default=USUAL["dataset"])
    parser.add_argument("--models", type=int, default=USUAL["models"])
    parser.add_argument("--epochs", type=int, default=USUAL["epochs"])
    parser.add_argument("--pairs", type=int, default=USUAL["pairs"], help="of a model and a key, by watermark and test")
    parser.add_argument("--jobs", type=int, default=None, help="at the same time; without it one for each core")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    task = [f"dataset={options.dataset}", f"runs_dir={options.runs.absolute()}", "logger=none", "callbacks=none"]
    frame = pd.DataFrame(_measured(task, options.models, options.epochs, options.pairs, options.jobs))
    record = pages.measured(**{name: getattr(options, name) for name in USUAL})
    write_bytes(options.out / "validity.csv", frame.to_csv(index=False, float_format="%.6g").encode())
    write_json(options.out / "validity.json", record)
    table = summary(pd.read_csv(options.out / "validity.csv"))
    write_bytes(options.out / "validity.md", f"{table}\n".encode())
    write_bytes(options.out / "validity.png", png(_figure(frame)))
    if options.out == HERE:
        pages.include(README, "validity table", table)
        pages.include(README, "validity", conditions())
    print(table)


def conditions(folder: Path = HERE) -> str:
    """How the numbers beside this file were made."""
    record = json.loads((folder / "validity.json").read_text())
    typed = "".join(f" --{name} {record[name]}" for name, usual in USUAL.items() if record[name] != usual)
    n = record["models"]
    return pages.filled(
        f"""`python experiments/ownership/validity.py{typed}` trains {n} small networks on `{record["dataset"]}` (seeds
        0 to {n - 1}, {record["epochs"]} epochs; half of them watermarked by other owners in the paper's way, so that
        they answer to strangers' marks), draws {record["pairs"]} keys for each watermark and test, and puts each to one
        of the models. A valid test gives p <= a in a share a of the pairs or less; the bound in the head is what 99 %
        of valid tests stay below with that many pairs. *In rounds* the test stops as soon as
        {MODES["in rounds"].alpha:g} is reached: optional stopping. *Null models*: the rank of the suspect among the
        {n - 1} others (no p below 1/{n}).""",
        f"""A key has {OF_SEVERAL} new triggers for eight marks, {BY_HEART} triggers with a label each, or {OF_ONE} for
        one mark; a question is about {QUERIES} of them at most. `verify.py` asks about up to {_shipped()} unless told
        otherwise, which takes longer; that more are as safe rests on the proof, not on this measurement.""",
        pages.told(record),
    )


def _shipped() -> int:
    """What ``queries`` is without being typed."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return int(compose("verify").queries)


def _measured(task: list[str], models: int, epochs: int, pairs: int, jobs: int | None) -> list[dict[str, Any]]:
    """All rows, in the same order whoever was done first. Decoy keys take longest: they are begun first."""
    with workers.pool(jobs) as pool:
        folders = list(pool.map(_innocent, *zip(*((task, seed, epochs) for seed in range(models)), strict=True)))
        cells = [(test, watermark) for test in KEYS for watermark in WATERMARKS]
        asked = {cell: pool.submit(_cell, task, folders, pairs, *cell) for cell in reversed(cells)}
        return [row for cell in cells for row in asked[cell].result()]


def _quiet() -> None:
    """Keeps Lightning's advice off the screen."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _innocent(task: list[str], seed: int, epochs: int) -> Path:
    """A model of other people: one in two without a watermark, the others with one of the three."""
    _quiet()
    watermark = "none" if seed % 2 else WATERMARKS[seed // 2 % len(WATERMARKS)]
    typed = [f"watermark={watermark}", "watermark.negatives=0", f"seed={seed}", f"trainer.max_epochs={epochs}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = prepare(compose("train", [*task, *typed, "trainer=cpu", "trainer.enable_progress_bar=false"]))
    train(job, force=False)
    return job.folder


def _cell(task: list[str], folders: list[Path], pairs: int, test: str, watermark: str) -> list[dict[str, Any]]:
    """A test of keys of one kind, at once and in rounds."""
    started = time.monotonic()
    innocents = [load_run(folder) for folder in folders]
    suspects = [Held(run, run.network) for run in innocents]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        rows = list(_rows(task, suspects, pairs, test, watermark))
    print(f"{test}, {watermark}: {pairs} keys in {time.monotonic() - started:.0f} s", flush=True)
    return rows


def _rows(task: list[str], suspects: list[Held], pairs: int, test: str, watermark: str) -> Iterator[dict[str, Any]]:
    cfg = own_copy(compose("train", [*task, *UNUSED, f"watermark={watermark}", *KEYS[test]]))
    source = settle(cfg, Secret.from_seed(0)).source
    for pair in range(pairs):
        plan = replace(settle(cfg, Secret.from_seed(500_000 + pair)), source=source)
        maker = plan.maker(plan.roles())
        assert maker is not None
        triggers, true = triggers_asked(maker)
        about = {"watermark": watermark, "pair": pair, "model": suspects[pair % len(suspects)].name}
        for mode, terms in MODES.items():
            question = chosen(maker, triggers, true, terms, pair)
            assert question.test == test
            result, queries = put(question, suspects[pair % len(suspects)], maker)
            found = {"p_value": result.p_value, "queries": queries, "matches": result.matches}
            yield {**about, "test": test, "mode": mode, **found}
            if mode == "at once" and not isinstance(question, DecoyKeys):
                yield {**about, "test": "null models", "mode": f"with {test}", **_rank(question, suspects, pair)}


def _rank(question: Question, suspects: list[Held], pair: int) -> dict[str, Any]:
    """The suspect's rank among all the others."""
    answers = [suspect.compute(question.triggers.images).argmax(1).numpy() for suspect in suspects]
    ours = answers.pop(pair % len(suspects))
    result = null_models(ours, question.labels, np.stack(answers))
    return {"p_value": result.p_value, "queries": result.n, "matches": result.matches}


def summary(frame: pd.DataFrame) -> str:
    """Shares of pairs with p <= level, and what 99 % of valid tests stay below at that number of pairs."""
    n = int(frame.groupby(["test", "mode", "watermark"]).size().min())
    most = {level: 100 * binom.ppf(0.99, n, level) / n for level in LEVELS}
    head = " | ".join(f"p <= {level} (a valid test: at most {most[level]:.1f} %)" for level in LEVELS)
    lines = [
        f"| test | put | watermark | pairs | {head} | queries |",
        "|---|---|---|---:|" + "---:|" * (len(LEVELS) + 1),
    ]
    for names, part in frame.groupby(["test", "mode", "watermark"], sort=False):
        shares = [f"{100 * float((part.p_value <= level).mean()):.1f} %" for level in LEVELS]
        lines.append(f"| {' | '.join(names)} | {len(part)} | {' | '.join(shares)} | {part.queries.mean():.0f} |")
    return "\n".join(lines)


def _figure(frame: pd.DataFrame) -> Figure:
    """Empirical distribution of p-values under innocence, against the diagonal that a valid test stays below."""
    panels = list(dict.fromkeys(zip(frame.test, frame["mode"], strict=True)))
    figure = Figure(figsize=(3.1 * 4, 3.1 * -(-len(panels) // 4)))
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(-(-len(panels) // 4), 4, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (test, mode) in zip(grid.flat, panels, strict=False):
        part = frame[(frame.test == test) & (frame["mode"] == mode)]
        n = part.groupby("watermark").size().min()
        levels = np.geomspace(0.002, 1, 200)
        axes.plot(levels, levels, color="#000000", linewidth=0.8)
        axes.fill_between(levels, 0, binom.ppf(0.99, n, levels) / n, color="#E4E4E4", linewidth=0)
        for colour, marker, (watermark, of_one) in zip(COLOURS, MARKERS, part.groupby("watermark"), strict=False):
            p = np.sort(of_one.p_value)
            shares = np.arange(1, n + 1) / n
            axes.step(p, shares, where="post", color=colour, label=watermark, marker=marker, markevery=25, markersize=4)
        axes.set(xscale="log", yscale="log", xlim=(0.002, 1.1), ylim=(0.002, 1.1), title=f"{test}, {mode}")
        axes.title.set_fontsize(10)
    for axes in grid[:, 0]:
        axes.set_ylabel("share of innocent pairs with p <= a")
    grid[-1, 0].set_xlabel("a")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    return figure


if __name__ == "__main__":
    main()
