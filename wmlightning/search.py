"""Searches with Optuna: what it would refuse in a traceback, or never; and trials that are the same each time."""

from __future__ import annotations

import sys
from typing import Any

from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper
from omegaconf import DictConfig, read_write

from wmlightning.config import setting
from wmlightning.errors import UserError
from wmlightning.outcomes import read_outcomes
from wmlightning.sweep_job import records_folder, typed_overrides

#: Of the class that Hydra looks for, and that a config names.
_NAME = f"{OptunaSweeper.__module__}.{OptunaSweeper.__name__}"


class Search(OptunaSweeper):
    """Optuna's sweeper. If no trial succeeds it says so in one line."""

    def sweep(self, arguments: list[str]) -> Any:
        """Searches.

        Raises:
            SystemExit: with exit code 1, if there is no best trial.
        """
        try:
            return super().sweep(arguments)
        except ValueError as error:
            config = self.sweeper.config
            outcomes = [] if config is None else read_outcomes(records_folder(config.hydra))
            if any(outcome["state"] == "done" for outcome in outcomes):
                raise
            wrong, right = str(error).rstrip("."), "see Optuna's documentation"
            if outcomes:
                wrong, right = f"{len(outcomes)} of {len(outcomes)} trials failed", "the table says why"
            print(f"error: {UserError('hydra.sweeper', wrong, right)}", file=sys.stderr)
            raise SystemExit(1) from error


def prepare_search(config: DictConfig) -> None:
    """Checks what is to be searched, and has the search draw the same trials each time.

    Raises:
        UserError: for a mistake in what the sweeper is told.
    """
    sweeper = config.hydra.sweeper
    if config.get("optimized_metric") is None:
        raise UserError("optimized_metric", "a search needs to know what is to be best", "such as val/clean_acc")
    setting(sweeper.n_trials, "hydra.sweeper.n_trials", int, 1)
    setting(sweeper.n_jobs, "hydra.sweeper.n_jobs", int, 1)
    direction = getattr(sweeper.direction, "name", sweeper.direction)  # Optuna's default is an enum's
    if direction not in ("minimize", "maximize"):
        raise UserError("hydra.sweeper.direction", f"{direction} is no direction", "minimize or maximize")
    _check_space([f"{key}={value}" for key, value in (sweeper.params or {}).items()] + typed_overrides(config.hydra))
    if sweeper.storage is not None:
        _check_storage(str(sweeper.storage))
    if sweeper.sampler.get("seed", 0) is None:  # drawn anew, finished trials would not be found again
        with read_write(config.hydra):
            sweeper.sampler.seed = 0
    Plugins.instance().class_name_to_class[_NAME] = Search


def _check_space(overrides: list[str]) -> None:
    from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides  # late: imports Optuna

    for typed in overrides:
        try:
            create_params_from_overrides([typed])
        except (AssertionError, HydraException, NotImplementedError, TypeError, ValueError) as error:
            key, _, value = typed.partition("=")
            reason = f" ({str(error).rstrip('.')})" if str(error) else ""
            right = "interval(low, high), range(start, stop) or choice(a, b)"
            raise UserError(key, f"a search cannot draw from {value}{reason}", right) from error


def _check_storage(storage: str) -> None:
    from optuna.storages import get_storage  # late: see above

    try:
        get_storage(storage)
    except Exception as error:  # that of a data base, whichever it is; or of an Optuna that does not know today's
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        right = "null: a search goes on without it; or one that Optuna takes, such as sqlite:///search.db"
        raise UserError("hydra.sweeper.storage", f"Optuna cannot use {storage} ({reason})", right) from error
