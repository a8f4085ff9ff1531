"""Sweeps, seen from the process that starts them: what there is to do, and a table of what became of it."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.types import TaskFunction
from omegaconf import DictConfig, read_write

from wmlightning.config import setting
from wmlightning.errors import UserError, listed
from wmlightning.files import check_writable, write_json
from wmlightning.outcomes import read_outcomes, table
from wmlightning.results.rows import MEASURED
from wmlightning.sweep_job import PLAN, hydra_config, launcher, read, records_folder, typed_overrides


class Sweep(Callback):
    """Hydra's hooks around a sweep. They do nothing in single runs."""

    def __init__(self) -> None:
        self._folder: Path | None = None  # until a sweep begins; launchers take it along to their workers
        self._ended: int | None = None  # by which signal

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Checks what would stop every job, and writes down which jobs there are.

        Raises:
            SystemExit: after a mistake of the user's. Of other exceptions Hydra makes warnings.
        """
        del kwargs
        folder = records_folder(config.hydra)
        try:
            _check_launcher(config.hydra)
            _check_metric(config)
            jobs = planned(config.hydra)
            if str(config.hydra.sweeper.get("_target_")).endswith(".OptunaSweeper"):
                from wmlightning.search import prepare_search  # late: Optuna is an extra

                prepare_search(config)
            check_writable(folder, "runs_dir", needed_bytes=2**20)
            _clear(folder)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from error
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / PLAN, {"jobs": jobs, "threads": threads(config.hydra, len(jobs)), "process": os.getpid()})
        self._folder = folder
        # If the user stops the sweep, or the launcher fails, Hydra goes without calling on_multirun_end.
        atexit.register(_tell_unfinished, folder)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._end)

    def on_job_start(self, config: DictConfig, *, task_function: TaskFunction, **kwargs: Any) -> None:
        """Tells a job, in its process, where the sweep's folder is: its own ``runs_dir`` may be another.

        Raises:
            SystemExit: if the sweep was to end. Python drops exceptions of signals that arrive in a finaliser.
        """
        del config, task_function, kwargs
        if self._ended is not None:
            raise SystemExit(128 + self._ended)
        if self._folder is not None:
            hydra = hydra_config()
            with read_write(hydra):
                hydra.sweep.dir = str(self._folder.parent)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Tells what became of the jobs.

        Raises:
            SystemExit: with exit code 1, if any of them is not done.
        """
        del config, kwargs
        if self._folder is None:
            return
        atexit.unregister(_tell_unfinished)
        if signal.getsignal(signal.SIGTERM) == self._end:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        outcomes = read_outcomes(self._folder)
        print(table(outcomes), flush=True)
        if any(outcome["state"] != "done" for outcome in outcomes):
            raise SystemExit(1)

    def _end(self, number: int, frame: object) -> None:
        """Ends the sweep as Ctrl-C does: launchers end their workers, and what is left is told."""
        del frame
        self._ended = number
        raise SystemExit(128 + number)


def _clear(folder: Path) -> None:
    """Removes the records of an earlier sweep, if the user names ``hydra.sweep.dir``, and nothing else.

    Raises:
        UserError: if a folder of somebody's own lies there.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    plan = read(folder / PLAN)
    if plan is None or "jobs" not in plan:
        wrong = f"{folder} is there already, and not of a sweep"
        raise UserError("hydra.sweep.dir", wrong, "another folder, or none: each sweep then has its own")
    for path in folder.iterdir():
        if re.fullmatch(r"\d+\.(json|txt)", path.name):
            path.unlink(missing_ok=True)


def planned(hydra: DictConfig) -> list[list[str]]:
    """Overrides of each job to come; none if the sweeper decides as it goes.

    Raises:
        UserError: if something of what was typed stands for no values, or for endless ones.
    """
    sweeper = hydra.sweeper
    if not str(sweeper.get("_target_")).endswith(".BasicSweeper"):
        return []
    if sweeper.max_batch_size is not None:
        setting(sweeper.max_batch_size, "hydra.sweeper.max_batch_size", int, 1)
    typed = [f"{key}={value}" for key, value in (sweeper.params or {}).items()] + typed_overrides(hydra)
    overrides = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides(typed)
    for override in overrides:
        if override.is_sweep_override():
            _, _, values = str(override.input_line).partition("=")
            if not override.is_discrete_sweep():
                right = "a range or a list, or hydra/sweeper=optuna, which draws from it"
                raise UserError(override.get_key_element(), f"{values} has no end of values", right)
            if not list(override.sweep_string_iterator()):
                raise UserError(override.get_key_element(), f"{values} holds no value", "at least one")
    batches = BasicSweeper.split_arguments(overrides, sweeper.max_batch_size)
    return [job for batch in batches for job in batch]


def threads(hydra: DictConfig, n_jobs: int) -> int | None:
    """Threads for each job, so that those at work at the same time share out this machine's cores.

    Args:
        hydra: Hydra's config.
        n_jobs: how many jobs there will be; 0 if nobody knows.

    Returns:
        ``None`` to leave it alone: with the user's ``OMP_NUM_THREADS``, one job at a time, or on machines of a cluster.
    """
    if os.environ.get("OMP_NUM_THREADS") or launcher(hydra) not in ("JoblibLauncher", "LocalLauncher"):
        return None
    from joblib import cpu_count, effective_n_jobs  # late: only parallel sweeps need it

    cores: int = cpu_count()  # those that this process may use, not those that the machine has
    batch = hydra.sweeper.get("max_batch_size") or hydra.sweeper.get("n_jobs")  # basic sweeper; Optuna's
    limits = [n_jobs, batch, effective_n_jobs(hydra.launcher.n_jobs) if "n_jobs" in hydra.launcher else None]
    at_once = min((limit for limit in limits if limit), default=cores)
    return max(1, cores // at_once)


def _check_launcher(hydra: DictConfig) -> None:
    target = str(hydra.launcher.get("_target_"))
    if target not in Plugins.instance().class_name_to_class:
        raise UserError("hydra/launcher", f"{target} is not installed", "pip install 'wmlightning[launchers]'")
    if launcher(hydra) == "SlurmLauncher" and shutil.which("srun") is None:
        right = "start the sweep where sbatch and srun can be called, or take joblib or submitit_local"
        raise UserError("hydra/launcher", "there is no srun on this machine", right)
    if hydra.launcher.get("n_jobs") == 0:
        raise UserError("hydra.launcher.n_jobs", "0 jobs at the same time", "at least 1, or -1 for one on each core")
    if launcher(hydra) == "JoblibLauncher":
        _check_joblib(hydra.launcher)


def _check_joblib(options: DictConfig) -> None:
    if options.get("backend") not in (None, "loky"):
        raise UserError("hydra.launcher.backend", f"{options.backend} is not used by Hydra", "loky, or null")
    for name, right, examples in (
        ("batch_size", r"auto|[1-9]\d*", "1 or more, or auto"),
        ("pre_dispatch", r"all|[1-9]\d*|([\d.]+ ?\* ?)?n_jobs", "n_jobs, 2*n_jobs, all, or 1 or more"),
    ):
        if name in options and not re.fullmatch(right, str(options[name])):
            raise UserError(f"hydra.launcher.{name}", f"{options[name]} is no number of jobs", examples)


def _check_metric(config: DictConfig) -> None:
    """Refuses to search for what no job will tell. What callbacks of the user's own measure nobody knows beforehand."""
    metric = config.get("optimized_metric")
    if metric is None or config.victim is not None:
        return
    unmarked = config.watermark.get("_target_") is None
    known = [name for name in MEASURED if not (unmarked and re.search("trigger|decoy", name))]
    if metric not in known:
        if set(config.callbacks or ()) - {"gallery"}:
            return
        raise UserError("optimized_metric", f"{metric!r} is not measured", f"one of {listed(known)}")
    omitted = {
        "limit_val_batches": ("val/",) if config.trainer.get("limit_val_batches") == 0 else (),
        "fast_dev_run": ("train/", "val/") if config.trainer.get("fast_dev_run") else (),
    }
    for option, stages in omitted.items():
        if metric.startswith(stages):
            wrong = f"{metric!r} is not measured with trainer.{option}={config.trainer[option]}"
            raise UserError("optimized_metric", wrong, "test/clean_acc, or without that option")


def _tell_unfinished(folder: Path) -> None:
    outcomes = read_outcomes(folder)
    states = {outcome["state"] for outcome in outcomes}
    if states - {"not started"}:  # else no job began, and Hydra has said why
        print(table(outcomes), flush=True)
    if states - {"not started", "failed"}:
        print("The same command again does what is left.", flush=True)
