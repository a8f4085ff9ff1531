"""Which marked images come with which batch."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from wmlightning.seeds import generator


class Turns:
    """A function of seed, epoch and batch alone, so that a resumed training sees the same.

    In each epoch all marked images take their turns in random order, spread evenly over the batches; those that come
    with one batch are shared out among the processes.

    Args:
        n: marked images.
        seed: what the order follows from.
        per_batch: how many come with each batch, on average and all processes together; ``None``: so many that each
            comes once an epoch.
    """

    def __init__(self, n: int, seed: int, per_batch: float | None = None) -> None:
        self.n = n
        self.seed = seed
        self.per_batch = None if per_batch is None else Fraction(per_batch).limit_denominator(1000)
        self._orders: dict[tuple[int, int], Tensor] = {}

    def of(self, epoch: int, batch: int, n_batches: int, rank: int = 0, world_size: int = 1) -> Tensor:
        """Numbers of the marked images of a batch: int64.

        Args:
            epoch: number of the epoch.
            batch: number of the batch in it.
            n_batches: batches of an epoch; does not matter if ``per_batch`` is given.
            rank: number of this process.
            world_size: processes that share the work.
        """
        share = self.per_batch if self.per_batch is not None else Fraction(self.n, n_batches)
        first, end = (batch * share).__floor__(), ((batch + 1) * share).__floor__()
        ours = range(first + (rank - first) % world_size, end, world_size)
        return torch.tensor(
            [int(self._order(epoch, turn // self.n)[turn % self.n]) for turn in ours], dtype=torch.int64
        )

    def _order(self, epoch: int, round_: int) -> Tensor:
        """The order of one round in which each has its turn."""
        if (epoch, round_) not in self._orders:
            kept = {at: order for at, order in self._orders.items() if at == (epoch, round_ - 1)}
            draw = generator(self.seed, "turns", epoch, round_)
            self._orders = {**kept, (epoch, round_): torch.randperm(self.n, generator=draw)}
        return self._orders[epoch, round_]
