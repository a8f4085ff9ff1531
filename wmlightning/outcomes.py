"""What became of the jobs of a sweep, as they have recorded it."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wmlightning.sweep_job import PLAN, read


def read_outcomes(folder: Path) -> list[dict[str, Any]]:
    """Records of all jobs, planned or met, in order. A job that left no end is told to have died."""
    plan = read(folder / PLAN) or {"jobs": []}
    found = dict(enumerate({"job": job, "overrides": typed} for job, typed in enumerate(plan["jobs"])))
    for path in folder.glob("*.json"):
        if path.name != PLAN and (record := read(path)):
            found[record["job"]] = record
    return [{**record, "state": _state(record)} for _, record in sorted(found.items())]


def table(outcomes: Sequence[dict[str, Any]]) -> str:
    """One line for each job, and their number. What all jobs have in common is left out."""
    common = set.intersection(*(set(job["overrides"]) for job in outcomes)) if len(outcomes) > 1 else set()
    rows = [("job", "seconds", "overrides", "outcome")]
    for job in outcomes:
        own = " ".join(typed for typed in job["overrides"] if typed not in common)
        seconds = f"{job['seconds']:.1f}" if "seconds" in job else "-"
        rows.append((str(job["job"]), seconds, own, _told(job)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{n:>{widths[0]}}  {s:>{widths[1]}}  {typed:<{widths[2]}}  {told}" for n, s, typed, told in rows]
    states = [job["state"] for job in outcomes]
    failed = sum(state in ("failed", "died") for state in states)
    open_ends = len(states) - failed - states.count("done")
    sums = f"{len(states)} jobs, {failed} failed" + (f", {open_ends} not finished" if open_ends else "")
    return "\n".join(["", *lines, sums])


def _told(job: dict[str, Any]) -> str:
    told = job["result"] if job["state"] == "done" else ": ".join(filter(None, (job["state"], job.get("reason"))))
    return f"{told} (traceback: {job['traceback']})" if "traceback" in job else str(told)


def _state(record: dict[str, Any]) -> str:
    state = str(record.get("state", "not started"))
    if state != "running":
        return state
    if record["host"] != socket.gethostname():
        return "no answer"  # on another machine, and perhaps still at work
    return "running" if _is_alive(record["process"]) else "died"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
