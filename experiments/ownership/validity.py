"""How often an innocent model is called owned: p-values of pairs of a model and a key that have nothing in common.

``python experiments/ownership/validity.py`` trains small networks (or finds them trained), half of them watermarked by
other owners in the paper's way, so that they answer to strangers' marks; draws a key for each pair; puts every test,
at once and in rounds; and writes ``validity.csv``, ``validity.md`` (into this folder's README, too), ``validity.png``.
A valid test gives p <= a in a share a of the pairs or less.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from asking import Held, chosen, put, triggers_asked
from hydra import compose, initialize_config_dir
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import binom

from wmlightning import load_run
from wmlightning.config import CONF
from wmlightning.files import write_bytes
from wmlightning.job import prepare
from wmlightning.ownership.questions import DecoyKeys, Question, Terms
from wmlightning.ownership.statistics.fixed import null_models
from wmlightning.pipeline import train
from wmlightning.results.canvas import COLOURS, MARKERS, png
from wmlightning.secret import Secret
from wmlightning.store import Run
from wmlightning.task import own_copy, settle

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
START, END = "<!-- validity table: start -->", "<!-- validity table: end -->"
LEVELS = (0.05, 0.01)
KEYS = {
    "several marks": ("watermark.n_marks=8", "watermark.n_triggers=64", "watermark.n_new=64"),
    "independent labels": ("watermark.label=random", "watermark.n_triggers=40"),
    "decoy keys": ("watermark.n_triggers=6", "watermark.n_new=6"),
}
UNUSED = ("watermark.negatives=0", "watermark.n_decoys=1")  # made with every key, and not asked about
WATERMARKS = ("noise", "content", "unrelated")
#: In rounds, the test ends when 0.01 is reached; decoys are 99 at once, and at most so many in rounds.
MODES = {"at once": Terms(0.01, 40, 600, sequential=False), "in rounds": Terms(0.01, 40, 1500, sequential=True)}


def main() -> None:
    """Trains, asks and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path(os.environ.get("WML_RUNS_DIR", "runs")) / "validity")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the results")
    parser.add_argument("--dataset", default="mnist5k")
    parser.add_argument("--models", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=200, help="of a model and a key, for each watermark and test")
    options = parser.parse_args()
    _quiet()
    options.out.mkdir(parents=True, exist_ok=True)
    task = [f"dataset={options.dataset}", f"runs_dir={options.runs.absolute()}", "logger=none", "callbacks=none"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        innocents = list(_innocents(task, options.models, options.epochs))
        frame = pd.DataFrame(list(_rows(task, innocents, options.pairs)))
    write_bytes(options.out / "validity.csv", frame.to_csv(index=False, float_format="%.6g").encode())
    table = summary(pd.read_csv(options.out / "validity.csv"))
    write_bytes(options.out / "validity.md", f"{table}\n".encode())
    write_bytes(options.out / "validity.png", png(_figure(frame)))
    if options.out == HERE:
        text = README.read_text()
        before, after = text.index(START) + len(START), text.index(END)
        write_bytes(README, f"{text[:before]}\n\n{table}\n\n{text[after:]}".encode())
    print(table)


def _quiet() -> None:
    """Keeps Lightning's advice off the screen."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _innocents(task: list[str], n: int, epochs: int) -> Iterator[Run]:
    """Models of other people: one in two without a watermark, the others with one of the three."""
    for seed in range(n):
        watermark = "none" if seed % 2 else WATERMARKS[seed // 2 % len(WATERMARKS)]
        typed = [f"watermark={watermark}", "watermark.negatives=0", f"seed={seed}", f"trainer.max_epochs={epochs}"]
        job = prepare(compose("train", [*task, *typed, "trainer=cpu", "trainer.enable_progress_bar=false"]))
        train(job, force=False)
        yield load_run(job.folder)


def _rows(task: list[str], innocents: list[Run], pairs: int) -> Iterator[dict[str, Any]]:
    suspects = [Held(run, run.network) for run in innocents]
    for test, options in KEYS.items():
        for watermark in WATERMARKS:
            started = time.monotonic()
            cfg = own_copy(compose("train", [*task, *UNUSED, f"watermark={watermark}", *options]))
            source = settle(cfg, Secret.from_seed(0)).source
            for pair in range(pairs):
                plan = replace(settle(cfg, Secret.from_seed(500_000 + pair)), source=source)
                maker = plan.maker(plan.roles())
                assert maker is not None
                triggers, true = triggers_asked(maker)
                about = {"watermark": watermark, "pair": pair, "model": innocents[pair % len(innocents)].folder.name}
                for mode, terms in MODES.items():
                    question = chosen(maker, triggers, true, terms, pair)
                    assert question.test == test
                    result, queries = put(question, suspects[pair % len(suspects)], maker)
                    found = {"p_value": result.p_value, "queries": queries, "matches": result.matches}
                    yield {**about, "test": test, "mode": mode, **found}
                    if mode == "at once" and not isinstance(question, DecoyKeys):
                        yield {
                            **about,
                            "test": "null models",
                            "mode": f"with {test}",
                            **_rank(question, suspects, pair),
                        }
            print(f"{test}, {watermark}: {pairs} keys in {time.monotonic() - started:.0f} s", flush=True)


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
