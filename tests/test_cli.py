"""What a user sees of the command: mistakes told in one line, runs that leave whole cards, sweeps, loggers."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.fabric.loggers.tensorboard as tensorboard
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
import wandb
from PIL import Image
from safetensors.torch import load_file

from wmlightning.config import make
from wmlightning.data.standard import Mnist5k, StandardSource
from wmlightning.errors import UserError
from wmlightning.job import prepare
from wmlightning.models.networks import Normalized

Main = Callable[..., Any]

#: The names of DESIGN, and the luckiest stranger beside the mean of all.
TEST_METRICS = {
    "test/clean_acc",
    "test/source_acc",
    "test/trigger_acc",
    "test/trigger_new_acc",
    "test/decoy_acc",
    "test/decoy_acc_max",
}
METRICS = {"train/loss", "train/clean_acc", "val/clean_acc", "val/trigger_acc", *TEST_METRICS}


def cards(runs: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(runs.glob("*/card.json"))]


# -- mistakes --------------------------------------------------------------------------------------------------------


def told(done: Any, key: str, runs: Path) -> str:
    """Checks that a command told of one mistake in one line, named the key, and wrote nothing; returns the line."""
    assert done.code == 1, str(done)
    assert "Traceback" not in done.out + done.err, str(done)
    lines = done.err.strip().splitlines()
    assert len(lines) == len(done.errors) == 1, str(done)
    assert lines[0].removeprefix("error: ").partition(": ")[0].startswith(key), f"{lines[0]!r} does not name {key}"
    assert "; " in lines[0], "says what would be right"
    assert not runs.exists(), [str(path) for path in runs.rglob("*")]
    return lines[0]


COLOUR = "model=mobilenet_v3 dataset.source.shape=[3,32,32]"
VIT = " ".join(
    f"+model.{key}={value}"
    for key, value in {
        "image_size": 224,
        "patch_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "hidden_dim": 16,
        "mlp_dim": 16,
    }.items()
)

#: The key that the message names, and what the user typed. A key is named whole or by its beginning.
MISTAKES = [
    # classes
    ("watermark.source_class", "watermark.source_class=dog"),
    ("watermark.source_class", "watermark.source_class=10"),
    ("watermark.source_class", "watermark.source_class=-1"),
    ("watermark.source_class", "watermark.source_class=true"),
    ("watermark.source_class", "watermark.source_class=null"),
    ("watermark.target_class", "watermark.target_class=dog"),
    ("watermark.target_class", "watermark.target_class=any"),
    ("watermark.target_class", "watermark.target_class=99"),
    ("watermark.target_class", "watermark.source_class=rows watermark.target_class=rows"),
    ("watermark.target_class", "watermark.source_class=0 watermark.target_class=rows"),
    ("watermark.source_class", "watermark.source_class=rings"),
    ("watermark.target_class", "watermark.n_marks=3 watermark.target_class=rows"),
    ("watermark.target_class", "watermark.label=random watermark.target_class=rows"),
    ("dataset.source_class", "dataset.source_class=dog"),
    ("dataset.target_class", "dataset.target_class=dog"),
    # numbers of triggers
    ("watermark.n_triggers", "watermark.n_triggers=1.5"),
    ("watermark.n_triggers", "watermark.n_triggers=0.0"),
    ("watermark.n_triggers", "watermark.n_triggers=-0.1"),
    ("watermark.n_triggers", "watermark.n_triggers=-5"),
    ("watermark.n_triggers", "watermark.n_triggers=0"),
    ("watermark.n_triggers", "watermark.n_triggers=many"),
    ("watermark.n_triggers", "watermark.n_triggers=null"),
    ("watermark.n_triggers", "watermark.n_triggers=true"),
    ("watermark.n_triggers", "watermark.n_triggers=nan"),
    ("watermark.n_triggers", "watermark.n_triggers=58"),  # there are 57 of the source class
    ("watermark.n_triggers", "watermark.n_triggers=1.0"),
    ("watermark.n_triggers", "watermark.n_triggers=600 watermark.source_class=any"),
    ("watermark.n_triggers", "watermark.n_triggers=4 watermark.n_marks=8"),
    ("watermark.n_triggers", "watermark=unrelated watermark.images=procedural watermark.n_triggers=5000"),
    ("watermark.n_new", "watermark.n_new=0"),
    ("watermark.n_new", "watermark.n_new=11"),  # there are 10 in the judge's half
    ("watermark.n_new", "watermark.n_new=1.5"),
    ("watermark.n_new", "watermark.n_new=some"),
    ("watermark.n_new", "watermark=unrelated watermark.images=procedural watermark.n_new=5000"),
    # the other common options
    ("watermark.n_marks", "watermark.n_marks=0"),
    ("watermark.n_marks", "watermark.n_marks=-2"),
    ("watermark.n_marks", "watermark.n_marks=1.5"),
    ("watermark.n_marks", "watermark.n_marks=two"),
    ("watermark.n_marks", "watermark.n_marks=null"),
    ("watermark.label", "watermark.label=both"),
    ("watermark.label", "watermark.label=null"),
    ("watermark.mix", "watermark.mix=shaken"),
    ("watermark.negatives", "watermark.negatives=-1"),
    ("watermark.negatives", "watermark.negatives=lots"),
    ("watermark.negatives", "watermark.negatives=nan"),
    ("watermark.negatives", "watermark.negatives=inf"),
    ("watermark.per_batch", "watermark.mix=per_batch watermark.per_batch=0"),
    ("watermark.per_batch", "recipe.batch_size=16 watermark.mix=per_batch watermark.per_batch=16"),  # none clean
    ("watermark.per_batch", "recipe.batch_size=16 watermark.mix=per_batch watermark.per_batch=8"),  # and 8 negatives
    ("watermark.n_decoys", "watermark.n_decoys=0"),
    ("watermark.n_decoys", "watermark.n_decoys=few"),
    ("watermark.augment", "watermark.augment=perhaps"),
    # one watermark's own
    ("watermark.strength", "watermark.strength=0"),
    ("watermark.strength", "watermark.strength=0.0005"),
    ("attack.overwrite.watermark.strength", "attack=overwrite attack.overwrite.watermark.strength=0.0005"),
    ("watermark.strength", "watermark.strength=2"),
    ("watermark.strength", "watermark.strength=strong"),
    ("watermark.strength", "watermark.strength=true"),
    ("watermark.fresh", "watermark.fresh=no"),  # not false: a word, which would count as true
    ("watermark.text", "watermark=content watermark.text=A_TEXT_FOR_A_WIDER_IMAGE"),
    ("watermark.text", "watermark=content watermark.text=''"),
    ("watermark.text", "watermark=content watermark.text='Ωμέγα'"),
    ("watermark.n_letters", "watermark=content watermark.text=null watermark.n_letters=0"),
    ("watermark", "watermark=content watermark.text=null watermark.n_letters=20"),
    ("watermark.n_letters", "watermark=content watermark.n_letters=2.5"),
    ("watermark.n_letters", "watermark=content watermark.n_letters=few"),
    ("watermark.opacity", "watermark=content watermark.opacity=0"),
    ("watermark.opacity", "watermark=content watermark.opacity=1.5"),
    ("watermark.opacity", "watermark=content watermark.opacity=true"),
    ("watermark.color", "watermark=content watermark.color=300"),
    ("watermark.color", "watermark=content watermark.color=[1,2]"),
    ("watermark.color", "watermark=content watermark.color=[1.5,2,3]"),
    ("watermark.color", "watermark=content watermark.color=1.5"),
    ("watermark.color", "watermark=content watermark.color=true"),
    ("watermark.scale", "watermark=content watermark.scale=0"),
    ("watermark.scale", "watermark=content watermark.scale=1.5"),
    ("watermark.scale", "watermark=content watermark.scale=large"),
    ("watermark", "watermark=content watermark.scale=9"),
    ("watermark.position", "watermark=content watermark.position=[1,2,3]"),
    ("watermark", "watermark=content watermark.position=[20,20]"),
    ("watermark", "watermark=content watermark.position=[-1,0]"),
    ("watermark.position", "watermark=content watermark.position=middle"),
    ("watermark.position", "watermark=content watermark.position=[1.7,2]"),
    ("watermark.position", "watermark=content watermark.position=[true,2]"),
    ("watermark.position", "watermark=content watermark.position=5"),
    ("watermark.logo", "watermark=content watermark.logo=/nowhere/logo.png"),
    ("watermark.logo", "watermark=content watermark.logo=."),
    ("watermark.images", "watermark=unrelated watermark.images=nowhere"),
    ("watermark.images", "watermark=unrelated watermark.images=${dataset.source}"),
    ("watermark", "watermark=unrelated watermark.images=3"),
    ("watermark.picture_class", "watermark=unrelated watermark.images=procedural watermark.picture_class=dog"),
    ("watermark.n_marks", "watermark=unrelated watermark.images=procedural watermark.n_marks=10"),
    ("watermark.n_marks", "watermark=unrelated watermark.images=procedural watermark.n_marks=11 watermark.negatives=0"),
    ("watermark.negatives", "watermark=unrelated watermark.images=procedural watermark.label=random"),
    ("watermark", "watermark._target_=wmlightning.watermarks.nowhere.Nothing"),
    ("watermark._target_", "watermark=content watermark._target_=builtins.dict"),
    # networks
    ("model", "model=mobilenet_v3"),  # wants colour
    ("model", "dataset.source.shape=[1,8,8]"),
    ("model", "dataset.source.shape=[1,4,4] model=resnet9"),
    ("model", "model.n_classes=7"),
    ("model", "model.channels=3"),
    ("model", "model.width=-1"),
    ("model", "model.width=wide"),
    ("model.width", "model.width=3.7"),
    ("model.width", "model.width=true"),
    ("model.width", "model=vgg_cnn model.width=3.7"),
    ("model.width", "model=resnet9 model.width=true"),
    ("model.hidden", "model.hidden=1.5"),
    ("model", "model._target_=nowhere.Net"),
    ("model", "model._target_=torch.nn.Identity"),
    ("model._target_", "model._target_=builtins.dict"),
    ("model", f"{COLOUR} model._target_=torchvision.models.VisionTransformer {VIT}"),  # an assertion fails
    ("model", f"{COLOUR} model._target_=torchvision.models.googlenet +model.init_weights=false"),  # two more outputs
    # devices and precision
    ("trainer.precision", "trainer.precision=16-mixed"),
    ("trainer.precision", "trainer.precision=64-true"),
    ("trainer.precision", "trainer.precision=half"),
    ("trainer.accelerator", "trainer.accelerator=tpu"),
    # the trainer's own arguments
    ("trainer.max_epochs", "trainer.max_epochs=0"),
    ("trainer.max_epochs", "trainer.max_epochs=-1"),
    ("trainer.max_epochs", "trainer.max_epochs=ten"),
    ("trainer.max_epochs", "trainer.max_epochs=2.5"),
    ("trainer.max_epochs", "trainer.max_epochs=null"),
    ("trainer", "trainer.devices=0"),
    ("trainer", "trainer.devices=many"),
    ("trainer", "trainer.strategy=teamwork"),
    ("trainer", "trainer.limit_train_batches=-3"),
    ("trainer", "+trainer.no_such_argument=1"),
    ("trainer", "trainer._target_=nowhere.Trainer"),
    ("trainer.min_epochs", "trainer.min_epochs=5"),  # of 1
    ("trainer.min_epochs", "trainer.min_epochs=some"),
    ("trainer.min_steps", "trainer.min_steps=5 trainer.max_steps=4"),
    ("trainer.max_steps", "trainer.max_steps=0"),
    ("trainer.max_steps", "trainer.max_steps=1.5"),
    ("trainer.max_time", "trainer.max_time=00:00:00:00"),
    ("trainer.max_time", "trainer.max_time={seconds:0}"),
    ("trainer", "trainer.max_time=0"),
    ("trainer", "trainer.max_time=soon"),
    ("trainer.fast_dev_run", "trainer.fast_dev_run=no"),
    ("trainer.limit_train_batches", "trainer.limit_train_batches=0"),
    ("trainer.limit_train_batches", "trainer.limit_train_batches=1.5"),
    ("trainer.limit_train_batches", "trainer.limit_train_batches=0.01"),  # of 5 batches
    ("trainer.limit_train_batches", "trainer.limit_train_batches=true"),
    ("trainer.limit_val_batches", "trainer.limit_val_batches=0.5"),  # of 1 batch
    ("trainer.limit_val_batches", "trainer.limit_val_batches=-1"),
    ("trainer.limit_test_batches", "trainer.limit_test_batches=0"),
    ("trainer.limit_test_batches", "trainer.limit_test_batches=0.0"),
    ("trainer.limit_test_batches", "trainer.limit_test_batches=0.5"),
    ("trainer.overfit_batches", "trainer.overfit_batches=-2"),
    ("trainer.overfit_batches", "trainer.overfit_batches=nan"),
    ("trainer.val_check_interval", "trainer.val_check_interval=1000"),
    ("trainer.val_check_interval", "trainer.val_check_interval=3 trainer.limit_train_batches=2"),
    ("trainer.val_check_interval", "trainer.val_check_interval=0"),
    ("trainer.val_check_interval", "trainer.val_check_interval=1.5"),
    ("trainer", "trainer.val_check_interval=often"),
    ("trainer.check_val_every_n_epoch", "trainer.check_val_every_n_epoch=0"),
    ("trainer.check_val_every_n_epoch", "trainer.check_val_every_n_epoch=1.5"),
    ("trainer", "trainer.check_val_every_n_epoch=null trainer.val_check_interval=0.5"),
    ("trainer.num_sanity_val_steps", "trainer.num_sanity_val_steps=two"),
    ("trainer.num_sanity_val_steps", "trainer.num_sanity_val_steps=-2"),
    ("trainer.log_every_n_steps", "trainer.log_every_n_steps=-1"),
    ("trainer.accumulate_grad_batches", "trainer.accumulate_grad_batches=0"),
    ("trainer.accumulate_grad_batches", "trainer.accumulate_grad_batches=null"),
    ("trainer.gradient_clip_val", "trainer.gradient_clip_val=-1"),
    ("trainer.gradient_clip_val", "trainer.gradient_clip_val=a"),
    ("trainer", "trainer.gradient_clip_val=1 trainer.gradient_clip_algorithm=hard"),
    ("trainer.num_nodes", "trainer.num_nodes=0"),
    ("trainer.strategy", "trainer.strategy=ddp_spawn"),
    ("trainer.strategy", "trainer.strategy=fsdp"),
    ("trainer.deterministic", "trainer.deterministic=no"),
    ("trainer.deterministic", "trainer.deterministic=1"),
    ("trainer.benchmark", "trainer.benchmark=yes"),
    ("trainer.detect_anomaly", "trainer.detect_anomaly=off"),
    ("trainer.detect_anomaly", "trainer.detect_anomaly=null"),
    ("trainer.sync_batchnorm", "trainer.sync_batchnorm=no"),
    ("trainer.enable_progress_bar", "trainer.enable_progress_bar=no"),
    ("trainer.enable_model_summary", "trainer.enable_model_summary=no"),
    ("trainer.inference_mode", "+trainer.inference_mode=no"),
    ("trainer.use_distributed_sampler", "trainer.use_distributed_sampler=true"),
    ("trainer.use_distributed_sampler", "trainer.use_distributed_sampler=no"),
    # optimisation
    ("recipe.batch_size", "recipe.batch_size=0"),
    ("recipe.batch_size", "recipe.batch_size=100000"),
    ("recipe.batch_size", "recipe.batch_size=many"),
    ("recipe.eval_batch_size", "recipe.eval_batch_size=0"),
    ("recipe.num_workers", "recipe.num_workers=-1"),
    ("recipe.label_smoothing", "recipe.label_smoothing=1.5"),
    ("recipe.label_smoothing", "recipe.label_smoothing=nan"),
    ("recipe", "recipe.optimizer=null"),
    ("recipe.optimizer", "recipe.optimizer._target_=torch.optim.Nope"),
    ("recipe.optimizer", "+recipe.optimizer.speed=3"),
    ("recipe.optimizer", "recipe.optimizer.lr=-1"),
    ("recipe.optimizer", "recipe.optimizer.lr=fast"),
    ("recipe", "recipe=base"),
    ("recipe.schedule", "recipe.schedule.pct_start=2"),
    ("recipe.schedule", "recipe.schedule._target_=torch.optim.lr_scheduler.Nope"),
    ("recipe.schedule", "+recipe.schedule.speed=3"),
    ("recipe.augment", "recipe.augment._target_=nowhere.Augment"),
    ("recipe.augment", "recipe.augment.shift=-1"),
    ("recipe.augment", "recipe.augment.shift=some"),
    ("recipe.augment.flip", "+recipe.augment.flip=no"),
    # data
    ("dataset.source", "dataset.source._target_=nowhere.Data"),
    ("dataset.source", "dataset.source.shape=[28,28]"),
    ("dataset.source.shape", "dataset.source.shape=[1,28.5,28]"),
    ("dataset.source.shape", "dataset.source.shape=[true,28,28]"),
    ("dataset.source.shape", "dataset.source.shape=[1,0,28]"),
    ("dataset.source.n_train", "++dataset.source.n_train=none"),
    ("dataset.source.n_train", "++dataset.source.n_train=0"),
    ("dataset.source.n_test", "++dataset.source.n_test=1.5"),
    ("dataset.val_share", "dataset.val_share=0"),
    ("dataset.val_share", "dataset.val_share=1"),
    ("dataset.val_share", "dataset.val_share=some"),
    ("dataset.mean", "dataset.mean=[0.1,0.2]"),
    ("dataset.mean", "dataset.mean=0.5"),
    ("dataset.mean", "dataset.mean=[a]"),
    ("dataset.mean", "dataset.mean=[nan]"),
    ("dataset.mean", "dataset.mean=[true]"),
    ("dataset.mean", "dataset.mean=null"),
    ("dataset.std", "dataset.std=[0]"),
    ("dataset.std", "dataset.std=[a]"),
    ("dataset.std", "dataset.std=[-1]"),
    ("dataset.std", "dataset.std=[inf]"),
    # the rest
    ("seed", "seed=-1"),
    ("seed", "seed=1.5"),
    ("seed", "seed=lucky"),
    ("seed", "seed=null"),
    ("force", "force=perhaps"),
    ("recipe.compile", "recipe.compile=no"),
    ("recipe.compile", "recipe.compile=reduce"),
    ("recipe.compile", "recipe.compile=1"),
    ("recipe.compile", "recipe.compile=null"),
    ("judge.unmarked", "judge.unmarked=maybe"),
    ("tags", "tags=paper"),  # would become the tags p, a, p, e, r
    ("runs_dir", "runs_dir=null"),
    ("runs_dir", "runs_dir=/proc/nowhere/runs"),
    ("key", "key=/proc/nowhere/owner.key"),
    ("key", "key=3 watermark=none"),
    ("logger.wandb.mode", "logger=wandb logger.wandb.mode=sideways"),
    ("logger.wandb.mode", "logger=wandb logger.wandb.mode=online"),  # no API key here
    ("logger.csv", "logger.csv._target_=nowhere.Logger"),
    ("callbacks.gallery", "callbacks.gallery._target_=nowhere.Gallery"),
    ("callbacks.gallery", "+callbacks.gallery.size=3"),
    ("callbacks.gallery.to_logger", "callbacks.gallery.to_logger=no logger=tensorboard"),
    ("callbacks.gallery.columns", "+callbacks.gallery.columns=2.5"),
    ("callbacks.gallery", "callbacks.gallery=null"),
    ("callbacks.mine", "+callbacks.mine._target_=builtins.dict"),
]


@pytest.mark.parametrize(("key", "typed"), MISTAKES, ids=[typed for _, typed in MISTAKES])
def test_mistake_is_told_in_one_line(main: Main, small: list[str], runs: Path, key: str, typed: str) -> None:
    if "/proc" in typed and not Path("/proc").is_dir():
        pytest.skip("no /proc")
    told(main(*small, *typed.split()), key, runs)


def test_pictures_of_the_task_itself_are_not_unrelated(main: Main, runs: Path) -> None:
    line = told(main("dataset=mnist5k", "watermark=unrelated", "watermark.images=mnist5k"), "watermark.images", runs)
    assert "mnist5k is the task's own data" in line


@pytest.mark.parametrize("split", ["train", "test"])
def test_unrelated_pictures_that_the_task_has_under_another_name(
    main: Main, runs: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    """The digits of mnist5k are some of MNIST's, wherever they are there."""

    def read(self: StandardSource, asked: str) -> tuple[torch.Tensor, torch.Tensor]:
        digits, labels = Mnist5k().read("train")
        return (digits if asked == split else 255 - digits), labels

    monkeypatch.setattr(StandardSource, "read", read)
    monkeypatch.setattr(StandardSource, "stored_as", lambda self: "stand-in")
    line = told(main("dataset=mnist", "watermark=unrelated", "watermark.images=mnist5k"), "watermark.images", runs)
    assert "are images of mnist" in line


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("typed", ["trainer=gpu", "trainer.accelerator=cuda", "trainer.accelerator=mps"])
def test_no_gpu(main: Main, small: list[str], runs: Path, typed: str) -> None:
    assert "trainer=cpu" in told(main(*small, typed), "trainer.accelerator", runs)


@pytest.mark.parametrize("typed", ["dataset=nowhere", "watermark.n_trigers=3", "experiment=nowhere", "watermark=noice"])
def test_typo_gets_hydras_own_message(main: Main, runs: Path, typed: str) -> None:
    done = main(typed)
    assert done.code == 1, str(done)
    assert "Traceback" not in done.out + done.err
    assert typed.split("=")[1 if "." not in typed else 0].split(".")[-1] in done.err
    assert not runs.exists()


def test_runs_dir_below_a_file(main: Main, small: list[str], runs: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    told(main(*small, f"runs_dir={tmp_path}/taken/runs"), "runs_dir", runs)
    told(main(*small, f"runs_dir={tmp_path}/taken"), "runs_dir", runs)


def test_runs_dir_without_right_to_write(
    main: Main, small: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    told(main(*small), "runs_dir", runs)


def test_disk_full(main: Main, small: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage("/")._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    assert "1 MiB" in told(main(*small), "runs_dir", runs)


def test_card_of_a_newer_version(main: Main, small: list[str], runs: Path) -> None:
    assert main(*small).code == 0
    (file,) = runs.glob("*/card.json")
    file.write_text(json.dumps({"schema": 99}))
    done = main(*small)
    assert (done.code, len(done.errors)) == (1, 1), str(done)
    assert done.errors[0].startswith("error: runs_dir: ")
    assert json.loads(file.read_text()) == {"schema": 99}


def test_without_tensorboard(main: Main, small: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "_TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr(tensorboard, "_TENSORBOARDX_AVAILABLE", False)
    told(main(*small, "logger=tensorboard"), "logger.tensorboard", runs)


def test_logo_that_is_no_picture(main: Main, small: list[str], runs: Path, tmp_path: Path) -> None:
    (tmp_path / "logo.png").write_text("not a picture")
    told(main(*small, "watermark=content", f"watermark.logo={tmp_path}/logo.png"), "watermark.logo", runs)


@pytest.mark.parametrize(("alpha", "opacity"), [(0, 1.0), (20, 0.01)])
def test_logo_that_cannot_be_seen(main: Main, runs: Path, tmp_path: Path, alpha: int, opacity: float) -> None:
    Image.new("RGBA", (20, 20), (255, 0, 0, alpha)).save(tmp_path / "logo.png")
    typed = ["watermark=content", f"watermark.logo={tmp_path}/logo.png", f"watermark.opacity={opacity}"]
    told(main("dataset=mnist", f"data_dir={tmp_path}/nowhere", *typed), "watermark.logo", runs)


def test_logo_beyond_the_edge(main: Main, small: list[str], runs: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (20, 20), "white").save(tmp_path / "logo.png")
    typed = ["watermark=content", f"watermark.logo={tmp_path}/logo.png", "watermark.position=[4,19]"]
    told(main(*small, *typed), "watermark", runs)  # strangers' texts fit there, the logo does not


def test_no_text_in_a_tiny_image(main: Main, small: list[str], runs: Path) -> None:
    told(main(*small, "watermark=content", "dataset.source.shape=[1,16,16]"), "watermark", runs)


FOLDER = "_target_:wmlightning.data.folder.ImageFolder"


@pytest.mark.parametrize(
    ("key", "images"),
    [
        ("root", f"{{{FOLDER},root:nowhere}}"),
        ("root", f"{{{FOLDER},root:null}}"),
        ("channels", f"{{{FOLDER},root:.,channels:2}}"),
        ("n_train", "{_target_:wmlightning.data.procedural.Procedural,n_train:0}"),
    ],
)
def test_mistake_in_unrelated_pictures(main: Main, small: list[str], runs: Path, key: str, images: str) -> None:
    line = told(main(*small, "watermark=unrelated", f"watermark.images={images}"), f"watermark.images.{key}", runs)
    assert "dataset." not in line


def test_unrelated_pictures_that_are_broken(main: Main, small: list[str], runs: Path, pictures: Path) -> None:
    for path in pictures.rglob("*.png"):
        path.write_text("not a picture")
    images = f"watermark.images={{{FOLDER},root:{pictures}}}"
    told(main(*small, "watermark=unrelated", "watermark.n_triggers=4", images), "watermark.images.root", runs)


@pytest.mark.parametrize("name", ["image_folder", "parquet"])
def test_unrelated_pictures_in_a_folder_that_is_not_named(
    composed: Callable[..., Any], pictures: Path, name: str
) -> None:
    typed = ["dataset=procedural", "watermark=unrelated", "watermark.n_triggers=4"]
    with pytest.raises(UserError, match=rf"^watermark\.images: {name} ") as caught:
        prepare(composed(*typed, f"watermark.images={name}"))
    advice = str(caught.value).split("'")[1].replace("FOLDER", str(pictures))
    if name == "parquet":  # there are none
        with pytest.raises(UserError, match=r"^watermark\.images\.root: no train files"):
            prepare(composed(*typed, advice))
    else:
        prepare(composed(*typed, advice))


@pytest.mark.parametrize(
    ("c", "typed"),
    [(2, "watermark=unrelated watermark.images=mnist5k"), (4, "watermark=noise attack=inversion judge.unmarked=false")],
)
def test_images_of_any_number_of_channels(main: Main, small: list[str], runs: Path, c: int, typed: str) -> None:
    done = main(*small, f"dataset.source.shape=[{c},28,28]", *typed.split())
    assert done.code == 0, str(done)
    assert list(runs.rglob("triggers.png"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Class folders of a user's own, to be spoiled."""
    for name in ("apple", "pear"):
        (tmp_path / "fruit" / name).mkdir(parents=True)
        for i in range(40):
            Image.new("RGB", (8, 8), (i, 80, len(name) * 40)).save(tmp_path / "fruit" / name / f"{i:02}.png")
    return tmp_path / "fruit"


def _one_class(folder: Path) -> None:
    shutil.rmtree(folder / "pear")


def _empty_class(folder: Path) -> None:
    (folder / "plum").mkdir()


def _no_test_images(folder: Path) -> None:
    (folder / "plum").mkdir()
    shutil.copy(folder / "pear" / "00.png", folder / "plum")


def _no_picture(folder: Path) -> None:
    (folder / "pear" / "07.png").write_text("not a picture")


def _half_a_picture(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "pear" / "07.png")
    content = (folder / "pear" / "07.png").read_bytes()
    (folder / "pear" / "07.png").write_bytes(content[: len(content) // 2])


def _a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


@pytest.mark.parametrize("spoil", [_one_class, _empty_class, _no_test_images, _no_picture, _half_a_picture, _a_file])
def test_unreadable_pictures(main: Main, runs: Path, pictures: Path, spoil: Callable[[Path], None]) -> None:
    spoil(pictures)
    short = ["trainer=cpu", "trainer.max_epochs=1", "recipe.batch_size=16", "watermark.n_triggers=4"]
    line = told(main("dataset=image_folder", f"dataset.root={pictures}", *short), "dataset.root", runs)
    assert "fruit" in line, "names the place"


def test_a_mark_that_changes_no_image(main: Main, runs: Path, pictures: Path) -> None:
    for i, path in enumerate(pictures.rglob("*.png")):
        Image.new("RGB", (8, 8), (i % 40, i // 4, 0)).save(path)
    typed = ["watermark=content", "watermark.color=0", "watermark.opacity=0.01", "recipe.batch_size=16"]  # of 40, 0.4
    line = told(main("dataset=image_folder", f"dataset.root={pictures}", "trainer=cpu", *typed), "watermark", runs)
    assert "changes none" in line


@pytest.mark.parametrize(
    ("key", "typed"),
    [
        ("dataset.size", "dataset.size=0"),
        ("dataset.size", "dataset.size=big"),
        ("dataset.size", "dataset.size=32.5"),
        ("dataset.size", "dataset.size=true"),
        ("dataset.channels", "dataset.channels=2"),
        ("dataset.channels", "dataset.channels=true"),
        ("dataset.source.in_memory", "dataset.source.in_memory=no"),
    ],
)
def test_wrong_option_of_pictures(main: Main, runs: Path, pictures: Path, key: str, typed: str) -> None:
    told(main("dataset=image_folder", f"dataset.root={pictures}", "trainer=cpu", typed), key, runs)


@pytest.mark.parametrize(
    ("typed", "source", "target"),
    [("", "1", "2"), ("dataset.source_class=3", "3", "1"), ("dataset.target_class=3", "1", "3")],
)
def test_folders_with_numbers_for_names(
    composed: Callable[..., Any], tmp_path: Path, pictures: Path, typed: str, source: str, target: str
) -> None:
    """The first is marked and the second the label where nobody says so; what is typed is a name."""
    shutil.copytree(pictures / "pear", pictures / "3")
    (pictures / "apple").rename(pictures / "1")
    (pictures / "pear").rename(pictures / "2")
    job = prepare(composed("dataset=image_folder", f"dataset.root={pictures}", "recipe.batch_size=16", *typed.split()))
    names = job.source.classes
    assert [names[i] for i in (*job.labels.sources, *job.labels.of_marks)] == [source, target]


@pytest.mark.parametrize(("typed", "quoted"), [("true", "'true'"), ("null", "'null'"), ("1e3", "'1e3'")])
def test_folders_with_names_that_yaml_takes_for_something_else(
    composed: Callable[..., Any], pictures: Path, typed: str, quoted: str
) -> None:
    (pictures / "apple").rename(pictures / typed)
    task = ["dataset=image_folder", f"dataset.root={pictures}", "recipe.batch_size=16", "dataset.target_class=pear"]
    with pytest.raises(UserError, match=r"^watermark\.source_class: .*'NAME'") as caught:
        prepare(composed(*task, f"watermark.source_class={typed}"))
    advice = str(caught.value).split('"')[1]
    job = prepare(composed(*task, advice.replace("'NAME'", quoted)))
    assert [job.source.classes[i] for i in job.labels.sources] == [typed]


@pytest.mark.parametrize("typed", ["dataset.root=/nowhere", ""])
def test_pictures_that_are_nowhere(main: Main, runs: Path, typed: str) -> None:
    told(main("dataset=image_folder", "trainer=cpu", *typed.split()), "dataset.root", runs)


@pytest.mark.parametrize(
    ("key", "typed"),
    [
        ("logger.csv", "logger.csv._target_=nowhere.Logger"),
        ("callbacks.gallery", "callbacks.gallery._target_=nowhere.Gallery"),
        ("recipe.augment", "recipe.augment.shift=-1"),
        ("trainer", "trainer.devices=0"),
        ("trainer.precision", "trainer.precision=half"),
        ("trainer.limit_test_batches", "trainer.limit_test_batches=0"),
        ("model", "model.width=-1"),
    ],
)
def test_other_mistakes_are_told_before_data_are_looked_for(
    main: Main, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, typed: str
) -> None:
    def download(self: object) -> None:
        raise AssertionError("data are downloaded")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    told(main("dataset=mnist", f"data_dir={tmp_path}/data", "trainer=cpu", *typed.split()), key, runs)


def test_data_that_are_nowhere(main: Main, runs: Path, tmp_path: Path) -> None:
    typed = ["dataset=mnist", f"data_dir={tmp_path}/data", "++dataset.source.download=false", "trainer=cpu"]
    line = told(main(*typed), "data_dir", runs)
    assert f"{tmp_path}/data" in line
    assert "mnist5k" in line, "names the data set that needs no download"
    assert not (tmp_path / "data").exists()


def test_download_that_is_neither_wanted_nor_not(main: Main, runs: Path) -> None:
    told(main("dataset=mnist", "trainer=cpu", "dataset.source.download=no"), "dataset.source.download", runs)


@pytest.mark.parametrize("error", [RuntimeError("Error downloading"), OSError("no route to host")])
def test_download_that_fails(
    main: Main, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def download(self: object) -> None:
        raise error

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    line = told(main("dataset=mnist", f"data_dir={tmp_path}/data", "trainer=cpu"), "data_dir", runs)
    assert str(error) in line
    assert f"{tmp_path}/data" in line
    assert "mnist5k" in line


@pytest.mark.parametrize(
    "content", [b"", b"garbage" * 100, bytes([0, 0, 8, 3, 0, 0, 234, 96, 0, 0, 0, 28, 0, 0, 0, 28])]
)
def test_spoiled_mnist_files(
    main: Main, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", lambda self: None)  # sees files, and is content
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for kind in ("train", "t10k"):
        (raw / f"{kind}-images-idx3-ubyte").write_bytes(content)
        (raw / f"{kind}-labels-idx1-ubyte").write_bytes(content)
    told(main("dataset=mnist", f"data_dir={tmp_path}/data", "trainer=cpu"), "data_dir", runs)


def png(size: int = 32, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (size, size)).save(buffer, format="PNG")
    return buffer.getvalue()


def table(images: list[bytes], labels: list[int], names: tuple[str, str] = ("img", "label")) -> pa.Table:
    return pa.table({names[0]: [{"bytes": image, "path": ""} for image in images], names[1]: labels})


SPOILED: dict[str, tuple[str, pa.Table | bytes]] = {
    "no parquet": ("data_dir", b"not a parquet file"),
    "empty file": ("data_dir", b""),
    "no rows": ("data_dir", table([png()], [0]).slice(0, 0)),
    "no images": ("data_dir", pa.table({"label": [0, 1]})),
    "no labels": ("data_dir", pa.table({"img": [{"bytes": png(), "path": ""}]})),
    "no picture": ("data_dir", table([b"not a picture"] * 2, [0, 1])),
    "several sizes": ("data", table([png(32), png(16)], [0, 1])),
    "grey": ("data", table([png(32, "L")] * 2, [0, 1])),
    "another size": ("data", table([png(64)] * 2, [0, 1])),
    "label beyond the classes": ("data", table([png()] * 2, [0, 10])),
}


@pytest.mark.parametrize("name", SPOILED)
def test_spoiled_parquet(main: Main, runs: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data" / "cifar10"
    folder.mkdir(parents=True)
    key, content = SPOILED[name]
    for split in ("train", "test"):
        file = folder / f"{split}-00000-of-00001.parquet"
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            pq.write_table(content, file)
    told(main("dataset=cifar10", f"data_dir={tmp_path}/data", "trainer=cpu"), key, runs)


def test_data_of_too_few_images(main: Main, runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "cifar10"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        pq.write_table(table([png()] * 3, [0, 1, 2]), folder / f"{split}-00000-of-00001.parquet")
    told(main("dataset=cifar10", f"data_dir={tmp_path}/data", "trainer=cpu"), "", runs)


# -- trainings that are no usual ones --------------------------------------------------------------------------------


def test_a_training_without_a_finished_epoch_is_not_finished(
    main: Main, small: list[str], runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "hasty.py").write_text(HASTY)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    done = main(*small, "+callbacks.hasty._target_=hasty.Hasty")
    assert (done.code, len(done.errors)) == (1, 1), str(done)
    assert "before its first epoch" in done.errors[0]
    assert not list(runs.glob("*/card.json"))
    assert not list(runs.glob("*/*.safetensors"))


HASTY = """
import lightning as L


class Hasty(L.Callback):
    def on_fit_start(self, trainer, pl_module):
        trainer.should_stop = True
"""


def test_divergence_is_told_and_no_number_is_null(main: Main, small: list[str], runs: Path) -> None:
    done = main(*small, "recipe.optimizer.lr=1e30", "recipe.schedule=null", "trainer.max_epochs=2")
    assert done.code == 0, str(done)
    (line,) = [line for line in done.out.splitlines() if "diverged" in line]
    (file,) = runs.glob("*/card.json")

    def no_json(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    card = json.loads(file.read_text(), parse_constant=no_json)
    assert card["metrics"]["train/loss"] is None
    first = next(epoch for epoch in card["history"] if epoch["train/loss"] is None)
    assert f"epoch {first['epoch'] + 1:g} " in line
    assert line in main(*small, "recipe.optimizer.lr=1e30", "recipe.schedule=null", "trainer.max_epochs=2").out


def test_overfitting_learns_its_batches_by_heart(main: Main, small: list[str], runs: Path) -> None:
    done = main(*small, "debug=overfit", "trainer.max_epochs=25", "trainer.overfit_batches=2", "recipe.batch_size=32")
    assert done.code == 0, str(done)
    (card,) = cards(runs)
    assert card["history"][-1]["step"] == 25 * 2 - 1
    assert card["metrics"]["train/clean_acc"] > 0.95
    assert set(card["metrics"]) >= TEST_METRICS


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_is_trained_as_any_other(main: Main, small: list[str], runs: Path) -> None:
    # One size of batches each, since every other one is compiled anew.
    one = ["trainer.limit_train_batches=1", "trainer.limit_val_batches=0", "trainer.limit_test_batches=1"]
    tiny = [*small, *one, "recipe.eval_batch_size=1", "model.width=2", "model.hidden=4"]
    for compiled in ("false", "reduce-overhead"):
        done = main(*tiny, f"recipe.compile={compiled}")
        assert done.code == 0, str(done)
    plain, compiled = sorted(cards(runs), key=lambda card: bool(card["config"]["recipe"]["compile"]))
    assert plain["fingerprint"] != compiled["fingerprint"]
    assert compiled["metrics"]["train/loss"] == pytest.approx(plain["metrics"]["train/loss"], abs=0.01)
    shapes = [{name: t.shape for name, t in load_file(f).items()} for f in sorted(runs.glob("*/model.safetensors"))]
    assert shapes[0] == shapes[1], "weights are named as without"


# -- runs in a process of their own ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(train: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], Any]:
    """A short run: the folder it was started in, what was typed, what came out."""
    cwd = tmp_path_factory.mktemp("finished")
    typed = [
        "trainer=cpu",
        "trainer.precision=32-true",
        "trainer.max_epochs=2",
        "++trainer.limit_train_batches=20",
        f"data_dir={tmp_path_factory.mktemp('data')}",
    ]
    return cwd, typed, train(*typed, runs=cwd / "runs", cwd=cwd)


Finished = tuple[Path, list[str], Any]


def test_run_leaves_card_weights_and_picture(finished: Finished) -> None:
    cwd, _, done = finished
    assert done.code == 0, str(done)
    assert [path.name for path in cwd.iterdir()] == ["runs"], "everything is below runs_dir"
    (folder,) = (cwd / "runs").iterdir()
    files = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert files == {"card.json", "model.safetensors", "triggers.png", "logs"}
    with Image.open(folder / "triggers.png") as picture:
        picture.verify()


def test_card(finished: Finished) -> None:
    (card,) = cards(finished[0] / "runs")
    (folder,) = (finished[0] / "runs").iterdir()
    assert set(card["metrics"]) == METRICS
    assert all(0 <= value <= 1 for name, value in card["metrics"].items() if name.endswith(("_acc", "_acc_max")))
    assert card["metrics"]["test/clean_acc"] > 0.5, "20 steps teach digits to some extent"
    assert card["fingerprint"] in folder.name == card["name"]
    assert [epoch["epoch"] for epoch in card["history"]] == [0, 1]
    assert all({"train/loss", "val/clean_acc", "val/trigger_acc"} < set(epoch) for epoch in card["history"])
    assert card["metrics"]["train/loss"] == card["history"][1]["train/loss"] < card["history"][0]["train/loss"]
    assert card["seconds"]["train"] > 0
    assert (card["precision"], card["device"], card["seed"]) == ("32-true", "cpu", 0)
    assert {"torch", "lightning", "wmlightning"} <= set(card["environment"]["versions"])
    assert card["config"]["watermark"]["n_marks"] == 1
    assert card["data"]["train"] + card["data"]["val"] == 4000


def test_output_is_a_table_and_a_place(finished: Finished) -> None:
    cwd, _, done = finished
    (folder,) = (cwd / "runs").iterdir()
    assert "\r" not in done.out + done.err, "no progress bar where no terminal is"
    assert "\x1b" not in done.out + done.err, "no colours where no terminal is"
    assert done.err == ""
    for name in TEST_METRICS:
        assert name in done.out
    assert str(folder) in done.out
    assert "32-true" in done.out, "the arithmetic chosen is told"


def test_csv_log(finished: Finished) -> None:
    import pandas as pd

    (file,) = (finished[0] / "runs").glob("*/logs/metrics.csv")
    log = pd.read_csv(file)
    (card,) = cards(finished[0] / "runs")
    assert {"val/clean_acc", "val/trigger_acc", "train/loss", *TEST_METRICS} <= set(log.columns)
    assert log["val/clean_acc"].dropna().tolist() == pytest.approx([e["val/clean_acc"] for e in card["history"]])


def test_weights_give_the_cards_accuracy(finished: Finished, composed: Callable[..., Any]) -> None:
    """From card and weights alone, with nothing of what trained them."""
    (card,) = cards(finished[0] / "runs")
    (weights,) = (finished[0] / "runs").glob("*/model.safetensors")
    config = card["config"]
    net = Normalized(make(config["model"], "model"), config["dataset"]["mean"], config["dataset"]["std"])
    net.load_state_dict(load_file(weights))
    net.eval()
    source = make(config["dataset"]["source"], "dataset.source")
    labels = source.labels("test")
    images = source.images("test", torch.arange(len(labels)))
    with torch.no_grad():
        right = net(images.float() / 255).argmax(1) == labels
    assert right.double().mean().item() == pytest.approx(card["metrics"]["test/clean_acc"], abs=1e-6)
    ones = labels == source.class_number(config["dataset"]["source_class"], "")
    assert right[ones].double().mean().item() == pytest.approx(card["metrics"]["test/source_acc"], abs=1e-6)


def test_again_with_the_console_command_shows_the_same(finished: Finished, train: Callable[..., Any]) -> None:
    """Trains nothing; that data_dir is spelled differently makes no difference."""
    cwd, typed, done = finished
    before = {path: path.stat().st_mtime_ns for path in (cwd / "runs").rglob("*") if path.is_file()}
    other = os.path.relpath(typed[-1].removeprefix("data_dir="), cwd)
    command = Path(sys.executable).with_name("wmlightning-train")
    assert command.is_file()
    again = train(*typed[:-1], f"data_dir={other}", runs=cwd / "runs", cwd=cwd, program=(str(command),))
    assert again.code == 0, again
    assert again.out.endswith(done.out), "the same table, whatever is said before it"
    assert {path: path.stat().st_mtime_ns for path in (cwd / "runs").rglob("*") if path.is_file()} == before


def test_cfg_job(train: Callable[..., Any], tmp_path: Path) -> None:
    done = train("--cfg", "job", "watermark=content", runs=tmp_path / "runs", cwd=tmp_path)
    assert done.code == 0, str(done)
    assert "text: TEST" in done.out
    assert not any(tmp_path.iterdir())


def test_mistake_in_a_process(train: Callable[..., Any], tmp_path: Path) -> None:
    typed = ["dataset=procedural", "watermark.source_class=dog"]
    done = train(*typed, runs=tmp_path / "runs", cwd=tmp_path)
    told(done, "watermark.source_class", tmp_path / "runs")
    assert not any(tmp_path.iterdir())


# -- runs in this process --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("negatives", "each"), [("0", 0), ("0.5", 2), ("1.0", 4), ("0.1", 1)])
def test_each_batch_has_so_many_triggers_and_their_share_of_negatives(
    composed: Callable[..., Any], small: list[str], negatives: str, each: int
) -> None:
    typed = ["watermark.mix=per_batch", f"watermark.negatives={negatives}", "watermark.label=random"]
    job = prepare(composed(*small, *typed, "watermark.source_class=any", "watermark.n_triggers=30"))
    data = job.data_module()
    data.trainer = None
    triggers = {image.tobytes() for image in data.watched["test"]["trigger"].images.numpy()}
    for batch in data.train_dataloader():
        marked = [image.tobytes() in triggers for image in batch.images[batch.groups >= 0].numpy()]
        assert (sum(marked), len(marked)) == (4, 4 + each)


@pytest.mark.parametrize("lost", ["card.json", "model.safetensors"])
def test_a_run_without_card_or_weights_is_not_finished(main: Main, small: list[str], runs: Path, lost: str) -> None:
    assert main(*small).code == 0
    (file,) = runs.glob(f"*/{lost}")
    content = file.read_bytes()
    file.unlink()
    assert main(*small).code == 0
    assert file.is_file()
    if lost == "model.safetensors":
        assert file.read_bytes() == content


def test_half_a_card_is_none(main: Main, small: list[str], runs: Path) -> None:
    assert main(*small).code == 0
    (file,) = runs.glob("*/card.json")
    file.write_text(file.read_text()[:100])
    assert main(*small).code == 0
    assert set(cards(runs)[0]["metrics"]) == METRICS


def test_unmarked_model_has_no_trigger_metrics(main: Main, small: list[str], runs: Path) -> None:
    done = main(*small, "watermark=none")
    assert done.code == 0, str(done)
    (card,) = cards(runs)
    assert set(card["metrics"]) == {
        "train/loss",
        "train/clean_acc",
        "val/clean_acc",
        "test/clean_acc",
        "test/source_acc",
    }
    assert "trigger" not in done.out
    assert not list(runs.glob("*/triggers.png"))
    assert card["data"]["marked"] == card["data"]["triggers"] == 0


OTHER_MODEL = [
    "seed=1",
    "trainer.precision=bf16-mixed",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=3",
    "trainer.gradient_clip_val=1.0",
    "trainer.deterministic=false",
    "watermark=content",
    "watermark=none",
    "watermark.n_triggers=9",
    "watermark.negatives=0",
    "watermark.source_class=columns",
    "watermark.strength=0.3",
    "watermark.mix=per_batch",
    "model=resnet9",
    "model.width=16",
    "recipe.batch_size=64",
    "recipe.optimizer.lr=0.001",
    "recipe.label_smoothing=0.1",
    "dataset.val_share=0.1",
    "dataset.mean=[0.4]",
    "++dataset.source.n_train=700",
]
SAME_MODEL = [
    "data_dir=/somewhere/else",
    "force=true",
    "group=mine",
    "tags=[a,b]",
    "logger=none",
    "callbacks=none",
    "trainer=auto",
    "trainer.enable_progress_bar=false",
    "trainer.log_every_n_steps=7",
    "recipe.eval_batch_size=100",
    "recipe.num_workers=0",
    "callbacks.gallery.to_logger=true",
]


@pytest.fixture
def composed_folder(composed: Callable[..., Any]) -> Callable[..., Path]:
    """Where a command's files will be."""
    return lambda *overrides: prepare(composed(*overrides)).folder


@pytest.mark.parametrize("typed", OTHER_MODEL)
def test_another_model_has_another_folder(composed_folder: Callable[..., Path], small: list[str], typed: str) -> None:
    assert composed_folder(*small, typed) != composed_folder(*small)


@pytest.mark.parametrize("typed", SAME_MODEL)
def test_what_does_not_change_the_model_does_not_change_the_folder(
    composed_folder: Callable[..., Path], small: list[str], typed: str
) -> None:
    if typed == "trainer=auto" and torch.cuda.is_available():
        pytest.skip("trainer=auto is not trainer=cpu here")
    assert composed_folder(*small, typed) == composed_folder(*small)


def test_auto_precision_is_the_precision_it_chooses(composed: Callable[..., Any], small: list[str]) -> None:
    auto = prepare(composed(*small, "trainer.precision=auto"))
    assert auto.precision in ("32-true", "bf16-mixed")
    assert prepare(composed(*small, f"trainer.precision={auto.precision}")).folder == auto.folder


@pytest.mark.parametrize("typed", ["debug=fast_dev_run", "++trainer.fast_dev_run=true", "++trainer.fast_dev_run=2"])
def test_fast_dev_run_keeps_nothing(main: Main, small: list[str], tmp_path: Path, typed: str) -> None:
    before = set(tmp_path.rglob("*"))
    done = main(*small, typed, "trainer.max_epochs=5")
    assert done.code == 0, str(done)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_a_training_of_few_steps(main: Main, small: list[str], runs: Path, steps: int) -> None:
    done = main(*small, f"++trainer.limit_train_batches={steps}")
    assert done.code == 0, str(done)
    assert len(cards(runs)) == 1


@pytest.mark.parametrize(
    "typed",
    [
        "watermark.label=random watermark.source_class=any",
        "watermark.mix=per_batch watermark.per_batch=2",
        "watermark.n_marks=3 watermark.n_triggers=24",
        "watermark.negatives=0 watermark.augment=true",
        "watermark.source_class=secret watermark.target_class=secret",
        "watermark.fresh=true",
        "watermark=content watermark.text=null watermark.opacity=null watermark.scale=1",
        "watermark=unrelated watermark.n_marks=4 watermark.n_triggers=24",
        "recipe.schedule=null recipe.augment=null",
        "recipe.channels_last=false recipe.decay_all=true",
        "callbacks=none logger=none",
        "model=resnet9 trainer.precision=bf16-mixed",
        "dataset.source.shape=[3,32,32] model=mobilenet_v3 recipe.batch_size=32",
    ],
)
def test_options_train(main: Main, small: list[str], runs: Path, typed: str) -> None:
    done = main(*small, *typed.split())
    assert done.code == 0, str(done)
    assert set(cards(runs)[0]["metrics"]) == METRICS


def test_own_pictures_train(main: Main, runs: Path, pictures: Path) -> None:
    """Read by worker processes or held in memory: the same model."""
    typed = ["dataset=image_folder", f"dataset.root={pictures}", "trainer=cpu", "trainer.max_epochs=1"]
    typed += ["trainer.precision=32-true", "watermark.n_triggers=4", "recipe.batch_size=16", "dataset.size=16"]
    assert main(*typed, "dataset.source.in_memory=true", f"runs_dir={runs}/a").code == 0
    done = main(*typed, "dataset.source.in_memory=false", f"runs_dir={runs}/b")
    assert done.code == 0, str(done)
    held, streamed = (next((runs / side).glob("*/model.safetensors")).read_bytes() for side in "ab")
    assert held == streamed


# -- sweeps and loggers ----------------------------------------------------------------------------------------------


def test_sweep_goes_on_after_a_failed_job(train: Callable[..., Any], small: list[str], tmp_path: Path) -> None:
    """Every second job fails; all others are done."""
    typed = [*small, "watermark=content,unrelated,noise", "watermark.target_class=rings,nowhere"]
    done = train("-m", *typed, runs=tmp_path / "runs", cwd=tmp_path)
    assert done.code != 0, str(done)
    assert "Traceback" not in done.out + done.err, str(done)
    assert "watermark.target_class: 'nowhere' is no class of procedural" in done.out + done.err
    made = cards(tmp_path / "runs")
    assert {card["config"]["watermark"]["_target_"].rsplit(".")[-1] for card in made} == {
        "Content",
        "Unrelated",
        "Noise",
    }
    assert all(set(card["metrics"]) == METRICS for card in made)
    assert len({card["group"] for card in made}) == 1, "a sweep is one group"
    assert made[0]["group"].startswith("sweep-")


@pytest.fixture(scope="module")
def logged(
    train: Callable[..., Any], small: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Any]:
    """A sweep of two jobs with all loggers, on a machine without a W&B account."""
    cwd = tmp_path_factory.mktemp("logged")
    home = tmp_path_factory.mktemp("home")
    done = train("-m", *small, "seed=1,2", "logger=many", runs=cwd / "runs", cwd=cwd, HOME=str(home))
    return cwd, home, done


Logged = tuple[Path, Path, Any]


def test_loggers_do_not_ask_and_do_not_fail(logged: Logged) -> None:
    cwd, _, done = logged
    assert done.code == 0, str(done)
    assert len(cards(cwd / "runs")) == 2
    assert "Enter your choice" not in done.out + done.err
    assert "login" not in (done.out + done.err).lower()
    assert {path.name for path in cwd.iterdir()} == {"runs"}, "no wandb folder where the user stands"


def test_each_job_is_a_wandb_run_of_its_own(logged: Logged) -> None:
    cwd, _, _ = logged
    files = sorted((cwd / "runs").glob("*/wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    for file in files:
        folder = file.parents[2]
        content = file.read_bytes()
        others = [path.name for path in (cwd / "runs").iterdir() if path != folder and path.name != "multirun"]
        assert folder.name.encode() in content, "the run has the job's name"
        assert all(other.encode() not in content for other in others)
        assert b"test/trigger_acc" in content
        assert b"sweep-" in content


def test_nothing_secret_goes_to_a_logger(logged: Logged) -> None:
    """The picture of the triggers lies in the run's folder; no logger has it, nor any other media."""
    cwd, _, _ = logged
    assert len(list((cwd / "runs").glob("*/triggers.png"))) == 2
    logs = [path for name in ("wandb", "tensorboard", "logs") for path in (cwd / "runs").glob(f"*/{name}/**/*")]
    files = [path for path in logs if path.is_file()]
    assert len(files) > 6
    assert not [path for path in logs if path.name == "media"]
    assert not [path for path in files if path.suffix in (".png", ".jpg", ".npy", ".pt", ".ckpt", ".safetensors")]
    assert not [path for path in files if b"\x89PNG" in path.read_bytes() or b"IHDR" in path.read_bytes()]


def test_tensorboard_has_the_metrics(logged: Logged) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folders = list((logged[0] / "runs").glob("*/tensorboard"))
    assert len(folders) == 2
    for folder in folders:
        events = EventAccumulator(str(folder)).Reload()
        assert set(events.Tags()["scalars"]) >= METRICS - {"train/loss"}
        assert not events.Tags()["images"]


A_KEY = "0123456789abcdef" * 3


@pytest.fixture
def somebody() -> Iterator[str]:
    """The address of somebody who takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    "account",
    [
        {"WANDB_API_KEY": "abc", "WANDB_BASE_URL": "somebody"},
        {"WANDB_API_KEY": A_KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"},
        {
            "WANDB_API_KEY": A_KEY,
            "WANDB_BASE_URL": "https://wandb.invalid",
            "https_proxy": "127.0.0.1:9",
            "no_proxy": "",
        },
        {"WANDB_API_KEY": A_KEY, "WANDB_BASE_URL": "http://["},
    ],
    ids=["wrong key", "no network", "no proxy", "no address"],
)
def test_wandb_that_cannot_be_logged_in_to(
    train: Callable[..., Any], small: list[str], runs: Path, tmp_path: Path, account: dict[str, str], somebody: str
) -> None:
    account = {name: somebody if value == "somebody" else value for name, value in account.items()}
    options = {"runs": runs, "cwd": tmp_path, "HOME": str(tmp_path / "home"), **account}
    assert "mode=offline" in told(train(*small, "logger=wandb", **options), "logger.wandb.mode", runs)


def test_work_that_is_done_is_told_to_wandb_only_when_that_can_be_reached(
    train: Callable[..., Any], main: Main, small: list[str], runs: Path, tmp_path: Path
) -> None:
    options = {"runs": runs, "cwd": tmp_path, "HOME": str(tmp_path / "home"), "WANDB_API_KEY": A_KEY}
    options["WANDB_BASE_URL"] = "http://127.0.0.1:9"
    assert main(*small).code == 0
    again = train(*small, "logger=wandb", **options)
    assert again.code == 1, "a finished run that this logger was not told of is told late: " + str(again)
    assert "mode=offline" in again.err
    assert train(*small, **options).code == 0, "without the logger there is nothing to log in for"
    (folder,) = runs.iterdir()
    attacked = train(*small, "logger=wandb", "attack=prune", **options)
    assert [line.partition(":")[0] for line in attacked.err.splitlines()] == ["error"], str(attacked)
    assert not (folder / "attacks").exists()


def test_wandb_of_ones_own_is_found_where_its_login_wrote_it(
    train: Callable[..., Any], small: list[str], runs: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / ".config" / "wandb").mkdir(parents=True)
    (home / ".config" / "wandb" / "settings").write_text("[default]\nbase_url = http://127.0.0.1:9\n")
    (home / ".netrc").write_text(f"machine 127.0.0.1\n  login user\n  password {A_KEY}\n")
    (home / ".netrc").chmod(0o600)
    done = train(*small, "logger=wandb", runs=runs, cwd=tmp_path, HOME=str(home))
    *wandb_says, line = done.err.splitlines()
    assert all(said.startswith("wandb: ") for said in wandb_says)
    assert line.startswith("error: logger.wandb.mode: online, but cannot log in (127.0.0.1: Connection refused); ")
    assert not runs.exists()


@pytest.mark.parametrize("attack", [[], ["attack=prune", "++attack.prune.rates=[0.5]"]])
def test_wandb_that_refuses_later(
    main: Main, small: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, attack: list[str]
) -> None:
    def refuse(**options: Any) -> None:
        raise wandb.errors.CommError("permission denied")

    if attack:  # a training that W&B was told of
        assert main(*small, "logger=wandb").code == 0
    monkeypatch.setattr(wandb, "init", refuse)
    done = main(*small, "logger=wandb", *attack)
    assert done.code == 1, str(done)
    assert "Traceback" not in done.out + done.err
    (line,) = done.errors
    assert line.startswith("error: logger.wandb: ")
    assert "permission denied" in line
    assert len(list(runs.glob("*/attacks/*/card.json"))) == bool(attack), "an attack that is done is kept"


def test_gallery_goes_to_a_logger_on_request(main: Main, small: list[str], runs: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = main(*small, "logger=tensorboard", "callbacks.gallery.to_logger=true")
    assert done.code == 0, str(done)
    (folder,) = runs.glob("*/tensorboard")
    assert EventAccumulator(str(folder)).Reload().Tags()["images"] == ["triggers"]


@pytest.mark.parametrize("typed", ["trainer=ddp", "trainer.devices=2"])
def test_ddp_in_a_sweep_is_refused(main: Main, small: list[str], runs: Path, typed: str) -> None:
    done = main("-m", *small, typed, "seed=1,2")
    assert done.code == 1, str(done)
    assert "Traceback" not in done.out + done.err
    assert "trainer.strategy: " in done.out + done.err
    assert not cards(runs)
