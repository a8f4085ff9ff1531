"""The command that serves: what it says, how it ends, and what it says when it cannot."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from tests.conftest import REPO
from wmlightning.errors import UserError
from wmlightning.ownership.serve import run
from wmlightning.store import Run

Start = Callable[..., subprocess.Popen[str]]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        return compose("serve", list(overrides))


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("run=/nowhere", "run"),
        ("name=''", "name"),
        ("port=99999", "port"),
        ("port=http", "port"),
        ("max_batch=0", "max_batch"),
        ("max_body_mb=-1", "max_body_mb"),
        ("device=abacus", "device"),
        ("device=[cpu]", "device"),
        ("name=a/b", "name"),
        ("name='..'", "name"),
        ("name='a\tb'", "name"),
        ("name=5", "name"),
        ("run=5", "run"),
        ("run=null", "run"),
        ("run=[a]", "run"),
        ("run='~nobody_at_all/x'", "run"),
        ("trust=null", "trust"),
        ("trust=mine.Net", "trust"),
        ("trust=[5]", "trust"),
        ("max_body_mb=inf", "max_body_mb"),
        ("max_body_mb=nan", "max_body_mb"),
        ("max_batch=2.5", "max_batch"),
        ("port=null", "port"),
        ("host=[a]", "host"),
    ],
)
def test_mistakes(stored: Run, override: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: pytest.fail("it serves"))
    with pytest.raises(UserError) as caught:
        run(composed(f"run={stored.folder}", override))
    assert caught.value.key == key
    assert "\n" not in str(caught.value)


def test_no_run_is_named() -> None:
    with pytest.raises(UserError, match=r"^run: "):
        run(composed())


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "wmlightning.ownership.server", raising=False)
    with pytest.raises(UserError, match=r"pip install 'wmlightning\[serve\]'"):
        run(composed("run=/nowhere"))


def test_every_key_is_read() -> None:
    source = (REPO / "wmlightning" / "ownership" / "serve.py").read_text()
    assert [key for key in composed() if f'"{key}"' not in source] == []


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_one_line_when_it_is_ready_and_a_clean_end(stored: Run, start: Start, tmp_path: Path, stop: int) -> None:
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    program = (sys.executable, str(REPO / "serve.py"))
    process = start(f"run={stored.folder}", "port=0", runs=tmp_path, cwd=tmp_path, program=program)
    assert process.stdout is not None
    line = process.stdout.readline()
    url = re.fullmatch(r"serving at (http://127\.0\.0\.1:\d+) \(Ctrl-C ends it\)\n", line)
    assert url, line
    assert httpx.get(url[1] + "/v2/models/classifier/ready").json()["ready"]
    process.send_signal(stop)
    out, err = process.communicate(timeout=20)
    assert out == ""
    assert "Traceback" not in err
    assert process.returncode == (0 if stop == signal.SIGINT else -stop)
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"


@pytest.mark.slow
def test_mistake_is_one_line(start: Start, tmp_path: Path) -> None:
    program = (sys.executable, str(REPO / "serve.py"))
    process: Any = start("run=/nowhere", runs=tmp_path, cwd=tmp_path, program=program)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("error: run: no finished run in /nowhere")
    assert len(err.splitlines()) == 1
