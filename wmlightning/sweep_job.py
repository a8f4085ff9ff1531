"""One job of a sweep: done wherever the launcher puts it, and recorded whatever becomes of it."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

from wmlightning.apart import Died, end_with_parent, possible, run_apart
from wmlightning.files import write_bytes, write_json

#: Holds how many jobs there are, with how many threads each, and the number of the process that starts them.
PLAN = "plan.json"

# Our launcher configs bear the names of the plugins' own and are whole, whether or not Hydra checks them against those.
# Here since the command and all workers come by here before they compose a config.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")

Work = Callable[[DictConfig], dict[str, Any]]


def hydra_config() -> DictConfig:
    """Hydra's own config of the job that this process is at."""
    return cast(DictConfig, HydraConfig.get())


def records_folder(hydra: DictConfig) -> Path:
    """Where a sweep's plan, its jobs' records and their tracebacks are: beside Hydra's ``multirun.yaml``."""
    return Path(hydra.runtime.cwd, hydra.sweep.dir, "jobs")


def launcher(hydra: DictConfig) -> str:
    """Class of the launcher: ``BasicLauncher``, ``JoblibLauncher``, ``LocalLauncher``, ``SlurmLauncher`` or another."""
    return str(hydra.launcher.get("_target_")).rpartition(".")[2]


def typed_overrides(hydra: DictConfig) -> list[str]:
    """What was typed for a job or, before there are jobs, for all of them; interpolations as they are."""
    return cast("list[str]", OmegaConf.to_container(hydra.overrides.task, resolve=False))


def read(path: Path) -> dict[str, Any] | None:
    """Reads a plan or a record; ``None`` if there is none, or not a whole one."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return content if isinstance(content, dict) else None


def attend(work: Work, cfg: DictConfig) -> dict[str, Any] | None:
    """Does one job of a sweep and records what became of it.

    In a worker of a parallel launcher the work gets a process of its own. Launchers give up the whole sweep when one of
    their workers is killed; so it is better that the work is what gets too large.

    Args:
        work: does the job and returns its card.
        cfg: the job's config.

    Returns:
        The card; ``None`` if the job failed: an exception would keep Hydra from what is left to do.
    """
    hydra = hydra_config()
    folder = records_folder(hydra)
    plan = read(folder / PLAN)
    if plan is None:  # someone took out the callback that would tell of failures
        return work(cfg)
    number = int(hydra.job.num)
    record = {
        "job": number,
        "overrides": typed_overrides(hydra),
        "process": os.getpid(),
        "host": socket.gethostname(),
    }
    if launcher(hydra) == "JoblibLauncher" and multiprocessing.current_process().name != "MainProcess":
        # Joblib's workers would train on after a sweep that was killed, and hold its locks.
        end_with_parent(plan["process"])
    first = launcher(hydra) != "SlurmLauncher" or os.environ.get("SLURM_PROCID", "0") == "0"  # one of a job's processes
    if first:
        _keep(folder, {**record, "state": "running"})
    began = time.monotonic()
    outcome: dict[str, Any] = {"state": "interrupted"}
    card: dict[str, Any] | None = None
    try:
        outcome = _outcome(work, cfg, plan["threads"], apart=possible() and launcher(hydra) != "BasicLauncher")
        card = outcome.pop("card", None)
    except SystemExit as end:  # ends the sweep too, which is not done then
        raise SystemExit(end.code or 1) from end
    finally:
        if first:
            _keep(folder, {**record, **outcome, "seconds": round(time.monotonic() - began, 2)})
    if card is None and first:
        print(f"error: job {number}: {outcome['reason']}", file=sys.stderr, flush=True)
    return card


def _outcome(work: Work, cfg: DictConfig, threads: int | None, apart: bool) -> dict[str, Any]:
    def job() -> dict[str, Any]:
        try:
            if threads:
                import torch  # late: other modules import this one at start-up

                torch.set_num_threads(threads)
            card = work(cfg)
            return {"state": "done", "result": card["name"], "card": card}
        except Exception as error:  # noqa: BLE001 (whatever it is, the other jobs are to run)
            return _failure(error)

    try:
        return run_apart(job) if apart else job()
    except Died as error:
        return {"state": "died", "reason": str(error)}
    except Exception as error:  # noqa: BLE001 (submitit tells that time is up by an exception, wherever we are)
        return _failure(error)


def _failure(error: Exception) -> dict[str, Any]:
    message = " ".join(str(error).split())
    if isinstance(error, CompactHydraException):
        return {"state": "failed", "reason": message}
    text = "".join(traceback.format_exception(error))
    return {"state": "failed", "reason": f"{type(error).__name__}: {message}", "traceback": text}


def _keep(folder: Path, record: dict[str, Any]) -> None:
    if "traceback" in record:
        file = folder / f"{record['job']}.txt"
        write_bytes(file, record["traceback"].encode())
        record = {**record, "traceback": str(file)}
    write_json(folder / f"{record['job']}.json", record)
