from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from tests.helpers import random_source, tiny_data, tiny_module, tiny_net, tiny_trainer
from wmlightning.callbacks.accuracy import Accuracies
from wmlightning.callbacks.resume import FILE, ResumePoint
from wmlightning.errors import UserError
from wmlightning.models.classifier import Classifier, Optimisation


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


class _Best(L.Callback):
    """Keeps a number as NumPy has it, which is read by running code."""

    def state_dict(self) -> dict[str, Any]:
        return {"best": np.float64(0.5)}


def test_what_could_not_be_read_again_is_told_when_it_is_first_kept(tmp_path: Path) -> None:
    point = ResumePoint(tmp_path)
    callbacks = [Accuracies([1], 4), _Best(), point]
    trainer = tiny_trainer(callbacks=callbacks, enable_checkpointing=True, max_epochs=2)
    with pytest.raises(UserError, match=r"^callbacks: _Best keeps what cannot be read again") as told:
        trainer.fit(tiny_module(tiny_net(1, 12, 4)), datamodule=tiny_data(random_source()))
    assert "\n" not in str(told.value)
    assert len(point.history) == 1
    assert not list(tmp_path.iterdir())


# -- going on from every epoch ---------------------------------------------------------------------------------------


class _Keeping(ResumePoint):
    """Keeps a copy of the point of each epoch."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if (point := Path(str(self.dirpath)) / FILE).exists():
            shutil.copy(point, point.with_name(f"after{len(self.history)}"))


def _whole_fit(folder: Path, make: Callable[[], L.Callback] | None, options: dict[str, Any]) -> tuple[Any, ResumePoint]:
    """A training with all that has a memory: momenta, a schedule of every step, dropout, batch norm."""
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(144, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4)]
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.05)
    optimisation = Optimisation(partial(torch.optim.Adam, lr=0.01), schedule)
    module, point = Classifier(nn.Sequential(*layers), optimisation, seed=3), _Keeping(folder)
    callbacks = [Accuracies([1], 4), *([make()] if make else []), point]
    given = {"max_epochs": 4, "enable_checkpointing": True, "default_root_dir": str(folder), **options}
    trainer = tiny_trainer(callbacks=callbacks, **given)
    torch.manual_seed(random.randrange(1000))
    data = tiny_data(random_source())
    trainer.fit(module, datamodule=data, ckpt_path=point.load_whole(), weights_only=True)
    assert trainer.max_steps == options.get("max_steps", -1)
    return module.state_dict(), point


def _averaging() -> L.Callback:
    return EMAWeightAveraging(decay=0.9)


def _stopping() -> L.Callback:
    return EarlyStopping(monitor="train/loss", mode="max", patience=1)


class _Once(L.Callback):
    """Asks for an end once, early: Lightning keeps to it when trainer.min_epochs are there."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or trainer.current_epoch == 0


def _swa() -> L.Callback:
    return StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (None, {}),
        (None, {"max_steps": 17}),  # 6 steps an epoch: it ends within one
        (None, {"max_steps": 18}),
        (None, {"max_steps": 1000}),  # epochs end it first
        (None, {"max_steps": 7, "accumulate_grad_batches": 4, "max_epochs": 6}),
        (None, {"max_steps": 17, "val_check_interval": 0.5}),
        (None, {"max_steps": 17, "val_check_interval": 4, "check_val_every_n_epoch": None}),
        (None, {"max_steps": 17, "check_val_every_n_epoch": 2, "min_steps": 3}),
        (_averaging, {}),
        (_averaging, {"max_steps": 17}),
        (_swa, {}),
        (_stopping, {"max_epochs": 10}),
        (_stopping, {"max_epochs": 10, "max_steps": 1000}),
        (_Once, {"min_epochs": 3}),
        (_Once, {"min_steps": 15}),  # within the third
    ],
)
def test_from_every_epoch_it_ends_alike(
    tmp_path: Path, make: Callable[[], L.Callback] | None, options: dict[str, Any]
) -> None:
    weights, whole = _whole_fit(tmp_path, make, options)
    points = sorted(tmp_path.glob("after*"))
    assert len(points) == len(whole.history) > 1
    for path in points:
        folder = tmp_path / f"from {path.name}"
        folder.mkdir()
        shutil.copy(path, folder / FILE)
        again, point = _whole_fit(folder, make, options)
        assert point.history == whole.history, path.name
        assert all(torch.equal(again[name], weights[name]) for name in weights), path.name
