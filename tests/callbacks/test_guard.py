"""The guard on made-up accuracies: what is kept, when it stops, and what survives a kill."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import heavy, random_source, tiny_data, tiny_module, tiny_net, tiny_trainer
from wmlightning.callbacks.guard import AccuracyGuard
from wmlightning.callbacks.resume import FILE, ResumePoint
from wmlightning.errors import UserError


class Script(L.Callback):
    """Says what the accuracies are, the first before training; and in each epoch writes its number into the weights."""

    def __init__(self, accuracies: list[float]) -> None:
        self.accuracies = accuracies

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if number := self._number(trainer):
            with torch.no_grad():
                pl_module.net[1].bias.fill_(float(number))  # type: ignore[union-attr,index]

    def _number(self, trainer: L.Trainer) -> int:
        training = trainer.state.fn == "fit" and not trainer.sanity_checking
        return trainer.current_epoch + 1 if training else 0

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        number = self._number(trainer)
        pl_module.log_dict({"val/clean_acc": self.accuracies[number], "val/trigger_acc": number / 10})


def guarding(max_drop: float) -> AccuracyGuard:
    return AccuracyGuard(max_drop, "val/clean_acc")


def watched(
    guard: AccuracyGuard,
    accuracies: list[float],
    folder: Path,
    ckpt: str | None = None,
    ask: bool = True,
    **options: Any,
) -> Any:
    """Trains as many epochs as there are accuracies; gives the network and the resume point."""
    net = tiny_net(1, 12, 4)
    module, point = tiny_module(net, lr=0.001), ResumePoint(folder)
    given_to = {"max_epochs": len(accuracies) - 1, "enable_checkpointing": True, "default_root_dir": folder, **options}
    trainer = tiny_trainer(callbacks=[Script(accuracies), guard, point], **given_to)
    data = tiny_data(random_source())
    if ckpt is None and ask:
        trainer.validate(module, datamodule=data, verbose=False)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt, weights_only=True)
    assert trainer.num_sanity_val_steps == 0, "as it was"
    return net, point


@heavy
@given(
    accuracies=st.lists(st.integers(0, 20).map(lambda n: n / 20), min_size=2, max_size=6),
    max_drop=st.integers(0, 10).map(lambda n: n / 20),
    ask=st.booleans(),
)
def test_the_last_weights_before_the_first_that_fell_too_far_are_kept(
    tmp_path_factory: pytest.TempPathFactory, accuracies: list[float], max_drop: float, ask: bool
) -> None:
    guard, folder = guarding(max_drop), tmp_path_factory.mktemp("guard")
    fell = [i for i, accuracy in enumerate(accuracies[1:]) if round(20 * (accuracies[0] - accuracy - max_drop)) > 0]
    good = fell[0] if fell else len(accuracies) - 1  # epochs before the first that was not
    if not good:
        with pytest.raises(UserError, match=r"^max_drop: clean validation accuracy fell from .* at once; no"):
            watched(guard, accuracies, folder, ask=ask)
        assert not guard.epochs_kept
        return
    net, point = watched(guard, accuracies, folder, ask=ask)
    assert len(point.history) == min(good + 1, len(accuracies) - 1), "it stops with the first epoch that is not good"
    assert (net[1].bias == good).all()
    assert guard.metrics["val/clean_acc"] == pytest.approx(accuracies[good])
    assert guard.metrics["val/trigger_acc"] == pytest.approx(good / 10)
    assert guard.outcome() == {
        "max_drop": max_drop,
        "clean_acc_before": pytest.approx(accuracies[0]),
        "clean_acc": pytest.approx(accuracies[good]),
        "stopped": bool(fell),
        "epochs_kept": good,
    }


def test_a_fall_by_exactly_what_is_allowed_is_allowed(tmp_path: Path) -> None:
    guard = guarding(0.01)
    watched(guard, [0.98, 0.97], tmp_path)
    assert not guard.stopped
    guard = guarding(0.01)
    with pytest.raises(UserError, match=r"from 98\.00 to 96\.99 %"):
        watched(guard, [0.98, 0.9699], tmp_path)
    assert guard.stopped


def test_it_stays_stopped_when_the_training_goes_on_after_a_kill(tmp_path: Path) -> None:
    accuracies = [0.9, 0.9, 0.5, 0.9, 0.9]
    watched(guarding(0.1), accuracies, tmp_path)  # its last checkpoint is of the epoch that fell
    again = guarding(0.1)
    net, point = watched(again, accuracies, tmp_path, ckpt=str(tmp_path / FILE))
    assert len(point.history) == 2, "no epoch after the one it stopped in"
    assert (net[1].bias == 1).all()
    assert again.outcome()["clean_acc_before"] == pytest.approx(0.9)


def test_what_it_knows_loads_without_running_code(tmp_path: Path) -> None:
    guard = guarding(0.1)
    watched(guard, [0.9, 0.9, 0.85], tmp_path)
    file = io.BytesIO()
    torch.save(guard.state_dict(), file)
    file.seek(0)
    other = guarding(0.1)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.outcome() == guard.outcome()


def test_epochs_without_validation_do_not_count(tmp_path: Path) -> None:
    guard = guarding(0.1)
    net, _ = watched(guard, [0.9, 0.0, 0.9, 0.9], tmp_path, check_val_every_n_epoch=2)
    assert (net[1].bias == 2).all()
    assert guard.outcome()["epochs_kept"] == 2
    with pytest.raises(UserError, match="no epoch was validated"):
        watched(guarding(0.1), [0.9, 0.9], tmp_path / "never", check_val_every_n_epoch=2)


def test_without_validation_images_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no clean image is validated on"):
        watched(guarding(0.1), [0.9, 0.9], tmp_path, limit_val_batches=0)


@pytest.mark.parametrize("wrong", [-0.001, 1.001, float("nan"), float("inf"), "much", True, None])
def test_what_is_no_share_is_refused(wrong: Any) -> None:
    with pytest.raises(UserError, match=r"^max_drop: "):
        guarding(wrong)


@pytest.mark.parametrize("wrong", ["", None, 3])
def test_what_is_no_name_is_refused(wrong: Any) -> None:
    with pytest.raises(UserError, match=r"^monitor: "):
        AccuracyGuard(0.1, wrong)
