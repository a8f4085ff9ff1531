"""The LightningDataModule that merges clean data with triggers and keeps their evaluation apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wmlightning.data.batches import Batch, CleanImages, EvalPlan, HeldImages, ImageSet, MergedImages, Mix, TrainPlan
from wmlightning.data.loading import Loading
from wmlightning.data.source import Source
from wmlightning.data.splits import Roles
from wmlightning.seeds import role_seed

Augment = Callable[[Tensor, Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Batching:
    """How training batches are put together. See :class:`wmlightning.data.batches.TrainPlan`."""

    batch_size: int
    mix: Mix = "concat"
    per_batch: int = 0
    negatives_per_batch: int = 0
    augment_marked: bool = False
    seed: int = 0
    frozen: bool = False


class WatermarkData(L.LightningDataModule):
    """Clean and marked images, merged for training, as separate named loaders for validation and test.

    Args:
        source: the task's data.
        roles: who may see which image.
        merged: marked images that are trained on (triggers and negatives).
        watched: named sets of marked images that are evaluated, by stage ``val`` and ``test``.
        batching: how training batches are made.
        augment: augmentation of whole batches: ``(images uint8, keep bool, generator) -> images uint8``.
        loading: workers and batch sizes; rank, world size and device are taken from the trainer.
        originals: the first triggers' images before they were marked, for the gallery.
        n_negatives: how many of ``merged``, the last ones, are negatives.
    """

    def __init__(
        self,
        source: Source,
        roles: Roles,
        merged: ImageSet,
        watched: dict[str, dict[str, ImageSet]],
        batching: Batching,
        augment: Augment | None = None,
        loading: Loading | None = None,
        originals: Tensor | None = None,
        n_negatives: int = 0,
    ) -> None:
        super().__init__()
        self.source = source
        self.roles = roles
        self.merged = merged
        self.watched = watched
        self.batching = batching
        self.augment = augment
        self.loading = loading or Loading()
        self.originals = originals
        self.n_negatives = n_negatives

    def loader_names(self, stage: str) -> list[str]:
        """Names of the evaluation loaders, in their order: ``clean`` first."""
        return ["clean", *self.watched[stage]]

    def _loading(self) -> Loading:
        if self.trainer is None:
            return self.loading
        trainer = self.trainer
        where = trainer.strategy.root_device
        return replace(self.loading, rank=trainer.global_rank, world_size=trainer.world_size, device=where)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Merged batches: every clean image and, with ``concat``, every marked one once per epoch."""
        loading = self._loading()
        dataset = MergedImages(self.source, self.roles.train, self.merged)
        plan = TrainPlan(
            n_clean=len(self.roles.train),
            n_marked=len(self.merged),
            batch_size=self.batching.batch_size,
            mix=self.batching.mix,
            per_batch=self.batching.per_batch,
            seed=role_seed(self.batching.seed, "train"),
            rank=loading.rank,
            world_size=loading.world_size,
            n_negatives=self.n_negatives,
            negatives_per_batch=self.batching.negatives_per_batch,
            frozen=self.batching.frozen,
        )
        return loading.loader(dataset, plan, workers=not self.source.in_memory)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """Held-out clean images, then the watched sets."""
        return self._evaluation("val", CleanImages(self.source, "train", self.roles.val))

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """All clean test images, then the watched sets."""
        both = torch.cat([self.roles.judge, self.roles.attacker]).sort().values
        return self._evaluation("test", CleanImages(self.source, "test", both))

    def _evaluation(self, stage: str, clean: CleanImages) -> list[DataLoader[Batch]]:
        loading = self._loading()

        def loader(dataset: Dataset[Batch], n: int, workers: bool) -> DataLoader[Batch]:
            plan = EvalPlan(n, loading.eval_batch_size, loading.rank, loading.world_size)
            return loading.loader(dataset, plan, workers)

        held = [HeldImages(images) for images in self.watched[stage].values()]
        return [
            loader(clean, len(clean), not self.source.in_memory),
            *(loader(dataset, len(dataset), workers=False) for dataset in held),
        ]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """On the device: augments what is to be augmented, then uint8 0..255 becomes float in [0, 1]."""
        images = batch.images
        if self.augment is not None and self.trainer is not None and self.trainer.training:
            all_turned = self.batching.augment_marked
            keep = torch.zeros_like(batch.groups, dtype=torch.bool) if all_turned else batch.groups >= 0
            draw = torch.Generator(images.device).manual_seed(batch.seed)
            images = self.augment(images, keep, draw)
        return batch._replace(images=images.to(torch.get_default_dtype()).div_(255))
