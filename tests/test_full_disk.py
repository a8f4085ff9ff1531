"""A disk that fills up in the midst of work: one line, nothing torn, and the same command goes on."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from tests.conftest import REPO, Outcome
from wmlightning.job import prepare
from wmlightning.ownership.key import keep_key
from wmlightning.ownership.transcript import Transcript
from wmlightning.secret import Secret

STRANGER = "def answer(images):\n    return [3] * len(images)\n"


def told(done: Outcome, key: str) -> None:
    (line,) = [line for line in done.err.splitlines() if "error" in line.lower()]
    assert line == f"error: {key}: No space left on device; make room: the same command then goes on where it was"
    assert "Traceback" not in done.err


class Disk:
    """Takes so many writes, then none; ``None``: any number."""

    takes: int | None = None

    def write(self, *_: Any) -> None:
        if self.takes == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.takes is not None:
            self.takes -= 1


@pytest.mark.parametrize("takes", [0, 1, 2])
def test_training(
    main: Callable[..., Outcome], small: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, takes: int
) -> None:
    disk, typed = Disk(), [*small, "trainer.max_epochs=2", "logger=none"]
    monkeypatch.setattr("os.fsync", disk.write)
    disk.takes = takes
    done = main(*typed)
    assert done.code == 1, str(done)
    told(done, "runs_dir")
    assert not list(runs.glob("*/card.json"))
    disk.takes = None
    assert main(*typed).code == 0
    (card,) = runs.glob("*/card.json")
    assert json.loads(card.read_text())["metrics"]["test/clean_acc"] > 0


@pytest.mark.parametrize("takes", [0, 1, 2, 3])
def test_verification(
    verify: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes: int
) -> None:
    """``takes``: the header, the plan, what leaves, what comes back."""
    (tmp_path / "stranger.py").write_text(STRANGER)
    options = ["dataset=procedural", "++dataset.source.n_train=300", "++dataset.source.n_test=200"]
    options += ["watermark.n_triggers=40", "watermark.n_marks=4", f"runs_dir={tmp_path}"]
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        job = prepare(compose("train", options), secret=Secret(b"k" * 32))
    keep_key(job, tmp_path / "owner.key")
    typed = ("key=owner.key", "suspect=callable", "suspect.function=stranger:answer", "out=out")
    disk, write = Disk(), Transcript.write

    def written(file: Transcript, entries: Any) -> None:
        disk.write()
        write(file, entries)

    monkeypatch.setattr(Transcript, "write", written)
    disk.takes = takes
    done = verify(*typed)
    assert done.code == 3, str(done)
    told(done, "out")
    disk.takes = None
    assert verify(*typed).code == 1
