"""The LightningModule: trains any classifier on merged batches. Knows nothing of files, loggers or attacks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from wmlightning.data.batches import Batch
from wmlightning.seeds import role_seed, seed_all

#: Steps whose losses and hits are summed up together: a handful of small operations less in each step.
_COUNTED_AT_ONCE = 64
#: Optimizers of torch that step in one pass over the weights, on processors and GPUs, where they are asked to.
_FUSIBLE = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
#: Options with which the user has chosen how a step is computed.
_HOW = ("fused", "foreach", "capturable", "differentiable")


@dataclass(frozen=True)
class Optimisation:
    """How weights are found.

    Attributes:
        optimizer: called with parameter groups.
        schedule: learning rate schedule for every step, called with the optimizer and ``total_steps`` (if it takes
            that), or ``None``.
        label_smoothing: in [0, 1).
        decay_all: apply weight decay to norms and biases too.
    """

    optimizer: Callable[..., torch.optim.Optimizer]
    schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None
    label_smoothing: float = 0.0
    decay_all: bool = False

    def groups_of(self, network: nn.Module) -> list[dict[str, Any]]:
        """What is trained of a network, in the groups that the optimizer gets."""
        parameters = [p for p in network.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": parameters}]
        if not self.decay_all:
            groups = [
                {"params": [p for p in parameters if p.ndim >= 2]},
                {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
            ]
        return [group for group in groups if group["params"]]

    def build(self, groups: list[dict[str, Any]], trainer: L.Trainer) -> torch.optim.Optimizer:
        """Builds the optimizer, torch's own in their fused form: two thirds of a small network's update are saved.

        Not where options of the optimizer say how it steps, and not where Lightning clips or rescales gradients in
        mixed precision: it leaves gradients of a fused step alone, since that rescales them itself.

        Args:
            groups: see :meth:`groups_of`, on the device of the training.
            trainer: that it is for.
        """
        kind, typed = getattr(self.optimizer, "func", self.optimizer), getattr(self.optimizer, "keywords", {})
        clipped = trainer.gradient_clip_val and str(trainer.precision).endswith("-mixed")
        weights = [weight for group in groups for weight in group["params"]]
        fused = (
            kind in _FUSIBLE
            and all(typed.get(how) is None for how in _HOW)
            and not (clipped or trainer.precision == "16-mixed")
            and all(weight.is_floating_point() and weight.device.type in ("cpu", "cuda") for weight in weights)
        )
        return self.optimizer(groups, fused=True) if fused else self.optimizer(groups)

    def schedule_of(
        self, optimizer: torch.optim.Optimizer, total_steps: int
    ) -> torch.optim.lr_scheduler.LRScheduler | None:
        """Builds the schedule for a training of ``total_steps`` steps."""
        if self.schedule is None:
            return None
        takes_total = "total_steps" in inspect.signature(self.schedule).parameters
        takes_total = takes_total and "total_steps" not in getattr(self.schedule, "keywords", {})
        if not takes_total:
            return self.schedule(optimizer)
        try:
            return self.schedule(optimizer, total_steps=total_steps)
        except ZeroDivisionError:  # OneCycleLR cannot rise within a single step; with one step more it need not
            return self.schedule(optimizer, total_steps=total_steps + 1)


class Classifier(L.LightningModule):
    """Cross entropy on merged batches.

    Logs ``train/loss`` (all images) and ``train/clean_acc`` (clean images, as augmented) once an epoch from counters on
    the device, which are moved on every few steps: logging each step costs several per cent of a small network's step.

    Args:
        net: float images in [0, 1] to logits.
        optimisation: optimizer, schedule, loss.
        seed: dropout and the like draw from this seed, anew in each epoch, so that a resumed run draws the same.
        channels_last: use the memory format that convolutions with tensor cores or oneDNN prefer.
        compile: whether training steps take the network as torch.compile makes it, or in which of its modes.
    """

    def __init__(
        self,
        net: nn.Module,
        optimisation: Optimisation,
        seed: int = 0,
        channels_last: bool = False,
        compile: bool | str = False,
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net = net.to(memory_format=self.memory_format)
        self.optimisation = optimisation
        self.seed = seed
        # Each of the two sizes of batches is compiled by itself: that takes less time than code for all sizes, and such
        # code starts faster. Evaluation has too many sizes for that. In a tuple, so that weights keep their names.
        mode = compile if isinstance(compile, str) else None
        self._compiled = (torch.compile(self.net, dynamic=False, mode=mode),) if compile else ()
        self._counts = torch.zeros(4)
        self._uncounted: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the name of each hook here, forty times a step, and a module looks for parameters each time.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, images: Tensor) -> Tensor:
        """Float images in [0, 1] ``(n, c, h, w)`` to logits ``(n, k)``."""
        net = self._compiled[0] if self._compiled and self.training else self.net
        logits: Tensor = net(images.contiguous(memory_format=self.memory_format))
        return logits

    def on_train_epoch_start(self) -> None:
        """Gives this epoch its own random numbers, whatever was drawn before."""
        seed_all(role_seed(self.seed, "train", self.current_epoch, self.global_rank))
        self._counts = torch.zeros(4, device=self.device)
        self._uncounted.clear()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step on a merged batch."""
        del batch_idx
        logits = self(batch.images)
        loss = cross_entropy(logits, batch.labels, label_smoothing=self.optimisation.label_smoothing)
        self._uncounted.append((loss.detach(), logits.detach().argmax(1), batch.labels, batch.groups))
        if len(self._uncounted) == _COUNTED_AT_ONCE:
            self._count()
        return loss

    def _count(self) -> None:
        losses, predicted, labels, groups = zip(*self._uncounted, strict=True)
        self._uncounted.clear()
        n = self._counts.new_tensor([len(part) for part in labels])
        clean = torch.cat(groups) < 0
        right = (torch.cat(predicted) == torch.cat(labels)) & clean
        self._counts += torch.stack([(torch.stack(losses).float() * n).sum(), n.sum(), right.sum(), clean.sum()])

    def on_train_epoch_end(self) -> None:
        """Logs the epoch's loss and clean accuracy."""
        if self._uncounted:
            self._count()
        loss, n, right, clean = self.trainer.strategy.reduce(self._counts, reduce_op="sum").unbind()
        # Every process has the same sums; Lightning asks that they be told to be, and the largest of equals is exact.
        self.log("train/loss", loss / n, prog_bar=True, sync_dist=True, reduce_fx="max")
        self.log("train/clean_acc", right / clean, sync_dist=True, reduce_fx="max")

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Predicted labels ``(n,)``; callbacks count them."""
        del batch_idx, dataloader_idx
        if len(batch.labels):
            predicted: Tensor = self(batch.images).argmax(1)
            return predicted
        self(
            batch.images.new_zeros((1, *batch.images.shape[1:]))
        )  # processes wait for one another in each forward pass
        return batch.labels

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Predicted labels ``(n,)``; callbacks count them."""
        return self.validation_step(batch, batch_idx, dataloader_idx)

    def configure_optimizers(self) -> Any:
        """Builds optimizer and schedule; see :class:`Optimisation`."""
        options = self.optimisation
        optimizer = options.build(options.groups_of(self), self.trainer)
        if options.schedule is None:
            return optimizer
        schedule = options.schedule_of(optimizer, int(self.trainer.estimated_stepping_batches))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]
