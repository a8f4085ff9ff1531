"""What loggers get of an attack: the curve over strength, the group of the sweep, nothing secret."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.conftest import TASK, copy_of

RATES = [0.2, 0.5, 0.9]


@pytest.fixture(scope="module")
def logged(train: Callable[..., Any], victim_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an attack that was carried out with all loggers on, on a machine without a W&B account."""
    cwd = tmp_path_factory.mktemp("logged")
    copy_of(victim_folder, cwd / "runs")
    done = train(
        *[option for option in TASK if not option.startswith("logger")],
        "attack=prune",
        f"attack.prune.rates={RATES}".replace(" ", ""),
        "logger=many",
        "group=robbery",
        runs=cwd / "runs",
        cwd=cwd,
        HOME=str(cwd),
    )
    assert done.code == 0, str(done)
    (folder,) = cwd.glob("runs/*/attacks/prune-*")
    return folder


def test_csv_has_the_curve(logged: Path) -> None:
    (path,) = logged.glob("logs/metrics.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    card = json.loads((logged / "card.json").read_text())
    assert [float(row["attack/strength"]) for row in rows] == RATES
    for row, point in zip(rows, card["curve"], strict=True):
        assert {k: float(row[k]) for k in point["metrics"]} == pytest.approx(point["metrics"])


def test_wandb_has_one_run_of_its_own_with_group_job_type_and_step(logged: Path) -> None:
    (path,) = logged.glob("wandb/offline-run-*/run-*.wandb")
    content = path.read_bytes()
    for word in (
        b"robbery",
        b"attack/strength",
        b"attack/trigger_new_acc",
        logged.parents[1].name.encode() + b"/prune",
    ):
        assert word in content, word
    assert b"train/loss" not in content
    (table,) = logged.glob("wandb/offline-run-*/files/media/table/attack/*.json")
    told = json.loads(table.read_text())
    assert told["columns"][:3] == ["strength", "epochs", "seconds"]
    assert [row[0] for row in told["data"]] == RATES


def test_tensorboard_has_the_curve(logged: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logged / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("attack/strength")] == pytest.approx(RATES)


def test_no_pictures_and_no_weights_leave(logged: Path) -> None:
    places = [path for name in ("wandb", "tensorboard", "logs") for path in (logged / name).rglob("*")]
    files = [path for path in places if path.is_file()]
    assert len(files) > 4
    assert not [path for path in files if path.suffix in (".png", ".jpg", ".npy", ".pt", ".safetensors")]
    assert not [path for path in files if b"IHDR" in path.read_bytes()]
