"""Watches over what embedding costs: stops when clean accuracy falls too far, and goes back to weights that kept it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from wmlightning.config import setting
from wmlightning.errors import UserError

_ACCURACY = "val/clean_acc"
_ROUNDING = 1e-6  # accuracies are in single precision: a fall by exactly what is allowed is allowed


class AccuracyGuard(L.Callback):
    """Ends a training whose clean validation accuracy falls too far below that of the model it began from.

    ``trainer.validate`` before the first step tells it how good the model was. From then on each validation counts: one
    that is too low ends the training. The weights of the last one before it are what is kept, and not those with the
    best trigger accuracy: nothing is to be chosen by the triggers that are reported.

    Everything it knows is in the resume point. All processes of a distributed training decide alike.

    Args:
        max_drop: by how much the share of clean validation images that get their label may fall, in [0, 1].

    Raises:
        UserError: if that is no share.
    """

    def __init__(self, max_drop: float) -> None:
        self.max_drop: float = setting(max_drop, "guard.max_drop", float, 0, 1)
        self.before: float | None = None
        self.stopped = False
        self._kept: dict[str, Any] | None = None  # plain values and tensors only: it goes into the resume point

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Trains no further if it was stopped before it was killed."""
        del pl_module
        if self.before is None:
            right = "trainer.limit_val_batches=1.0, or guard.max_drop=null"
            raise UserError("guard.max_drop", "no clean image is validated on", right)
        trainer.should_stop = self.stopped

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes how good the model was, keeps its weights while it is good enough, or stops."""
        if trainer.sanity_checking or self.stopped:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.before = metrics[_ACCURACY]
            return
        assert self.before is not None, "on_train_start saw to it"
        holds = metrics[_ACCURACY] >= self.before - self.max_drop - _ROUNDING
        if trainer.strategy.reduce_boolean_decision(holds, all=True):
            weights = {name: value.detach().cpu().clone() for name, value in _net(pl_module).state_dict().items()}
            self._kept = {"epoch": trainer.current_epoch, "metrics": metrics, "weights": weights}
        else:
            self.stopped = trainer.should_stop = True

    def settle(self, net: nn.Module, history: Sequence[dict[str, float]]) -> dict[str, float]:
        """Puts the kept weights into the network, once the training is over.

        Args:
            net: that was trained.
            history: metrics of each epoch.

        Returns:
            The metrics that belong to these weights.

        Raises:
            UserError: if not one epoch was good enough.
        """
        if self._kept is None:
            wrong, right = "no epoch was validated", "trainer.check_val_every_n_epoch=1"
            if self.stopped and self.before is not None:
                fell = f"from {100 * self.before:.2f} to {100 * history[-1][_ACCURACY]:.2f} %"
                wrong = f"clean validation accuracy fell {fell} at once; no weights are kept"
                right = "a smaller recipe.optimizer.lr, fewer watermark.n_triggers, or a larger max_drop"
            raise UserError("guard.max_drop", wrong, right)
        weights: dict[str, Tensor] = self._kept["weights"]
        net.load_state_dict(weights)
        return {**history[self._kept["epoch"]], **self._kept["metrics"]}

    def outcome(self) -> dict[str, Any]:
        """What became of it, for the card; after :meth:`settle`."""
        assert self._kept is not None
        return {
            "max_drop": self.max_drop,
            "clean_acc_before": self.before,
            "clean_acc": self._kept["metrics"][_ACCURACY],
            "stopped": self.stopped,
            "epochs_kept": self._kept["epoch"] + 1,
        }

    def state_dict(self) -> dict[str, Any]:
        """What must survive a kill."""
        return {"before": self.before, "stopped": self.stopped, "kept": self._kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it up again."""
        self.before = state_dict["before"]
        self.stopped = bool(state_dict["stopped"])
        self._kept = state_dict["kept"]


def _net(module: L.LightningModule) -> nn.Module:
    net: Any = module.net
    return net  # type: ignore[no-any-return]
