"""How batches get to the step: from memory, by workers, or from where they are held on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from tests.helpers import few, random_source, some_images
from wmlightning.data import loading
from wmlightning.data.batches import Batch, CleanImages, EvalPlan, HeldImages, ImageSet, MergedImages, TrainPlan
from wmlightning.data.loading import Loading, OnDevice

SOURCE = random_source(n_train=60, n_test=40)
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def _marked(n: int) -> ImageSet:
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, 12, 12).contiguous()
    return ImageSet(images, torch.arange(n) % 4, torch.arange(n))


def _same(first: Batch, second: Batch) -> bool:
    return all(map(torch.equal, first[:3], second[:3])) and first.seed == second.seed


@given(
    n_clean=st.integers(1, 60),
    n_marked=st.integers(0, 9),
    seed=st.integers(0, 9),
    at_once=st.sampled_from([1, 7, 1000]),
)
@few
def test_batches_that_are_held_are_those_from_memory(n_clean: int, n_marked: int, seed: int, at_once: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    dataset = MergedImages(SOURCE, torch.randperm(60, generator=draw)[:n_clean], _marked(n_marked))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "_READ_AT_ONCE", at_once)
        held = OnDevice(dataset, CPU)
    for item in TrainPlan(n_clean, n_marked, 8, seed=seed):
        assert _same(held[item], dataset[item])


def test_evaluation_sets_are_held_in_their_order() -> None:
    for dataset in (CleanImages(SOURCE, "test", torch.arange(39, -1, -1)), HeldImages(_marked(9))):
        held = OnDevice(dataset, CPU)
        for item in EvalPlan(len(dataset), 4):
            assert _same(held[item], dataset[item])


class Room:
    """A GPU of which so much is free."""

    def __init__(self, patch: pytest.MonkeyPatch, free: int) -> None:
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
        self.held: list[Any] = []
        patch.setattr(loading, "OnDevice", self._hold)

    def _hold(self, dataset: Dataset[Batch], device: torch.device) -> Dataset[Batch]:
        self.held.append(device)
        return dataset


def test_a_gpu_holds_what_takes_a_quarter_of_it_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = HeldImages(some_images(10, (1, 12, 12), 1))
    for free, is_held in ((4 * 1440, True), (4 * 1440 - 1, False)):
        room = Room(monkeypatch, free)
        loader = Loading(device=GPU).loader(dataset, EvalPlan(10, 4), workers=False)
        assert room.held == [GPU] * is_held
        assert not loader.pin_memory


def test_a_gpu_holds_nothing_that_is_read_from_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(monkeypatch, 2**40)
    loader = Loading(device=GPU).loader(HeldImages(_marked(9)), EvalPlan(9, 4), workers=True)
    assert not room.held
    assert loader.pin_memory


def test_nothing_at_all_is_no_reason_to_ask_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(monkeypatch, 2**40)
    empty = HeldImages(some_images(0, (1, 12, 12), 1))
    assert not list(Loading(device=GPU).loader(empty, EvalPlan(0, 4), workers=False).sampler)
    assert not room.held


def test_processors_hold_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(monkeypatch, 2**40)
    for device in (None, CPU, torch.device("mps")):
        loader = Loading(device=device).loader(HeldImages(_marked(9)), EvalPlan(9, 4), workers=False)
        assert not loader.pin_memory
    assert not room.held
