"""What all contract tests share: a claim, a config as the commands compose it, and a small task without downloads."""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from torch import Tensor

from wmlightning.config import CONF
from wmlightning.errors import UserError
from wmlightning.job import Job
from wmlightning.pipeline import train
from wmlightning.trainer import calm_lightning

Compose = Callable[..., DictConfig]

#: A job that says and keeps no more than it must.
QUIET = (
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.enable_progress_bar=false",
    "logger=none",
    "callbacks=none",
)


def claim(holds: object, what: str) -> None:
    """A promise of the contract. Unlike ``assert`` it holds under ``python -O``, and it explains itself without pytest.

    Raises:
        AssertionError: saying what was promised.
    """
    if not holds:
        raise AssertionError(what)


@contextmanager
def composing(config_dir: str | Path | None = None) -> Iterator[Compose]:
    """Composes configs as the commands do.

    Args:
        config_dir: folder of further configs, as ``--config-dir`` names it.

    Yields:
        ``compose(*overrides, name="train")``.

    Raises:
        UserError: if there is no such folder.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):  # and puts back afterwards what was there before
        if config_dir is not None:
            folder = Path(config_dir).absolute()
            if not folder.is_dir():
                raise UserError("config_dir", f"there is no folder {folder}", "the folder that --config-dir names")
            path = create_config_search_path(str(CONF))
            path.prepend("command-line", f"file://{folder}", anchor="schema")
            GlobalHydra.instance().clear()
            Hydra.create_main_hydra2(task_name="contract", config_search_path=path)
        yield lambda *overrides, name="train": compose(name, list(overrides))


def small_task(overrides: Sequence[str], n_train: int = 1500, n_test: int = 600) -> list[str]:
    """Overrides for a quiet job on a few drawn images, unless ``overrides`` choose a data set of their own."""
    task = ["dataset=procedural", f"++dataset.source.n_train={n_train}", f"++dataset.source.n_test={n_test}"]
    own = any(override.startswith("dataset=") for override in overrides)
    return [*([] if own else task), f"runs_dir={workplace()}", *QUIET, *overrides]


@cache
def _workplace() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="wmlightning-testing-")


def workplace() -> Path:
    """A folder for runs that goes with this process. What one check trains, the next one finds trained."""
    return Path(_workplace().name)


def trained(job: Job, anew: bool = False) -> None:
    """Trains, or finds the trained model, without Lightning's remarks on how little there is to do."""
    with warnings.catch_warnings():
        calm_lightning()
        train(job, force=anew)


def digest(*tensors: Tensor) -> str:
    """SHA-256 over dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for tensor in tensors:
        array = np.ascontiguousarray(tensor.numpy())
        little = array.dtype.newbyteorder("<")
        total.update(f"{little.str}{array.shape}".encode())
        total.update(array.astype(little).tobytes())
    return total.hexdigest()


def plain(content: object) -> bool:
    """Whether something survives JSON."""
    try:
        return bool(json.loads(json.dumps(content)) == content)
    except (TypeError, ValueError):
        return False
