"""Triggers go wherever the project's batches go in evaluation, whatever these look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate
from torchvision.transforms import v2

import wmlightning
from tests.foreign.projects import CLASSES, SHAPE, Animals, Module, evaluation, loader, to_input
from tests.helpers import random_images, tiny_trainer
from wmlightning import Watermark
from wmlightning.errors import UserError
from wmlightning.ownership.key import Key


@pytest.fixture(scope="module")
def expected(key: Key, path: Path) -> Any:
    """What is merged, as the network is to get it."""
    merged = key.check(path.parent).make().merged()
    return (merged.images.float() / 255 - 0.5) / 0.3, merged.labels


def trainer_of(path: Path, road: Any = to_input, watermark: Any = None, **options: Any) -> L.Trainer:
    return tiny_trainer(callbacks=[Watermark(path, road, **(watermark or {}))], **options)


def check_all_came(rows: Tensor, labels: Tensor, expected: Any) -> None:
    """All 16 marked images, each with its own labels."""
    assert len(rows) == len(labels) == 16
    found = [int((expected[0] - row).abs().amax((1, 2, 3)).argmin()) for row in rows]
    assert sorted(found) == list(range(16))
    assert max(float((expected[0][i] - row).abs().max()) for i, row in zip(found, rows, strict=True)) < 1e-5
    assert torch.equal(labels, expected[1][found])


# -- labels of any form ----------------------------------------------------------------------------------------------


class Labelled(Animals):
    """Labels in another form."""

    def __init__(self, form: Any, **options: Any) -> None:
        super().__init__(96, transform=to_input, **options)
        self.form = form

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, label = super().__getitem__(index)
        return image, self.form(label)


class Soft(Module):
    """Takes labels of any form."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        self.seen.append((self.current_epoch, batch_idx, images.clone(), labels.clone()))
        self.rates.append(0)
        wanted = labels[:, 0] if labels.shape[1] == 1 else labels.float()
        return nn.functional.cross_entropy(self(images), wanted)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        del batch


@pytest.mark.parametrize(
    "form",
    [
        lambda label: torch.tensor([label]),
        lambda label: one_hot(torch.tensor(label), 4),
        lambda label: one_hot(torch.tensor(label), 4) * 0.8 + 0.05,
    ],
    ids=["column", "one-hot", "smooth"],
)
def test_labels_of_any_form(path: Path, expected: Any, form: Any) -> None:
    module, trainer = Soft(), trainer_of(path)
    trainer.fit(module, DataLoader(Labelled(form), 12, shuffle=True), DataLoader(Labelled(form), 12))
    rows = torch.cat([images[12:] for _, _, images, _ in module.seen])
    labels = torch.cat([labels[12:] for *_, labels in module.seen])
    assert labels.dtype == form(0).dtype and labels.shape[1:] == form(0).shape
    check_all_came(rows, labels[:, 0] if labels.shape[1] == 1 else labels.argmax(1), expected)
    assert labels.shape[1] == 1 or bool((labels.sort(1)[0] == torch.tensor([0, 0, 0, 1])).all())
    assert 0 <= trainer.callback_metrics["val/trigger_acc"] <= 1


@pytest.mark.parametrize("where", ["collate", "hook"])
def test_mixed_images_beside_triggers_that_are_not(path: Path, expected: Any, where: str) -> None:
    mix = v2.MixUp(num_classes=4)

    class Mixing(Soft):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return mix(*batch) if where == "hook" and self.trainer.training else batch

    def collated(items: Any) -> Any:
        images, labels = default_collate(items)
        return mix(images, labels) if where == "collate" else (images, labels)

    module, trainer = Mixing(), trainer_of(path)
    data = DataLoader(Animals(96, transform=to_input), 12, collate_fn=collated)
    trainer.fit(module, data, evaluation())
    check_all_came(
        torch.cat([images[12:] for _, _, images, _ in module.seen]),
        torch.cat([labels[12:] for *_, labels in module.seen]).argmax(1),
        expected,
    )
    clean = torch.cat([labels[:12] for *_, labels in module.seen])
    assert ((clean > 0) & (clean < 1)).any(), "the project's own were mixed"


class Binary(Animals):
    classes = ("ant", "bee")

    def __init__(self, n: int, seed: int = 0, transform: Any = None, form: Any = int) -> None:
        super().__init__(n, seed, transform)
        self.form = form

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, label = super().__getitem__(index)
        return image, self.form(label % 2)


class OneLogit(Soft):
    def __init__(self) -> None:
        super().__init__()
        self.net[2] = nn.Linear(360, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        self.seen.append((0, batch_idx, images, labels))
        return nn.functional.binary_cross_entropy_with_logits(self(images).view(labels.shape), labels)


def two_logits(module: Any, images: Tensor) -> Tensor:
    logit = module(images)
    return torch.cat([-logit, logit], 1)


@pytest.mark.parametrize("form", [float, lambda label: torch.tensor([float(label)])], ids=["row", "column"])
def test_two_classes_and_one_logit(tmp_path: Path, form: Any) -> None:
    path = tmp_path / "owner.key"
    wmlightning.make_key(path, Binary(96), Binary(40, 9), n_marks=2, n_triggers=12, n_decoys=2, seed=1)
    data = DataLoader(Binary(96, transform=to_input, form=form), 12)
    with pytest.raises(UserError, match=r"^predict: it gives \(4, 1\); logits \(4, 2\), as the key: predict=lambda"):
        trainer_of(path).fit(OneLogit(), data)
    module, trainer = OneLogit(), trainer_of(path, watermark={"predict": two_logits})
    trainer.fit(module, data)
    labels = torch.cat([labels[12:] for *_, labels in module.seen])
    assert labels.shape[0] == 12 and labels.is_floating_point()
    assert set(labels.flatten().tolist()) <= {0, 1}
    assert 0 <= trainer.callback_metrics["val/trigger_acc"] <= 1


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (lambda label: torch.tensor([label + 1]), r"labels 1\.\.4; 0\.\.3, as the key"),
        (lambda label: one_hot(torch.tensor(label), 4) * 2.5, r"labels 0\.\.2\.5; values of 0\.\.1"),
    ],
)
def test_labels_that_the_key_does_not_know(path: Path, key: Key, form: Any, told: str) -> None:
    with pytest.raises(UserError, match=rf"^labels: the project has {told}"):
        trainer_of(path).fit(Soft(), DataLoader(Labelled(form), 12))


# -- batches within batches ------------------------------------------------------------------------------------------


class Nested(Animals):
    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return {"image": image, "target": {"label": label, "index": index}}


class OfNested(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step((batch["image"], batch["target"]["label"]), batch_idx)


def test_labels_within_another_entry(path: Path, expected: Any) -> None:
    data = DataLoader(Nested(96, transform=to_input), 12)
    with pytest.raises(UserError, match=r"^labels: may be any of \[\('target', 'label'\), \('target', 'index'\)\]"):
        trainer_of(path).fit(OfNested(), data)
    given = {"labels": ("target", "label"), "fill": {("target", "index"): -1}}
    module, trainer = OfNested(), trainer_of(path, watermark=given)
    trainer.fit(module, data, evaluation())
    rows = torch.cat([images[12:] for _, _, images, _ in module.seen])
    check_all_came(rows, torch.cat([labels[12:] for *_, labels in module.seen]), expected)


class OfSeveral(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        assert len(batch["b"][0]) == len(batch["b"][1]) == 12
        return super().training_step(batch["a"], batch_idx)


def test_one_of_several_train_loaders(path: Path, expected: Any) -> None:
    loaders = {"a": loader(), "b": loader(48)}
    with pytest.raises(UserError, match=r"^images: may be any of .*; images=\('a', 0\); of several train loaders"):
        trainer_of(path).fit(OfSeveral(), loaders, evaluation())
    module, trainer = OfSeveral(), trainer_of(path, watermark={"images": ("a", 0)})
    trainer.fit(module, loaders, evaluation())
    rows = torch.cat([images[12:] for _, _, images, _ in module.seen])
    check_all_came(rows, torch.cat([labels[12:] for *_, labels in module.seen]), expected)
    assert "val/trigger_acc" in trainer.callback_metrics


# -- hooks -----------------------------------------------------------------------------------------------------------


class BlueFirst(L.LightningDataModule):
    """Turns channels round before batches go to the device, and makes noise there in training."""

    def train_dataloader(self) -> Any:
        return DataLoader(Animals(96, transform=to_input), 12, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(Animals(40, seed=9, transform=to_input), 20)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, labels = batch
        noise = 0.1 * torch.randn(images.shape) if self.trainer is not None and self.trainer.training else 0
        return {"pixels": images.flip(1) + noise, "classes": labels}


def test_triggers_take_the_hook_before_the_transfer(path: Path, expected: Any) -> None:
    """And another kind of batch comes out of it."""
    asked: list[Tensor] = []

    def predict(module: Any, images: Tensor) -> Any:
        asked.append(images)
        return module(images)

    module = Module("pixels", "classes")
    trainer_of(path, watermark={"predict": predict}).fit(module, datamodule=BlueFirst())
    rows = torch.cat([images[12:] for _, _, images, _ in module.seen])
    check_all_came(rows.flip(1), torch.cat([labels[12:] for *_, labels in module.seen]), expected)
    assert torch.allclose(asked[-1].flip(1)[:12], expected[0][:12], atol=1e-5), "accuracies are of such images too"


# -- evaluation data that are prepared late, or never ----------------------------------------------------------------


def test_transform_is_found_before_validation_data_are_needed(path: Path, key: Key) -> None:
    trainer = trainer_of(path, None, max_epochs=2, check_val_every_n_epoch=2, num_sanity_val_steps=0)
    module = Module()
    trainer.fit(module, loader(), evaluation())
    assert len(module.seen[0][3]) == 14
    assert "val/trigger_acc" in trainer.callback_metrics


def test_transform_is_found_when_a_training_goes_on(path: Path, key: Key, tmp_path: Path) -> None:
    options: dict[str, Any] = {"check_val_every_n_epoch": 2, "num_sanity_val_steps": 2, "default_root_dir": tmp_path}
    first = trainer_of(path, None, max_epochs=1, **options)
    first.fit(Module(), loader(), evaluation())
    first.save_checkpoint(tmp_path / "first.ckpt")
    module, trainer = Module(), trainer_of(path, None, max_epochs=2, **options)
    trainer.fit(module, loader(), evaluation(), ckpt_path=str(tmp_path / "first.ckpt"), weights_only=True)
    assert [len(labels) for *_, labels in module.seen] == [14] * 8


# -- evaluation batches of another kind ------------------------------------------------------------------------------


class Unlabelled(Animals):
    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)[0]


class Files(Animals):
    def __getitem__(self, index: int) -> Any:
        return *super().__getitem__(index), f"{index}.png", index


class Any_(Module):
    """Looks at nothing when it evaluates."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("batches", 1.0)

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self(batch)


OTHER: dict[str, Any] = {
    "unlabelled": lambda: DataLoader(Unlabelled(40, transform=to_input), 10),
    "files": lambda: DataLoader(Files(40, transform=to_input), 10),
    "empty first": lambda: [DataLoader([]), evaluation()],
    "no images": lambda: DataLoader(TensorDataset(torch.arange(9)), 3),
}


@pytest.mark.parametrize("kind", OTHER)
@pytest.mark.parametrize("stage", ["test", "validate"])
def test_evaluation_after_a_training_knows_its_batches(path: Path, key: Key, kind: str, stage: str) -> None:
    """Even the transform, where the new data have none."""
    module, trainer = Any_(), trainer_of(path, None)
    trainer.fit(module, loader(), evaluation())
    getattr(trainer, stage)(module, OTHER[kind](), verbose=False)
    found = trainer.callback_metrics
    assert 0 <= found["test/trigger_acc" if stage == "test" else "val/trigger_acc"] <= 1
    trainer.predict(module, DataLoader(Unlabelled(40, transform=to_input), 10))


@pytest.mark.parametrize("kind", OTHER)
def test_evaluation_alone_needs_images_and_nothing_else(path: Path, key: Key, kind: str) -> None:
    module, trainer = Any_(), trainer_of(path)
    if kind in ("no images", "unlabelled"):  # bare tensors: no containers that images are added to
        with pytest.warns(UserWarning, match=r"no trigger accuracy: no batch tells how batches are made \(\w+: "):
            trainer.test(module, OTHER[kind](), verbose=False)
        assert set(trainer.callback_metrics) == {"batches"}
    else:
        trainer.test(module, OTHER[kind](), verbose=False)
        assert any(name.startswith("test/trigger_acc") for name in trainer.callback_metrics)


def test_index_in_training_alone(path: Path, key: Key) -> None:
    class Numbered(Animals):
        def __getitem__(self, index: int) -> Any:
            return *super().__getitem__(index), index

    trainer = trainer_of(path, watermark={"labels": 1, "fill": {2: -1}}, num_sanity_val_steps=2)
    module = Module()
    trainer.fit(module, DataLoader(Numbered(96, transform=to_input), 12), evaluation())
    indices = torch.cat([batch[2] for batch in module.batches])
    assert sorted(indices.tolist()) == [-1] * 16 + list(range(96))


# -- many classes ----------------------------------------------------------------------------------------------------


class Unbalanced(Dataset[Any]):
    """Most pictures are of the first classes, most classes have none at all."""

    def __init__(self, n: int, n_classes: int, seed: int, transform: Any = None) -> None:
        self.pixels = random_images(n, SHAPE, seed)
        draw = torch.Generator().manual_seed(seed)
        self.labels = (torch.rand(n, generator=draw) ** 6 * n_classes).long()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        image = v2.functional.to_pil_image(self.pixels[index])
        return image if self.transform is None else self.transform(image), int(self.labels[index])


@pytest.mark.parametrize("n_classes", [2, 1000])
@pytest.mark.parametrize("n_marks", [1, 4])
def test_many_classes_and_unbalanced_ones(tmp_path: Path, n_classes: int, n_marks: int) -> None:
    path = tmp_path / "owner.key"
    data = Unbalanced(400, n_classes, 1), Unbalanced(150, n_classes, 2)
    wmlightning.make_key(path, *data, n_classes, n_marks=n_marks, n_triggers=24, n_decoys=2, seed=1)
    module, trainer = Module(), trainer_of(path, None)
    module.net[2] = nn.Linear(360, n_classes)
    train, val = (DataLoader(Unbalanced(n, n_classes, n, to_input), 20, shuffle=n > 100) for n in (120, 60))
    trainer.fit(module, train, val)
    labels = torch.cat([labels[20:] for *_, labels in module.seen])
    assert len(labels) == (48 if n_marks == 1 else 24), "a key of one mark has as many negatives"
    assert 0 <= int(labels.min()) <= int(labels.max()) < n_classes
    assert 0 <= trainer.callback_metrics["val/trigger_acc"] <= 1


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from Animals(36, transform=to_input)


def test_validation_streams_are_measured_once(path: Path, key: Key) -> None:
    """Without a length the last batch is known all the same."""
    asked: list[int] = []

    def predict(module: Any, images: Tensor) -> Any:
        asked.append(len(images))
        return module(images)

    trainer = trainer_of(path, watermark={"predict": predict})
    trainer.validate(Module(), DataLoader(Stream(), 10), verbose=False)
    assert asked == [12], f"{len(CLASSES)} classes, twelve triggers, once"


# -- hooks that augment ----------------------------------------------------------------------------------------------


class Layer(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flip(-1) if self.training else images


class ByLayer(Module):
    """A layer without weights augments, in a hook, for as long as it is in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.augment = nn.Sequential(Layer())

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.augment(batch[0]), batch[1]


def test_layers_that_augment_in_a_hook_spare_triggers(path: Path, expected: Any) -> None:
    module, trainer = ByLayer(), trainer_of(path)
    trainer.fit(module, loader(), evaluation())
    rows = torch.cat([images[12:] for _, _, images, _ in module.seen])
    check_all_came(rows, torch.cat([labels[12:] for *_, labels in module.seen]), expected)
    assert all(layer.training for layer in module.modules())


class Always(Module):
    """Random in evaluation too."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] + 0.1 * torch.randn(len(batch[0]), 1, 1, 1), batch[1]


def test_hooks_that_are_random_in_evaluation_are_refused(path: Path, key: Key) -> None:
    module = Always()
    with pytest.raises(
        UserError, match=r"^on_after_batch_transfer: .* each time, in evaluation too; random .* only if"
    ):
        trainer_of(path).fit(module, loader(), evaluation())
    assert not module.seen


# -- further entries -------------------------------------------------------------------------------------------------


class OfPairs(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, (ours, others, share) = batch
        self.seen.append((0, batch_idx, images, torch.stack([ours, others], 1)))
        logits = self(images)
        cross = nn.functional.cross_entropy
        return share * cross(logits, ours) + (1 - share) * cross(logits, others)


def test_pairs_of_labels(path: Path, expected: Any) -> None:
    def mixed(items: Any) -> Any:
        images, labels = default_collate(items)
        return 0.7 * images + 0.3 * images.flip(0), (labels, labels.flip(0), 0.7)

    data = DataLoader(Animals(96, transform=to_input), 12, collate_fn=mixed)
    with pytest.raises(UserError, match=r"^fill: .*; what marked images get there: fill=\{\(1, 1\): 'labels'\}"):
        trainer_of(path, watermark={"labels": (1, 0)}).fit(OfPairs(), data, evaluation())
    module, given = OfPairs(), {"labels": (1, 0), "fill": {(1, 1): "labels"}}
    trainer_of(path, watermark=given).fit(module, data, evaluation())
    rows, labels = (torch.cat([seen[i][12:] for seen in module.seen]) for i in (2, 3))
    assert torch.equal(labels[:, 0], labels[:, 1])
    check_all_came(rows, labels[:, 0], expected)


class UntilTheLongest(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch["a"] is None:
            return self.net(batch["b"][0]).mean()
        return super().training_step(batch["a"], batch_idx)


def test_a_loader_at_its_end(path: Path, key: Key) -> None:
    loaders = CombinedLoader({"a": loader(60), "b": loader(96)}, "max_size")
    module = UntilTheLongest()
    trainer_of(path, watermark={"images": ("a", 0), "per_batch": 2}, max_epochs=2).fit(module, loaders, evaluation())
    assert [len(labels) for *_, labels in module.seen] == [14] * 10
