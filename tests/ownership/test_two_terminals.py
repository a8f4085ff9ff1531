"""README's story with real processes over a real socket: the thief's service in one, verifications in others."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from tests.conftest import REPO
from wmlightning.job import prepare
from wmlightning.ownership.__main__ import main
from wmlightning.ownership.key import keep_key
from wmlightning.pipeline import train
from wmlightning.secret import Secret

TASK = (
    "dataset=mnist5k",
    "watermark=content",
    "watermark.n_marks=8",
    "watermark.n_triggers=0.2",
    "watermark.negatives=0",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "logger=none",
    "callbacks=none",
)
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The owner's key, published commitment and stolen model; and a stranger's key, made as carefully."""
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        for name in ("stranger", "owner"):
            job = prepare(compose("train", [f"runs_dir={tmp_path}", *TASK]), secret=Secret(name.encode().ljust(32)))
            keep_key(job, tmp_path / f"{name}.key")
            assert main(["commit", str(tmp_path / f"{name}.key")]) == 0
    train(job, force=False)
    job.folder.rename(tmp_path / "stolen")
    return tmp_path


def test_the_thiefs_service_and_the_owners_verification(place: Path, start: Start) -> None:
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    serve, verify = ((sys.executable, str(REPO / name)) for name in ("serve.py", "verify.py"))
    service = start("run=stolen", "port=0", runs=place, cwd=place, program=serve)
    assert service.stdout is not None
    address = re.search(r"http://[\d.:]+", service.stdout.readline())
    assert address, service.communicate()

    def ask(name: str, *options: str) -> subprocess.Popen[str]:
        typed = (f"key={name}.key", f"commitment={name}.commitment.json", "suspect=oip", f"suspect.url={address[0]}")
        return start(*typed, "queries=40", *options, runs=place, cwd=place, program=verify)

    both = {name: ask(name, f"out={name}") for name in ("owner", "stranger")}
    told = {name: process.communicate(timeout=300) for name, process in both.items()}
    assert {name: process.returncode for name, process in both.items()} == {"owner": 0, "stranger": 1}, str(told)
    assert told["owner"][0].startswith("before asking: about ")
    assert "\nOWNED: http://127.0.0.1" in told["owner"][0]
    assert "\nNOT SHOWN: http://127.0.0.1" in told["stranger"][0]
    for name, decision in (("owner", "owned"), ("stranger", "not shown")):
        verdict = json.loads((place / name / "verdict.json").read_text())
        assert (verdict["decision"], verdict["e_value"] is not None) == (decision, True)
        assert verdict["queries"] <= 40
        spent = json.loads((place / f"{name}.spent.json").read_text())
        assert verdict["triggers"] == verdict["queries"] <= len(spent) == 40, "no decoys, and the plan is spent"
        assert (place / name / "report.html").is_file()
    service.send_signal(signal.SIGINT)
    service.communicate(timeout=60)
    gone = ask("owner", "out=owner")
    out, errors = gone.communicate(timeout=300)
    assert (gone.returncode, "OWNED" in out) == (0, True), errors
