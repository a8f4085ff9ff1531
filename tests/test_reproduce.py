"""The study of the paper: the same tables each time, also when it was killed on the way."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import REPO

SCRIPT = REPO / "experiments" / "asiaccs2018" / "run.sh"


TINY = {"SCALE": "tiny", "WATERMARKS": "noise", "KEYS": "paper", "ATTACKS": "prune,finetune,fineprune,overwrite"}


def start(folder: Path, log: Path, **scale: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **(scale or TINY)}
    environment |= {
        "PYTHON": sys.executable,
        "STORE": str(folder),
        "OUT": str(folder / "out"),
        "OMP_NUM_THREADS": "1",
    }
    with log.open("ab") as out:
        return subprocess.Popen(["sh", str(SCRIPT)], env=environment, stdout=out, stderr=out, start_new_session=True)


def finish(folder: Path, log: Path, **scale: str) -> float:
    started = time.monotonic()
    assert start(folder, log, **scale).wait(3000) == 0, log.read_text()[-3000:]
    return time.monotonic() - started


def tables(folder: Path) -> dict[str, str]:
    """Everything that tells neither time nor which commit was checked out."""
    page = (folder / "out" / "README.md").read_text()
    first, untimed = page.index("## The abstract's claims"), page.index("## Cost")
    timed, rest = page.index("## Fidelity and effectiveness"), page.index("## Strangers who count matches")
    numbers = re.sub(r" \d+ \|$", " |", page[timed:rest], flags=re.MULTILINE)  # without the last column
    found = {"README.md": page[first:timed] + numbers + page[rest:untimed]}
    for name in ("embedding", "attacks", "verification"):
        frame = pd.read_csv(folder / "out" / f"{name}.csv")
        found[name] = frame.drop(columns=["seconds", "commit", "threads"], errors="ignore").to_csv()
    return found


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_tables(tmp_path: Path) -> None:
    log, draw = tmp_path / "log", random.Random(0)
    seconds = finish(tmp_path / "whole", log)
    for _ in range(3):  # each goes on where the one before was killed
        process = start(tmp_path / "killed", log)
        try:
            process.wait(draw.uniform(0.1, 0.6) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    finish(tmp_path / "killed", log)
    whole, killed = tables(tmp_path / "whole"), tables(tmp_path / "killed")
    assert whole == killed
    assert "| procedural | noise |" in whole["README.md"]
    assert "| 60% fine-pruned | 90% fine-pruned | overwritten at 0.01 | overwritten at 0.03 |" in whole["README.md"]
    assert len(pd.read_csv(tmp_path / "whole" / "out" / "verification.csv")) >= 18
    verdicts = [json.loads(path.read_text()) for path in tmp_path.glob("killed/verdicts/*/verdict.json")]
    assert [verdict["kind"] for verdict in verdicts] == ["verify", "verify"], "of the model, and of an unmarked one"
    assert all("http://127.0.0.1" in verdict["suspect"] for verdict in verdicts)
    assert not list(tmp_path.glob("**/*.key"))


@pytest.mark.slow
def test_smoke_scale_gives_the_same_numbers_again(tmp_path: Path) -> None:
    """All of it, job by job and with jobs side by side."""
    one, two = tmp_path / "one", tmp_path / "two"
    finish(one, tmp_path / "log", SCALE="smoke", LAUNCHER="basic")
    finish(two, tmp_path / "log", SCALE="smoke")
    assert tables(one) == tables(two)
    embedding = pd.read_csv(one / "out" / "embedding.csv")
    assert len(embedding) == 1 + 1 + 3 * 3, "unmarked, fresh noise, and three keys of each watermark"


def test_tables_are_those_of_the_numbers() -> None:
    """What both pages show is what the CSV files beside the study's page give."""
    folder = SCRIPT.parent
    code = """import json, sys, attacks, embedding, tables, verification
from pathlib import Path
names = {"embedding.csv": embedding.from_csv, "attacks.csv": attacks.from_csv, "verification.csv": verification.read}
read = [of(Path(name)) for name, of in names.items()]
json.dump({k: v for k, v in tables.rendered(*read).items() if isinstance(v, str)}, sys.stdout)"""
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, check=True)
    rendered = json.loads(done.stdout)
    page, readme = (folder / "README.md").read_text(), (REPO / "README.md").read_text()
    names = ("claims", "rules", "embedding", "strangers", "removal", "inversion", "verification", "who_claims", "costs")
    assert [name for name in names if rendered[name] not in page] == []
    assert [name for name in ("claims", "embedding", "verification") if rendered[name] not in readme] == []


def test_unknown_scale_is_told() -> None:
    done = subprocess.run(
        ["sh", str(SCRIPT)], env={**os.environ, "SCALE": "huge"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "SCALE=huge is unknown: tiny, smoke or paper\n"
