"""Validity of the whole procedure, measured: models and keys that have nothing in common, hundreds of pairs a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import binom

from tests.conftest import REPO


@pytest.mark.slow
def test_innocent_pairs_are_seldom_called_owned(tmp_path: Path) -> None:
    """At once, and stopped as soon as 0.01 is reached; one in 10,000 runs of a valid test fails here at each level."""
    script = REPO / "experiments" / "ownership" / "validity.py"
    typed = ["--dataset", "procedural", "--models", "6", "--epochs", "1", "--pairs", "200"]
    done = subprocess.run(
        [sys.executable, str(script), *typed, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    frame = pd.read_csv(tmp_path / "out" / "validity.csv")
    groups = frame.groupby(["test", "mode", "watermark"])
    assert len(groups) == 24
    for names, part in groups:
        assert len(part) == 200
        for level in (0.05, 0.01):
            false = int((part.p_value <= level).sum())
            assert false <= binom.ppf(0.9999, 200, level), f"{names}: {false} of 200 at {level}"
    assert (tmp_path / "out" / "validity.png").read_bytes().startswith(b"\x89PNG")
