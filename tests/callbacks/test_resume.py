from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from tests.helpers import random_source, tiny_data, tiny_module, tiny_net, tiny_trainer
from wmlightning.callbacks.accuracy import Accuracies
from wmlightning.callbacks.resume import FILE, ResumePoint


def _fit(folder: Path, going_on: bool = False, **options: Any) -> ResumePoint:
    torch.manual_seed(0)
    point = ResumePoint(folder)
    callbacks = [Accuracies([1], 4), point]
    trainer = tiny_trainer(callbacks=callbacks, enable_checkpointing=True, default_root_dir=str(folder), **options)
    found = point.load_whole() if going_on else None
    data = tiny_data(random_source())
    trainer.fit(tiny_module(tiny_net(1, 12, 4)), datamodule=data, ckpt_path=found, weights_only=True)
    return point


class _KilledError(BaseException):
    """As if the process ended here."""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Temporary files lie in another file system than runs, and whoever copies from one to the other is killed."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    rename = os.rename

    def within_one(source: Any, target: Any, **options: Any) -> None:
        if folder in Path(source).parents and folder not in Path(target).parents:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target, **options)

    def half(source: Any, target: Any, **options: Any) -> None:
        content = Path(source).read_bytes()
        Path(target).write_bytes(content[: len(content) // 2])
        raise _KilledError

    monkeypatch.setattr(os, "rename", within_one)
    monkeypatch.setattr(shutil, "copyfile", half)
    return folder


def test_the_old_point_is_whole_until_the_new_one_is(tmp_path: Path, elsewhere: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    point = _fit(runs, max_epochs=2)
    assert len(point.history) == 2
    assert torch.load(runs / FILE, weights_only=True)["epoch"] == 1
    assert not list(elsewhere.iterdir())
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((runs / FILE).stat().st_mode) == 0o666 & ~umask
    assert [path.name for path in runs.iterdir()] == [FILE]


def test_what_a_kill_left_of_a_point_is_removed(tmp_path: Path) -> None:
    _fit(tmp_path)
    (tmp_path / f".{FILE}.abc").write_bytes(b"half")  # where files.write_bytes has what is not whole yet
    assert _fit(tmp_path, going_on=True, max_epochs=2).history[-1]["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_an_epoch_without_validation_has_no_validation_accuracy(tmp_path: Path) -> None:
    history = _fit(tmp_path, max_epochs=5, check_val_every_n_epoch=2).history
    assert ["val/clean_acc" in epoch for epoch in history] == [False, True, False, True, False]
    assert ["val/trigger_acc" in epoch for epoch in history] == [False, True, False, True, False]
    assert all("train/loss" in epoch for epoch in history)


def test_a_check_before_training_is_no_validation_of_an_epoch(tmp_path: Path) -> None:
    history = _fit(tmp_path, max_epochs=2, num_sanity_val_steps=1, check_val_every_n_epoch=2).history
    assert ["val/clean_acc" in epoch for epoch in history] == [False, True]


def test_loggers_are_told_of_all_epochs_when_none_is_left(tmp_path: Path) -> None:
    first = _fit(tmp_path, max_epochs=3)
    logger = CSVLogger(tmp_path / "logs", version="")
    again = _fit(tmp_path, going_on=True, max_epochs=3, logger=logger)
    logger.save()
    assert again.history == first.history
    rows = (tmp_path / "logs" / "lightning_logs" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 3, rows
    assert "val/clean_acc" in rows[0]
    assert again.seconds == again.seconds_before, "no second was spent on training"
