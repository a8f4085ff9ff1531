"""The pages of experiments/, and the project's own, say what the CSV files of the studies say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO

EXPERIMENTS = REPO / "experiments"
#: A page, where the module is that renders a part of it, its name, and how.
PARTS = (
    ("ablations/README.md", "ablations", "table", "rendered(pd.read_csv(table.RESULTS))"),
    ("ownership/README.md", "ownership", "overwriting", "table(pd.read_csv(overwriting.RESULTS))"),
    ("ownership/README.md", "ownership", "overwriting", "told(pd.read_csv(overwriting.RESULTS))"),
    ("ownership/README.md", "ownership", "validity", "summary(pd.read_csv('validity.csv'))"),
    ("ownership/validity.md", "ownership", "validity", "summary(pd.read_csv('validity.csv'))"),
    ("ownership/README.md", "ownership", "validity", "conditions()"),
    ("ownership/README.md", ".", "front", "power(front._asked())"),
    ("trained/README.md", "trained", "table", "markdown(table.from_csv())"),
    ("trained/README.md", "trained", "table", "told(table.from_csv())"),
    *(("../README.md", ".", "front", f"front()['{name}']") for name in ("findings", "extra", "removal", "bench")),
)


def python(folder: str, code: str) -> str:
    """What a program prints that runs in a folder of experiments/."""
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=EXPERIMENTS / folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def rendered() -> dict[tuple[str, str, str], str]:
    """All parts: one process for each folder, since modules there have the same names."""
    found = {}
    for folder in {folder for _, folder, _, _ in PARTS}:
        mine = list(dict.fromkeys((module, how) for _, where, module, how in PARTS if where == folder))
        modules = ", ".join({module for module, _ in mine})
        texts = ", ".join(f"str({module}.{how})" for module, how in mine)
        printed = python(folder, f"import json, pandas as pd, {modules}\nprint(json.dumps([{texts}]))")
        found |= {(folder, *part): text for part, text in zip(mine, json.loads(printed), strict=True)}
    return found


@pytest.mark.parametrize(("page", "folder", "module", "how"), PARTS)
def test_a_page_shows_its_numbers(
    page: str, folder: str, module: str, how: str, rendered: dict[tuple[str, str, str], str]
) -> None:
    text = rendered[folder, module, how].strip()
    assert len(text) > 100
    assert text in (EXPERIMENTS / page).read_text(), "render it anew; what front.py writes: python experiments/front.py"


def card(folder: Path, name: str, **more: Any) -> None:
    """A finished training's card, as far as scripts read it."""
    watermark = {"_target_": "wmlightning.watermarks.noise.Noise", "n_new": 50, "n_triggers": 0.01, "n_marks": 1}
    watermark |= {"negatives": 0, "label": "target", "mix": "concat", "source_class": "auto", "strength": 0.2}
    config = {"watermark": watermark, "dataset": {"name": "mnist5k"}, "model": {"_target_": "a.SmallCNN"}, "tags": []}
    content = {
        "schema": 1,
        "kind": "train",
        "group": "ablations",
        "seed": 0,
        "epochs": 20,
        "precision": "32-true",
        "fingerprint": name,
        "metrics": {"test/clean_acc": 0.9, "test/trigger_acc": 1.0, "test/trigger_new_acc": 1.0, "test/decoy_acc": 0.5},
        "data": {"stored_as": "digits", "train": 3600, "test": 1000},
        "device": "cpu",
        "threads": 1,
        "seconds": {"train": 3.0},
        "environment": {"git_commit": "0123456789abcdef-dirty", "platform": "Linux x86_64"},
        "config": config,
    }
    config.update(more.pop("config", {}))
    watermark.update(more.pop("watermark", {}))
    (folder / name).mkdir(parents=True)
    (folder / name / "card.json").write_text(json.dumps({**content, **more}))


ABLATIONS = "import json, sys, pandas as pd, table\nruns = table.read(table.Path({!r}))\n"


def test_an_ablation_pools_no_data_sets_and_takes_no_other_runs(tmp_path: Path) -> None:
    for seed in (0, 1):
        for strength in (0.2, 0.4):
            card(tmp_path, f"small-{seed}-{strength}", seed=seed, watermark={"strength": strength})
            large = {"dataset": {"name": "mnist"}, "model": {"_target_": "a.SmallCNN"}}
            metrics = {"test/clean_acc": 0.99, "test/trigger_acc": 1.0}
            more = {"config": large, "metrics": metrics, "data": {"stored_as": "files", "train": 54000, "test": 10000}}
            card(tmp_path, f"large-{seed}-{strength}", seed=seed, watermark={"strength": strength}, **more)
    card(tmp_path, "unmarked", config={"watermark": {"_target_": None}}, group="mine")
    card(tmp_path, "another", watermark={"strength": 0.4}, group="mine", metrics={"test/clean_acc": 0.1})
    page = python("ablations", ABLATIONS.format(str(tmp_path)) + "print(table.rendered(runs))")
    small, large = page.split("## mnist5k")[1], page.split("## mnist (")[1].split("## mnist5k")[0]
    assert "| noise | 0.2 | 90.00 | 100.0 | 100.0 | 50.0 | 50 | 2 |" in small
    assert "| noise | 0.4 | 99.00 | 100.0 |" in large
    assert "`0123456-dirty` (4)" in small
    assert "Linux x86_64, cpu; threads of a job: 1" in small


def test_what_a_watermark_costs_a_trained_model_is_told_beside_the_control(tmp_path: Path) -> None:
    card(tmp_path / "starts", "plain", metrics={"test/clean_acc": 0.8})
    guard = {"epochs_kept": 5, "stopped": False}
    marked = {"start": {"run": "plain"}, "guard": guard}
    tags = {"tags": ["asiaccs2018", "negatives"]}
    card(tmp_path / "runs", "marked", config=tags, **marked, metrics={"test/clean_acc": 0.82})
    code = f"import table\nfrom pathlib import Path\nfolder = Path({str(tmp_path)!r})\n"
    code += "print(table.told(table.read(folder / 'runs', folder / 'starts')))"
    assert "was not run" in python("trained", code)
    none = {"watermark": {"_target_": None}}
    card(tmp_path / "runs", "control", config=none, **marked, metrics={"test/clean_acc": 0.83})
    card(tmp_path / "runs", "elsewhere", metrics={"test/clean_acc": 0.1})
    told = python("trained", code)
    assert "less before: +2.00 points" in told
    assert "The same training without triggers: +3.00 points." in told
    assert "own share is -1.00 points" in told


def test_workers_end_when_the_study_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "study.py"
    script.write_text(
        f"""import os, sys, time
sys.path.append({str(EXPERIMENTS)!r})
import workers
def told(_):
    import torch
    print(os.getpid(), torch.get_num_threads(), flush=True)
    time.sleep(60)
if __name__ == "__main__":
    with workers.pool(1) as pool:
        list(pool.map(told, [0]))
"""
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker, threads = map(int, process.stdout.readline().split())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert threads == 1
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < deadline, "the worker goes on"
        time.sleep(0.1)


def test_a_bench_that_fails_leaves_what_was_printed_before(tmp_path: Path) -> None:
    failing = tmp_path / "failing.py"
    failing.write_text("print('half', flush=True)\nraise SystemExit(3)\n")
    code = f"""import run
try:
    run._printed([{str(failing)!r}])
except SystemExit as error:
    print(error)"""
    assert python("bench", code).endswith("failing.py ended with exit code 3\n")
