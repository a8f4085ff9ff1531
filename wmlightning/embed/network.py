"""What a stranger's network says of images, and whether a training step gives it those that it was sent."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from wmlightning.errors import UserError

#: ``(module, images) -> logits (n, k)``.
Predict = Callable[[L.LightningModule, Tensor], Any]

_ROWS = 8  # triggers that are looked for in one training step, at most
_NEAR = 0.02  # how far values may be off, of the largest: half precision rounds


class Network:
    """The project's network as it is in evaluation, in the trainer's precision.

    Args:
        module: the project's.
        predict: see :data:`Predict`; ``None``: calls the module.
        trainer: the project's.
        n_classes: classes of the key.
    """

    def __init__(self, module: L.LightningModule, predict: Predict | None, trainer: L.Trainer, n_classes: int) -> None:
        self.module = module
        self.predict = predict
        self.trainer = trainer
        self.n_classes = n_classes

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> Tensor:
        """Of images on the device: float ``(n, n_classes)``.

        Raises:
            UserError: if it gives none.
        """
        try:
            with self._evaluating(), self.trainer.precision_plugin.forward_context():
                out = self.module(inputs) if self.predict is None else self.predict(self.module, inputs)
        except torch.cuda.OutOfMemoryError:  # says what it is, and those who look for a batch size wait for it
            raise
        except Exception as error:  # others wrote it: it may raise anything
            reason = (str(error).strip().splitlines() or [""])[0][:150]
            wrong = f"the module cannot be called with images ({type(error).__name__}: {reason})"
            raise UserError("predict", wrong, "Watermark(..., predict=lambda module, images: logits)") from error
        if isinstance(out, Mapping):
            out = out.get("logits")
        logits = out if isinstance(out, Tensor) else getattr(out, "logits", None)  # as Hugging Face calls them
        if not isinstance(logits, Tensor) or logits.shape != (len(inputs), self.n_classes):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(out).__name__
            right = f"logits ({len(inputs)}, {self.n_classes}), as the key"
            if self.n_classes == 2 and isinstance(logits, Tensor) and logits.numel() == len(inputs):
                right += ": predict=lambda module, images: one logit of each class, such as [-z, z]"
            raise UserError("predict", f"it gives {found}", right)
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


class Probe:
    """Compares what a training step gives to the network with what evaluation gives to it, for a few triggers.

    Where it looks is the first layer with weights that evaluation reaches: what came before is the same in both, or
    the training step changes images. Rows are looked for in all that the layer gets in this step, wherever they are.
    A compiled network is left alone, since hooks would compile it anew.

    Args:
        network: the project's.
        rows: triggers as they are in the batch that the step is about to get, on the device.

    Attributes:
        n: triggers that are looked for.
    """

    def __init__(self, network: Network, rows: Tensor) -> None:
        self.n = len(rows[:_ROWS])
        self._given: tuple[nn.Module, Tensor] | None = None
        self._found = torch.empty(0, dtype=torch.bool)
        self._reached = False
        self._handles = [layer.register_forward_pre_hook(self._first) for layer in _with_weights(network.module)]
        try:
            network.logits(rows[:_ROWS])
        finally:
            self.leave()
        if self._given is not None:
            layer, wanted = self._given
            self._found = torch.zeros(len(wanted), dtype=torch.bool, device=wanted.device)
            self._handles = [layer.register_forward_pre_hook(self._seen)]

    def end(self) -> bool:
        """After the step: warns if triggers did not come to the network as they were sent, and says whether it did."""
        self.leave()
        changed = self._reached and not bool(self._found.all())
        if changed:
            told = "training_step changes images, and triggers with them, before the network gets them"
            right = (
                "transforms belong in on_after_batch_transfer; if evaluation makes the same, in to_input= or predict="
            )
            warnings.warn(f"{told}: {right} (check_inputs=False: no such checks)", stacklevel=2)
        return changed

    def leave(self) -> None:
        """Looks no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _first(self, layer: nn.Module, given: tuple[Any, ...]) -> None:
        if given and isinstance(given[0], Tensor) and given[0].ndim > 1:
            self._given = layer, given[0].detach().flatten(1).clone()
        self.leave()

    def _seen(self, layer: nn.Module, given: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling() or not given or not isinstance(given[0], Tensor) or given[0].ndim < 2:
            return
        assert self._given is not None
        self._reached = True
        rows, wanted = given[0].detach().flatten(1), self._given[1]
        if rows.shape[1] == wanted.shape[1]:
            for i, row in enumerate(wanted.to(rows)):
                off = (rows - row).abs().amax(1).min()
                self._found[i] |= (off <= _NEAR * row.abs().max()).to(self._found.device)


def _with_weights(module: nn.Module) -> list[nn.Module]:
    layers = list(module.modules())
    compiled = any(hasattr(layer, "_orig_mod") or layer._compiled_call_impl is not None for layer in layers)
    if compiled or getattr(module, "_compiler_ctx", None) is not None:
        return []
    return [layer for layer in layers if layer is not module and _has_weights(layer)]


def _has_weights(layer: nn.Module) -> bool:
    return is_parametrized(layer) or any(True for _ in layer.parameters(recurse=False))
