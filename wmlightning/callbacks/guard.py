"""Watches over what embedding costs: stops when accuracy falls too far, and goes back to weights that kept it."""

from __future__ import annotations

import copy
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from wmlightning.config import setting
from wmlightning.errors import UserError, listed

Weights = dict[str, Any]

_ROUNDING = 1e-6  # accuracies are in single precision: a fall by exactly what is allowed is allowed


class AccuracyGuard(L.Callback):
    """Ends a training whose validation accuracy falls too far below that of the model it began from.

    For a watermark into a model that is already trained, in any Lightning project. How good the model was is what
    ``trainer.validate`` before ``trainer.fit`` found; without that, all validation data are gone through before the
    first step, in the place of Lightning's sanity check. From then on each validation counts: one that is too low ends
    the training. When fitting ends, for whatever reason, an error or an interrupt too, the whole module gets the
    weights of the last validation that was good enough (averaged ones, if those were validated), and not those with
    the best trigger accuracy: nothing is to be chosen by the triggers that are reported. What these weights reached is
    in :meth:`outcome`; the trainer's own metrics are those of its last validation. If not one validation was good
    enough, the module gets the weights that it began with, and ``fit`` ends in an error. ``fast_dev_run`` is not
    watched. The next ``fit`` begins anew.

    Checkpoints hold all that it knows, so that a training that is killed and goes on with ``ckpt_path`` ends alike
    (a validation that Lightning leaves out then, that after a checkpoint of an epoch's last step, does not count).
    Those that a ``ModelCheckpoint`` saves hold the weights as they were in training, the last ones those that fell too
    far, and beside them the weights that were kept until then: take the model from the module after ``fit``, or from
    ``trainer.save_checkpoint`` after it, and not from ``last.ckpt`` or ``ckpt_path="best"``.

    All processes of a distributed training decide alike; have the metric logged with ``sync_dist=True``, else one
    process's share of the images is enough to stop. Not tried with sharded weights (FSDP, DeepSpeed).

    Args:
        max_drop: by how much the metric may fall, a share in [0, 1].
        monitor: name of a metric of the project's validation that is a share to be kept high, such as ``val/acc``.

    Raises:
        UserError: if the former is no share, or the latter no name.
    """

    def __init__(self, max_drop: float, monitor: str) -> None:
        self.max_drop: float = setting(max_drop, "max_drop", float, 0, 1)
        if not isinstance(monitor, str) or not monitor:
            raise UserError("monitor", f"{monitor!r} is no name", "that of a validation metric, such as 'val/acc'")
        self.monitor = monitor
        self.before: float | None = None
        self._fell_to: float | None = None
        self._kept: dict[str, Any] | None = None  # plain values and tensors only: it goes into checkpoints
        self._validated: Weights | None = None  # what the last validation looked at
        self._stage: str | None = None
        self._sanity_steps: float | None = None

    @property
    def state_key(self) -> str:
        """What is known of one metric is nothing for another."""
        return f"AccuracyGuard({self.monitor})"

    @property
    def stopped(self) -> bool:
        """Whether a validation was too low."""
        return self._fell_to is not None

    @property
    def epochs_kept(self) -> int:
        """Epochs, by the trainer's count, that made the weights that are kept; 0: those that training began with."""
        return 0 if self._kept is None else int(self._kept["epochs"])

    @property
    def metrics(self) -> dict[str, float]:
        """What the validation of the weights that are kept found, and metrics logged before it."""
        return {} if self._kept is None else dict(self._kept["metrics"])

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Forgets the training before, and looks for callbacks that it cannot work beside.

        Raises:
            UserError: if there are any.
        """
        self._stage = stage
        if stage == "fit":  # a checkpoint that it goes on from is read later
            if self._kept is not None:
                self.before = None
            self._kept = self._fell_to = self._validated = None
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if sum(isinstance(callback, AccuracyGuard) for callback in callbacks) > 1:
            raise UserError("callbacks", "several AccuracyGuard callbacks", "one")
        for callback in callbacks:
            if isinstance(callback, StochasticWeightAveraging):
                wrong = f"{type(callback).__name__} ends with other weights than those that were validated"
                raise UserError("callbacks", wrong, "it or AccuracyGuard")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Has the sanity check go through all validation data if nothing told how good the model is."""
        if self.before is None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._sanity_steps, trainer.num_sanity_val_steps = trainer.num_sanity_val_steps, float("inf")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leaves the trainer as it was."""
        if self._sanity_steps is not None:
            trainer.num_sanity_val_steps, self._sanity_steps = self._sanity_steps, None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leaves the trainer as it was, and puts the kept weights back."""
        self.teardown(trainer, pl_module, "fit")
        if trainer.state.fn != TrainerFn.FITTING or self._kept is None:
            return
        strategy = trainer.strategy

        def afterwards(exception: BaseException) -> None:
            """Once all callbacks were told: what they save on errors has the weights as training had them."""
            strategy.__dict__.pop("on_exception")
            self._restore(pl_module)
            strategy.on_exception(exception)

        strategy.on_exception = afterwards  # type: ignore[method-assign]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes the weights that training begins with; trains no further if it was stopped before it was killed.

        Raises:
            UserError: if nothing is validated, or it is not known how good the model was.
        """
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if not validates(trainer):
            right = "validation data and trainer.limit_val_batches=1.0, or no guard"
            raise UserError("max_drop", "no clean image is validated on", right)
        if self.before is None:  # Lightning checks nothing when it goes on in the middle of an epoch
            wrong = f"it was saved without this guard and does not tell {self.monitor} of before"
            raise UserError("ckpt_path", wrong, "trainer.validate(..., ckpt_path=...) before trainer.fit")
        if self._kept is None:
            self._keep(pl_module, 0, {self.monitor: self.before})
        self._validated = None
        trainer.should_stop = self.stopped

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *batch: Any) -> None:
        """Notes the weights at the last batch: callbacks that average them take them back when the validation ends."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.fast_dev_run or self.stopped:  # type: ignore[attr-defined]
            return
        if trainer._evaluation_loop.batch_progress.is_last_batch:
            self._validated = _weights_of(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes how good the model was, keeps its weights while it is good enough, or stops.

        Raises:
            UserError: if the metric is not there, or no share.
        """
        if trainer.fast_dev_run or self.stopped:  # type: ignore[attr-defined]
            return
        if trainer.sanity_checking:
            if self.before is None:
                self.before = self._share(trainer)
        elif trainer.state.fn == TrainerFn.VALIDATING:
            if self._kept is None:  # later it is no longer the model that training began with
                self.before = self._share(trainer)
        else:
            self._judge(trainer, pl_module)

    def _found(self, trainer: L.Trainer) -> dict[str, float]:
        """What a validation logged, or other hooks before it."""
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self.monitor not in found:
            there = listed(sorted(found)) or "nothing"
            raise UserError("monitor", f"validation logs no {self.monitor!r} but {there}", "a metric that it logs")
        return found

    def _share(self, trainer: L.Trainer) -> float:
        share = self._found(trainer)[self.monitor]
        if not -_ROUNDING <= share <= 1 + _ROUNDING:
            raise UserError("monitor", f"{self.monitor} is {share:g}", "a share to be kept high, from 0 to 1")
        return share

    def _judge(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert self.before is not None, "on_train_start saw to it"
        metrics = self._found(trainer)
        now = metrics[self.monitor]
        holds = now >= self.before - self.max_drop - _ROUNDING
        if trainer.strategy.reduce_boolean_decision(holds, all=True):
            self._keep(pl_module, trainer.current_epoch + 1, metrics)
        else:
            self._fell_to = now
            trainer.should_stop = True
        self._validated = None

    def _keep(self, module: L.LightningModule, epochs: int, metrics: dict[str, float]) -> None:
        weights = self._validated if self._validated is not None else _weights_of(module)
        self._kept = {"epochs": epochs, "metrics": metrics, "weights": weights}

    def _restore(self, module: L.LightningModule) -> None:
        assert self._kept is not None, "whoever calls looks"
        module.load_state_dict(self._kept["weights"], strict=module.strict_loading)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Puts the kept weights back.

        Raises:
            UserError: if they are those that training began with.
        """
        if self._kept is None:  # there was no step
            return
        self._restore(pl_module)
        if self.epochs_kept:
            return
        wrong, right = "no epoch was validated", "trainer.check_val_every_n_epoch=1"
        if self._fell_to is not None and self.before is not None:
            fell = f"from {100 * self.before:.2f} to {100 * self._fell_to:.2f} % ({self.monitor})"
            wrong = f"clean validation accuracy fell {fell} at once; no epoch is kept, the weights are the old ones"
            right = "a smaller learning rate, fewer triggers, or a larger max_drop"
        raise UserError("max_drop", wrong, right)

    def outcome(self) -> dict[str, Any]:
        """What became of it, once fitting has ended.

        Returns:
            ``max_drop``; ``clean_acc_before`` and ``clean_acc``, the metric of the model that training began with and
            of the weights that were kept; ``stopped``; ``epochs_kept``.
        """
        return {
            "max_drop": self.max_drop,
            "clean_acc_before": self.before,
            "clean_acc": self.metrics.get(self.monitor),
            "stopped": self.stopped,
            "epochs_kept": self.epochs_kept,
        }

    def state_dict(self) -> dict[str, Any]:
        """What must survive a kill."""
        return {"before": self.before, "fell_to": self._fell_to, "kept": self._kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it up again, unless a checkpoint is only looked at."""
        if self._stage in (None, "fit"):
            self.before = state_dict["before"]
            self._fell_to = state_dict["fell_to"]
            self._kept = state_dict["kept"]


def validates(trainer: L.Trainer) -> bool:
    """Whether a fit has batches to validate on, as far as is known: Lightning may prepare them late."""
    known = trainer.val_dataloaders is not None
    return trainer.enable_validation and not (known and sum(trainer.num_val_batches) == 0)


def _weights_of(module: L.LightningModule) -> Weights:
    return {name: _copied(value) for name, value in module.state_dict().items()}


def _copied(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)
