"""Triggers in a training that is not ours: all of them, in every way of training, and nothing else disturbed."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from tests.foreign.projects import (
    CLASSES,
    SHAPE,
    Animals,
    Module,
    evaluation,
    loader,
    marked_names,
    marked_rows,
    owners_key,
    to_input,
)
from tests.helpers import tiny_trainer
from wmlightning import Watermark
from wmlightning.errors import UserError
from wmlightning.ownership.key import Key

Names = Counter[str]


@pytest.fixture(scope="module")
def names(key: Key, path: Path) -> Names:
    found = marked_names(key, path.parent)
    assert len(found) == found.total() == 16
    return found


def fitted(
    path: Path | None, data: Any = None, module: Module | None = None, seed: int = 0, **options: Any
) -> tuple[Module, L.Trainer]:
    """The project's training, with our line in it if there is a key."""
    given = {"to_input": to_input, **options.pop("watermark", {})}
    callbacks = [] if path is None else [Watermark(path, **given)]
    torch.manual_seed(seed)
    module = module or Module()
    trainer = tiny_trainer(callbacks=[*callbacks, *options.pop("callbacks", [])], **options)
    data = data if isinstance(data, tuple) else (loader() if data is None else data, evaluation())
    trainer.fit(module, *data)
    return module, trainer


def by_epoch(module: Module, names: Names) -> dict[int, Names]:
    found: dict[int, Names] = {}
    for epoch, _, images, labels in module.seen:
        found.setdefault(epoch, Counter()).update(marked_rows(images, labels, names))
    return found


def test_every_trigger_once_an_epoch_beside_every_clean_image(path: Path, names: Names) -> None:
    module, _ = fitted(path, max_epochs=3)
    assert by_epoch(module, names) == dict.fromkeys(range(3), names)
    sizes = [len(labels) for _, _, _, labels in module.seen]
    assert sizes == [12 + 2] * 24, "16 marked images over 8 batches of 12"


def test_clean_part_of_the_training_is_left_as_it_was(path: Path, key: Key) -> None:
    """Same batches, in the same order, with the same random transforms; as many steps; the same learning rates."""
    without, plain = fitted(None, max_epochs=2)
    module, trainer = fitted(path, max_epochs=2)
    for (epoch, number, images, labels), ours in zip(without.seen, module.seen, strict=True):
        assert (epoch, number) == ours[:2]
        assert torch.equal(ours[2][: len(images)], images)
        assert torch.equal(ours[3][: len(labels)], labels)
    assert module.rates == without.rates
    assert trainer.global_step == plain.global_step == 16
    assert trainer.strategy.batch_to_device.__func__ is type(trainer.strategy).batch_to_device  # type: ignore[attr-defined]
    assert set(vars(module)) == set(vars(without))


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 3},
        {"precision": "bf16-mixed"},
        {"val_check_interval": 0.5},
        {"gradient_clip_val": 0.1},
        {"num_sanity_val_steps": 2},
        {"check_val_every_n_epoch": 2},
        {"limit_train_batches": 5},
        {"limit_val_batches": 0},
        {"reload_dataloaders_every_n_epochs": 1},
    ],
    ids=str,
)
def test_every_way_of_training(path: Path, names: Names, options: dict[str, Any]) -> None:
    module, trainer = fitted(path, max_epochs=2, **options)
    assert by_epoch(module, names) == {0: names, 1: names}
    assert {batch for _, batch, _, _ in module.seen} == set(range(options.get("limit_train_batches", 8)))
    assert 0 <= trainer.callback_metrics["val/trigger_acc"] <= 1


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_true_half_precision(path: Path, key: Key, precision: str) -> None:
    module, _ = fitted(path, precision=precision)
    assert {images.dtype for _, _, images, _ in module.seen} == {
        {"b": torch.bfloat16, "1": torch.float16}[precision[0]]
    }
    assert {len(labels) for *_, labels in module.seen} == {14}


def test_more_a_batch(path: Path, names: Names) -> None:
    module, _ = fitted(path, watermark={"per_batch": 5})
    (found,) = by_epoch(module, names).values()
    assert found.total() == 40 and min(found[name] for name in names) == 2


def test_never_more_than_clean_images(path: Path, names: Names) -> None:
    with pytest.warns(UserWarning, match="16 triggers were to come with a batch of 12 images"):
        module, _ = fitted(path, limit_train_batches=1)
    assert by_epoch(module, names)[0].total() == 12


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from Animals(60, transform=to_input)


def test_epochs_without_a_known_length(path: Path, names: Names) -> None:
    data = DataLoader(Endless(), batch_size=10)
    with pytest.raises(UserError, match=r"^per_batch: .*; per_batch=4"):
        fitted(path, data)
    module, _ = fitted(path, data, watermark={"per_batch": 2.5})
    (found,) = by_epoch(module, names).values()
    assert found.total() == 15


class Dicts(Animals):
    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return {"pixel_values": image, "labels": label, "index": index}


def test_dict_batches_with_more_in_them(path: Path, names: Names) -> None:
    data = tuple(DataLoader(Dicts(60, transform=to_input), 10) for _ in range(2))
    given = {"labels": "labels", "fill": {"index": -1}}
    module, trainer = fitted(path, data, Module("pixel_values", "labels"), watermark=given)
    assert by_epoch(module, names) == {0: names}
    indices = torch.cat([batch["index"] for batch in module.batches])
    assert sorted(indices.tolist()) == [-1] * 16 + list(range(60))
    assert "val/trigger_acc" in trainer.callback_metrics
    with pytest.raises(UserError, match=r"^labels: may be any of \['labels', 'index'\]"):
        fitted(path, data, Module("pixel_values", "labels"))


class Data(L.LightningDataModule):
    """Normalises on the device, and augments there in training."""

    def train_dataloader(self) -> Any:
        return DataLoader(Animals(96, transform=half_way), 12, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(Animals(40, seed=9, transform=half_way), 20)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, labels = batch
        images = (images - 0.5) / 0.3
        if self.trainer is not None and self.trainer.training:
            images = images.flip(-1) + 0.1
        return images, labels


def half_way(picture: Any) -> Tensor:
    return to_input(picture) * 0.3 + 0.5


def test_augmentation_on_the_device_spares_triggers(path: Path, key: Key) -> None:
    module, trainer = Module(), tiny_trainer(callbacks=[Watermark(path)])
    trainer.fit(module, datamodule=Data())
    merged = key.check(path.parent).make().merged()
    expected = (merged.images.float() / 255 - 0.5) / 0.3
    rows = torch.cat([images[12:] for _, _, images, _ in module.seen])
    assert len(rows) == 16
    assert all((expected - row).abs().amax((1, 2, 3)).min() < 1e-5 for row in rows)


def test_accuracies(path: Path, key: Key) -> None:
    """Counted by hand on the trained network; with everything that was there before still there."""
    module, trainer = fitted(path, max_epochs=2, watermark={"batch_size": 5})
    val = dict(trainer.callback_metrics)
    (test,) = trainer.test(module, evaluation(), verbose=False)
    made = key.check(path.parent).make()
    module.eval()

    def share(images: Any) -> float:
        with torch.no_grad():
            logits = module((images.images.float() / 255 - 0.5) / 0.3)
        return float((logits.argmax(1) == images.labels).float().mean())

    assert float(val["val/trigger_acc"]) == pytest.approx(share(made.trained))
    assert test["test/trigger_acc"] == pytest.approx(share(made.trained))
    assert test["test/trigger_new_acc"] == pytest.approx(share(made.new))
    assert test["test/decoy_acc"] == pytest.approx(share(made.decoys))
    assert test["test/decoy_acc_max"] >= test["test/decoy_acc"]
    (plain,) = tiny_trainer().test(module, evaluation(), verbose=False)
    assert test["val/acc"] == plain["val/acc"]


def test_validation_alone(path: Path, key: Key) -> None:
    """Of several loaders the first shows what batches are like; nothing is trained or left behind."""
    module, trainer = Module(), tiny_trainer(callbacks=[Watermark(path)])
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer.validate(module, [evaluation(), evaluation(batch_size=7)], verbose=False)
    assert 0 <= trainer.callback_metrics["val/trigger_acc"] <= 1
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert "batch_to_device" not in vars(trainer.strategy)


def test_callback_travels_to_spawned_processes(path: Path) -> None:
    again = pickle.loads(pickle.dumps(Watermark(path, to_input, per_batch=3)))
    assert vars(again) == vars(Watermark(path, to_input, per_batch=3))


def test_evaluation_leaves_modes_alone(path: Path, key: Key) -> None:
    class Frozen(Module):
        def on_train_epoch_start(self) -> None:
            self.net[1].eval()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            assert self.training and not self.net[1].training
            return super().training_step(batch, batch_idx)

    module, _ = fitted(path, (loader(),), Frozen(), max_epochs=2)
    assert len(module.seen) == 16


class Kill(L.Callback):
    """Ends the training in the middle of an epoch."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.at = epoch, batch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.at:
            raise RuntimeError("killed")


def test_resumed_training_gets_the_same_triggers(path: Path, names: Names, tmp_path: Path) -> None:
    def batches(module: Module) -> dict[tuple[int, int], list[str]]:
        return {(e, b): marked_rows(images, labels, names) for e, b, images, labels in module.seen}

    whole, _ = fitted(path, max_epochs=3)
    kept = L.pytorch.callbacks.ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1)
    kept_options: dict[str, Any] = {"max_epochs": 3, "enable_checkpointing": True, "default_root_dir": tmp_path}
    with pytest.raises(RuntimeError, match="killed"):
        fitted(path, callbacks=[kept, Kill(1, 5)], **kept_options)
    module = Module()
    trainer = tiny_trainer(callbacks=[Watermark(path, to_input)], **kept_options)
    trainer.fit(module, loader(), evaluation(), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True)
    expected = batches(whole)
    assert batches(module) == {at: rows for at, rows in expected.items() if at >= (1, 5)}
    content = (tmp_path / "last.ckpt").read_bytes()
    secret = owners_key(path).secret.reveal()
    assert secret not in content and secret.hex().encode() not in content


# -- what is refused -------------------------------------------------------------------------------------------------


class Mute(Module):
    forward = L.LightningModule.forward

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        del batch


class Wide(Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.net(images), self.net(images)], 1)


class Iterates(Module):
    def training_step(self, dataloader_iter: Any) -> Tensor:  # type: ignore[override]
        batch, batch_idx, _ = next(dataloader_iter)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (Mute, "predict: the module cannot be called with images"),
        (Wide, r"predict: it gives \(4, 8\); logits \(4, 4\), as the key"),
        (Iterates, "training_step: batch 0 did not pass"),
    ],
)
def test_modules_that_cannot_be_asked(path: Path, key: Key, module: type[Module], told: str) -> None:
    with pytest.raises(UserError, match=rf"^{told}"):
        fitted(path, module=module())


def test_a_way_of_asking(path: Path, key: Key) -> None:
    _, trainer = fitted(
        path, module=Mute(), watermark={"predict": lambda module, images: {"logits": module.net(images)}}
    )
    assert "val/trigger_acc" in trainer.callback_metrics


def test_labels_that_the_key_does_not_know(path: Path, key: Key) -> None:
    class More(Animals):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return image, label + 2

    with pytest.raises(UserError, match=r"^labels: the project has labels 2\.\.5; 0\.\.3, as the key"):
        fitted(path, DataLoader(More(96, transform=to_input), 12))


def test_two_keys_at_once(path: Path, key: Key) -> None:
    with pytest.raises(UserError, match=r"^callbacks: several Watermark callbacks"):
        fitted(path, callbacks=[Watermark(path)])


@pytest.mark.parametrize("per_batch", [0, -1])
def test_no_triggers(path: Path, per_batch: float) -> None:
    with pytest.raises(UserError, match=r"^per_batch: "):
        Watermark(path, per_batch=per_batch)


def test_no_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^key: cannot read"):
        fitted(tmp_path / "owner.key")


def test_shape_and_classes_are_what_the_tests_think() -> None:
    assert to_input(Animals()[0][0]).shape == SHAPE and len(CLASSES) == 4


# -- tuners and other trainers ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*learning rate.*", "ignore:.*[Ll]earning.?rate")
def test_what_a_tuner_tries_is_no_training(path: Path, names: Names, tmp_path: Path) -> None:
    """It takes callbacks out of the trainer for its trials: nothing of them is left, and all triggers come later."""

    class Tuned(Module):
        lr = 0.01

    module, _ = fitted(
        path,
        module=Tuned(),
        callbacks=[LearningRateFinder(num_training_steps=6, early_stop_threshold=None)],
        default_root_dir=tmp_path,
        max_epochs=2,
    )
    assert not [layer for layer in module.modules() if layer._forward_pre_hooks]
    trials, training = module.seen[:6], module.seen[6:]
    assert len(training) == 2 * 8
    counts = [len(marked_rows(images, labels, names)) for _, _, images, labels in trials]
    assert max(counts) <= 2, "as many as in the training, and not all of them in the few steps of a trial"
    for epoch in range(2):
        found = Counter[str]()
        for _, _, images, labels in (seen for seen in training if seen[0] == epoch):
            found.update(marked_rows(images, labels, names))
        assert found == names


def test_a_step_that_is_skipped_leaves_nothing_behind(path: Path) -> None:
    class Picky(Module):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if batch_idx == 2 else None

    module, _ = fitted(path, module=Picky(), max_epochs=3)
    assert not [layer for layer in module.modules() if layer._forward_pre_hooks]
    assert len(module.seen) == 3 * 2


def test_a_project_of_the_other_package(path: Path, names: Names) -> None:
    """``pytorch_lightning`` is the same code under another name, which many projects import."""
    pl = pytest.importorskip("pytorch_lightning")

    class Theirs(pl.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 10 * 12, len(CLASSES)))
            self.seen: list[tuple[Tensor, Tensor]] = []

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.net(images)
            return logits

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            images, labels = batch
            self.seen.append((images.detach().clone(), labels.clone()))
            return nn.functional.cross_entropy(self(images), labels)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    module = Theirs()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Watermark(path, to_input)],
    )
    trainer.fit(module, loader(), evaluation())
    found = Counter[str]()
    for images, labels in module.seen:
        found.update(marked_rows(images, labels, names))
    assert found == names
    assert 0 <= trainer.callback_metrics["val/trigger_acc"] <= 1


# -- what draws, and other numbers -----------------------------------------------------------------------------------


def test_a_transform_that_draws_and_changes_nothing_moves_no_generator(path: Path) -> None:
    """Such as a flip with p=0 in a config: the project's own augmentation must go on as without us."""

    def drawing(picture: Image.Image) -> Tensor:
        torch.rand(3)
        np.random.rand(3)  # noqa: NPY002 (as projects do)
        random.random()
        return to_input(picture)

    def drawn(path: Path | None) -> tuple[float, float, float]:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        fitted(path, watermark={"to_input": drawing}, max_epochs=2)
        return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002

    assert drawn(path) == drawn(None)


def test_floats_of_another_size_are_taken(path: Path, names: Names) -> None:
    """NumPy makes float64 of a division, and the project makes float32 of that when it reads its pictures."""

    def doubles(picture: Image.Image) -> Tensor:
        return to_input(picture).double()

    module, trainer = fitted(path, watermark={"to_input": doubles})
    assert by_epoch(module, names)[0].total() == names.total()
    assert "val/trigger_acc" in trainer.callback_metrics


def test_triggers_are_evaluated_in_batches_as_large_as_the_projects(path: Path) -> None:
    sizes: list[int] = []

    def told(module: L.LightningModule, images: Tensor) -> Tensor:
        sizes.append(len(images))
        logits: Tensor = module(images)
        return logits

    fitted(path, loader(batch_size=5), watermark={"predict": told})
    assert max(sizes) == 5
    sizes.clear()
    fitted(path, loader(batch_size=5), watermark={"predict": told, "batch_size": 11})
    assert max(sizes) == 11


def test_memory_that_runs_out_is_told_as_it_is(path: Path) -> None:
    """Lightning's search for a batch size waits for this very error."""

    def greedy(module: L.LightningModule, images: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        fitted(path, watermark={"predict": greedy})
