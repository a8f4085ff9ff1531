"""Where a killed training goes on: after its last finished epoch."""

from __future__ import annotations

import io
import json
import pickle  # for the name of an error: nothing is unpickled
import re
import time
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from wmlightning.callbacks.guard import AccuracyGuard
from wmlightning.errors import UserError, reason_of
from wmlightning.files import remove_halves, write_bytes

FILE = "resume.ckpt"
#: The weights that fitting ended with, and beside them what is told of it: there until the card is.
FITTED = "fitted.safetensors"

#: What torch raises for files that are no checkpoint, are cut off, or would run code.
_SPOILED = (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile)


class _WholeFiles(TorchCheckpointIO):
    """Writes checkpoints beside what they replace, and renames.

    Lightning writes to the folder for temporary files, which may lie on another disk: from there a file is copied over
    the old one, and a kill in between leaves neither.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tried = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """See :meth:`TorchCheckpointIO.save_checkpoint`.

        Raises:
            UserError: if the first one could not be read again.
        """
        del storage_options
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        if not self._tried and _unreadable(buffer) is not None:
            raise _told_of(checkpoint)
        self._tried = True
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(Path(path), buffer.getvalue())


def _unreadable(buffer: io.BytesIO) -> str | None:
    """Why a checkpoint could not be read without running code, if so."""
    buffer.seek(0)
    try:
        torch.load(buffer, map_location="cpu", weights_only=True)
    except _SPOILED as e:
        found = re.search(r"GLOBAL (\S+)", str(e))  # the rest is advice to read it nonetheless
        return found[1] if found else reason_of(e)
    return None


def _told_of(checkpoint: dict[str, Any]) -> UserError:
    """Tells of whose state a checkpoint holds that cannot be read again."""
    for owner, state in checkpoint.get("callbacks", {}).items():
        buffer = io.BytesIO()
        torch.save(state, buffer)
        if (why := _unreadable(buffer)) is not None:
            wrong = f"{str(owner).partition('{')[0]} keeps what cannot be read again ({why})"
            return UserError("callbacks", wrong, "tensors, numbers, text, lists and dicts in its state_dict")
    wrong = "optimizer or schedule keep what cannot be read again"
    return UserError("recipe", wrong, "tensors, numbers, text, lists and dicts in their state_dict")


def _spoiled(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError("force", f"cannot go on from {path} ({reason})", "remove it, or force=true")


def _ends_for_good(trainer: L.Trainer) -> bool:
    """Whether the training ends with this epoch, and its end cannot be made up for by a process that goes on from here.

    Lightning would train on where a callback ended it, unless that does so again as a guard does; and of a training
    whose epochs are all there it leaves out ``on_train_end``, where averages become the model's weights.
    """
    loop, callbacks = trainer.fit_loop, trainer.callbacks  # type: ignore[attr-defined]
    if trainer.should_stop and loop._can_stop_early:
        return not any(isinstance(callback, AccuracyGuard) and callback.stopped for callback in callbacks)
    if loop.max_epochs in (None, -1) or trainer.current_epoch + 1 < loop.max_epochs:
        return False
    others = (callback for callback in callbacks if not isinstance(callback, (ModelCheckpoint, ProgressBar)))
    return any(type(callback).on_train_end is not L.Callback.on_train_end for callback in others)


class ResumePoint(ModelCheckpoint):
    """Keeps one checkpoint of the last finished epoch, with the metrics of all epochs and the seconds spent so far.

    The file is replaced as a whole, and holds tensors and plain values only, so that it loads with
    ``weights_only=True``.

    Args:
        folder: where ``resume.ckpt`` is kept.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            dirpath=folder,
            filename=Path(FILE).stem,
            save_top_k=1,
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.history: list[dict[str, float]] = []
        self.seconds_before = 0.0
        self._started: float | None = None
        self._validated: int | None = None
        self._max_steps = -1
        self._stopping = False
        self._state_key = super().state_key

    @property
    def state_key(self) -> str:
        """As Lightning makes it, which does so anew for each hook of each step."""
        return self._state_key

    @property
    def seconds(self) -> float:
        """Seconds of training, earlier attempts included as far as their epochs were finished."""
        return self.seconds_before + (time.monotonic() - self._started if self._started is not None else 0.0)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Has checkpoints replaced as a whole."""
        trainer.strategy.checkpoint_io = _WholeFiles()
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tells loggers of the epochs before; there may be none left to train."""
        del pl_module
        self.tell(trainer)
        # With a limit of steps Lightning takes any point it goes on from for one within an epoch, and would count an
        # epoch that it does not train. Points are loaded between this hook and the next, and schedules made before.
        steps = trainer.fit_loop.epoch_loop
        self._max_steps, steps.max_steps = steps.max_steps, -1

    def tell(self, trainer: L.Trainer) -> None:
        """Tells loggers, which start anew, of the epochs before."""
        for past in self.history:
            for logger in trainer.loggers:
                metrics = {name: value for name, value in past.items() if name != "step"}
                logger.log_metrics(metrics, step=int(past["step"]))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        super().on_train_start(trainer, pl_module)
        trainer.fit_loop.epoch_loop.max_steps = self._max_steps
        trainer.should_stop = trainer.should_stop or self._stopping
        self._started = time.monotonic()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leaves the trainer as it was, also where no epoch was left."""
        del pl_module
        trainer.fit_loop.epoch_loop.max_steps = self._max_steps

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes that this epoch has numbers of its own."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._validated = trainer.current_epoch

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes the epoch's metrics, then saves. Lightning also gives those of an earlier epoch's validation.

        What ends with this epoch, and would not end alike if it went on from here, goes on from the epoch before.
        """
        stale = () if self._validated == trainer.current_epoch else ("val/",)
        found = trainer.callback_metrics.items()
        metrics = {name: float(value) for name, value in found if not name.startswith(stale)}
        self.history.append({"epoch": trainer.current_epoch, "step": trainer.global_step - 1, **metrics})
        self._stopping = trainer.should_stop  # it stays so, whatever comes, until trainer.min_epochs are there
        if not _ends_for_good(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def load_whole(self) -> str | None:
        """The resume point's path if there is one to go on from. What a kill left of another is removed.

        Raises:
            UserError: if the file is damaged, or holds anything but tensors and plain values.
        """
        path = Path(str(self.dirpath)) / FILE
        remove_halves(path)
        if not path.exists():
            return None
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except _SPOILED as e:
            raise _spoiled(path, e) from e
        return str(path)

    def write_fitted(self, trainer: L.Trainer, weights: dict[str, Tensor], more: dict[str, Any]) -> None:
        """Notes that fitting has ended: with which weights, and what the card and the loggers are told of it.

        Args:
            trainer: that fitted. Its first process writes.
            weights: as safetensors wants them.
            more: further plain values.
        """
        if not trainer.is_global_zero:
            return
        steps = trainer.fit_loop.epoch_loop._batches_that_stepped
        told = {
            "history": self.history,
            "seconds": self.seconds,
            "steps": steps,
            "epoch": trainer.current_epoch,
            **more,
        }
        write_bytes(Path(str(self.dirpath)) / FITTED, save(weights, {"fitted": json.dumps(told)}))

    def read_fitted(self, trainer: L.Trainer) -> dict[str, Any] | None:
        """What :meth:`write_fitted` noted, weights excepted; ``None`` if there is none.

        Args:
            trainer: that will not fit. It counts epochs and steps as if it had.

        Raises:
            UserError: if the file is damaged.
        """
        path = Path(str(self.dirpath)) / FITTED
        remove_halves(path)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                told: dict[str, Any] = json.loads(file.metadata()["fitted"])
            self.history, self.seconds_before = list(told["history"]), float(told["seconds"])
            trainer.fit_loop.epoch_loop._batches_that_stepped = int(told["steps"])
            trainer.fit_loop.epoch_progress.current.completed = int(told["epoch"])
        except (SafetensorError, OSError, ValueError, TypeError, LookupError) as e:
            raise _spoiled(path, e) from e
        return told

    def exists(self) -> bool:
        """Whether there is anything to go on from."""
        return any((Path(str(self.dirpath)) / name).exists() for name in (FILE, FITTED))

    def clear(self) -> None:
        """Removes what a finished training needs no more."""
        for name in (FILE, FITTED):
            (Path(str(self.dirpath)) / name).unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """Adds what must survive a kill."""
        return {**super().state_dict(), "history": self.history, "seconds": self.seconds, "stopping": self._stopping}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it up again."""
        super().load_state_dict(state_dict)
        self.history = list(state_dict["history"])
        self.seconds_before = float(state_dict["seconds"])
        self._stopping = bool(state_dict.get("stopping"))
