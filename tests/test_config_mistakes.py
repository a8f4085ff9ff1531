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
]


@pytest.mark.parametrize(("key", "typed"), MISTAKES, ids=[typed for _, typed in MISTAKES])
def test_mistake_is_told_in_one_line(
    main: Callable[..., Outcome], small: list[str], runs: Path, key: str, typed: str
) -> None:
    done = main(*small, *typed.split())
    assert done.code == 1, str(done)
    assert "Traceback" not in done.out + done.err, str(done)
    assert len(done.errors) == 1, str(done)
    assert done.errors[0].startswith(f"error: {key}: "), str(done)
    assert not runs.exists()


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
