"""Lightning's Trainer, its options checked first: of some mistakes it tells late, or in a traceback, or never."""

from __future__ import annotations

import inspect
import logging
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint, ProgressBar, RichProgressBar, Timer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig

from wmlightning.config import make, plain, setting
from wmlightning.data.batches import TrainPlan
from wmlightning.data.datamodule import WatermarkData
from wmlightning.errors import UserError
from wmlightning.sigterm import sigterm_raises
from wmlightning.unprofiled import Unprofiled

_DEFAULTS = {name: argument.default for name, argument in inspect.signature(L.Trainer).parameters.items()}

#: The least of each whole number.
_AT_LEAST = {
    "min_epochs": 0,
    "min_steps": 0,
    "check_val_every_n_epoch": 1,
    "accumulate_grad_batches": 1,
    "num_sanity_val_steps": -1,
    "log_every_n_steps": 0,
    "num_nodes": 1,
}
#: Numbers of batches or shares of them, and whether there may be none.
_BATCHES = {
    "limit_train_batches": False,
    "limit_val_batches": True,
    "limit_test_batches": False,
    "overfit_batches": True,
    "val_check_interval": False,
}
#: Switches, and words that stand for a third position. Any other word would be taken for true.
_SWITCHES: dict[str, tuple[str, ...]] = {
    "deterministic": ("warn",),
    "benchmark": (),
    "detect_anomaly": (),
    "sync_batchnorm": (),
    "enable_progress_bar": (),
    "enable_model_summary": (),
    "use_distributed_sampler": (),
    "inference_mode": (),
}
#: What is asked for by other keys: a value here would be overridden.
SET_HERE = {"callbacks": "callbacks.NAME", "logger": "logger.NAME", "default_root_dir": "runs_dir"}
SET_HERE |= {"enable_checkpointing": "nothing: finished epochs are always kept"}
#: Processes of one machine. More are a slip of the pen, and would be started one by one.
_MOST_DEVICES = 256
#: Others share out the weights themselves, of which the run's folder would get a part, or copy this process.
_STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")


def check_options(node: DictConfig) -> None:
    """Checks what can be told without data and devices.

    Args:
        node: the ``trainer`` of a config. What it does not name is as Lightning has it.

    Raises:
        UserError: for a value that is none.
    """
    options = plain(node)
    for name, right in SET_HERE.items():
        if name in options:
            raise UserError(f"trainer.{name}", "this is not the place to say it", right)
    if isinstance(options.get("devices"), int):
        setting(options["devices"], "trainer.devices", int, -1, _MOST_DEVICES)
    setting(options.get("max_epochs"), "trainer.max_epochs", int, 1)
    for name, least in _AT_LEAST.items():
        if _is_given(options, name):
            setting(options[name], f"trainer.{name}", int, least)
    for name, may_be_none in _BATCHES.items():
        if _is_given(options, name) and not (name == "val_check_interval" and isinstance(options[name], (str, dict))):
            _check_batches(options[name], name, may_be_none)
    for name, words in _SWITCHES.items():
        if _is_given(options, name) and not isinstance(options[name], bool) and options[name] not in words:
            right = " or ".join(("true, false", *words) if words else ("true", "false"))
            raise UserError(f"trainer.{name}", f"{options[name]!r} is no switch", right)
    if not isinstance(options.get("fast_dev_run", False), bool):
        setting(options["fast_dev_run"], "trainer.fast_dev_run", int, 0)
    if options.get("max_steps", -1) != -1:
        setting(options["max_steps"], "trainer.max_steps", int, 1)
    if options.get("gradient_clip_val") is not None:
        setting(options["gradient_clip_val"], "trainer.gradient_clip_val", float, 0)
    if options.get("use_distributed_sampler"):
        raise UserError("trainer.use_distributed_sampler", "the data module shares batches out itself", "false")
    _check_pair(options, "epochs")
    if options.get("max_steps", -1) != -1:
        _check_pair(options, "steps")
    strategy = options.get("strategy", "auto")
    if isinstance(strategy, str) and strategy not in _STRATEGIES:
        raise UserError("trainer.strategy", f"{strategy!r} is unknown here", f"one of {', '.join(_STRATEGIES)}")


def _is_given(options: Mapping[str, Any], name: str) -> bool:
    """Whether there is a value that is not Lightning's own way to say nothing."""
    nothing = name == "check_val_every_n_epoch" or _DEFAULTS[name] is None
    return name in options and not (options[name] is None and nothing)


def _check_batches(value: Any, name: str, may_be_none: bool) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    none = number and value == 0 and may_be_none
    if not none and not (number and (0 < value <= 1 if isinstance(value, float) else value >= 1)):
        right = "a whole number of at least 1, or a share such as 0.5" + (", or 0 for none" if may_be_none else "")
        raise UserError(f"trainer.{name}", f"{value!r} batches", right)


def _check_pair(options: Mapping[str, Any], what: str) -> None:
    least, most = options.get(f"min_{what}"), options[f"max_{what}"]
    if least is not None and least > most:
        raise UserError(f"trainer.min_{what}", f"{least} are more than trainer.max_{what}={most}", "fewer, or null")


def make_trainer(
    options: DictConfig, precision: str, folder: Path, callbacks: Sequence[L.Callback], loggers: Sequence[Logger]
) -> L.Trainer:
    """Makes the Trainer, with a progress bar where the output is a terminal or the user has one. Nothing is written.

    Args:
        options: ``trainer`` of a config; see :func:`check_options`.
        precision: the arithmetic chosen.
        folder: of the run.
        callbacks: all but the progress bar.
        loggers: all of them.

    Raises:
        UserError: if the Trainer refuses its options, no time is left for training, or a sweep's job would start the
            sweep again.
    """
    own = any(isinstance(callback, ProgressBar) for callback in callbacks)  # shown wherever the user has it
    bar = options.get("enable_progress_bar", True) and (own or sys.stdout.isatty())
    settled = {
        "callbacks": [*callbacks, *([RichProgressBar()] if bar and not own else [])],
        "logger": list(loggers) or False,
        "precision": precision,
        "enable_progress_bar": bar,
        # Callbacks that save do nothing in a fast_dev_run, but Lightning has none where this is off.
        "enable_checkpointing": not options.get("fast_dev_run") or any(isinstance(c, Checkpoint) for c in callbacks),
        "default_root_dir": str(folder),
    }
    if options.get("profiler") is None:
        settled["profiler"] = Unprofiled()
    if options.get(
        "overfit_batches"
    ):  # Lightning's way needs loaders of single images; ours repeats its batches itself
        settled |= {"overfit_batches": 0.0, "limit_train_batches": options.overfit_batches}
    trainer = make(options, "trainer", **settled)
    if not isinstance(trainer, L.Trainer):
        raise UserError("trainer._target_", f"{options.get('_target_')} is no Trainer", "lightning.pytorch.Trainer")
    if options.get("fast_dev_run"):
        trainer.loggers = [DummyLogger()]  # for callbacks that wait for one
    # Lightning switches this on with `deterministic`; it costs time, and nothing here reads uninitialised memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    for timer in trainer.callbacks:  # type: ignore[attr-defined]
        left = timer.time_remaining() if isinstance(timer, Timer) else None
        if left is not None and left <= 0:
            raise UserError("trainer.max_time", "no time to train in", "more, such as 00:01:30:00; or null")
    _check_sweep(trainer.world_size)
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.world_size > 1 and not isinstance(environment, SLURMEnvironment):  # there it may be queueing anew
        # Lightning's lets the processes speak to one another when the signal comes. Each may be anywhere: they hang.
        trainer._signal_connector._sigterm_notifier_fn = partial(_end_all, trainer)  # type: ignore[method-assign]
    return trainer


def _end_all(trainer: L.Trainer, number: int, frame: object) -> None:
    """Ends the processes of a training at once: finished epochs are on the disk."""
    del frame
    if trainer.strategy.launcher is not None:
        trainer.strategy.launcher.kill(signal.SIGKILL)
    raise SystemExit(128 + number)


def _check_sweep(world_size: int) -> None:
    sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    # Slurm starts a job's processes itself; anywhere else Lightning would start the whole command again.
    if world_size > 1 and sweep and not str(HydraConfig.get().launcher._target_).endswith(".SlurmLauncher"):
        wrong = "ddp starts the command again, which in a sweep is the whole sweep"
        raise UserError("trainer.strategy", wrong, "run ddp jobs one by one, or with hydra/launcher=submitit_slurm")


def check_batches(trainer: L.Trainer, data: WatermarkData) -> None:
    """Checks that the batches of the data are as many as the Trainer's options need. No image is read.

    Raises:
        UserError: if a share of them is none, or validation would come after more than there are.
    """
    data.trainer = trainer
    train = data.train_dataloader()
    plan = train.sampler
    if isinstance(plan, TrainPlan) and plan.smallest < trainer.world_size:
        wrong = f"{plan.smallest} images in a batch for {trainer.world_size} processes"
        raise UserError("recipe.batch_size", wrong, "at least one for each, or fewer trainer.devices")
    loaders = {"train": [train], "val": data.val_dataloader(), "test": data.test_dataloader()}
    for stage, of_stage in loaders.items():
        name = f"limit_{stage}_batches"
        limit = getattr(trainer, name)
        fewest = min((len(loader) for loader in of_stage if len(loader)), default=0)
        if isinstance(limit, float) and limit > 0 and fewest and int(fewest * limit) < 1:
            right = "a larger share, or a whole number"
            raise UserError(f"trainer.{name}", f"{limit:g} of {fewest} batches is less than one", right)
    limit, every = trainer.limit_train_batches, getattr(trainer, "val_check_interval", None)  # none if it is a time
    n = min(limit, len(train)) if isinstance(limit, int) else int(limit * len(train))
    counted = trainer.check_val_every_n_epoch is not None and trainer.limit_val_batches > 0
    if counted and isinstance(every, int) and every > n:
        right = f"at most {n}, a share such as 0.5, or with check_val_every_n_epoch=null"
        raise UserError("trainer.val_check_interval", f"every {every} of {n} batches", right)


@contextmanager
def signals_told() -> Iterator[None]:
    """Lets what ended a training say so: Lightning ends the process as if after a mistake, or as if all were well.

    Raises:
        KeyboardInterrupt: after the user's, within a block.
        SystemExit: with exit code 143, after a SIGTERM; before and after a training, at once.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        with sigterm_raises(SystemExit(128 + signal.SIGTERM)):
            yield
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, before)  # Lightning would have the next one ignored
        raise KeyboardInterrupt from None


def calm_lightning() -> None:
    """Keeps what a user can do nothing about off the screen."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # trainer.profiler=simple asks for it
    for message in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists.*",
        ".*smaller than the logging interval.*",
        ".*logs directory .* exists and is not empty.*",  # resumed: the epochs before are logged again
        ".*LeafSpec.*",
        ".*GPU available but not used.*",  # trainer=cpu was asked for
        ".*TensorFloat32 tensor cores.*available but not enabled.*",  # 32-true was asked for
        ".*AccumulateGrad node's stream does not match.*",  # ddp on GPUs, as Lightning wraps networks
        ".*Grad strides do not match bucket view strides.*",  # and with channels_last
    ):
        warnings.filterwarnings("ignore", message)
