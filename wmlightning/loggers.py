"""Loggers: W&B without prompts, one run per job."""

from __future__ import annotations

import netrc
import os
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import Logger, WandbLogger
from wandb import Settings

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
