"""What loggers are told: all of a study, and of an owner's training nothing that tells of marks and labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from wmlightning.logged import FILE, noted, untold
from wmlightning.loggers import wandb_logger

Outcome = Any

TYPED = [
    "watermark=content",
    "watermark.text=SOTT",
    "watermark.n_marks=1",
    "watermark.source_class=1",
    "watermark.target_class=2",
    "attack=prune",
    "logger=csv",
]


@pytest.mark.parametrize("owned", [False, True])
def test_config_told_to_loggers(main: Callable[..., Outcome], small: list[str], runs: Path, owned: bool) -> None:
    done = main(*small, *TYPED, *([f"key={runs.parent / 'my.key'}"] if owned else []))
    assert done.code == 0, done
    told = [path.read_text() for path in runs.rglob("hparams.yaml")]
    assert len(told) == 2, "the training and the attack"
    for text in told:
        assert ("SOTT" in text) is not owned
        assert ("(withheld)" in text) is owned
        assert "watermark: content" in text, "what results are grouped by"


@pytest.mark.parametrize("source_class, owned, told", [("1", True, False), ("1", False, True), ("auto", True, True)])
def test_accuracy_on_a_class_that_is_secret_is_not_told(
    main: Callable[..., Outcome], small: list[str], runs: Path, source_class: str, owned: bool, told: bool
) -> None:
    typed = [*TYPED[:3], f"watermark.source_class={source_class}", "watermark.target_class=2", *TYPED[5:]]
    done = main(*small, *typed, *([f"key={runs.parent / 'my.key'}"] if owned else []))
    assert done.code == 0, done
    for path in runs.rglob("card.json"):
        card = json.loads(path.read_text())
        assert any(name.endswith("/source_acc") for name in card["metrics"]), "it is measured"
        assert ("source_acc" in (path.parent / "logs" / "metrics.csv").read_text()) is told


def rows(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_what_is_finished_is_told_to_loggers_that_come_later_and_once(
    main: Callable[..., Outcome], small: list[str], runs: Path
) -> None:
    command = [*small, "watermark=noise", "attack=prune", "attack.prune.rates=[0.5]"]
    for logger in ("none", "csv"):
        done = main(*command, f"logger={logger}")
        assert done.code == 0, done
    places = sorted(path.parent for path in runs.rglob("card.json"))
    assert len(places) == 2
    for place in places:
        card = json.loads((place / "card.json").read_text())
        found = rows(place / "logs" / "metrics.csv")
        for epoch in (*card.get("history", []), card["metrics"]):
            wanted = {
                name: v for name, v in epoch.items() if name.startswith(("test/", "attack/", "val/", "train/loss"))
            }
            if card["kind"] == "train" and epoch is card["metrics"]:
                wanted = {name: value for name, value in wanted.items() if name.startswith("test/")}
            wanted.pop("attack/epochs", None)
            assert any(wanted.items() <= row.items() for row in found), wanted
        assert (place / "logs" / "hparams.yaml").is_file()
    files = {path: path.stat().st_mtime_ns for place in places for path in (place / "logs").iterdir()}
    assert main(*command, "logger=csv").code == 0
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_what_was_told_while_it_ran_is_not_told_again(
    main: Callable[..., Outcome], small: list[str], runs: Path
) -> None:
    command = [*small, "watermark=noise", "logger=csv"]
    assert main(*command).code == 0
    (log,) = runs.rglob("metrics.csv")
    before = log.read_bytes()
    assert main(*command).code == 0
    assert log.read_bytes() == before
    (log.parents[1] / FILE).unlink()  # as versions left it that made no notes
    assert main(*command).code == 0
    assert log.read_bytes() == before


def test_what_was_broken_off_is_told_whole(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, "logs", "")
    with pytest.raises(KeyboardInterrupt), noted([logger], tmp_path):
        logger.log_metrics({"a": 1.0})
        logger.save()
        raise KeyboardInterrupt
    assert untold([logger], tmp_path) == [logger]
    with noted([logger], tmp_path):
        pass
    assert not untold([logger], tmp_path)
    assert untold([logger], tmp_path, "something else") == [logger]
    other = CSVLogger(tmp_path, "elsewhere", "")
    assert untold([logger, other], tmp_path) == [other]


def test_what_is_printed_stays_here(tmp_path: Path) -> None:
    logger = wandb_logger(mode="offline", save_dir=str(tmp_path))
    assert isinstance(logger, WandbLogger)
    assert logger._wandb_init["settings"].console == "off"


def test_profiler_that_is_asked_for_tells(
    train: Callable[..., Outcome], small: list[str], runs: Path, tmp_path: Path
) -> None:
    done = train(*small, "logger=none", "trainer.profiler=simple", runs=runs, cwd=tmp_path)
    assert done.code == 0, done
    assert "FIT Profiler Report" in done.err
    assert "[LightningModule]Classifier.optimizer_step" in done.err
