"""Trains unmarked models, or finds them, and trains each on with every key and with none: a part of ``run.sh``.

Only a guard may end a training without a model: when no epoch left the accuracy that it asks for.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir

sys.path.append(str(Path(__file__).resolve().parents[1]))
import workers

from wmlightning.config import CONF
from wmlightning.errors import UserError
from wmlightning.pipeline import run

#: Longest first.
KEYS = (
    ("watermark=noise", "experiment=asiaccs2018/marks"),
    ("watermark=noise", "experiment=asiaccs2018/negatives"),
    ("watermark=content", "experiment=asiaccs2018/negatives"),
    ("watermark=none",),
)
GROUP = "trained"


def main() -> None:
    """Trains side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--datasets", nargs="+", default=["cifar10", "mnist"])
    parser.add_argument("--jobs", type=int, default=None, help="at the same time; without it one for each core")
    parser.add_argument("--starts", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("typed", nargs="*", default=[], help="more options of train.py, for tests")
    options = parser.parse_args()
    tasks = [[f"dataset={name}", f"seed={seed}"] for name in options.datasets for seed in options.seeds]
    with workers.pool(options.jobs) as pool:
        plain = [[*task, "watermark=none", f"runs_dir={options.starts.absolute()}"] for task in tasks]
        starts = list(pool.map(_train, [[*one, *options.typed] for one in plain]))
        jobs = []
        for (task, start), key in itertools.product(zip(tasks, starts, strict=True), KEYS):
            from_it = [f"start={options.starts.absolute() / str(start)}", "recipe=embed", f"group={GROUP}"]
            jobs.append([*task, *key, *from_it, f"runs_dir={options.runs.absolute()}", *options.typed])
        for typed, name in zip(jobs, pool.map(_train, jobs), strict=True):
            print(f"{name or 'not kept by the guard'}: {' '.join(typed)}", flush=True)


def _train(typed: list[str]) -> str | None:
    """Trains, or finds trained: the run's name; ``None`` if the guard keeps nothing."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    quiet = ["logger=none", "callbacks=none", "trainer.enable_progress_bar=false"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return str(run(compose("train", [*typed, *quiet]))["name"])
        except UserError as error:
            if error.key == "guard.max_drop" and any(one.startswith("start=") for one in typed):
                return None
            raise


if __name__ == "__main__":
    main()
