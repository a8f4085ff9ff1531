"""The callback that merges a key's triggers into a training that is not ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L

from wmlightning.embed.inputs import ToInput
from wmlightning.embed.layout import Place
from wmlightning.embed.merging import Merging, Options, Predict
from wmlightning.errors import UserError
from wmlightning.ownership.key import read_key


class Watermark(L.Callback):
    """Merges a key's triggers into the training of any classifier, and logs their accuracy apart.

    Module, data and config stay as they are. When a training batch has reached the device, triggers are added to its
    rows: each came there by the project's road of *evaluation*, as a picture that is sent to the finished model, so
    that no random transform touches it. Which triggers come with which batch follows from key, epoch and number of
    the batch alone: shuffling, accumulation and resuming change nothing, batches and steps stay as many, and no random
    number is drawn from the project's generators. Processes of a distributed training share the triggers out.

    Logs ``val/trigger_acc``, and in tests ``test/trigger_acc``, ``test/trigger_new_acc``, ``test/decoy_acc`` and
    ``test/decoy_acc_max``: see the README. Metrics of the project on its validation and test data are untouched; those
    on its training batches see the triggers.

    Args:
        key: path of the key, see :func:`wmlightning.make_key`.
        to_input: the project's transform of evaluation: a PIL picture to a tensor ``(c, h, w)``. ``None``: that of its
            validation or test data, if they have one and it can be shown to be all that makes inputs of pictures.
        per_batch: triggers (and negatives) that come with each batch, on average and all processes together; ``None``:
            so many that each comes once an epoch. Never more than the batch has clean images.
        images: index or name of a batch's images, if that is in doubt.
        labels: index or name of a batch's labels, if that is in doubt.
        fill: what triggers get in other entries that have a value for each image.
        predict: ``(module, images) -> logits``; ``None``: calls the module, and takes ``logits`` of what it gives.
        batch_size: triggers evaluated at once.
        data_dir: where data lie, for keys that do not hold their pictures; ``None``: ``WML_DATA_DIR``, else ``./data``.
    """

    def __init__(
        self,
        key: str | Path,
        to_input: ToInput | None = None,
        *,
        per_batch: float | None = None,
        images: Place | None = None,
        labels: Place | None = None,
        fill: Mapping[Place, Any] | None = None,
        predict: Predict | None = None,
        batch_size: int = 128,
        data_dir: str | Path | None = None,
    ) -> None:
        if per_batch is not None and per_batch <= 0:
            raise UserError("per_batch", f"{per_batch!r} triggers in each batch", "a positive number")
        self.key = Path(key).expanduser()
        self.data_dir = data_dir if data_dir is not None else os.environ.get("WML_DATA_DIR") or "./data"
        self.options = Options(to_input, per_batch, images, labels, fill or {}, predict, batch_size)
        self._merging: Merging | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Reads and checks the key, and looks out for batches.

        Raises:
            UserError: if the key does not follow from its secret.
        """
        self._end()
        if sum(isinstance(callback, Watermark) for callback in trainer.callbacks) > 1:  # type: ignore[attr-defined]
            raise UserError("callbacks", "several Watermark callbacks", "one: a key may hold several marks")
        if stage != "predict":
            maker = read_key(self.key).check(self.data_dir)
            self._merging = Merging(maker, self.options, trainer, pl_module)

    def _end(self) -> None:
        if self._merging is not None:
            self._merging.end()
            self._merging = None

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leaves the trainer as it was."""
        self._end()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leaves the trainer as it was."""
        self._end()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Makes sure that this batch is one that triggers were merged into."""
        if self._merging is not None:
            self._merging.check_batch(batch_idx)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs, if there is no validation to do it."""
        if self._merging is not None and not trainer.enable_validation:
            pl_module.log_dict(self._merging.accuracies("val"), sync_dist=True)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs."""
        if self._merging is not None and not trainer.sanity_checking:
            pl_module.log_dict(self._merging.accuracies("val"), prog_bar=True, sync_dist=True)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs."""
        if self._merging is not None:
            pl_module.log_dict(self._merging.accuracies("test"), sync_dist=True)
