"""A training rehearsed: what Lightning, torch or code of the user's would refuse later is told before data are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    EarlyStopping,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    OnExceptionCheckpoint,
)
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig
from torch import nn

from wmlightning.config import make
from wmlightning.data.datamodule import Augment
from wmlightning.errors import UserError, listed, reason_of
from wmlightning.job import Draft
from wmlightning.loggers import make_loggers
from wmlightning.trainer import make_trainer

#: What a training measures from epoch to epoch: see :mod:`wmlightning.models.classifier` and `callbacks.accuracy`.
_MEASURED = ("train/loss", "train/clean_acc", "val/clean_acc", "val/trigger_acc")
_IMAGES = 8


def rehearse(drafted: Draft, compared: bool = False) -> None:
    """Makes what a training needs besides data, does one step with nothing in it, and lets it all go.

    Args:
        drafted: to be trained.
        compared: whether an unmarked model may be trained alike, to compare with.

    Raises:
        UserError: if the Trainer, a callback, a logger, the optimizer or the augmentation refuses its options.
    """
    cfg, folder = drafted.cfg.copy(), Path(drafted.cfg.runs_dir).absolute()
    cfg.auto.update(run_dir=str(folder), name="", group="", tags=[])  # they follow from the data
    callbacks, loggers = callbacks_of(cfg), make_loggers(cfg, folder, "", "train")
    trainer = make_trainer(cfg.trainer, drafted.precision, folder, list(callbacks.values()), loggers)
    ours = all(type(callback).__module__.startswith(("lightning.", "wmlightning.")) for callback in callbacks.values())
    if ours:  # what callbacks of the user's own measure nobody knows beforehand
        _check_monitors(callbacks, cfg.watermark.get("_target_") is not None, compared)
    _check_taken(callbacks)
    _check_logged(callbacks, trainer)
    device = trainer.strategy.root_device
    if cfg.recipe.compile:
        _check_compiler(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        _check_batch_norms(drafted.net, trainer, device)
        _check_step(drafted, trainer, device, ours)
        if drafted.augment is not None:
            _check_augment(drafted.augment, drafted.plan.source.shape, device)


def callbacks_of(cfg: DictConfig) -> dict[str, L.Callback]:
    """The callbacks that the config asks for, by their names there."""
    found = {}
    for key, node in (cfg.callbacks or {}).items():
        callback = make(node, f"callbacks.{key}")
        if not isinstance(callback, L.Callback):
            wrong = f"{type(callback).__name__} is no callback of Lightning's"
            raise UserError(f"callbacks.{key}", wrong, f"a class derived from lightning.Callback, or ~callbacks.{key}")
        found[str(key)] = callback
    return found


def _check_taken(callbacks: Mapping[str, L.Callback]) -> None:
    for key, callback in callbacks.items():
        if isinstance(callback, OnExceptionCheckpoint):
            wrong = "with it Lightning begins a training from whatever training it saved last"
            raise UserError(f"callbacks.{key}", wrong, f"~callbacks.{key}: finished epochs are kept without it")
        if isinstance(callback, LearningRateFinder):
            wrong = "it looks for a learning rate in the module, where there is none"
            raise UserError(f"callbacks.{key}", wrong, "recipe.optimizer.lr, or hparams_search=optuna to search")


def _check_monitors(callbacks: Mapping[str, L.Callback], marked: bool, compared: bool) -> None:
    rates = any(isinstance(callback, LearningRateMonitor) for callback in callbacks.values())  # by names of their own
    known = [name for name in _MEASURED if "trigger" not in name or (marked and not compared)]
    for key, callback in callbacks.items():
        monitor = getattr(callback, "monitor", None)
        lax = isinstance(callback, EarlyStopping) and not callback.strict
        counted = isinstance(callback, ModelCheckpoint) and monitor in ("epoch", "step")
        if monitor is not None and monitor not in known and not lax and not counted:
            if rates and monitor not in _MEASURED:
                continue
            other = marked and monitor in _MEASURED
            wrong = f"{monitor!r} is not measured" + (" of the unmarked model to compare with" if other else "")
            right = f"one of {listed(known)}" + (", or judge.unmarked=false" if other else "")
            raise UserError(f"callbacks.{key}.monitor", wrong, right)


def _check_logged(callbacks: Mapping[str, L.Callback], trainer: L.Trainer) -> None:
    for key, callback in callbacks.items():
        if isinstance(callback, (LearningRateMonitor, DeviceStatsMonitor)) and not trainer.loggers:
            wrong = f"{type(callback).__name__} has no logger to write to"
            raise UserError(f"callbacks.{key}", wrong, f"logger=csv or another, or ~callbacks.{key}")


def _check_compiler(device: torch.device) -> None:
    """Torch needs compilers that are not its own."""
    try:
        torch.compile(torch.neg)(torch.zeros(2, device=device))
    except Exception as error:  # whatever it calls
        right = "false, or what torch.compile needs: a C++ compiler, and Triton for a GPU"
        raise UserError("recipe.compile", reason_of(error), right) from error


def _check_batch_norms(net: nn.Module, trainer: L.Trainer, device: torch.device) -> None:
    synchronised = isinstance(trainer.strategy, DDPStrategy) and trainer.strategy._layer_sync is not None
    norms = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in net.modules())
    if synchronised and norms and device.type == "cpu":
        wrong = "torch synchronises batch norms on GPUs only"
        raise UserError("trainer.sync_batchnorm", wrong, "false, or trainer.accelerator=gpu")


def _check_step(drafted: Draft, trainer: L.Trainer, device: torch.device, ours: bool) -> None:
    """A step of weights that stand in for the network's, with gradients of one.

    An optimizer of the user's may wait for what a callback of the user's tells it in a training.
    """
    channels_last = drafted.cfg.recipe.channels_last
    groups = drafted.optimisation.groups_of(drafted.net)
    for group in groups:
        group["params"] = [_stand_in(weight, device, channels_last) for weight in group["params"]]
    optimizer = drafted.optimisation.build(groups, trainer)
    weights = [weight for group in groups for weight in group["params"]]

    def closure() -> torch.Tensor:
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        return torch.zeros((), device=device)

    closure()
    if clip := trainer.gradient_clip_val:
        try:
            trainer.precision_plugin.clip_gradients(optimizer, clip)
        except RuntimeError as error:  # a fused optimizer, in mixed precision
            right = "no clipping, recipe.optimizer.fused=false, or trainer.precision=32-true"
            raise UserError("trainer.gradient_clip_val", str(error).split(". HINT")[0], right) from error
    if not ours and not type(optimizer).__module__.startswith("torch."):
        return
    step: Any = optimizer.step  # as Lightning calls it
    try:
        step(closure)
    except Exception as error:  # an optimizer of the user's may raise anything
        raise UserError("recipe.optimizer", reason_of(error), "check its options") from error


def _stand_in(weight: torch.Tensor, device: torch.device, channels_last: bool) -> nn.Parameter:
    memory_format = torch.channels_last if channels_last and weight.ndim == 4 else torch.preserve_format
    return nn.Parameter(weight.detach().to(device, memory_format=memory_format, copy=True))


def _check_augment(augment: Augment, shape: tuple[int, int, int], device: torch.device) -> None:
    images = torch.zeros(_IMAGES, *shape, dtype=torch.uint8, device=device)
    keep = torch.arange(_IMAGES, device=device) < _IMAGES // 2
    right = "called with (images, keep, draw), it gives uint8 images of the same shape"
    try:
        found = augment(images, keep, torch.Generator(device).manual_seed(0))
    except UserError:
        raise
    except Exception as error:  # as above
        raise UserError("recipe.augment", f"it does not take a batch ({reason_of(error)})", right) from error
    if not isinstance(found, torch.Tensor) or found.shape != images.shape or found.dtype != images.dtype:
        given = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
        raise UserError("recipe.augment", f"of uint8 {tuple(images.shape)} it makes {given}", right)
