"""Which triggers come with which batch: all of them, evenly, and the same after a kill."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import few
from wmlightning.embed.turns import Turns

counts = st.integers(1, 60)


@few
@given(counts, counts, st.integers(1, 5), st.integers(0, 3))
def test_each_once_an_epoch_in_one_process_evenly(n: int, n_batches: int, world: int, epoch: int) -> None:
    turns = Turns(n, seed=3)
    parts = [[turns.of(epoch, b, n_batches, rank, world).tolist() for rank in range(world)] for b in range(n_batches)]
    assert Counter(i for batch in parts for part in batch for i in part) == Counter(range(n))
    sizes = [sum(map(len, batch)) for batch in parts]
    assert max(sizes) - min(sizes) <= 1
    per_rank = [sum(len(batch[rank]) for batch in parts) for rank in range(world)]
    assert max(per_rank) - min(per_rank) <= 1, "no process gets all of them"
    assert all(max(map(len, batch)) - min(map(len, batch)) <= 1 for batch in parts)


@few
@given(counts, st.fractions(1 / 4, 12).map(float), st.integers(1, 3))
def test_so_many_a_batch_on_average(n: int, per_batch: float, world: int) -> None:
    turns, n_batches = Turns(n, 3, per_batch), 40
    ours = [turns.of(2, b, 1, rank, world) for b in range(n_batches) for rank in range(world)]
    met = Counter(int(i) for part in ours for i in part)
    assert abs(met.total() - per_batch * n_batches) <= 1
    assert max(met.values()) - min(met.get(i, 0) for i in range(n)) <= 1, "nobody's second turn before all had theirs"


@few
@given(counts, counts, st.data())
def test_nothing_but_seed_epoch_and_batch_matters(n: int, n_batches: int, data: st.DataObject) -> None:
    asked = st.tuples(st.integers(0, 2), st.integers(0, n_batches - 1))
    undisturbed = {(e, b): Turns(n, 5).of(e, b, n_batches).tolist() for e in range(3) for b in range(n_batches)}
    turns = Turns(n, 5)
    for epoch, batch in data.draw(st.lists(asked, max_size=20)):
        assert turns.of(epoch, batch, n_batches).tolist() == undisturbed[epoch, batch]


def test_epochs_and_seeds_differ() -> None:
    orders = [tuple(Turns(40, seed).of(epoch, 0, 1).tolist()) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
