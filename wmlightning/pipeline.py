"""The whole story of one run, top to bottom."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from typing import Any

import lightning as L
import torch
from filelock import FileLock
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from rich.console import Console
from safetensors.torch import save

from wmlightning.callbacks import resume
from wmlightning.callbacks.accuracy import Accuracies
from wmlightning.config import make, plain
from wmlightning.data.datamodule import WatermarkData
from wmlightning.errors import UserError
from wmlightning.files import write_bytes
from wmlightning.job import Job, prepare
from wmlightning.loggers import finish
from wmlightning.models.classifier import Classifier
from wmlightning.results.card import environment, read_card, write_card
from wmlightning.results.summary import show
from wmlightning.seeds import role_seed

WEIGHTS = "model.safetensors"


def run(cfg: DictConfig) -> dict[str, Any]:
    """Trains what the config describes, or finds it trained, and shows the result.

    Args:
        cfg: composed from ``conf/train.yaml``.

    Returns:
        The card.

    Raises:
        UserError: for a mistake in the config, before anything is written.
    """
    _calm_lightning()
    job = prepare(cfg)
    if _is_helper_process():  # a DDP process that Lightning started; the first process does the rest
        return _train(job, job.data_module())
    if cfg.trainer.get("fast_dev_run"):
        card = _train(job, job.data_module())
        Console().print("fast_dev_run: one batch of everything went through; nothing is kept")
        return card
    card = _finished(job, cfg.force) or _train_alone(job, cfg.force)
    show(card, job.folder)
    return card


def _train_alone(job: Job, force: bool) -> dict[str, Any]:
    """Trains unless another process that is at the same model gets there first."""
    data = job.data_module()  # what is wrong with the data shows before anything is written
    job.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(job.folder / ".lock"):
        if (card := _finished(job, force)) is not None:
            return card
        if force:
            _clear(job)
        return _train(job, data)


def _finished(job: Job, force: bool) -> dict[str, Any] | None:
    """The card of a finished run of this very model, unless it is to be redone."""
    card = None if force else read_card(job.folder)
    if card is None or card.get("fingerprint") != job.fingerprint or not (job.folder / WEIGHTS).exists():
        return None
    return card


def _train(job: Job, data: WatermarkData) -> dict[str, Any]:
    """Fits, tests, and writes weights and card."""
    cfg = job.cfg
    module = Classifier(
        job.net,
        job.optimisation,
        seed=role_seed(job.seed, "train"),
        channels_last=cfg.recipe.channels_last,
        compile=cfg.recipe.compile,
    )
    point = resume.ResumePoint(job.folder)
    loggers = [make(node, f"logger.{key}") for key, node in (cfg.logger or {}).items()]
    trainer = _trainer(job, data, point, loggers)
    checkpoint = job.folder / resume.FILE
    try:
        for logger in loggers:
            logger.log_hyperparams(_hyperparameters(job))
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)
        if trainer.interrupted:
            raise KeyboardInterrupt
        fitted = point.history[-1] if point.history else {}
        trainer.test(module, datamodule=data, verbose=False)
        tested = {name: float(value) for name, value in trainer.callback_metrics.items()}
        metrics = {name: value for name, value in {**fitted, **tested}.items() if "/" in name}
    finally:
        finish(loggers)
    card = _card(job, data, point, metrics)
    if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        weights = {key: value.detach().cpu().contiguous() for key, value in job.net.state_dict().items()}
        write_bytes(job.folder / WEIGHTS, save(weights))
        write_card(job.folder, card)
        checkpoint.unlink(missing_ok=True)
    return card


def _trainer(job: Job, data: WatermarkData, point: resume.ResumePoint, loggers: list[Logger]) -> L.Trainer:
    cfg = job.cfg
    n_groups = max(len(job.source.classes), job.scheme.n_marks, job.scheme.n_decoys)
    callbacks: list[L.Callback] = [Accuracies(job.labels.measured, n_groups)]
    callbacks += [make(node, f"callbacks.{key}") for key, node in (cfg.callbacks or {}).items()]
    terminal = sys.stdout.isatty()
    if terminal:
        callbacks.append(RichProgressBar())
    if not cfg.trainer.get("fast_dev_run"):
        callbacks.append(point)
    steps = -(-(len(data.roles.train) + len(data.merged)) // cfg.recipe.batch_size)
    try:
        trainer: L.Trainer = make(
            cfg.trainer,
            "trainer",
            callbacks=callbacks,
            logger=loggers or False,
            precision=job.precision,
            enable_progress_bar=terminal,
            enable_checkpointing=not cfg.trainer.get("fast_dev_run"),
            log_every_n_steps=steps,
            default_root_dir=str(job.folder),
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError("trainer", str(error).splitlines()[0], "see lightning's Trainer") from error
    # Lightning switches this on with `deterministic`; it only costs time where nothing reads uninitialised memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return trainer


def _card(job: Job, data: WatermarkData, point: resume.ResumePoint, metrics: dict[str, float]) -> dict[str, Any]:
    roles = job.roles
    return {
        "kind": "train",
        "name": job.name,
        "fingerprint": job.fingerprint,
        "identity": job.identity,
        "metrics": metrics,
        "history": point.history,
        "epochs": len(point.history),
        "seconds": {"train": round(point.seconds, 2)},
        "precision": job.precision,
        "device": job.device,
        "seed": job.seed,
        "group": job.cfg.auto.group,
        "data": {
            **job.source.identity(),
            "train": len(roles.train),
            "val": len(roles.val),
            "test": len(roles.attacker) + len(roles.judge),
            "triggers": len(data.watched["test"].get("trigger", ())),
            "marked": len(data.merged),
        },
        "parameters": sum(p.numel() for p in job.net.parameters()),
        "config": _hyperparameters(job),
        "environment": environment(),
    }


def _hyperparameters(job: Job) -> dict[str, Any]:
    cfg = plain(job.cfg)
    names = ("seed", "dataset", "watermark", "model", "recipe", "trainer", "tags")
    return {**{name: cfg[name] for name in names}, "precision": job.precision, "fingerprint": job.fingerprint}


def _clear(job: Job) -> None:
    """Removes what an earlier run of this model left, the lock excepted."""
    for path in job.folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()


def _is_helper_process() -> bool:
    return int(os.environ.get("LOCAL_RANK", 0)) > 0


def _calm_lightning() -> None:
    """Keeps what a user can do nothing about off the screen."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*Checkpoint directory .* exists.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", message)
