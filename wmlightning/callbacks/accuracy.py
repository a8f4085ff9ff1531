"""Clean accuracy, trigger accuracy and decoy accuracy: counted apart, never mixed in one number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics import Metric

from wmlightning.data.batches import Batch


class GroupAccuracy(Metric):
    """Hits and counts by group. Sums over processes are exact.

    Args:
        n_groups: number of groups.
        **options: of :class:`torchmetrics.Metric`.
    """

    full_state_update = False
    hits: Tensor
    counts: Tensor

    def __init__(self, n_groups: int, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("hits", torch.zeros(n_groups, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(n_groups, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, labels: Tensor, groups: Tensor) -> None:
        """Counts a batch; each int64 ``(n,)``."""
        n = len(self.hits)
        self.hits += torch.bincount(groups[predicted == labels], minlength=n)
        self.counts += torch.bincount(groups, minlength=n)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Hits and counts by group."""
        return self.hits, self.counts


def shares(name: str, hits: Tensor, counts: Tensor, source_classes: Sequence[int]) -> dict[str, Tensor]:
    """The accuracies that one evaluation set gives.

    Args:
        name: ``clean``, ``trigger``, ``trigger_new`` or ``decoy``.
        hits: int64 ``(groups,)``.
        counts: int64 ``(groups,)``.
        source_classes: classes of ``source_acc``.
    """
    if not counts.sum():  # a share of nothing is no number
        return {}
    values = {f"{name}_acc": hits.sum() / counts.sum()}
    if name == "clean" and (source := counts[list(source_classes)].sum()):
        values["source_acc"] = hits[list(source_classes)].sum() / source
    if name == "decoy":
        values["decoy_acc_max"] = (hits / counts)[counts > 0].max()
    return values


class Accuracies(L.Callback):
    """Counts each evaluation loader in a metric of its own and logs one number an epoch for each.

    Logs ``val/clean_acc`` and ``val/trigger_acc``; at the end ``test/clean_acc``, ``test/source_acc``,
    ``test/trigger_acc``, ``test/trigger_new_acc``, ``test/decoy_acc`` and ``test/decoy_acc_max`` (the luckiest
    stranger). Names come from the data module's ``loader_names``; the module's evaluation steps return predictions.

    Args:
        source_classes: classes that ``test/source_acc`` is measured on.
        n_groups: upper bound of the group numbers.
        tells_source: whether loggers get ``test/source_acc``, by which whoever has the model finds these classes.
    """

    def __init__(self, source_classes: Sequence[int], n_groups: int, tells_source: bool = True) -> None:
        self.source_classes = list(source_classes)
        self.tells_source = tells_source
        self.n_groups = n_groups
        self.names: list[str] = []
        self.metrics: list[GroupAccuracy] = []

    def _start(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        self.names = trainer.datamodule.loader_names(stage)  # type: ignore[attr-defined]
        self.metrics = [GroupAccuracy(self.n_groups).to(module.device) for _ in self.names]

    def _count(self, outputs: Any, batch: Batch, dataloader_idx: int) -> None:
        self.metrics[dataloader_idx].update(outputs, batch.labels, batch.groups)

    def _log(self, module: L.LightningModule, stage: str) -> None:
        values: dict[str, Tensor] = {}
        for name, metric in zip(self.names, self.metrics, strict=True):
            values |= {
                f"{stage}/{key}": value for key, value in shares(name, *metric.compute(), self.source_classes).items()
            }
        if stage == "val":
            values.pop("val/source_acc", None)
        if not self.tells_source and (found := values.pop(f"{stage}/source_acc", None)) is not None:
            module.log(f"{stage}/source_acc", found, logger=False, sync_dist=True)
        # Every process computed the same sums; sync_dist only keeps Lightning from doubting it.
        module.log_dict(values, prog_bar=stage == "val", sync_dist=True)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts counting."""
        self._start(trainer, pl_module, "val")

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Counts a batch."""
        self._count(outputs, batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs."""
        self._log(pl_module, "val")

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts counting."""
        self._start(trainer, pl_module, "test")

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Counts a batch."""
        self._count(outputs, batch, dataloader_idx)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs."""
        self._log(pl_module, "test")
