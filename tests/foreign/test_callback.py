"""When accuracies are measured and logged, and whose key a training is resumed with."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor

from tests.foreign.projects import Module, evaluation, loader, marked_names, marked_rows, owners_key, to_input
from tests.helpers import tiny_trainer
from wmlightning import Watermark
from wmlightning.errors import UserError
from wmlightning.ownership.key import Key, read_key


class Weighed(Module):
    """Writes down with what weights the last evaluation batch was looked at."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.weights = self.net[2].weight.detach().clone()
        super().validation_step(batch, batch_idx)


@pytest.mark.parametrize("first", [True, False], ids=["average first", "watermark first"])
@pytest.mark.parametrize("n_loaders", [1, 2])
def test_both_accuracies_are_of_the_averaged_weights(path: Path, key: Key, first: bool, n_loaders: int) -> None:
    asked: list[Tensor] = []

    def predict(module: Any, images: Tensor) -> Any:
        asked.append(module.net[2].weight.detach().clone())
        return module(images)

    module, ours = Weighed(), Watermark(path, to_input, predict=predict)
    average = EMAWeightAveraging(decay=0.9)
    trainer = tiny_trainer(callbacks=[average, ours] if first else [ours, average])
    trainer.fit(module, loader(), [evaluation() for _ in range(n_loaders)])
    assert torch.equal(asked[-1], module.weights)
    assert sum(torch.equal(weights, module.weights) for weights in asked) == 1, "measured once"
    assert "val/trigger_acc" in trainer.callback_metrics


# -- trainings that end within an epoch ------------------------------------------------------------------------------


def never_shown(trainer: L.Trainer, module: Module, data: Any = None) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        trainer.fit(module, data or loader(), evaluation())
    return [str(warning.message) for warning in found if "never came" in str(warning.message)]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_triggers_are_spread_over_the_batches_that_come(path: Path, key: Key, accumulate: int) -> None:
    names = marked_names(key, path.parent)
    options = {"max_epochs": -1, "max_steps": 3, "accumulate_grad_batches": accumulate}
    module, trainer = Module(), tiny_trainer(callbacks=[Watermark(path, to_input)], **options)
    assert not never_shown(trainer, module)
    assert len(module.seen) == 3 * accumulate
    assert sorted(n for *_, images, labels in module.seen for n in marked_rows(images, labels, names)) == sorted(names)
    assert 0 <= trainer.callback_metrics["val/trigger_acc"] <= 1


def test_longer_trainings_are_not_crowded_at_their_end(path: Path, key: Key) -> None:
    module = Module()
    options: dict[str, Any] = {"max_epochs": -1, "max_steps": 10}
    assert not never_shown(tiny_trainer(callbacks=[Watermark(path, to_input)], **options), module)
    assert [len(labels) for *_, labels in module.seen] == [14] * 10


class Stop(L.Callback):
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = batch_idx == 4


def test_triggers_that_never_came_are_told(path: Path, key: Key) -> None:
    (line,) = never_shown(tiny_trainer(callbacks=[Watermark(path, to_input), Stop()], min_epochs=0), Module())
    assert line.startswith("6 of 16 triggers never came with a batch: ") and "per_batch=8" in line


class Counts(Watermark):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.logged: list[int] = []

    def _log(self, pl_module: Any, stage: str, prog_bar: bool = False) -> None:
        self.logged.append(pl_module.trainer.global_step)
        super()._log(pl_module, stage, prog_bar)


@pytest.mark.parametrize(
    ("options", "logged"),
    [
        ({"max_epochs": 2}, [8, 16]),
        ({"max_steps": 11}, [8, 11]),
        ({"max_steps": 12, "val_check_interval": 0.5}, [4, 8, 12]),
        ({"max_epochs": 2, "limit_val_batches": 0}, [8, 16]),
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, [16]),
    ],
    ids=str,
)
def test_accuracies_are_logged_once_where_evaluation_ends(path: Path, key: Key, options: Any, logged: Any) -> None:
    counts = Counts(path, to_input)
    tiny_trainer(callbacks=[counts], **{"max_epochs": -1, **options}).fit(Module(), loader(), evaluation())
    assert counts.logged == logged


# -- whose key -------------------------------------------------------------------------------------------------------


def test_training_goes_on_with_its_own_key_only(path: Path, key: Key, tmp_path: Path) -> None:
    trainer = tiny_trainer(callbacks=[Watermark(path, to_input)], default_root_dir=tmp_path)
    trainer.fit(Module(), loader(), evaluation())
    trainer.save_checkpoint(tmp_path / "whole.ckpt")
    trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    content = [(tmp_path / f"{name}.ckpt").read_bytes() for name in ("whole", "weights")]
    assert [read_key(path).commitment().encode() in c for c in content] == [True, False]
    assert not any(part in content[0] for part in (key.secret.reveal(), key.secret.reveal().hex().encode()))

    other = tmp_path / "other.key"
    owners_key(other, seed=2)
    again: dict[str, Any] = {"ckpt_path": str(tmp_path / "whole.ckpt"), "weights_only": True}
    with pytest.raises(UserError, match=r"^key: the checkpoint's training was begun with another than .*other.key"):
        tiny_trainer(callbacks=[Watermark(other, to_input)], max_epochs=2).fit(Module(), loader(), **again)
    tiny_trainer(callbacks=[Watermark(path, to_input)], max_epochs=2).fit(Module(), loader(), **again)
    trainer = tiny_trainer(callbacks=[Watermark(other, to_input)])
    trainer.test(Module(), evaluation(), verbose=False, **again)
    assert "test/trigger_acc" in trainer.callback_metrics, "an owner may ask a model for any key"


def test_training_begun_without_a_key_may_go_on_with_one(path: Path, key: Key, tmp_path: Path) -> None:
    plain = tiny_trainer(default_root_dir=tmp_path)
    plain.fit(Module(), loader(), evaluation())
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    module, trainer = Module(), tiny_trainer(callbacks=[Watermark(path, to_input)], max_epochs=2)
    trainer.fit(module, loader(), evaluation(), ckpt_path=str(tmp_path / "plain.ckpt"), weights_only=True)
    assert [len(labels) for *_, labels in module.seen] == [14] * 8


def test_processes_with_different_keys(path: Path, key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny_trainer(callbacks=[Watermark(path, to_input)])
    monkeypatch.setattr(trainer.strategy, "broadcast", lambda obj, src=0: "0" * 64)
    with pytest.raises(UserError, match=r"^key: .*owner.key is not the same in all processes"):
        trainer.fit(Module(), loader(), evaluation())


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [{"batch_size": n} for n in (0, -1, "8", True)] + [{"per_batch": n} for n in (0, "8", True, 1e-9)]
)
def test_settings_are_checked_at_once(path: Path, wrong: Any) -> None:
    with pytest.raises(UserError, match=rf"^{next(iter(wrong))}: .* out of range"):
        Watermark(path, to_input, **wrong)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_no_number_of_triggers(path: Path, wrong: float) -> None:
    with pytest.raises(UserError, match=r"^per_batch: .* out of range"):
        Watermark(path, to_input, per_batch=wrong)


def test_validation_without_loaders(path: Path, key: Key) -> None:
    counts = Counts(path, to_input)
    tiny_trainer(callbacks=[counts], max_epochs=2, num_sanity_val_steps=2).fit(Module(), loader(), [])
    assert counts.logged == [8, 16]
