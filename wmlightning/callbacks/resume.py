"""Where a killed training goes on: after its last finished epoch."""

from __future__ import annotations

import pickle  # for the name of an error: nothing is unpickled
import time
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from wmlightning.errors import UserError

FILE = "resume.ckpt"

#: What torch raises for files that are no checkpoint, are cut off, or would run code.
_SPOILED = (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile)


class ResumePoint(ModelCheckpoint):
    """Keeps one checkpoint of the last finished epoch, with the metrics of all epochs and the seconds spent so far.

    The file is replaced as a whole (Lightning writes aside and renames), and holds tensors and plain values only, so
    that it loads with ``weights_only=True``.

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
        self.started = time.monotonic()
        self._state_key = super().state_key

    @property
    def state_key(self) -> str:
        """As Lightning makes it, which does so anew for each hook of each step."""
        return self._state_key

    @property
    def seconds(self) -> float:
        """Seconds of training, earlier attempts included as far as their epochs were finished."""
        return self.seconds_before + time.monotonic() - self.started

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock, and tells loggers, which start anew too, of the epochs before."""
        super().on_train_start(trainer, pl_module)
        self.started = time.monotonic()
        for past in self.history:
            for logger in trainer.loggers:
                metrics = {name: value for name, value in past.items() if name != "step"}
                logger.log_metrics(metrics, step=int(past["step"]))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes the epoch's metrics, then saves."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.history.append({"epoch": trainer.current_epoch, "step": trainer.global_step - 1, **metrics})
        super().on_train_epoch_end(trainer, pl_module)

    def load_whole(self) -> str | None:
        """The resume point's path if there is one to go on from.

        Raises:
            UserError: if the file is damaged, or holds anything but tensors and plain values.
        """
        path = Path(str(self.dirpath)) / FILE
        if not path.exists():
            return None
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except _SPOILED as e:
            reason = str(e).splitlines()[0] if str(e) else type(e).__name__
            raise UserError("force", f"cannot go on from {path} ({reason})", "remove it, or force=true") from e
        return str(path)

    def state_dict(self) -> dict[str, Any]:
        """Adds what must survive a kill."""
        return {**super().state_dict(), "history": self.history, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it up again."""
        super().load_state_dict(state_dict)
        self.history = list(state_dict["history"])
        self.seconds_before = float(state_dict["seconds"])
