"""The exit code of verify.py: a verdict's, or 3."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from tests.conftest import REPO
from wmlightning.job import prepare
from wmlightning.ownership.key import keep_key
from wmlightning.secret import Secret

TASK = ("dataset=procedural", "++dataset.source.n_train=300", "++dataset.source.n_test=200", "watermark.n_triggers=40")


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("alpa=1", "alpa"),
        ("suspect=nosuch", "nosuch"),
        ("--nosuch", "--nosuch"),
        ("alpha=[", "no viable alternative"),
        ("key=nothing.key", "error: key: cannot read nothing.key"),
        ("-m", "error: -m: one command asks once, and has one exit code; suspects="),
        ("--multirun", "error: -m: "),
        ("hydra.mode=MULTIRUN", "error: -m: "),
        (
            "suspect=json_api suspect.url=http://127.0.0.1:9 +suspect.headers={A:'${oc.env:NO_SUCH_TOKEN}'}",
            "NO_SUCH_TOKEN",
        ),
    ],
)
def test_a_mistake_is_no_verdict(verify: Callable[..., Any], tmp_path: Path, typed: str, named: str) -> None:
    given = ["key=owner.key", "suspect.path=x"] if "json_api" not in typed else ["key=owner.key"]
    done = verify(*given, *typed.split(" "))
    assert done.code == 3, str(done)
    assert named in done.out + done.err, str(done)
    assert "Traceback" not in done.err
    assert "hydra.mode" in typed or not (tmp_path / "multirun").exists()


def test_help_is_no_mistake(verify: Callable[..., Any]) -> None:
    assert verify("--help").code == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (RuntimeError("odd"), 3), (SystemExit(1), 3), (SystemExit(0), 3), (SystemExit(), 3)],
)
def test_whatever_ends_it(
    verify: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def end(*_: object) -> None:
        raise error

    monkeypatch.setattr("wmlightning.ownership.verify.verify", end)
    done = verify("key=owner.key", "suspect.path=x")
    assert done.code == code, str(done)
    assert ("interrupted; the same command goes on" in done.err) == (code == 130)
    assert done.err.startswith("error: verify: ") == isinstance(error, SystemExit)


def test_sigterm_says_so(verify: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)  # another thread may be the one that the system tells, a moment before ours

    monkeypatch.setattr("wmlightning.ownership.verify.verify", end)
    done = verify("key=owner.key", "suspect.path=x")
    assert (done.code, done.err) == (143, "ended by SIGTERM; the same command goes on where it was\n")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_verdicts_keep_their_codes(verify: Callable[..., Any], tmp_path: Path) -> None:
    """Of a suspect that does not know the key, and of too few queries."""
    (tmp_path / "stranger.py").write_text("def answer(images):\n    return [3] * len(images)\n")
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        job = prepare(
            compose("train", [f"runs_dir={tmp_path}", *TASK, "watermark.n_marks=4"]), secret=Secret(b"k" * 32)
        )
    keep_key(job, tmp_path / "owner.key")
    typed = ("key=owner.key", "suspect=callable", "suspect.function=stranger:answer")
    assert verify(*typed, "queries=1", "out=few").code == 2
    assert verify(*typed, "out=many").code == 1
