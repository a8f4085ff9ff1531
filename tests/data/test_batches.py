from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor

from tests.helpers import few, numbered, read_numbers, some_images
from wmlightning.data import loading
from wmlightning.data.batches import Batch, CleanImages, EvalPlan, HeldImages, ImageSet, MergedImages, TrainPlan
from wmlightning.data.loading import Loading

WORLDS = st.integers(1, 3)


def _epoch(epoch: int = 0, **options: Any) -> list[list[list[int]]]:
    """What each rank gets in each batch."""
    world = options.get("world_size", 1)
    plans = [TrainPlan(**{**options, "rank": rank}) for rank in range(world)]
    for plan in plans:
        plan.set_epoch(epoch)
    shares = [[index.tolist() for index, _ in plan] for plan in plans]
    for plan, share in zip(plans, shares, strict=True):
        assert len(share) == len(plan) == len(plans[0])
        is_marked = [[i >= options["n_clean"] for i in batch] for batch in share]
        assert is_marked == list(map(sorted, is_marked)), "marked images come last"
    return shares


def _flat(parts: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(parts))


def _whole(shares: list[list[list[int]]]) -> list[list[int]]:
    """The batches of all ranks together."""
    return [_flat(parts) for parts in zip(*shares, strict=True)]


@few
@given(
    n_clean=st.integers(6, 80), n_marked=st.integers(0, 30), size=st.integers(3, 40), world=WORLDS, seed=st.integers(0)
)
def test_concat_brings_every_image_once_an_epoch_in_one_rank(
    n_clean: int, n_marked: int, size: int, world: int, seed: int
) -> None:
    for epoch in (0, 3):
        shares = _epoch(epoch, n_clean=n_clean, n_marked=n_marked, batch_size=size, seed=seed % 2**62, world_size=world)
        batches = _whole(shares)
        assert sorted(_flat(batches)) == list(range(n_clean + n_marked))
        sizes = [len(batch) for batch in batches]
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1
        assert len(batches) == -(-(n_clean + n_marked) // size)  # no more steps than needed
        for parts in zip(*shares, strict=True):  # and evenly among the ranks
            lengths = [len(part) for part in parts]
            assert max(lengths) - min(lengths) <= 1


@few
@given(
    n_clean=st.integers(6, 80), n_marked=st.integers(1, 12), size=st.integers(6, 20), k=st.integers(1, 5), world=WORLDS
)
def test_per_batch_puts_just_so_many_marked_images_into_every_batch(
    n_clean: int, n_marked: int, size: int, k: int, world: int
) -> None:
    options = {"n_clean": n_clean, "n_marked": n_marked, "batch_size": size, "mix": "per_batch", "per_batch": k}
    shares = _epoch(**options, world_size=world)
    batches = _whole(shares)
    marked = [[i for i in batch if i >= n_clean] for batch in batches]
    assert [len(turn) for turn in marked] == [k] * len(batches)
    clean = _flat(batches)
    assert sorted(i for i in clean if i < n_clean) == list(range(n_clean))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    in_turn = _flat(_in_order(shares, n_clean))
    for start in range(0, len(in_turn), n_marked):  # all before any comes again
        turn = in_turn[start : start + n_marked]
        assert len(set(turn)) == len(turn)
    assert set(in_turn) <= set(range(n_clean, n_clean + n_marked))
    if len(in_turn) >= n_marked:
        assert set(in_turn) == set(range(n_clean, n_clean + n_marked))


@few
@given(
    n_clean=st.integers(6, 80),
    counts=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    each=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    size=st.integers(7, 20),
    world=WORLDS,
)
def test_per_batch_gives_triggers_and_negatives_turns_of_their_own(
    n_clean: int, counts: tuple[int, int], each: tuple[int, int], size: int, world: int
) -> None:
    options = {"n_clean": n_clean, "n_marked": sum(counts), "batch_size": size, "mix": "per_batch"}
    options |= {"per_batch": each[0], "n_negatives": counts[1], "negatives_per_batch": each[1]}
    shares = _epoch(**options, world_size=world)
    batches = _whole(shares)
    assert max(map(len, batches)) <= size
    assert sorted(i for i in _flat(batches) if i < n_clean) == list(range(n_clean))
    first = n_clean
    for n, k in zip(counts, each, strict=True):
        own = range(first, first + n)
        assert all(sum(i in own for i in batch) == k for batch in batches)
        in_turn = [i for i in _flat(_in_order(shares, n_clean)) if i in own]
        for start in range(0, len(in_turn), n):  # all before any comes again
            assert len(set(in_turn[start : start + n])) == len(in_turn[start : start + n])
        first += n


def test_negatives_are_more_marked_images_where_all_are_mixed() -> None:
    options: dict[str, Any] = {"n_clean": 20, "n_marked": 9, "batch_size": 8, "mix": "concat"}
    assert _epoch(**options, n_negatives=4, negatives_per_batch=2) == _epoch(**options)


def _in_order(shares: list[list[list[int]]], n_clean: int) -> list[list[int]]:
    """The marked images of each batch in the order of a single process's plan."""
    batches = []
    for parts in zip(*shares, strict=True):
        whole = [0] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            whole[rank :: len(parts)] = part
        batches.append([i for i in whole if i >= n_clean])
    return batches


@few
@given(size=st.integers(4, 20), mix=st.sampled_from(["concat", "per_batch"]), world=st.integers(2, 3))
def test_ranks_share_the_very_batches_of_one_process(size: int, mix: str, world: int) -> None:
    options: dict[str, Any] = {"n_clean": 50, "n_marked": 9, "batch_size": size, "mix": mix, "per_batch": 2}
    alone = [sorted(batch) for batch in _whole(_epoch(**options))]
    assert [sorted(batch) for batch in _whole(_epoch(**options, world_size=world))] == alone


def test_without_marked_images_per_batch_is_the_same_as_concat() -> None:
    options: dict[str, Any] = {"n_clean": 20, "n_marked": 0, "batch_size": 8, "per_batch": 4}
    assert _epoch(**options, mix="per_batch") == _epoch(**options, mix="concat")


@pytest.mark.parametrize("mix", ["concat", "per_batch"])
def test_batches_are_a_function_of_seed_and_epoch(mix: str) -> None:
    options: dict[str, Any] = {"n_clean": 40, "n_marked": 12, "batch_size": 10, "mix": mix, "per_batch": 3}
    first = _epoch(2, **options, seed=5)
    torch.manual_seed(0)
    plan = TrainPlan(**options, seed=5)
    plan.set_epoch(0)
    list(plan)  # a resumed run starts at a later epoch; an uninterrupted one comes from earlier ones
    plan.set_epoch(2)
    state = torch.get_rng_state()
    assert [index.tolist() for index, _ in plan] == first[0]
    assert [index.tolist() for index, _ in plan] == first[0]  # asked twice, it is the same epoch
    assert torch.equal(torch.get_rng_state(), state)
    assert _epoch(3, **options, seed=5) != first
    assert _epoch(2, **options, seed=6) != first
    if mix == "per_batch":
        marked = [[i for i in _flat(_whole(_epoch(e, **options))) if i >= 40] for e in (0, 1)]
        assert marked[0] != marked[1]


def test_every_batch_of_every_rank_and_epoch_is_augmented_from_a_seed_of_its_own() -> None:
    seeds = []
    for rank in range(2):
        for epoch in range(3):
            plan = TrainPlan(40, 8, 10, rank=rank, world_size=2)
            plan.set_epoch(epoch)
            seeds += [seed for _, seed in plan]
    assert len(set(seeds)) == len(seeds) == 30
    assert [seed for _, seed in TrainPlan(40, 8, 10, rank=1, world_size=2)] == seeds[15:20]


def test_a_frozen_plan_repeats_its_first_epoch_augmentation_included() -> None:
    plans = [TrainPlan(40, 8, 10, seed=5, frozen=frozen) for frozen in (False, True)]
    epochs: list[list[Any]] = [[], []]
    for plan, kept in zip(plans, epochs, strict=True):
        for epoch in range(3):
            plan.set_epoch(epoch)
            kept.append([(index.tolist(), seed) for index, seed in plan])
    first = epochs[0][0]
    assert epochs[1] == [first] * 3
    assert epochs[0][1] != first


def test_clean_and_marked_images_are_shuffled_together() -> None:
    batches = _whole(_epoch(n_clean=500, n_marked=500, batch_size=100))
    shares = [sum(i >= 500 for i in batch) for batch in batches]
    assert all(25 < share < 75 for share in shares)
    assert batches[0] != sorted(batches[0])


@few
@given(n=st.integers(0, 50), size=st.integers(1, 20), world=WORLDS)
def test_evaluation_covers_all_once_over_the_ranks(n: int, size: int, world: int) -> None:
    seen: Counter[int] = Counter()
    for rank in range(world):
        plan = EvalPlan(n, size, rank, world)
        batches = [index for index, _ in plan]
        assert len(batches) == len(plan) == len(EvalPlan(n, size, 0, world)), "processes wait for one another in each"
        fewer = len(plan.share) < len(batches)  # images than batches: some are empty
        assert all((len(index) > 0 or fewer) and len(index) <= size for index in batches)
        own = torch.cat(batches).tolist() if batches else []
        assert own == sorted(own)
        seen.update(own)
    assert seen == Counter(range(n))


SOURCE = numbered(60, 40, 5)


def _marked() -> ImageSet:
    held = some_images(7, SOURCE.shape, 4, value=200)
    return ImageSet(held.images, held.labels, torch.arange(7))


@few
@given(chosen=st.lists(st.integers(0, 26), min_size=1, max_size=12), seed=st.integers(0, 2**62))
def test_merged_images_are_the_clean_and_the_marked_ones_with_their_labels(chosen: list[int], seed: int) -> None:
    index = torch.arange(1, 60, 3)  # 20 of them
    batch = MergedImages(SOURCE, index, _marked())[torch.tensor(chosen), seed]
    assert batch.seed == seed
    is_clean = torch.tensor(chosen) < 20
    assert len(batch.images) == len(batch.labels) == len(batch.groups) == len(chosen)
    split, numbers, labels = read_numbers(batch.images[is_clean])
    assert set(split.tolist()) <= {1}
    assert numbers.tolist() == index[[i for i in chosen if i < 20]].tolist()
    assert batch.labels[is_clean].tolist() == labels.tolist()
    assert (batch.groups[is_clean] == -1).all()
    assert (batch.images[~is_clean] == 200).all()
    assert (batch.labels[~is_clean] == 4).all()
    assert batch.groups[~is_clean].tolist() == [i - 20 for i in chosen if i >= 20]
    assert batch.images.dtype == torch.uint8
    assert batch.labels.dtype == batch.groups.dtype == torch.int64


def test_evaluated_images_are_those_of_their_split_grouped_by_class() -> None:
    index = torch.tensor([1, 4, 9, 16, 25])
    dataset = CleanImages(SOURCE, "test", index)
    assert len(dataset) == 5
    batch = dataset[torch.tensor([4, 0, 2]), 0]
    split, numbers, labels = read_numbers(batch.images)
    assert split.tolist() == [2, 2, 2]
    assert numbers.tolist() == [25, 1, 9]
    assert torch.equal(batch.labels, labels)
    assert torch.equal(batch.groups, labels)
    held = HeldImages(_marked())
    assert len(held) == 7
    assert held[torch.tensor([6, 2]), 0].groups.tolist() == [6, 2]


@pytest.mark.parametrize(("workers", "at_once"), [(0, 0), (0, 5000), (0, 2**21), (2, 2**21)])
def test_loaders_hand_out_the_planned_batches_with_and_without_workers(
    workers: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_GATHERED_AT_ONCE", at_once)
    dataset = MergedImages(SOURCE, torch.arange(60), _marked())
    plan = TrainPlan(60, 7, 16, seed=3)
    loader = Loading(num_workers=workers).loader(dataset, plan, workers=True)
    assert loader.num_workers == workers
    assert len(loader) == len(plan)
    found: list[Tensor] = []
    for batch, (index, seed) in zip(loader, plan, strict=True):
        expected = dataset[index, seed]
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.labels, expected.labels)
        assert torch.equal(batch.groups, expected.groups)
        assert batch.seed == seed
        found.append(batch.labels)
    assert sum(map(len, found)) == 67
    assert Loading(num_workers=2).loader(dataset, plan, workers=False).num_workers == 0


def test_a_batch_moves_as_a_whole_by_lightnings_own_hand() -> None:
    batch = Batch(torch.zeros(2, 1, 3, 3), torch.zeros(2), torch.zeros(2), 7)
    moved = move_data_to_device(batch, torch.device("meta"))
    assert isinstance(moved, Batch)
    assert [part.device.type for part in moved[:3]] == ["meta"] * 3
    assert moved.seed == 7
