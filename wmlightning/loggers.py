"""Loggers: W&B without prompts, one run per job."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig
from wandb import Settings

from wmlightning.config import make
from wmlightning.errors import UserError

_MODES = ("online", "offline", "disabled", "shared")


def wandb_logger(mode: str | None = None, **options: Any) -> Logger:
    """A WandbLogger that never asks for a login and never adopts the run of another job.

    Args:
        mode: ``online``, ``offline``, ``disabled`` or ``shared``; ``None``: ``WANDB_MODE``, else ``online`` if this
            machine has an API key, else ``offline``.
        **options: passed on.
    """
    chosen = mode or os.environ.get("WANDB_MODE") or ("online" if has_api_key() else "offline")
    if chosen not in _MODES:
        raise UserError("logger.wandb.mode", f"{chosen!r} is no mode", f"one of {', '.join(_MODES)}")
    if chosen == "online" and not has_api_key():
        raise UserError("logger.wandb.mode", "online, but there is no API key", "WANDB_API_KEY, or mode=offline")
    options.setdefault("settings", Settings(quiet=True))
    return WandbLogger(mode=chosen, reinit="create_new", **options)


def has_api_key() -> bool:
    """Whether W&B would find a key in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return host is not None and netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def make_loggers(cfg: DictConfig, folder: Path, name: str, job_type: str) -> list[Logger]:
    """The loggers that the config asks for, for one piece of work.

    Args:
        cfg: the settled config.
        folder: where they may write.
        name: of the piece of work.
        job_type: ``train`` or ``attack``.

    Raises:
        UserError: if a logger refuses its options.
    """
    cfg = cfg.copy()
    cfg.auto.update(run_dir=str(folder), name=name, job_type=job_type)
    return [make(node, f"logger.{key}") for key, node in (cfg.logger or {}).items()]


def log_attack(loggers: list[Logger], card: dict[str, Any]) -> None:
    """Hands an attack's result to loggers: the curve over strength step by step, the best bargain as the summary.

    W&B draws ``attack/*`` over ``attack/strength``, and gets one table with every surrogate. Recovered images and
    surrogates stay at home.
    """
    rows = card.get("curve", [])
    finals = [
        {"attack/strength": r["strength"], "attack/seconds": r["seconds"], **r["metrics"]} for r in rows if r["final"]
    ]
    try:
        for logger in loggers:
            logger.log_hyperparams({**card["config"], "victim": card["victim"]["fingerprint"]})
            if isinstance(logger, WandbLogger):
                logger.experiment.define_metric("attack/*", step_metric="attack/strength")
            for step, metrics in enumerate(finals or [card["metrics"]]):
                logger.log_metrics(metrics, step=step)
            if isinstance(logger, WandbLogger):
                _log_table(logger, rows)
                logger.experiment.summary.update(card["metrics"])
    finally:
        finish(loggers, "success")


def _log_table(logger: WandbLogger, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    metrics = sorted(rows[0]["metrics"])
    columns = ["strength", "epochs", "seconds", *(name.removeprefix("attack/") for name in metrics)]
    data = [[r["strength"], r["epochs"], r["seconds"], *(r["metrics"].get(m) for m in metrics)] for r in rows]
    logger.log_table("attack/surrogates", columns=columns, data=data)


def finish(loggers: list[Logger], status: str) -> None:
    """Ends W&B runs, so that the next job of a sweep gets one of its own.

    Args:
        loggers: all loggers of a run.
        status: ``success`` or ``failed``.
    """
    for logger in loggers:
        logger.finalize(status)
        if isinstance(logger, WandbLogger) and getattr(logger, "_experiment", None) is not None:
            logger.experiment.finish(exit_code=int(status != "success"))
