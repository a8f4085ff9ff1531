"""Options that are no options: told in one line before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import job_of
from wmlightning.errors import UserError
from wmlightning.trainer import check_batches
from wmlightning.training import Training

Outcome = Any

SHORT = "~recipe.schedule.max_lr ~recipe.schedule.pct_start ~recipe.schedule.cycle_momentum"
PLATEAU = "recipe.schedule._target_=torch.optim.lr_scheduler.ReduceLROnPlateau"
FUSED = "+recipe.optimizer.fused=true"
STOP = "+callbacks.stop._target_=lightning.pytorch.callbacks"
LBFGS = "recipe.optimizer._target_=torch.optim.LBFGS recipe.schedule=null recipe.decay_all=true"
TURNS = ("Alone", "Wider", "Floats", "Odd")
#: By their key. What is said here, a config file may say.
MISTAKES = [
    ("guard", "guard=null"),
    ("judge", "judge=null"),
    ("attacker", "attacker=null"),
    ("dataset.source", "dataset.source=null"),
    ("logger", "logger=[]"),
    ("attack", "attack=[]"),
    ("callbacks", "callbacks=[]"),
    ("recipe.optimizer", "recipe.optimizer._partial_=3"),
    ("recipe.schedule", "recipe.schedule._partial_=word"),
    ("recipe.optimizer.lr", "recipe.optimizer.lr=inf"),
    ("recipe.schedule.max_lr", "recipe.schedule.max_lr=nan"),
    ("recipe.schedule.max_lr", "recipe.schedule.max_lr=inf"),
    ("recipe.schedule.pct_start", "recipe.schedule.pct_start=nan"),
    ("trainer.gradient_clip_val", "trainer.gradient_clip_val=inf"),
    ("attack.prune.weight_decay", "attack=prune attack.prune.weight_decay=inf"),
    ("attack.inversion.tv", "attack=inversion attack.inversion.tv=inf"),
    (
        "recipe.schedule",
        f"{PLATEAU} {SHORT}",
    ),
    ("recipe.optimizer", "recipe.optimizer._target_=torch.optim.LBFGS"),  # takes a single group
    ("callbacks.gallery.path", "callbacks.gallery.path=/proc/nowhere/x.png"),
    ("callbacks.gallery.path", "callbacks.gallery.path=."),
    ("dataset.name", "dataset.name=../../x"),
    ("dataset.name", "dataset.name=.."),
    ("dataset.name", "dataset.name=null"),
    ("dataset.name", "dataset.name=7"),
    ("watermark.n_marks", "watermark.n_marks=300"),
    ("watermark.n_decoys", "watermark.n_decoys=1000000000"),
    ("watermark.negatives", "watermark.negatives=1e308"),
    *((f"watermark.{name}", f"watermark.{name}=1{400 * '0'}") for name in ("per_batch", "n_decoys", "n_triggers")),
    ("dataset.val_share", "dataset.val_share=1e308"),
    ("watermark.negatives", "watermark.negatives=1e9"),
    ("watermark.text", "watermark=content watermark.text=[]"),
    ("trainer.devices", "trainer.devices=100000"),
    ("trainer.callbacks", "+trainer.callbacks=[]"),
    ("trainer.logger", "+trainer.logger=false"),
    ("trainer.default_root_dir", "+trainer.default_root_dir=x"),
    ("trainer.enable_checkpointing", "+trainer.enable_checkpointing=false"),
    ("recipe.batch_size", "recipe.batch_size=2 trainer.devices=4 watermark=none"),
    ("recipe.optimizer", "+recipe.optimizer.capturable=true"),
    ("trainer.gradient_clip_val", f"{FUSED} trainer.gradient_clip_val=1 trainer.precision=bf16-mixed"),
    ("trainer.sync_batchnorm", "trainer=ddp model=resnet9 trainer.sync_batchnorm=true"),
    ("callbacks.stop.monitor", f"{STOP}.EarlyStopping +callbacks.stop.monitor=nonsense"),
    ("callbacks.stop.monitor", f"{STOP}.EarlyStopping +callbacks.stop.monitor=val/trigger_acc watermark=none"),
    ("callbacks.stop.monitor", f"{STOP}.ModelCheckpoint +callbacks.stop.monitor=nonsense"),
    ("callbacks.stop", f"{STOP}.LearningRateMonitor logger=none"),
    ("callbacks.stop", f"{STOP}.DeviceStatsMonitor logger=none"),
    ("callbacks.stop", f"{STOP}.OnExceptionCheckpoint +callbacks.stop.dirpath=saved"),  # trainings begin from it
    ("callbacks.stop", f"{STOP}.LearningRateFinder"),
    ("callbacks.stop.monitor", f"{STOP}.EarlyStopping +callbacks.stop.monitor=val/trigger_acc attack=inversion"),
    ("model", "model._target_=turned.Told"),
    ("recipe.channels_last", "model._target_=turned.Deep"),
    ("recipe.optimizer", LBFGS),  # takes weights in one memory format only
    ("recipe.optimizer", "recipe.optimizer._target_=turned.Free recipe.schedule=null"),  # nobody sets it to work
    *(("recipe.augment", f"recipe.augment._target_=turned.{name} ~recipe.augment.shift") for name in TURNS),
]

BUGGY = """
import lightning as L


class Mine(L.Callback):
    def on_train_start(self, trainer, pl_module):
        raise RuntimeError("a bug")
"""

#: Augmentations, optimizers and networks of a user's own.
TURNED = """
import threading

import lightning as L
import torch
from torch import nn
from wmlightning.models.networks import SmallCNN


class Alone:
    def __call__(self, images):
        return images


class Wider:
    def __call__(self, images, keep, draw):
        return images.repeat(1, 1, 1, 2)


class Floats:
    def __call__(self, images, keep, draw):
        return images / 255


class Odd:
    def __call__(self, images, keep, draw):
        return images @ keep


class Fine:
    def __call__(self, images, keep, draw):
        return images.flip(3).where(~keep[:, None, None, None], images)


class Twice(torch.optim.SGD):
    def step(self, closure):
        loss = closure()
        self.zero_grad()
        closure()
        if not sum(weight.grad.abs().sum() for group in self.param_groups for weight in group["params"]):
            raise RuntimeError("no gradient")
        super().step()
        return loss


class Free(torch.optim.SGD):
    at_work = False

    def train(self):
        self.at_work = True

    def step(self, closure):
        assert self.at_work
        return super().step(closure)


class Setter(L.Callback):
    def on_train_start(self, trainer, pl_module):
        trainer.optimizers[0].train()


class Matrices(torch.optim.SGD):
    def __init__(self, groups, **options):
        super().__init__(groups, **options)
        assert all(weight.ndim > 1 for group in self.param_groups for weight in group["params"])


class Lazy(nn.Sequential):
    def __init__(self, channels, size, n_classes, width, hidden):
        super().__init__(nn.LazyConv2d(width, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(n_classes))


class Bare(nn.Sequential):
    def __init__(self, channels, size, n_classes, width, hidden):
        super().__init__(nn.Flatten(), nn.Linear(channels * size * size, n_classes, bias=False))


class Scripted(SmallCNN):
    def __init__(self, **options):
        super().__init__(**options)
        self.more = torch.jit.script(nn.Linear(10, 10))

    def forward(self, images):
        return self.more(super().forward(images))


class Told(SmallCNN):
    def get_extra_state(self):
        return {"version": 3}

    def set_extra_state(self, state):
        pass


class Deep(nn.Module):
    def __init__(self, n_classes, **options):
        super().__init__()
        self.deep, self.dense = nn.Conv3d(1, 4, 3), nn.LazyLinear(n_classes)

    def forward(self, images):
        return self.dense(self.deep(images.unflatten(2, (4, 7))).flatten(1))


class Locked(SmallCNN):
    def __init__(self, **options):
        super().__init__(**options)
        self.lock = threading.Lock()
"""


@pytest.mark.parametrize(("key", "typed"), MISTAKES, ids=[typed for _, typed in MISTAKES])
def test_mistake_is_told_in_one_line(
    main: Callable[..., Outcome], small: list[str], tmp_path: Path, runs: Path, key: str, typed: str
) -> None:
    (tmp_path / "turned.py").write_text(TURNED)
    done = main(*small, *typed.split())
    assert done.code == 1, str(done)
    assert "Traceback" not in done.out + done.err, str(done)
    assert len(done.errors) == 1, str(done)
    assert done.errors[0].startswith(f"error: {key}: "), str(done)
    assert not runs.exists()


@pytest.mark.parametrize(
    "typed",
    [
        f"{FUSED} trainer.gradient_clip_val=1",
        f"{FUSED} trainer.precision=bf16-mixed",
        "trainer.gradient_clip_val=1 trainer.precision=bf16-mixed",
        "trainer.sync_batchnorm=true model=resnet9",
        f"{STOP}.EarlyStopping +callbacks.stop.monitor=val/clean_acc",
        f"{STOP}.EarlyStopping +callbacks.stop.monitor=nonsense +callbacks.stop.strict=false",
        f"{STOP}.LearningRateMonitor",
        "recipe.augment._target_=turned.Fine ~recipe.augment.shift",
        f"{LBFGS} recipe.channels_last=false",
        "recipe.optimizer._target_=turned.Twice recipe.schedule=null",
        "recipe.optimizer._target_=turned.Free recipe.schedule=null +callbacks.mine._target_=turned.Setter",
        "recipe.optimizer._target_=turned.Matrices recipe.schedule=null model._target_=turned.Bare",
        "recipe.schedule.max_lr=[0.001,0.002]",  # one for each group of weights
        "model._target_=turned.Lazy",
        "model._target_=turned.Scripted",
        "model._target_=turned.Deep recipe.channels_last=false",
        *(f"{STOP}.{name}" for name in ("RichProgressBar", "TQDMProgressBar")),
        f"{STOP}.ModelCheckpoint debug=fast_dev_run",
        f"{STOP}.LearningRateMonitor debug=fast_dev_run",
        f"{STOP}.LearningRateMonitor trainer.fast_dev_run=2",
        f"{STOP}.EarlyStopping +callbacks.stop.monitor=val/trigger_acc attack=inversion judge.unmarked=false"
        " attack.inversion.steps=2",
    ],
)
def test_what_is_no_mistake(main: Callable[..., Outcome], small: list[str], tmp_path: Path, typed: str) -> None:
    (tmp_path / "turned.py").write_text(TURNED)
    done = main(*small, *typed.split())
    assert done.code == 0, str(done)


def test_a_network_that_cannot_be_copied(main: Callable[..., Outcome], small: list[str], tmp_path: Path) -> None:
    (tmp_path / "turned.py").write_text(TURNED)
    done = main(*small, "model._target_=turned.Locked")
    assert (done.code, len(done.errors)) == (1, 1), str(done)
    assert done.errors[0].startswith("error: model: locked cannot be copied (cannot pickle"), str(done)


def test_what_shows_only_in_the_training(main: Callable[..., Outcome], small: list[str], runs: Path) -> None:
    stop = f"{STOP}.EarlyStopping +callbacks.stop.monitor=val/clean_acc trainer.limit_val_batches=0"
    done = main(*small, *stop.split())
    assert (done.code, len(done.errors)) == (1, 1), str(done)
    assert "Traceback" not in done.err
    assert done.errors[0].startswith("error: callbacks.stop: Early stopping conditioned on metric `val/clean_acc`")
    assert "`train/loss`" in done.errors[0], "says what there is"
    assert not list(runs.glob("*/card.json"))


def test_bugs_of_the_users_own_keep_their_traceback(
    main: Callable[..., Outcome], small: list[str], tmp_path: Path
) -> None:
    (tmp_path / "buggy.py").write_text(BUGGY)
    done = main(*small, "+callbacks.mine={_target_:buggy.Mine}")
    assert done.code == 1
    assert "RuntimeError: a bug" in done.err


def test_data_without_a_name(main: Callable[..., Outcome], runs: Path) -> None:
    done = main("dataset=mnist", "dataset.source.name=null")
    assert (done.code, len(done.errors)) == (1, 1), str(done)
    assert done.errors[0].startswith("error: dataset.source.name: "), str(done)
    assert not runs.exists()


@pytest.mark.parametrize("typed", [["recipe.batch_size=4"], ["recipe.batch_size=5", "watermark.mix=per_batch"]])
def test_as_many_images_in_a_batch_as_processes(runs: Path, typed: list[str]) -> None:
    job = job_of(runs, "trainer.devices=4", "trainer.strategy=ddp", "watermark.per_batch=1", *typed)
    check_batches(Training(job).trainer, job.data_module())


def test_a_network_without_a_deterministic_kernel(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch tells of it, in the first step on a GPU."""
    job = job_of(runs)
    training = Training(job)
    job.folder.mkdir(parents=True)

    def step(batch: Any, batch_idx: int) -> torch.Tensor:
        raise RuntimeError(
            "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set "
            "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation.",
        )

    monkeypatch.setattr(training.module, "training_step", step)
    with pytest.raises(UserError) as told:
        training.run(job.data_module())
    line = str(told.value)
    assert line.startswith("trainer.deterministic: adaptive_avg_pool2d_backward_cuda does not have a deterministic")
    assert "trainer.deterministic=warn" in line


class _Uncompiled(RuntimeError):
    """As torch raises it where there is no compiler, and where a network cannot be compiled."""


_Uncompiled.__module__ = "torch._inductor.exc"


@pytest.mark.parametrize("fails", ["at once", "with the network"])
def test_what_cannot_be_compiled(
    main: Callable[..., Any], small: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def compiled(work: Any, **options: Any) -> Any:
        def call(images: torch.Tensor) -> torch.Tensor:
            if fails == "at once" or isinstance(work, torch.nn.Module):
                raise _Uncompiled("InvalidCxxCompiler: none was found\n\nSet a variable for more")
            return images

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    done = main(*small, "recipe.compile=true")
    right = "another network" if fails == "with the network" else "what torch.compile needs: "
    told = f"error: recipe.compile: InvalidCxxCompiler: none was found; false, or {right}"
    assert len(done.errors) == 1, str(done)
    assert done.errors[0].startswith(told)
    assert "Traceback" not in done.err
    assert runs.exists() == (fails == "with the network")
