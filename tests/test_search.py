"""Searches with Optuna: the same command draws the same trials, and mistakes and failed trials are told in a line."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.test_sweep import until

Train = Callable[..., Any]


@pytest.mark.parametrize(
    "launcher",
    [
        (),
        pytest.param(
            ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2"), marks=pytest.mark.slow
        ),
    ],
)
def test_search_goes_on_after_a_kill(
    start: Train, train: Train, small: list[str], runs: Path, tmp_path: Path, launcher: tuple[str, ...]
) -> None:
    """Later trials follow from the results of those before; they too are the same again."""
    options: dict[str, Any] = {"runs": runs, "cwd": tmp_path}
    sweeper = ["hydra.sweeper.n_trials=5", "hydra.sweeper.sampler.n_startup_trials=2"]
    typed = [*small, "hparams_search=optuna", *sweeper, "logger=none", "callbacks=none", *launcher]

    process = start(*typed, **options)
    until(lambda: len(list(runs.glob("*/card.json"))) >= 3)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, out + err
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/card.json")}
    assert 3 <= len(before) < 5, out

    done = train(*typed, **options)
    assert done.code == 0, str(done)
    assert done.out.splitlines()[-1] == "5 jobs, 0 failed"
    assert len(list(runs.glob("*/card.json"))) == 5
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_search_is_a_sweep_without_being_told(train: Train, small: list[str], runs: Path, tmp_path: Path) -> None:
    typed = [*small, "hparams_search=optuna", "hydra.sweeper.n_trials=2", "logger=none", "callbacks=none"]
    done = train(*typed, runs=runs, cwd=tmp_path)
    assert done.code == 0, str(done)
    assert done.out.splitlines()[-1] == "2 jobs, 0 failed"
    assert len(list(runs.glob("*/card.json"))) == 2
    assert list(runs.glob("multirun/*/optimization_results.yaml"))


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("optimized_metric=val/acc", "'val/acc' is not measured; one of train/loss, "),
        ("optimized_metric=[val/clean_acc]", "['val/clean_acc'] is not measured; one of train/loss, "),
        ("optimized_metric=val/trigger_acc watermark=none", "'val/trigger_acc' is not measured; one of train/loss, "),
        ("optimized_metric=null", "a search needs to know "),
        ("trainer.limit_val_batches=0", "'val/clean_acc' is not measured with trainer.limit_val_batches=0; "),
        ("debug=fast_dev_run", "'val/clean_acc' is not measured with trainer.fast_dev_run=True; "),
    ],
)
def test_search_for_what_nobody_measures(main: Train, small: list[str], runs: Path, typed: str, told: str) -> None:
    check_refusal(main("-m", *small, "hparams_search=optuna", *typed.split()), runs, f"optimized_metric: {told}")


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials: 0 is out of range; "),
        ("hydra.sweeper.n_jobs=0", "hydra.sweeper.n_jobs: 0 is out of range; "),
        ("hydra.sweeper.direction=up", "hydra.sweeper.direction: up is no direction; "),
        ("hydra.sweeper.direction=[minimize,maximize]", "hydra.sweeper.direction: ['minimize', 'maximize'] is no "),
        ("hydra.sweeper.storage=nonsense", "hydra.sweeper.storage: Optuna cannot use nonsense (Could not parse "),
        ("seed=interval(5,1)", "seed: a search cannot draw from interval(5,1) (The `low` value must "),
        ("recipe.optimizer.lr=tag(log,interval(0,1))", "recipe.optimizer.lr: a search cannot draw from tag(log,"),
        ("watermark=glob(*)", "watermark: a search cannot draw from glob(*); "),
    ],
)
def test_search_that_cannot_be_made(main: Train, small: list[str], runs: Path, typed: str, told: str) -> None:
    check_refusal(main("-m", *small, "hparams_search=optuna", typed), runs, told)


def check_refusal(done: Any, runs: Path, told: str) -> None:
    assert done.code == 1, str(done)
    assert done.err.startswith(f"error: {told}"), str(done)
    assert len(done.err.splitlines()) == 1, str(done)
    assert not runs.exists()


def test_search_goes_on_after_a_trial_that_diverged(train: Train, small: list[str], runs: Path, tmp_path: Path) -> None:
    rates = "recipe.optimizer.lr=choice(0.01,1e12)"
    typed = [*small, "hparams_search=optuna", "hydra.sweeper.n_trials=4", rates, "optimized_metric=train/loss"]
    done = train(*typed, "hydra.sweeper.direction=minimize", runs=runs, cwd=tmp_path)
    assert done.code == 1, str(done)
    assert "Traceback" not in done.err, str(done)
    told = re.findall(r"^ *\d+ .*optimizer.lr=(\S+) .*?(failed|procedural-\S+)", done.out, re.MULTILINE)
    assert len(told) == 4, str(done)
    assert {rate for rate, outcome in told if outcome == "failed"} == {"1000000000000.0"}
    assert {rate for rate, outcome in told if outcome != "failed"} == {"0.01"}
    assert {line.partition("optimized_metric: ")[2].split()[0] for line in done.errors} == {"'train/loss'"}


def test_search_for_what_a_callback_did_not_measure(train: Train, small: list[str], runs: Path, tmp_path: Path) -> None:
    """What callbacks of one's own will measure nobody knows beforehand: the job fails, and the table says so."""
    own = "+callbacks.own._target_=lightning.pytorch.callbacks.Timer"
    typed = [*small, "hparams_search=optuna", "hydra.sweeper.n_trials=1", own, "optimized_metric=val/f1"]
    done = train("-m", *typed, runs=runs, cwd=tmp_path)
    assert done.code == 1, str(done)
    assert "Traceback" not in done.err, str(done)
    assert [line.partition("; ")[0] for line in done.errors] == [
        "error: job 0: optimized_metric: 'val/f1' is not measured",
        "error: hydra.sweeper: 1 of 1 trials failed",
    ]
    assert done.out.splitlines()[-1] == "1 jobs, 1 failed"
