"""Which loggers were told of a finished piece of work: noted in its folder, so that each is told, and none twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.loggers import Logger, WandbLogger

from wmlightning.files import write_json

#: In the folder of a training, an attack or a verdict: what was told to whom, by the names of loggers.
FILE = ".logged"
#: There is nothing more to tell.
ALL = "all"


def untold(loggers: Sequence[Logger], folder: Path, what: str = ALL) -> list[Logger]:
    """Those that were not told yet of what lies in a folder.

    Args:
        loggers: that are asked for.
        folder: of the piece of work.
        what: names what there is to tell, where that may change.
    """
    notes = _read(folder)
    return [
        logger
        for logger in loggers
        if notes.get(_name(logger)) != what and not (what == ALL and _told_without_note(logger, notes))
    ]


def note(loggers: Sequence[Logger], folder: Path, what: str = ALL) -> None:
    """Notes in a folder that loggers were told."""
    names = [_name(logger) for logger in loggers if not _is_off(logger)]
    if names:
        write_json(folder / FILE, {**_read(folder), **dict.fromkeys(names, what)})


@contextmanager
def noted(loggers: Sequence[Logger], folder: Path, what: str = ALL) -> Iterator[None]:
    """Notes it once the block has told them, and until then that it began to: what it leaves may be a part."""
    note(loggers, folder, "")
    yield
    note(loggers, folder, what)


def _read(folder: Path) -> dict[str, str]:
    try:
        notes = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _name(logger: Logger) -> str:
    """Its kind and where it logs to; in a sweep of W&B's the run that its agent made."""
    job = os.environ.get("WANDB_RUN_ID") if isinstance(logger, WandbLogger) else None
    return " ".join(str(part) for part in (_kind(logger), logger.name, job) if part)


def _kind(logger: Logger) -> str:
    return type(logger).__name__


def _is_off(logger: Logger) -> bool:
    return isinstance(logger, WandbLogger) and logger._wandb_init.get("mode") == "disabled"


def _told_without_note(logger: Logger, notes: dict[str, str]) -> bool:
    """Whether it left something before there were notes of its kind."""
    if any(name.split()[0] == _kind(logger) for name in notes):
        return False
    place = Path(logger.save_dir or "", "wandb") if isinstance(logger, WandbLogger) else logger.log_dir
    return place is not None and Path(place).is_dir() and any(Path(place).iterdir())
