from __future__ import annotations

from collections import defaultdict
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from tests.helpers import (
    ArraySource,
    digest,
    job_of,
    numbered,
    random_source,
    read_numbers,
    some_images,
    tiny_data,
    tiny_module,
    tiny_net,
    tiny_trainer,
)
from wmlightning.data.augment import ShiftFlip
from wmlightning.data.batches import Batch
from wmlightning.data.datamodule import Batching, WatermarkData
from wmlightning.data.loading import Loading
from wmlightning.data.source import Split


class Seen(L.Callback):
    """Keeps what reached each step."""

    def __init__(self) -> None:
        self.batches: dict[Any, list[Batch]] = defaultdict(list)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        self.batches["train"].append(batch)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.batches["val", dataloader_idx].append(batch)

    def on_test_batch_start(
        self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.batches["test", dataloader_idx].append(batch)

    def all(self, key: Any) -> Batch:
        parts = self.batches[key]
        return Batch(*(torch.cat([getattr(b, name) for b in parts]) for name in ("images", "labels", "groups")), 0)


def train_and_test(data: WatermarkData, epochs: int = 1, test: bool = True) -> Seen:
    seen = Seen()
    c, side, _ = data.source.shape
    module = tiny_module(tiny_net(c, side, len(data.source.classes)))
    trainer = tiny_trainer(callbacks=[seen], max_epochs=epochs)
    trainer.fit(module, datamodule=data)
    if test:
        trainer.test(module, datamodule=data, verbose=False)
    return seen


def _bytes(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


def test_images_reach_every_step_as_floats_from_0_to_1_and_as_they_were() -> None:
    source = numbered(60, 40, 5)
    data = tiny_data(source)
    seen = train_and_test(data)
    for batches in seen.batches.values():
        for batch in batches:
            assert batch.images.dtype == torch.float32
            assert 0 <= batch.images.min() <= batch.images.max() <= 1
            assert batch.images.max() > 0.4  # not divided twice
    train = seen.all("train")
    clean = train.groups < 0
    split, numbers, labels = read_numbers(_bytes(train.images[clean]))
    assert set(split.tolist()) == {1}
    assert sorted(numbers.tolist()) == data.roles.train.tolist()
    assert torch.equal(train.labels[clean], labels)
    assert int((~clean).sum()) == 5
    assert (train.images[~clean] == 1).all()


def test_loaders_are_separate_and_named_and_nothing_is_mixed() -> None:
    source = numbered(60, 40, 5)
    data = tiny_data(source)
    assert data.loader_names("val") == ["clean", "trigger"]
    assert data.loader_names("test") == ["clean", "trigger", "trigger_new", "decoy"]
    seen = train_and_test(data)
    assert set(seen.batches) == {"train", *(("val", i) for i in range(2)), *(("test", i) for i in range(4))}
    for stage, split, expected in [("val", 1, data.roles.val.tolist()), ("test", 2, list(range(40)))]:
        clean = seen.all((stage, 0))
        codes, numbers, labels = read_numbers(_bytes(clean.images))
        assert set(codes.tolist()) == {split}
        assert numbers.tolist() == expected  # all of them, once, in order
        assert torch.equal(clean.labels, labels)
        assert torch.equal(clean.groups, labels)
        for i, name in enumerate(data.loader_names(stage)[1:], start=1):
            held = data.watched[stage][name]
            found = seen.all((stage, i))
            assert torch.equal(_bytes(found.images), held.images), name
            assert torch.equal(found.labels, held.labels)
            assert torch.equal(found.groups, held.groups)


def test_fit_and_test_see_the_same_splits_however_often_they_are_set_up() -> None:
    data = tiny_data(numbered(60, 40, 5))
    before = {name: index.clone() for name, index in vars(data.roles).items()}
    first = train_and_test(data)
    second = train_and_test(data)
    for key in [("val", 0), ("test", 0), "train"]:
        assert digest(*(first.all(key)[:3])) == digest(*(second.all(key)[:3]))
    trained = set(read_numbers(_bytes(first.all("train").images))[1].tolist()) - {255 * 256 + 255}
    held_out = set(read_numbers(_bytes(first.all(("val", 0)).images))[1].tolist())
    assert not trained & held_out
    for name, index in vars(data.roles).items():
        assert torch.equal(index, before[name])


def test_batches_are_shuffled_anew_in_each_epoch_and_the_same_in_each_run() -> None:
    source = numbered(60, 40, 5)
    first = train_and_test(tiny_data(source), epochs=2, test=False).batches["train"]
    second = train_and_test(tiny_data(source), epochs=2, test=False).batches["train"]
    assert [digest(*batch[:3]) for batch in first] == [digest(*batch[:3]) for batch in second]
    half = len(first) // 2
    orders = [torch.cat([batch.labels for batch in part]) for part in (first[:half], first[half:])]
    assert not torch.equal(*orders)
    assert sorted(orders[0].tolist()) == sorted(orders[1].tolist())
    other = tiny_data(source, batching=Batching(batch_size=10, seed=1))
    third = train_and_test(other, epochs=2, test=False).batches["train"]
    assert [digest(*batch[:3]) for batch in first] != [digest(*batch[:3]) for batch in third]


@pytest.mark.parametrize("augment_marked", [False, True])
def test_marked_images_are_augmented_only_on_request_and_evaluated_ones_never(augment_marked: bool) -> None:
    source = random_source(shape=(1, 12, 12))
    data = tiny_data(
        source,
        batching=Batching(batch_size=10, augment_marked=augment_marked),
        augment=ShiftFlip(3),
    )
    seen = train_and_test(data)
    train = seen.all("train")
    clean = train.groups < 0
    originals = {digest(image) for image in source.images("train", data.roles.train)}
    untouched = [digest(image) in originals for image in _bytes(train.images[clean])]
    assert sum(untouched) < len(untouched) / 3  # one of 49 shifts is none
    same = (train.images[~clean] == 1).flatten(1).all(1)  # a white trigger that was shifted has a black border
    assert len(same) == 5
    assert bool(same.all()) != augment_marked
    for stage, split in (("val", "train"), ("test", "test")):
        index = data.roles.val if stage == "val" else torch.arange(40)
        found = _bytes(seen.all((stage, 0)).images)
        assert torch.equal(found, source.images(split, index))  # type: ignore[arg-type]
        assert (seen.all((stage, 1)).images == 1).all()


def test_the_config_key_decides_about_augmenting_marked_images(tmp_path: Any) -> None:
    for wanted in (False, True):
        job = job_of(tmp_path, "watermark=noise", f"watermark.augment={str(wanted).lower()}")
        assert job.data_module().batching.augment_marked is wanted
    assert job_of(tmp_path, "watermark=noise").data_module().batching.augment_marked is False


def test_augmentation_follows_from_the_seed_and_changes_from_epoch_to_epoch() -> None:
    source = random_source()
    runs = []
    for draws in range(2):
        torch.manual_seed(draws)
        data = tiny_data(source, augment=ShiftFlip(2, flip=True))
        batches = train_and_test(data, epochs=2, test=False).batches["train"]
        runs.append([digest(batch.images) for batch in batches])
    assert runs[0] == runs[1]
    one = tiny_data(source, batching=Batching(batch_size=1000), augment=ShiftFlip(2))
    whole = train_and_test(one, epochs=2, test=False).batches["train"]
    images = [{digest(image) for image in batch.images} for batch in whole]
    assert images[0] != images[1]


def test_per_batch_reaches_every_step() -> None:
    data = tiny_data(random_source(), batching=Batching(batch_size=10, mix="per_batch", per_batch=2))
    for batch in train_and_test(data, test=False).batches["train"]:
        assert int((batch.groups >= 0).sum()) == 2


def test_data_that_do_not_fit_in_memory_give_the_same_batches() -> None:
    class Streamed(ArraySource):
        in_memory = False

    source = random_source()
    given: dict[Split, Any] = {split: source.read(split) for split in ("train", "test")}  # type: ignore[misc]
    streamed = Streamed(given["train"], given["test"], 4)
    held = train_and_test(tiny_data(source, augment=ShiftFlip(1)))
    data = tiny_data(streamed, augment=ShiftFlip(1), loading=Loading(num_workers=1, eval_batch_size=7))
    assert data.train_dataloader().num_workers == 1
    assert [loader.num_workers for loader in data.test_dataloader()] == [1, 0, 0, 0]  # triggers lie in memory
    read = train_and_test(data)
    for key, batches in held.batches.items():
        assert [digest(*b[:3]) for b in batches] == [digest(*b[:3]) for b in read.batches[key]]


def test_a_module_without_watermark_has_clean_loaders_alone() -> None:
    source = random_source()
    data = tiny_data(source)
    bare = WatermarkData(source, data.roles, some_images(0, source.shape, 0), {"val": {}, "test": {}}, data.batching)
    seen = train_and_test(bare)
    assert set(seen.batches) == {"train", ("val", 0), ("test", 0)}
    assert (seen.all("train").groups == -1).all()


def test_ranks_share_the_loaders_without_overlap() -> None:
    source = numbered(60, 40, 5)
    seen: dict[str, list[int]] = defaultdict(list)
    for rank in range(3):
        data = tiny_data(source, loading=Loading(eval_batch_size=7, rank=rank, world_size=3))
        for batch in data.train_dataloader():
            clean = batch.groups < 0
            seen["train"] += read_numbers(batch.images[clean])[1].tolist()
            seen["marked"] += batch.labels[~clean].tolist()
        for name, loader in zip(data.loader_names("test"), data.test_dataloader(), strict=True):
            for batch in loader:
                seen[name] += read_numbers(batch.images)[1].tolist()
    assert sorted(seen["train"]) == data.roles.train.tolist()
    assert len(seen["marked"]) == 5
    assert sorted(seen["clean"]) == list(range(40))
    assert [len(seen[name]) for name in ("trigger", "trigger_new", "decoy")] == [5, 3, 4]
