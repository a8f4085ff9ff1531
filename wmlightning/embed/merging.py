"""One fit, validation or test of a stranger's trainer, with a key's triggers in it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from wmlightning.callbacks.accuracy import shares
from wmlightning.embed.inputs import Inputs, Scale, ToInput, check_steady, undrawn
from wmlightning.embed.layout import Layout, are_classes
from wmlightning.embed.network import Network, Predict, Probe
from wmlightning.embed.road import Known, Named, Road
from wmlightning.embed.turns import Turns
from wmlightning.errors import UserError
from wmlightning.watermarks.triggers import TriggerMaker, Triggers

_ROOM = 2**30  # bytes of ready inputs that are kept in memory
_CLEAN = 64  # clean images that inputs are checked with
_TRIED = 4  # of them that the network is tried with
_EVALUATED = 128  # at once, at most, unless the user says otherwise
_PROBED = 24  # triggers that are looked for in training steps: a random flip leaves each alone half of the time


@dataclass(frozen=True)
class Options:
    """What the user said; see :class:`wmlightning.Watermark`."""

    to_input: ToInput | None
    train_input: ToInput | None
    per_batch: float | None
    named: Named
    predict: Predict | None
    batch_size: int | None
    check_inputs: bool


@dataclass(frozen=True)
class _Shown:
    """Images on the project's road, with what is expected of them: the first ``len(labels)`` of ``inputs``."""

    inputs: Inputs
    labels: Tensor
    groups: Tensor


class Merging:
    """Puts triggers into training batches, and asks for them in evaluation, from setup to teardown.

    Args:
        maker: of the key, checked.
        options: the user's.
        known: of the project, from a training before.
        trainer: the project's.
        module: the project's.
        owner: the callback, which a tuner takes out of the trainer while it tries things.
    """

    def __init__(
        self,
        maker: TriggerMaker,
        options: Options,
        known: Known,
        trainer: L.Trainer,
        module: L.LightningModule,
        owner: L.Callback,
    ) -> None:
        self.options = options
        self.trainer = trainer
        self.owner = owner
        self._max_steps = trainer.max_steps  # now, and not what a tuner sets for its trials
        self.n_classes = len(maker.source.classes)
        self.network = Network(module, options.predict, trainer, self.n_classes)
        self.road = Road(options.named, known, self.n_classes, trainer, module, self._merged)
        made = maker.make()
        clean = made.originals
        if clean is None:  # the marks are pictures of other things
            clean = maker.source.images("train", maker.roles.train[:_CLEAN])
        to_train = options.train_input or self.road.input_of
        merged = made.merged()
        self.marked = _Shown(Inputs(merged.images, to_train, _ROOM), merged.labels, merged.groups)  # again each epoch
        self.clean = Inputs(clean, to_train)
        self.watched = self._watched(made)
        seed = maker.secret.stream("turns in a project").integer(2**63)
        self.turns = Turns(len(self.marked.labels), seed, options.per_batch)
        self.scale: Scale | None = None
        self.merged_at: tuple[int, int] | None = None
        self.measured: dict[str, Tensor] | None = None
        self._probe: Probe | None = None
        self._probed = 0 if options.check_inputs else _PROBED
        self._seen = 0  # clean images whose labels were looked at
        self._never: Tensor | None = None  # marked images that this training, seen from its start, has not shown yet

    def _watched(self, made: Triggers) -> dict[str, dict[str, _Shown]]:
        trained, new, decoys = (
            _Shown(Inputs(images.images, self.road.input_of), images.labels, images.groups)
            for images in (made.trained, made.new, made.decoys)
        )
        if self.options.train_input is None:  # merged first, and kept
            trained = _Shown(self.marked.inputs, trained.labels, trained.groups)
        return {"val": {"trigger": trained}, "test": {"trigger": trained, "trigger_new": new, "decoy": decoys}}

    def end(self) -> None:
        """Gets out of the way."""
        self.road.end()
        self._leave_probe()

    def _leave_probe(self) -> None:
        if self._probe is not None:
            self._probe.leave()
            self._probe = None

    # -- merging -----------------------------------------------------------------------------------------------------

    def _merged(self, clean: Any, layout: Layout) -> Any:
        trainer = self.trainer
        epoch, number = trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_idx + 1
        if layout.is_missing(clean):
            self.merged_at = epoch, number
            return clean
        images, labels = layout.read(clean)
        self._check(images, labels)
        self.road.known.largest = max(self.road.known.largest, len(images))
        counts = self.owner in trainer.callbacks  # type: ignore[attr-defined]  # what a tuner tries is no training
        if counts and self.merged_at is None and (epoch, number) == (0, 0):
            self._never = torch.ones(len(self.marked.labels), dtype=torch.bool)
        self.merged_at = (epoch, number) if counts else None
        turn = self.turns.of(epoch, number, self._n_batches(), trainer.global_rank, trainer.world_size)
        if len(turn) > len(images):
            told = f"{len(turn)} triggers were to come with a batch of {len(images)} images"
            warnings.warn(f"{told}: more than half of a batch they are never", stacklevel=2)
            turn = turn[: len(images)]
        if not len(turn):
            return clean
        if counts and self._never is not None:
            self._never[turn] = False
        classes = self.marked.labels[turn]
        with undrawn():
            rows = self.road.sent(self.marked.inputs.at(turn), classes)
            if counts and self._probed < _PROBED:
                self._leave_probe()  # of a step that was skipped
                self._probe = Probe(self.network, rows)
                self._probed += self._probe.n
        return layout.joined(clean, rows, classes)

    def _n_batches(self) -> int:
        trainer = self.trainer
        n = trainer.num_training_batches
        if self.options.per_batch is not None:
            return 1  # does not matter
        if n == float("inf"):
            raise UserError("per_batch", "the project's epochs have no known length", "per_batch=4, say")
        if self._max_steps > 0:  # the training may end in its first epoch
            n = min(n, self._max_steps * trainer.accumulate_grad_batches)
        return int(n)

    def _check(self, images: Tensor, labels: Tensor) -> None:
        """What can be checked once the project's first batches are there."""
        if self.scale is None:
            check_steady("to_input", self.clean.images, self.road.input_of)
            if self.options.train_input is not None:
                check_steady("train_input", self.clean.images, self.options.train_input)
            n = len(self.clean)
            with undrawn():
                inputs, no_labels = self.clean.at(torch.arange(n)), torch.zeros(n, dtype=torch.int64)
                self.road.check_steady(inputs[:_CLEAN], no_labels[:_CLEAN])
                ours = self.road.sent(inputs, no_labels)
                self.scale = Scale(ours)
                self.scale.fits(images)
                self.network.logits(ours[:_TRIED])
        self.scale.fits(images)
        if self._seen < _CLEAN:
            self._seen += len(images)
            self._check_labels(labels)
            if self.options.check_inputs:
                self.scale.see(images)

    def _check_labels(self, labels: Tensor) -> None:
        most = self.n_classes - 1 if are_classes(labels) else 1
        if len(labels) and not (labels.min() >= 0 and labels.max() <= most):
            wrong = f"the project has labels {labels.min().item():g}..{labels.max().item():g}"
            raise UserError("labels", wrong, f"0..{most}, as the key" if are_classes(labels) else "values of 0..1")

    def check_batch(self, number: int) -> None:
        """Makes sure that a training batch is one that came this way.

        Raises:
            UserError: if it is not.
        """
        if self.merged_at != (self.trainer.current_epoch, number):
            wrong = f"batch {number} did not pass Lightning's way to the device, so that no trigger is in it"
            raise UserError("training_step", wrong, "training_step(self, batch, batch_idx)")

    def end_batch(self) -> None:
        """After a training step."""
        if self._probe is not None and self._probe.end():
            self._probed = _PROBED  # said once
        self._probe = None

    def end_training(self) -> None:
        """Says so if the training was too short for all triggers."""
        if self._never is None:
            return
        strategy = self.trainer.strategy
        shown: Any = strategy.reduce((~self._never).float().to(strategy.root_device), reduce_op="sum")
        if never := int((shown == 0).sum()):
            told = f"{never} of {len(self._never)} triggers never came with a batch"
            warnings.warn(f"{told}: train for longer, or let more come with each batch: per_batch=8, say", stacklevel=2)

    # -- accuracies --------------------------------------------------------------------------------------------------

    def measure(self, stage: str) -> None:
        """Keeps the accuracies of the network as it is now."""
        if self.road.known.ready is not None:
            self.measured = self._accuracies(stage)

    def accuracies(self, stage: str) -> dict[str, Tensor]:
        """Of all triggers, in every process alike: nothing need be gathered. As kept, else as they are now.

        Nothing, with a warning, if no batch of the project could tell how its batches are made.
        """
        known = self.road.known
        if not known.trained and not self.trainer.strategy.reduce_boolean_decision(known.ready is not None):
            warnings.warn(f"no trigger accuracy: no batch tells how batches are made ({known.why})", stacklevel=2)
            return {}
        if self.measured is None:
            self.measure(stage)
        found, self.measured = self.measured, None
        return found or {}

    @torch.no_grad()
    def _accuracies(self, stage: str) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, shown in self.watched[stage].items():
            right = self._predicted(shown) == shown.labels
            counts = torch.bincount(shown.groups)
            hits = torch.bincount(shown.groups[right], minlength=len(counts))
            found |= {f"{stage}/{key}": value for key, value in shares(name, hits, counts, []).items()}
        return {key: value.to(self.network.module.device) for key, value in found.items()}

    def _predicted(self, shown: _Shown) -> Tensor:
        """The classes that images get: int64 ``(n,)``."""
        size = self.options.batch_size or min(_EVALUATED, self.road.known.largest or _EVALUATED)
        with undrawn():
            chunks = torch.split(torch.arange(len(shown.labels)), size)
            batches = (self.road.sent(shown.inputs.at(index), shown.labels[index]) for index in chunks)
            return torch.cat([self.network.logits(inputs).argmax(1).cpu() for inputs in batches])
