"""The accuracy guard in a project that is not ours: what stops it, what is put back, what survives a kill."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
)
from torch import Tensor, nn

from tests.foreign.projects import CLASSES, Module, evaluation, loader, owners_key, to_input
from tests.helpers import tiny_trainer
from wmlightning import AccuracyGuard, Watermark
from wmlightning.errors import UserError

HELD, FELL = [0.9, 0.8, 0.9, 0.85, 0.9], [0.9, 0.8, 0.9, 0.5, 0.9]  # the first is that of the model before
Weights = dict[str, Tensor]


class Told(Module):
    """Somebody's module, whose accuracy is made up: that of before training, then of each epoch."""

    def __init__(self, accuracies: list[float], name: str = "val/acc") -> None:
        super().__init__()
        self.accuracies, self.name = accuracies, name
        self.norm = nn.BatchNorm1d(len(CLASSES))  # it has buffers too

    def forward(self, images: Tensor) -> Tensor:
        normed: Tensor = self.norm(super().forward(images))
        return normed

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        training = self.trainer.state.fn == "fit" and not self.trainer.sanity_checking
        self.log(self.name, self.accuracies[self.current_epoch + 1 if training else 0])

    test_step = validation_step


class Diary(L.Callback):
    """Writes down the weights before the first step and at each validation of the training."""

    def __init__(self) -> None:
        self.weights: list[Weights] = []
        self.checked = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.weights.append(weights_of(pl_module))

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.checked += trainer.sanity_checking

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.weights.append(weights_of(pl_module))


def weights_of(module: nn.Module) -> Weights:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def told(accuracies: list[float], name: str = "val/acc") -> Told:
    torch.manual_seed(0)
    return Told(accuracies, name)


def fitted(module: Told, *callbacks: L.Callback, ckpt: Path | None = None, ask: bool = False, **options: Any) -> Any:
    """The project's own training."""
    given = {"max_epochs": len(module.accuracies) - 1, "num_sanity_val_steps": 1, **options}
    trainer = tiny_trainer(callbacks=list(callbacks), **given)
    torch.manual_seed(1)
    data = loader(batch_size=24), evaluation()
    if ask:
        trainer.validate(module, data[1], verbose=False, ckpt_path=ckpt, weights_only=True)
    trainer.fit(module, *data, ckpt_path=ckpt, weights_only=True)
    return trainer


def saving(folder: Path) -> list[L.Callback]:
    """Somebody's checkpoints: every third step, and after each epoch, which has four."""
    steps = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=3)
    return [steps, ModelCheckpoint(folder, "{epoch}", save_top_k=-1)]


# -- what is kept ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [True, False])
def test_it_stops_and_puts_the_last_good_weights_back(ask: bool) -> None:
    guard, diary, module = AccuracyGuard(0.1, "val/acc"), Diary(), told(FELL)
    trainer = fitted(module, guard, diary, ask=ask)
    assert len(diary.weights) == 4, "not one epoch after that which fell"
    assert same(weights_of(module), diary.weights[2])
    assert not same(weights_of(module), diary.weights[3])
    assert diary.checked == (1 if ask else 2), "of two batches"
    assert trainer.num_sanity_val_steps == 1, "as the project has it"
    outcome = {"max_drop": 0.1, "clean_acc_before": 0.9, "clean_acc": 0.9, "stopped": True, "epochs_kept": 2}
    assert guard.outcome() == pytest.approx(outcome)


def test_a_training_that_holds_is_as_it_would_be_without() -> None:
    guard, diary, module, plain = AccuracyGuard(0.1, "val/acc"), Diary(), told(HELD), told(HELD)
    fitted(module, guard, diary)
    fitted(plain)
    assert same(weights_of(module), weights_of(plain))
    assert guard.outcome()["epochs_kept"] == 4
    assert not guard.stopped


def test_what_fell_at_once_is_undone_and_told() -> None:
    module = told([0.9, 0.5, 0.9])
    before = weights_of(module)
    with pytest.raises(UserError, match=r"^max_drop: .* from 90\.00 to 50\.00 % \(val/acc\) at once; no .*; a smaller"):
        fitted(module, AccuracyGuard(0.1, "val/acc"))
    assert same(weights_of(module), before)


def test_validations_within_an_epoch_count() -> None:
    class Sinking(Told):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val/acc", 0.9 if self.global_step < 6 else 0.5)

    torch.manual_seed(0)
    guard, diary, module = AccuracyGuard(0.1, "val/acc"), Diary(), Sinking(HELD)
    trainer = fitted(module, guard, diary, val_check_interval=2)
    assert trainer.global_step == 6, "steps 2, 4 and 6 were validated"
    assert same(weights_of(module), diary.weights[2])


def test_what_is_validated_later_is_not_the_model_before() -> None:
    guard, module = AccuracyGuard(0.1, "recall"), told([0.9, 0.85, 0.9], "recall")
    trainer = fitted(module, guard)
    module.accuracies = [0.2]
    trainer.validate(module, evaluation(), verbose=False)
    assert guard.before == pytest.approx(0.9)
    trainer.test(module, evaluation(), verbose=False)
    assert guard.epochs_kept == 2


def test_it_stands_aside_in_a_dry_run() -> None:
    module = told([0.9, 0.5])
    fitted(module, guard := AccuracyGuard(0.1, "val/acc"), fast_dev_run=True)
    assert guard.outcome()["clean_acc"] is None


# -- beside others -----------------------------------------------------------------------------------------------------


def test_beside_the_watermark(tmp_path: Path) -> None:
    owners_key(tmp_path / "owner.key")
    plain, diary, module, guard = told(FELL), Diary(), told(FELL), AccuracyGuard(0.1, "val/acc")
    fitted(plain, diary, Watermark(tmp_path / "owner.key", to_input))
    fitted(module, guard, Watermark(tmp_path / "owner.key", to_input))
    assert [len(images) for _, _, images, _ in module.seen] == [28] * 12, "four triggers with each batch"
    assert same(weights_of(module), diary.weights[2]), "what is trained is the same, and two epochs were good"
    assert 0 <= guard.metrics["val/trigger_acc"] <= 1


def test_what_a_checkpoint_beside_it_holds(tmp_path: Path) -> None:
    last = ModelCheckpoint(tmp_path, save_last=True)
    guard, diary, module = AccuracyGuard(0.1, "val/acc"), Diary(), told(FELL)
    trainer = fitted(module, guard, diary, last, enable_checkpointing=True)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert same(saved["state_dict"], diary.weights[3]), "the weights as training had them"
    kept, outcome = weights_of(module), guard.outcome()
    trainer.test(module, evaluation(), ckpt_path=tmp_path / "last.ckpt", weights_only=True, verbose=False)
    assert guard.outcome() == outcome, "what is only looked at changes nothing"
    again = told(FELL)
    fitted(again, AccuracyGuard(0.1, "val/acc"), ckpt=tmp_path / "last.ckpt")
    assert same(weights_of(again), kept)


@pytest.mark.parametrize(
    ("others", "wrong"),
    [
        ([AccuracyGuard(0.1, "val/loss")], "several AccuracyGuard callbacks"),
        ([StochasticWeightAveraging(0.01)], "StochasticWeightAveraging ends with other weights"),
    ],
)
def test_what_it_cannot_work_beside(others: list[L.Callback], wrong: str) -> None:
    with pytest.raises(UserError, match=f"^callbacks: {wrong}"):
        fitted(told(HELD), AccuracyGuard(0.1, "val/acc"), *others)


# -- going on ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accuracies", [HELD, FELL], ids=["held", "fell"])
@pytest.mark.parametrize(
    ("file", "n_before"), [("step=3", 0), ("epoch=0", 1), ("step=6", 1), ("epoch=1", 2), ("step=9", 2), ("epoch=2", 3)]
)
def test_killed_and_resumed(tmp_path: Path, accuracies: list[float], file: str, n_before: int) -> None:
    """From each checkpoint of a training, of which ``n_before`` epochs were validated: it is as if it had gone on."""
    expected, diary, module = AccuracyGuard(0.1, "val/acc"), Diary(), told(accuracies)
    fitted(module, expected, diary, *saving(tmp_path), enable_checkpointing=True)
    again, later, guard = told(accuracies), Diary(), AccuracyGuard(0.1, "val/acc")
    fitted(again, guard, later, ckpt=tmp_path / f"{file}.ckpt")
    assert guard.outcome() == expected.outcome()
    assert again.norm.num_batches_tracked == module.norm.num_batches_tracked
    since = guard.epochs_kept - n_before
    assert same(weights_of(again), later.weights[since] if since > 0 else diary.weights[guard.epochs_kept])


@pytest.mark.parametrize("file", ["step=3", "epoch=0"])
def test_going_on_from_a_checkpoint_of_the_project(tmp_path: Path, file: str) -> None:
    """Saved without the guard: at the end of an epoch it finds out by itself how good the model was."""
    fitted(told(HELD[:3]), *saving(tmp_path), enable_checkpointing=True)
    options: dict[str, Any] = {"ckpt": tmp_path / f"{file}.ckpt", "max_epochs": 4}
    if file == "step=3":
        with pytest.raises(UserError, match=r"^ckpt_path: it was saved without .* val/acc .*; trainer\.validate\("):
            fitted(told(FELL), AccuracyGuard(0.1, "val/acc"), **options)
        options["ask"] = True
    guard, diary, module = AccuracyGuard(0.1, "val/acc"), Diary(), told(FELL)
    fitted(module, guard, diary, **options)
    assert guard.before == pytest.approx(0.9)
    assert guard.stopped
    assert same(weights_of(module), diary.weights[-2])


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [True, False])
@pytest.mark.parametrize(
    ("monitor", "accuracies", "error"),
    [
        ("val/accuracy", HELD, r"monitor: validation logs no 'val/accuracy' but val/acc; a metric that it logs"),
        ("val/acc", [93.0, 93.0], r"monitor: val/acc is 93; a share to be kept high, from 0 to 1"),
        ("val/acc", [float("nan"), 0.9], r"monitor: val/acc is nan; .*"),
    ],
)
def test_another_metric_is_told_before_the_first_step(
    monitor: str, accuracies: list[float], error: str, ask: bool
) -> None:
    module = told(accuracies)
    with pytest.raises(UserError, match=f"^{error}$"):
        fitted(module, AccuracyGuard(0.1, monitor), ask=ask)
    assert not module.seen
    assert module.trainer.num_sanity_val_steps == 1


def test_a_project_without_validation_is_told() -> None:
    module = told(HELD)
    with pytest.raises(UserError, match=r"^max_drop: no clean image is validated on; "):
        fitted(module, AccuracyGuard(0.1, "val/acc"), limit_val_batches=0)
    assert not module.seen


# -- weights that are averaged -----------------------------------------------------------------------------------------


class Averages(L.Callback):
    """Somebody's own: validates on other weights than training has."""

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.theirs = weights_of(pl_module)
        pl_module.load_state_dict({name: value * 0.5 for name, value in self.theirs.items()})

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.load_state_dict(self.theirs)


class Seen(Told):
    """Notes what each validation looked at."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)
        self.looked_at = [*getattr(self, "looked_at", []), weights_of(self)]


@pytest.mark.parametrize("first", [True, False], ids=["average first", "guard first"])
@pytest.mark.parametrize("average", [Averages, lambda: EMAWeightAveraging(decay=0.9)], ids=["own", "EMA"])
@pytest.mark.parametrize("accuracies", [HELD, FELL], ids=["held", "fell"])
def test_the_weights_that_were_validated_are_kept(average: Any, first: bool, accuracies: list[float]) -> None:
    module, guard = Seen(accuracies), AccuracyGuard(0.1, "val/acc")
    fitted(module, *([average(), guard] if first else [guard, average()]))
    n_batches = 2
    assert guard.epochs_kept == (4 if accuracies is HELD else 2)
    assert same(weights_of(module), module.looked_at[n_batches * (1 + guard.epochs_kept) - 1])


# -- ends of any kind --------------------------------------------------------------------------------------------------


class Stops(L.Callback):
    """In the middle of the third epoch."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (2, 2):
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("full")], ids=lambda error: type(error).__name__)
def test_an_interrupt_leaves_the_kept_weights_too(tmp_path: Path, error: BaseException) -> None:
    saving = OnExceptionCheckpoint(tmp_path, "error")
    guard, diary, module = AccuracyGuard(0.1, "val/acc"), Diary(), told(HELD)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises((SystemExit, RuntimeError)):
            fitted(module, guard, diary, Stops(error), saving, enable_checkpointing=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert guard.epochs_kept == 2
    assert same(weights_of(module), diary.weights[2])
    assert "on_exception" not in vars(module.trainer.strategy)
    saved = torch.load(tmp_path / "error.ckpt", weights_only=True)["state_dict"]
    assert not same(saved, diary.weights[2]), "what goes on has the weights as training had them"


def test_the_next_training_begins_anew() -> None:
    guard, module = AccuracyGuard(0.1, "val/acc"), told(FELL)
    fitted(module, guard)
    assert guard.stopped
    again = told([0.5, 0.5, 0.45])
    fitted(again, guard)
    assert guard.outcome() == pytest.approx(
        {"max_drop": 0.1, "clean_acc_before": 0.5, "clean_acc": 0.45, "stopped": False, "epochs_kept": 2}
    )


@pytest.mark.parametrize("ask", [True, False])
def test_no_validation_data_are_told(ask: bool) -> None:
    module, guard = told(HELD), AccuracyGuard(0.1, "val/acc")
    trainer = tiny_trainer(callbacks=[guard])
    if ask:
        trainer.validate(module, evaluation(), verbose=False)
    with pytest.raises(UserError, match=r"^max_drop: no clean image is validated on; "):
        trainer.fit(module, loader(), [])
    assert not module.seen
