"""How batches get from where images lie to the step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from wmlightning.data.batches import Batch
from wmlightning.errors import UserError

_READ_AT_ONCE = 8192
#: Batches are gathered together as long as they take no more bytes: what a processor keeps close by.
_GATHERED_AT_ONCE = 2**21


@dataclass(frozen=True)
class Loading:
    """How images get from where they lie to the step.

    Attributes:
        num_workers: worker processes for sources that are not in memory; sources in memory need none.
        eval_batch_size: images a step in validation and test.
        rank: number of this process.
        world_size: processes that share the work.
        device: where the steps are; ``None``: the processor. A GPU holds what lies in memory, as far as it has room;
            batches that are read from elsewhere are copied to page-locked memory before they are sent there.
    """

    num_workers: int = 0
    eval_batch_size: int = 500
    rank: int = 0
    world_size: int = 1
    device: torch.device | None = None

    def loader(self, dataset: Dataset[Batch], sampler: Sampler[tuple[Tensor, int]], workers: bool) -> DataLoader[Batch]:
        """A DataLoader whose every item is a whole batch.

        Args:
            dataset: a batch for each item of the sampler; one that has a length may be asked for any of its images.
            sampler: which images make which batch.
            workers: whether images are read from elsewhere than memory.
        """
        n = self.num_workers if workers else 0
        gpu = self.device if self.device is not None and self.device.type == "cuda" else None
        if gpu is not None and not workers and _has_room(gpu, dataset):
            dataset = OnDevice(dataset, gpu)
        return _Loader(
            _Telling(dataset) if n else dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=n,
            persistent_workers=n > 0,
            collate_fn=_as_it_is,
            pin_memory=gpu is not None and workers,  # its thread slows down the one that starts small kernels
            # Without a generator of its own a loader draws from the global one whenever it starts an epoch, and a
            # resumed training, which starts it at another moment than an undisturbed one, would draw other numbers.
            generator=torch.Generator(),
        )


def _as_it_is(batch: Any) -> Any:
    return batch


def _has_room(gpu: torch.device, dataset: Any) -> bool:
    """Whether the images take a quarter at most of what is free: networks need room too, and other processes."""
    if not len(dataset):
        return False
    one = dataset[torch.zeros(1, dtype=torch.int64), 0].images.nbytes
    free, _ = torch.cuda.mem_get_info(gpu)
    return bool(4 * one * len(dataset) <= free)


class OnDevice(Dataset[Batch]):
    """Images of another data set, read once and held on the device: a batch is gathered there, and nothing is sent.

    Batches are those of the other data set, image by image.

    Args:
        dataset: what is held.
        device: where.
    """

    def __init__(self, dataset: Any, device: torch.device) -> None:
        parts = [dataset[index, 0].to(device) for index in torch.split(torch.arange(len(dataset)), _READ_AT_ONCE)]
        self.images = torch.cat([part.images for part in parts])
        self.labels = torch.cat([part.labels for part in parts])
        self.groups = torch.cat([part.groups for part in parts])

    def __getitem__(self, item: tuple[Tensor, int]) -> Batch:
        chosen, seed = item
        chosen = chosen.to(self.images.device, non_blocking=True)
        return Batch(self.images[chosen], self.labels[chosen], self.groups[chosen], seed)


class _Telling(Dataset[Any]):
    """Hands over a user's mistake as an item: torch would make a RuntimeError with a worker's traceback of it."""

    def __init__(self, dataset: Dataset[Batch]) -> None:
        self.dataset = dataset

    def __getitem__(self, item: Any) -> Batch | UserError:
        try:
            return self.dataset[item]
        except UserError as error:
            return error


def _gathered(dataset: Dataset[Batch], plan: Iterator[tuple[Tensor, int]]) -> Iterator[Batch]:
    """The planned batches, small ones several at once: many operations on few images take longer than their work."""
    n = 1
    while items := list(islice(plan, n)):
        chosen, seeds = zip(*items, strict=True)
        whole = dataset[torch.cat(chosen), 0]
        parts = (torch.split(part, [len(index) for index in chosen]) for part in whole[:3])
        for images, labels, groups, seed in zip(*parts, seeds, strict=True):
            yield Batch(images, labels, groups, seed)
        n = max(1, n * _GATHERED_AT_ONCE // max(1, whole.images.nbytes))


class _Loader(DataLoader[Batch]):
    """Raises mistakes that workers hand over, and does by itself what needs neither workers nor page-locked memory.

    torch's own way would note each batch for its profiler, which takes longer than making it.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        if not self.num_workers and not self.pin_memory:
            yield from _gathered(self.dataset, iter(self.sampler))
            return
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch
