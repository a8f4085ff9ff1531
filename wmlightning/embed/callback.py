"""The callback that merges a key's triggers into a training that is not ours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from wmlightning.callbacks.guard import validates
from wmlightning.config import setting
from wmlightning.embed.inputs import ToInput
from wmlightning.embed.layout import Place
from wmlightning.embed.merging import Merging, Options
from wmlightning.embed.network import Predict
from wmlightning.embed.road import Known, Named
from wmlightning.errors import UserError
from wmlightning.ownership.key import read_key

_KEY = "wmlightning.key"  # in checkpoints
_PER_BATCH = 0.001, 100_000  # the least is what turns are counted in


class Watermark(L.Callback):
    """Merges a key's triggers into the training of any classifier, and logs their accuracy apart.

    Module, data and config stay as they are. When a training batch has reached the device, triggers are added to its
    rows: each came there by the project's road of *evaluation*, as a picture that is sent to the finished model, so
    that no random transform in the data or in a hook touches it. What ``training_step`` itself does to images it does
    to triggers too; a warning says so after one of the first batches. Which triggers come with which batch follows from
    key, epoch and number of the batch alone: shuffling, accumulation and resuming change nothing, batches and steps
    stay as many, and no random number is drawn from the project's generators. Processes of a distributed training
    share the triggers out, so that their batches may differ by one image; those of a step that gathers rows of all
    processes must not: ``per_batch`` then is a multiple of the number of processes, and ``drop_last`` is on.

    Labels may be whole numbers ``(n,)`` or ``(n, 1)``; for two classes floats of these shapes; or ``(n, k)``, one-hot
    or soft. Triggers get theirs in the form of the batch.

    Logs ``val/trigger_acc``, and in tests ``test/trigger_acc``, ``test/trigger_new_acc``, ``test/decoy_acc`` and
    ``test/decoy_acc_max``: see the README. It is measured after the last evaluation batch, with the weights that
    evaluation has. Metrics of the project on its validation and test data are untouched; those on its training batches
    see the triggers. Evaluation batches may look otherwise than training batches, or have no labels.

    Checkpoints hold the key's commitment, which is no secret: a training is resumed with its own key only.

    Args:
        key: path of the key, see :func:`wmlightning.make_key`.
        to_input: the project's transform of evaluation: a PIL picture to a tensor ``(c, h, w)``. ``None``: that of its
            validation or test data, if they have one and it can be shown to be all that makes inputs of pictures.
        train_input: the same for triggers that are merged into training, if the project trains on images of another
            size than it evaluates. ``None``: ``to_input``.
        per_batch: triggers (and negatives) that come with each batch, on average and all processes together; ``None``:
            so many that each comes once an epoch. Never more than the batch has clean images.
        images: index or name of a batch's images, if that is in doubt; ``("a", 0)`` for an entry within others. Of
            several train loaders this names the one whose batches get the triggers.
        labels: index or name of a batch's labels, if that is in doubt; ``("target", "label")`` for an entry within
            others.
        fill: what triggers get in other entries that have a value for each image: one value for all; ``"labels"`` in
            further labels, such as those that an image is mixed with; ``"images"`` in further views; or a function
            ``(images, labels) -> rows``.
        predict: ``(module, images) -> logits``; ``None``: calls the module, and takes ``logits`` of what it gives.
        batch_size: triggers evaluated at once; ``None``: as many images as a training batch has, at most 128.
        data_dir: where data lie, for keys that do not hold their pictures; ``None``: ``WML_DATA_DIR``, else ``./data``.
        trust: watermarks of your own that the key may name, such as ``["patch.Patch"]``: opening the key runs them.
        check_inputs: whether pixels of the key's clean images are compared with the first 64 of the training, and what
            the first training steps give to the network with what they were sent.
    """

    def __init__(
        self,
        key: str | Path,
        to_input: ToInput | None = None,
        *,
        train_input: ToInput | None = None,
        per_batch: float | None = None,
        images: Place | None = None,
        labels: Place | None = None,
        fill: Mapping[Place, Any] | None = None,
        predict: Predict | None = None,
        batch_size: int | None = None,
        data_dir: str | Path | None = None,
        trust: Sequence[str] = (),
        check_inputs: bool = True,
    ) -> None:
        if per_batch is not None:
            setting(per_batch, "per_batch", float, *_PER_BATCH)
        if batch_size is not None:
            setting(batch_size, "batch_size", int, 1)
        self.key = Path(key).expanduser()
        place = data_dir if data_dir is not None else os.environ.get("WML_DATA_DIR") or "./data"
        self.data_dir = Path(place).expanduser()
        self.trust = tuple(trust)
        named = Named(images, labels, fill or {})
        self.options = Options(to_input, train_input, per_batch, named, predict, batch_size, check_inputs)
        self._known = Known(to_input)
        self._merging: Merging | None = None
        self._commitment: str | None = None
        self._logged_at: int | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Reads and checks the key, and looks out for batches.

        Raises:
            UserError: if the key does not follow from its secret, or processes have different keys.
        """
        self._end()
        if sum(isinstance(callback, Watermark) for callback in trainer.callbacks) > 1:  # type: ignore[attr-defined]
            raise UserError("callbacks", "several Watermark callbacks", "one: a key may hold several marks")
        if stage == "predict":
            return
        key = read_key(self.key)
        self._commitment = key.commitment()
        same = trainer.strategy.broadcast(self._commitment) == self._commitment
        if not trainer.strategy.reduce_boolean_decision(same):
            raise UserError("key", f"{self.key} is not the same in all processes", "one key, made beforehand")
        if stage == "fit" or not self._known.trained:
            self._known = Known(self.options.to_input)
        self._logged_at = None
        maker = key.check(self.data_dir, self.trust)
        self._merging = Merging(maker, self.options, self._known, trainer, pl_module, self)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Says which key it is: by its commitment, a hash that tells nothing of it."""
        if self._commitment is not None:
            checkpoint[_KEY] = self._commitment

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Makes sure that a training goes on with its own key.

        Raises:
            UserError: if it was begun with another.
        """
        resumes = trainer.state.fn == TrainerFn.FITTING
        if resumes and checkpoint.get(_KEY, self._commitment) != self._commitment:
            raise UserError("key", f"the checkpoint's training was begun with another than {self.key}", "its own")

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

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *batch: Any) -> None:
        """Looks at what the step gave to the network."""
        if self._merging is not None:
            self._merging.end_batch()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs, if there is no validation to do it, or none after the last step of a training that ends early."""
        ended_early = not trainer.fit_loop.epoch_loop._num_ready_batches_reached()
        if not validates(trainer) or (ended_early and self._logged_at != trainer.global_step):
            self._log(pl_module, "val")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Counts the triggers that were never shown."""
        if self._merging is not None:
            self._merging.end_training()

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *batch: Any) -> None:
        """Measures after the last batch: callbacks that average weights take them back when the epoch ends."""
        if not trainer.sanity_checking:
            self._measure(trainer, "val")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs."""
        if not trainer.sanity_checking:
            self._log(pl_module, "val", prog_bar=True)
            self._logged_at = trainer.global_step

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *batch: Any) -> None:
        """Measures after the last batch."""
        self._measure(trainer, "test")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs."""
        self._log(pl_module, "test")

    def _measure(self, trainer: L.Trainer, stage: str) -> None:
        if self._merging is not None and trainer._evaluation_loop.batch_progress.is_last_batch:
            self._merging.measure(stage)

    def _log(self, pl_module: L.LightningModule, stage: str, prog_bar: bool = False) -> None:
        if self._merging is not None:
            pl_module.log_dict(self._merging.accuracies(stage), prog_bar=prog_bar, sync_dist=True)
