"""One fit, validation or test of a stranger's trainer, with a key's triggers in it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import RunningStage
from PIL import Image
from torch import Tensor

from wmlightning.callbacks.accuracy import shares
from wmlightning.data.batches import ImageSet
from wmlightning.embed.inputs import Inputs, Scale, ToInput, check_steady, find_to_input
from wmlightning.embed.layout import Layout, Place
from wmlightning.embed.turns import Turns
from wmlightning.errors import UserError
from wmlightning.watermarks.triggers import TriggerMaker, Triggers

#: ``(module, images) -> logits (n, k)``.
Predict = Callable[[L.LightningModule, Tensor], Any]

_STAGES = (RunningStage.TRAINING, RunningStage.VALIDATING, RunningStage.TESTING)
_ROOM = 2**30  # bytes of ready inputs that are kept in memory
_CLEAN = 64  # clean images that inputs are checked with
_TRIED = 4  # of them that the network is tried with


@dataclass(frozen=True)
class Options:
    """What the user said; see :class:`wmlightning.Watermark`."""

    to_input: ToInput | None
    per_batch: float | None
    images: Place | None
    labels: Place | None
    fill: Mapping[Place, Any]
    predict: Predict | None
    batch_size: int


@dataclass(frozen=True)
class _Shown:
    """Images on the project's road, with what is expected of them: the first ``len(labels)`` of ``inputs``."""

    inputs: Inputs
    labels: Tensor
    groups: Tensor


class Merging:
    """Stands in the way of every batch to the device, from setup to teardown.

    The strategy's ``batch_to_device`` is where all batches of a trainer pass, after the project's workers, samplers and
    collation, whatever module and data module do; the strategy belongs to the trainer, so that neither is touched.

    Args:
        maker: of the key, checked.
        options: the user's.
        trainer: the project's.
        module: the project's.
    """

    def __init__(self, maker: TriggerMaker, options: Options, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.options = options
        self.trainer = trainer
        self.module = module
        made = maker.make()
        clean = made.originals
        if clean is None:  # the marks are pictures of other things
            clean = maker.source.images("train", maker.roles.train[:_CLEAN])
        self.n_classes = len(maker.source.classes)
        self.marked = self._shown(made.merged(), _ROOM)  # they come again each epoch
        self.clean = self._shown(ImageSet(clean, *torch.zeros((2, len(clean)), dtype=torch.int64)))
        self.watched = self._watched(made)
        seed = maker.secret.stream("turns in a project").integer(2**63)
        self.turns = Turns(len(self.marked.labels), seed, options.per_batch)
        self.layout: Layout | None = None
        self.scale: Scale | None = None
        self.merged_at: tuple[int, int] | None = None
        self._to_input = options.to_input
        self._move = trainer.strategy.batch_to_device
        trainer.strategy.batch_to_device = self._moved  # type: ignore[method-assign]

    def _shown(self, images: ImageSet, room: int = 0) -> _Shown:
        return _Shown(Inputs(images.images, self._input_of, room), images.labels, images.groups)

    def _watched(self, made: Triggers) -> dict[str, dict[str, _Shown]]:
        trained = _Shown(self.marked.inputs, made.trained.labels, made.trained.groups)  # merged first
        new, decoys = self._shown(made.new), self._shown(made.decoys)
        return {"val": {"trigger": trained}, "test": {"trigger": trained, "trigger_new": new, "decoy": decoys}}

    def end(self) -> None:
        """Gets out of the way."""
        self.trainer.strategy.__dict__.pop("batch_to_device", None)

    # -- merging -----------------------------------------------------------------------------------------------------

    def _moved(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """In the place of the strategy's ``batch_to_device``."""
        moved = self._move(batch, device, dataloader_idx)
        if self.layout is None and dataloader_idx == 0 and self.trainer.state.stage in _STAGES:
            self.layout = Layout.of(batch, self.options.images, self.options.labels, self.options.fill)
        return self._merged(moved, self._known_layout()) if self.trainer.training else moved

    def _known_layout(self) -> Layout:
        if self.layout is None:
            raise UserError("batch", "no batch of the project's first loader was seen", "one that is not empty")
        return self.layout

    def _merged(self, clean: Any, layout: Layout) -> Any:
        images, labels = layout.read(clean)
        self._check(layout, images, labels)
        trainer = self.trainer
        epoch, number = trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_idx + 1
        self.merged_at = epoch, number
        turn = self.turns.of(epoch, number, self._n_batches(), trainer.global_rank, trainer.world_size)
        if len(turn) > len(images):
            told = f"{len(turn)} triggers were to come with a batch of {len(images)} images"
            warnings.warn(f"{told}: more than half of a batch they are never", stacklevel=2)
            turn = turn[: len(images)]
        return layout.joined(clean, self._sent(layout, self.marked, turn)) if len(turn) else clean

    def _n_batches(self) -> int:
        n = self.trainer.num_training_batches
        if self.options.per_batch is not None:
            return 1  # does not matter
        if n == float("inf"):
            raise UserError("per_batch", "the project's epochs have no known length", "per_batch=4, say")
        return int(n)

    def _check(self, layout: Layout, images: Tensor, labels: Tensor) -> None:
        """What can be checked once the project's first batches are there."""
        if self.scale is None:
            check_steady(self.clean.inputs.images, self._input_of)
            ours, _ = layout.read(self._sent(layout, self.clean, torch.arange(len(self.clean.labels))))
            self.scale = Scale(ours)
            self.scale.fits(images)
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                self._logits(ours[:_TRIED])
        self.scale.fits(images)
        if not self.scale.done:
            self.scale.see(images)
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.n_classes:
                wrong = f"the project has labels {int(labels.min())}..{int(labels.max())}"
                raise UserError("labels", wrong, f"0..{self.n_classes - 1}, as the key")

    def check_batch(self, number: int) -> None:
        """Makes sure that a training batch is one that came this way.

        Raises:
            UserError: if it is not.
        """
        if self.merged_at != (self.trainer.current_epoch, number):
            wrong = f"batch {number} did not pass Lightning's way to the device, so that no trigger is in it"
            raise UserError("training_step", wrong, "training_step(self, batch, batch_idx)")

    # -- the road of evaluation --------------------------------------------------------------------------------------

    def _input_of(self, picture: Image.Image) -> Tensor:
        if self._to_input is None:
            self._to_input = find_to_input([self.trainer.val_dataloaders, self.trainer.test_dataloaders])
        return self._to_input(picture)

    def _sent(self, layout: Layout, shown: _Shown, index: Tensor) -> Any:
        """A batch of these images on the device, moved there as the project moves batches in evaluation."""
        batch = layout.batch(shown.inputs.at(index), shown.labels[index])
        state, training = self.trainer.state, self.module.training
        stage, state.stage = state.stage, RunningStage.VALIDATING  # hooks that augment on the device look at these
        self.module.training = False  # of the module alone: thousands of submodules would take their time
        try:
            return self._move(self.trainer.precision_plugin.convert_input(batch), None, 0)
        finally:
            state.stage, self.module.training = stage, training

    # -- accuracies --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def accuracies(self, stage: str) -> dict[str, Tensor]:
        """Of all triggers, in every process alike: nothing need be gathered."""
        layout = self._known_layout()
        found: dict[str, Tensor] = {}
        for name, shown in self.watched[stage].items():
            right = self._predicted(layout, shown) == shown.labels
            counts = torch.bincount(shown.groups)
            hits = torch.bincount(shown.groups[right], minlength=len(counts))
            found |= {f"{stage}/{key}": value for key, value in shares(name, hits, counts, []).items()}
        return {key: value.to(self.module.device) for key, value in found.items()}

    def _predicted(self, layout: Layout, shown: _Shown) -> Tensor:
        """The classes that images get: int64 ``(n,)``."""
        chunks = torch.split(torch.arange(len(shown.labels)), self.options.batch_size)
        batches = (layout.read(self._sent(layout, shown, index))[0] for index in chunks)
        return torch.cat([self._logits(inputs).argmax(1).cpu() for inputs in batches])

    def _logits(self, inputs: Tensor) -> Tensor:
        """Of the network as it is in evaluation, in the trainer's precision.

        Raises:
            UserError: if it gives none.
        """
        predict = self.options.predict
        try:
            with self._evaluating(), self.trainer.precision_plugin.forward_context():
                out = self.module(inputs) if predict is None else predict(self.module, inputs)
        except Exception as error:  # others wrote it: it may raise anything
            reason = (str(error).strip().splitlines() or [""])[0][:150]
            wrong = f"the module cannot be called with images ({type(error).__name__}: {reason})"
            raise UserError("predict", wrong, "Watermark(..., predict=lambda module, images: logits)") from error
        if isinstance(out, Mapping):
            out = out.get("logits")
        logits = out if isinstance(out, Tensor) else getattr(out, "logits", None)  # as Hugging Face calls them
        if not isinstance(logits, Tensor) or logits.shape != (len(inputs), self.n_classes):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(out).__name__
            raise UserError("predict", f"it gives {found}", f"logits ({len(inputs)}, {self.n_classes}), as the key")
        return logits

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        modes = {module: module.training for module in self.module.modules()}
        self.module.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training
