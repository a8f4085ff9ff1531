"""Batches of clean and marked images, indexed as a whole instead of image by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from wmlightning.data.source import Source, Split
from wmlightning.seeds import generator, role_seed

Mix = Literal["concat", "per_batch"]


class Batch(NamedTuple):
    """What a step gets.

    Attributes:
        images: uint8 ``(n, c, h, w)`` as loaded; float in [0, 1] once on the device.
        labels: int64 ``(n,)``, the label that each image is to get.
        groups: int64 ``(n,)``. In training -1 for clean images and >= 0 for marked ones; in evaluation what accuracies
            are told apart by: the class of a clean image, the mark of a trigger, the owner of a decoy.
        seed: what the random choices for this batch (its augmentation) follow from.
    """

    images: Tensor
    labels: Tensor
    groups: Tensor
    seed: int

    def to(self, device: torch.device) -> Batch:
        """On a device. Lightning would look through the fields in each step to find what can be moved."""
        free = device.type not in ("cpu", "mps")  # there, a copy that is not waited for may be read too early
        images, labels, groups = (part.to(device, non_blocking=free) for part in self[:3])
        return Batch(images, labels, groups, self.seed)


@dataclass(frozen=True)
class ImageSet:
    """Images with the labels they are to get, and the group each belongs to (see :class:`Batch`)."""

    images: Tensor
    labels: Tensor
    groups: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class TrainPlan(Sampler[tuple[Tensor, int]]):
    """Which images make which batch: a function of seed and epoch alone, so that a resumed run sees the same.

    Image i < n_clean is a clean one; the others are marked, and come last in each batch. Every batch is shared out
    evenly among the processes, every clean image comes once per epoch, in one process.

    Args:
        n_clean: number of clean images.
        n_marked: number of marked images.
        batch_size: images a step, all processes together; the last batches are not smaller but all nearly equal.
        mix: ``concat`` shuffles the marked images in, once each per epoch; ``per_batch`` puts ``per_batch`` triggers
            and ``negatives_per_batch`` negatives into each batch beside the clean ones. Triggers and negatives have
            turns of their own, and start over when all had theirs.
        per_batch: see ``mix``.
        seed: seed of the training.
        rank: number of this process.
        world_size: processes that share each batch.
        n_negatives: how many of the marked images, the last ones, are negatives and no triggers.
        negatives_per_batch: see ``mix``.
        frozen: every epoch is like the first, augmentation included.
    """

    def __init__(
        self,
        n_clean: int,
        n_marked: int,
        batch_size: int,
        mix: Mix = "concat",
        per_batch: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        n_negatives: int = 0,
        negatives_per_batch: int = 0,
        frozen: bool = False,
    ) -> None:
        self.n_clean = n_clean
        n_triggers = n_marked - n_negatives
        kinds = [(n_clean, n_triggers, per_batch), (n_clean + n_triggers, n_negatives, negatives_per_batch)]
        #: What comes in turns: where its numbers begin, how many there are, and how many come in each batch.
        self.kinds = [kind for kind in kinds if mix == "per_batch" and kind[1] and kind[2]]
        self.n_mixed = n_clean if self.kinds else n_clean + n_marked
        self.n_batches = -(-self.n_mixed // max(1, batch_size - sum(each for _, _, each in self.kinds)))
        #: Images of the smallest batch, all processes together.
        self.smallest = self.n_mixed // max(1, self.n_batches) + sum(each for _, _, each in self.kinds)
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.frozen = frozen
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = 0 if self.frozen else epoch

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        draw = generator(self.seed, "batches", self.epoch)
        order = torch.randperm(self.n_mixed, generator=draw)
        turns = self._marked_turns(draw)
        whole = map(torch.cat, zip(torch.tensor_split(order, self.n_batches), turns, strict=True))
        shares = [batch[self.rank :: self.world_size] for batch in whole]
        for step, share in enumerate(_marked_last(shares, self.n_clean)):
            yield share, role_seed(self.seed, "augment", self.epoch, step, self.rank)

    def _marked_turns(self, draw: torch.Generator) -> Tensor:
        """The marked images of each batch: int64 ``(n_batches, k)``."""
        parts = [torch.empty((self.n_batches, 0), dtype=torch.int64)]
        for first, n, each in self.kinds:
            needed = each * self.n_batches
            turns = [first + torch.randperm(n, generator=draw) for _ in range(-(-needed // n))]
            parts.append(torch.cat(turns)[:needed].view(self.n_batches, each))
        return torch.cat(parts, dim=1)


def _marked_last(batches: list[Tensor], n_clean: int) -> Sequence[Tensor]:
    """Sorts all batches of an epoch at once, which takes as long as a few of them by themselves."""
    sizes = [len(batch) for batch in batches]
    images, step = torch.cat(batches), torch.repeat_interleave(torch.tensor(sizes))
    return torch.split(images[(2 * step + (images >= n_clean)).argsort(stable=True)], sizes)


class EvalPlan(Sampler[tuple[Tensor, int]]):
    """Every image once, in order, in batches; each process takes every ``world_size``-th image.

    Nothing is padded or repeated, so that sums over processes are exact. All processes get as many batches, since they
    wait for one another in each; with fewer images than processes some are empty.
    """

    def __init__(self, n: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.share = torch.arange(n)[rank::world_size]
        self.batch_size = batch_size
        self.n_batches = -(-n // (world_size * batch_size))

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        if not self.n_batches:
            return
        parts = torch.split(self.share, self.batch_size)
        if len(parts) < self.n_batches:  # one image less than others have
            parts = torch.tensor_split(self.share, self.n_batches)
        yield from ((index, 0) for index in parts)


class MergedImages(Dataset[Batch]):
    """Clean training images and marked images under one numbering. The clean ones are not copied.

    Args:
        source: where the clean images are.
        index: which of its training images are used.
        marked: what is merged in behind them.
    """

    def __init__(self, source: Source, index: Tensor, marked: ImageSet) -> None:
        self.source = source
        self.index = index
        self.clean_labels = source.labels("train")[index]
        self.marked = marked

    def __len__(self) -> int:
        return len(self.index) + len(self.marked)

    def __getitem__(self, item: tuple[Tensor, int]) -> Batch:
        chosen, seed = item
        n_clean = len(self.index)
        is_clean = chosen < n_clean
        clean, marked = chosen[is_clean], chosen[~is_clean] - n_clean
        images = self.source.images("train", self.index[clean])
        labels = self.clean_labels[clean]
        groups = torch.full_like(labels, -1)
        if len(marked):
            place = (~is_clean).long().argsort(stable=True).argsort()  # of each image in what is put together here
            held = self.marked
            images = torch.cat([images, held.images[marked]])[place]
            labels = torch.cat([labels, held.labels[marked]])[place]
            groups = torch.cat([groups, held.groups[marked]])[place]
        return Batch(images, labels, groups, seed)


class CleanImages(Dataset[Batch]):
    """Some images of one split, grouped by their class."""

    def __init__(self, source: Source, split: Split, index: Tensor) -> None:
        self.source = source
        self.split: Split = split
        self.index = index
        self.class_labels = source.labels(split)[index]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: tuple[Tensor, int]) -> Batch:
        chosen, seed = item
        labels = self.class_labels[chosen]
        return Batch(self.source.images(self.split, self.index[chosen]), labels, labels, seed)


class HeldImages(Dataset[Batch]):
    """An :class:`ImageSet`, by batches."""

    def __init__(self, held: ImageSet) -> None:
        self.held = held

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, item: tuple[Tensor, int]) -> Batch:
        chosen, seed = item
        held = self.held
        return Batch(held.images[chosen], held.labels[chosen], held.groups[chosen], seed)
