"""The road of a stranger's project: how its batches come to the device, and how ours are sent there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from PIL import Image
from torch import Tensor, nn

from wmlightning.embed.inputs import ToInput, find_to_input, undrawn
from wmlightning.embed.layout import Layout, Place
from wmlightning.errors import UserError

_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
_STEADY = 1e-3  # how far the same image may be off when it is sent again, of the largest value


@dataclass(frozen=True)
class Named:
    """What the user said of the project's batches; see :class:`wmlightning.Watermark`."""

    images: Place | None
    labels: Place | None
    fill: Mapping[Place, Any]


@dataclass
class Known:
    """What is known of a project. A training tells it for the evaluations after it.

    Attributes:
        to_input: see :data:`ToInput`.
        raw: how batches are made when they leave the loader.
        ready: how they are made when all hooks are done with them.
        trained: whether training batches told.
        loader: number of the loader that told.
        why: what could not be told.
        largest: images of the largest training batch so far.
    """

    to_input: ToInput | None = None
    raw: Layout | None = None
    ready: Layout | None = None
    trained: bool = False
    loader: int = 0
    why: str = "there was none"
    largest: int = 0


class Road:
    """Stands in the way of every batch to the device, from setup to teardown.

    Lightning sends all batches of a trainer through the precision plugin's ``convert_input``, the hook
    ``on_before_batch_transfer`` and the strategy's ``batch_to_device``, in this order. The first and the last belong to
    the trainer, so that module and data module stay as they are.

    Args:
        named: by the user.
        known: from a training before; what is found out is put in.
        n_classes: classes of the key.
        trainer: the project's.
        module: the project's.
        merged: ``(training batch on the device, its layout) -> batch`` with triggers in it.
    """

    def __init__(
        self,
        named: Named,
        known: Known,
        n_classes: int,
        trainer: L.Trainer,
        module: L.LightningModule,
        merged: Callable[[Any, Layout], Any],
    ) -> None:
        self.named = named
        self.known = known
        self.n_classes = n_classes
        self.trainer = trainer
        self.module = module
        self.merged = merged
        self._raw: Layout | None = None  # of the batch that is on its way
        self._modules: tuple[int, list[nn.Module]] = -1, []  # those that hooks may ask, listed in which epoch
        self._convert = trainer.precision_plugin.convert_input
        self._move = trainer.strategy.batch_to_device
        trainer.precision_plugin.convert_input = self._left  # type: ignore[method-assign]
        trainer.strategy.batch_to_device = self._moved  # type: ignore[method-assign]

    def end(self) -> None:
        """Gets out of the way."""
        self.trainer.precision_plugin.__dict__.pop("convert_input", None)
        self.trainer.strategy.__dict__.pop("batch_to_device", None)

    # -- batches of the project --------------------------------------------------------------------------------------

    def _left(self, data: Any) -> Any:
        """In the place of the precision plugin's ``convert_input``: the batch is as the loader made it."""
        if data is not None and self._is_news():
            self._raw = self._layout(data, joins=False)
        return self._convert(data)

    def _moved(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """In the place of the strategy's ``batch_to_device``."""
        moved = self._move(batch, device, dataloader_idx)
        training = bool(self.trainer.training)
        if self._raw is not None and self._is_news():
            ready = self._layout(moved, joins=training)
            self.known.raw, self.known.ready = self._raw, ready
            self.known.loader, self.known.trained = dataloader_idx, training
        self._raw = None
        if not training or moved is None:  # Lightning passes over a batch that is None
            return moved
        assert self.known.ready is not None, "told by this batch or one before"
        return self.merged(moved, self.known.ready)

    def _is_news(self) -> bool:
        """Whether the batch on its way tells something: in evaluation only what no other batch told."""
        return not self.known.trained if self.trainer.training else self.known.ready is None

    def _layout(self, batch: Any, joins: bool) -> Layout | None:
        named = self.named
        try:
            return Layout.of(batch, self.n_classes, named.images, named.labels, named.fill, joins)
        except UserError as error:
            if self.trainer.training:
                raise
            self.known.why = str(error)  # another batch may tell; if none does, nothing is trained wrongly
            return None

    # -- images of ours ----------------------------------------------------------------------------------------------

    def input_of(self, picture: Image.Image) -> Tensor:
        """By the project's transform of evaluation.

        Raises:
            UserError: if there is none that can be taken over.
        """
        if self.known.to_input is None:
            self.known.to_input = find_to_input(self._evaluation_loaders())
        return self.known.to_input(picture)

    def _evaluation_loaders(self) -> list[Any]:
        trainer = self.trainer
        if trainer.state.fn == TrainerFn.FITTING and trainer.enable_validation and trainer.val_dataloaders is None:
            with self._as_in_evaluation():  # as Lightning does at the start of most trainings
                trainer.fit_loop.epoch_loop.val_loop.setup_data()
        return [trainer.val_dataloaders, trainer.test_dataloaders]

    def sent(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images on the device, by all hooks of the project that batches pass in evaluation.

        Args:
            images: made by :meth:`input_of`, ``(n, c, h, w)``.
            labels: int64 ``(n,)``, for hooks that look at them.
        """
        raw, ready = self.known.raw, self.known.ready
        assert raw is not None and ready is not None, "asked for when batches were seen"
        with self._as_in_evaluation():
            batch = self._convert(raw.batch(images, labels))
            batch = self.module._on_before_batch_transfer(batch, self.known.loader)
            return ready.images_of(self._move(batch, None, self.known.loader))

    def check_steady(self, images: Tensor, labels: Tensor) -> None:
        """Refuses hooks that are not the same each time in evaluation: what is random would destroy marks.

        Args:
            images: a few, as for :meth:`sent`.
            labels: theirs.

        Raises:
            UserError: if they are random.
        """
        device = self.module.device
        with undrawn([device] if device.type == "cuda" else []):
            first, second = (self.sent(images, labels).float() for _ in range(2))
        if first.shape != second.shape or bool((first - second).abs().max() > _STEADY * first.abs().max()):
            wrong = "the hooks around the transfer make something else of the same images each time, in evaluation too"
            raise UserError("on_after_batch_transfer", wrong, "random transforms only if self.trainer.training")

    @contextmanager
    def _as_in_evaluation(self) -> Iterator[None]:
        """Hooks that augment look at the trainer's stage, or at the mode of the module or of a layer in it."""
        state = self.trainer.state
        modes = [(module, module.training) for module in self._asked_by_hooks()]
        stage, state.stage = state.stage, RunningStage.VALIDATING
        for module, _ in modes:
            _set_mode(module, False)
        try:
            yield
        finally:
            state.stage = stage
            for module, training in modes:
                _set_mode(module, training)

    def _asked_by_hooks(self) -> list[nn.Module]:
        """The module, with all in it if there is a hook. Listed once an epoch: there may be thousands."""
        if self._modules[0] != (epoch := self.trainer.current_epoch):
            owners = self.module, self.trainer.datamodule  # type: ignore[attr-defined]
            hooked = any(owner is not None and _has_own(hook, owner) for hook in _HOOKS for owner in owners)
            self._modules = epoch, list(self.module.modules()) if hooked else [self.module]
        return self._modules[1]


def _has_own(hook: str, owner: Any) -> bool:
    """Whether a hook is not Lightning's own. Its ``is_overridden`` refuses the modules of ``pytorch_lightning``."""
    above = next((kind for kind in type(owner).__mro__ if hook in vars(kind)), None)
    theirs = above is None or above.__module__.startswith(("lightning.pytorch.", "pytorch_lightning."))
    return hook in vars(owner) or not theirs


def _set_mode(module: nn.Module, training: bool) -> None:
    if "training" in vars(module):
        vars(module)["training"] = training  # ten times as fast as what follows
    else:  # compiled and scripted ones keep it elsewhere
        module.training = training
