"""Where there is a GPU: trainings, attacks and verifications on it. Everywhere else these tests are skipped."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from tests.foreign.projects import Module, evaluation, loader, owners_key
from tests.helpers import random_source, tiny_data, tiny_module, tiny_net, tiny_trainer
from wmlightning import Watermark
from wmlightning.data import loading
from wmlightning.data.augment import ShiftFlip
from wmlightning.testing.bench import digest

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

SMALL = [
    "dataset=procedural",
    "watermark.n_decoys=5",
    "trainer=gpu",
    "trainer.max_epochs=3",
]


@pytest.fixture
def trained(
    main: Callable[..., Any], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[dict[str, Any], Path]]:
    """The card of a training on the GPU, and its folder."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before this process's first product, as in a run's own

    def go(*typed: str) -> tuple[dict[str, Any], Path]:
        done = main(*SMALL, *typed)
        assert done.code == 0, str(done)
        assert "Traceback" not in done.err
        assert "Warning" not in done.err
        newest = max(runs.glob("*/card.json"), key=lambda card: card.stat().st_mtime_ns)
        return json.loads(newest.read_text()), newest.parent

    return go


@pytest.mark.parametrize(
    ("typed", "precision"),
    [
        ([], "bf16-mixed"),
        (["trainer.precision=16-mixed"], "16-mixed"),
        (["trainer.precision=32-true", "recipe.channels_last=false"], "32-true"),
        (["trainer.gradient_clip_val=1.0", "trainer.precision=16-mixed"], "16-mixed"),
        (["+recipe.optimizer.fused=true"], "bf16-mixed"),
        (["model=vgg_cnn", "trainer.deterministic=false"], "bf16-mixed"),
    ],
)
def test_trainings(trained: Callable[..., Any], typed: list[str], precision: str) -> None:
    card, _ = trained("watermark=noise", *typed)
    if precision == "bf16-mixed" and not torch.cuda.is_bf16_supported(including_emulation=False):
        precision = "16-mixed"
    assert (card["device"], card["precision"]) == ("cuda", precision)
    assert card["metrics"]["test/clean_acc"] > 0.8


@pytest.mark.parametrize("more", [[], ["trainer.sync_batchnorm=true", "model=resnet9"]])
def test_ddp(train: Callable[..., Any], runs: Path, tmp_path: Path, more: list[str]) -> None:
    """With one GPU: that takes Lightning's way for many all the same."""
    done = train(*SMALL, "trainer.strategy=ddp", *more, runs=runs, cwd=tmp_path)
    assert done.code == 0, str(done)
    assert "Warning" not in done.err
    (card,) = runs.glob("*/card.json")
    assert json.loads(card.read_text())["metrics"]["test/clean_acc"] > 0.8


def test_images_that_are_held_on_the_gpu_change_nothing(
    trained: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trained("watermark=content")[1] / "model.safetensors"
    held = first.read_bytes()
    monkeypatch.setattr(loading, "_has_room", lambda gpu, dataset: False)
    again = trained("watermark=content", "force=true")[1] / "model.safetensors"
    assert again == first
    assert again.read_bytes() == held


def test_batches_are_held_where_the_steps_are() -> None:
    data = tiny_data(random_source(), augment=ShiftFlip(1))
    tiny_trainer(accelerator="gpu").fit(tiny_module(tiny_net(1, 12, 4)), datamodule=data)
    for batch in chain(data.train_dataloader(), *data.val_dataloader()):
        assert batch.images.device.type == batch.labels.device.type == batch.groups.device.type == "cuda"


def test_a_killed_training_ends_with_the_same_weights(
    start: Callable[..., subprocess.Popen[str]], train: Callable[..., Any], tmp_path: Path
) -> None:
    typed = [*SMALL, "trainer.max_epochs=12"]
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
    process = start(*typed, runs=tmp_path / "killed", cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("killed/*/resume.ckpt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    weights = []
    for name in ("undisturbed", "killed"):
        assert not list(tmp_path.glob(f"{name}/*/card.json"))
        done = train(*typed, runs=tmp_path / name, cwd=tmp_path)
        assert done.code == 0, str(done)
        (file,) = tmp_path.glob(f"{name}/*/model.safetensors")
        weights.append(file.read_bytes())
    assert weights[0] == weights[1]


def test_attacks(trained: Callable[..., Any]) -> None:
    """All but those that take a minute each."""
    attacks = "attack=[finetune,prune,fineprune,overwrite,inversion]"
    short = ["attack.inversion.steps=5", "attack.finetune.epochs=1", "attack.overwrite.epochs=1"]
    _, folder = trained("watermark=noise", attacks, *short)
    cards = [json.loads(path.read_text()) for path in folder.parent.glob("*/attacks/*/card.json")]
    assert {card["attack"] for card in cards} == {"finetune", "prune", "fineprune", "overwrite", "inversion"}
    assert {card["device"] for card in cards} == {"cuda"}


def test_verification(trained: Callable[..., Any], in_process: Callable[..., Any], tmp_path: Path) -> None:
    from wmlightning.cli import verify

    key = tmp_path / "owner.key"
    _, folder = trained("dataset=mnist5k", "watermark=noise", f"key={key}", "trainer.max_epochs=20")  # as its recipe
    typed = [f"key={key}", "suspect=network", f"suspect.path={folder}", "suspect.device=gpu"]
    done = in_process(verify, *typed)
    assert done.code == 0, str(done)
    assert "OWNED" in done.out


def test_more_gpus_than_there_are(main: Callable[..., Any], runs: Path) -> None:
    n = torch.cuda.device_count()
    done = main(*SMALL, f"trainer.devices={n + 1}")
    assert done.errors == [f"error: trainer.devices: {n + 1} of {n} GPU{'s' if n > 1 else ''}; at most {n}"]
    assert not runs.exists()


def test_a_project_that_is_not_ours(tmp_path: Path) -> None:
    """The callback merges the triggers into batches on the GPU: the same as elsewhere."""
    seen = {}
    path = tmp_path / "owner.key"
    owners_key(path)
    for accelerator in ("cpu", "gpu"):
        L.seed_everything(0)
        module = Module()
        trainer = tiny_trainer(accelerator=accelerator, max_epochs=2, callbacks=[Watermark(path)])
        trainer.fit(module, loader(), evaluation())
        assert module.seen[0][2].device.type == {"cpu": "cpu", "gpu": "cuda"}[accelerator]
        seen[accelerator] = [digest(images.cpu(), labels.cpu()) for _, _, images, labels in module.seen]
        assert "val/trigger_acc" in trainer.callback_metrics
    assert seen["cpu"] == seen["gpu"]
