"""What the page on a project of one's own shows, in a project of somebody else's."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import REPO
from tests.foreign.stranger import write_project
from tests.howto import samples

Train = Callable[..., Any]
SAMPLES = samples("project", REPO / "docs")
COMMANDS = re.findall(r"^python .*$", (REPO / "docs" / "project.md").read_text(), re.MULTILINE)


def project(folder: Path, n_train: int, n_val: int) -> None:
    write_project(folder, n_train, n_val)
    for name, content in SAMPLES.items():
        (folder / name).write_text(content)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A few pictures, and one epoch. What is imported from there is forgotten afterwards."""
    project(tmp_path, 450, 100)
    for name in ("train.py", "embed.py"):
        code, n = re.subn(r"max_epochs=\d+", "max_epochs=1", SAMPLES[name])
        assert n == 1
        (tmp_path / name).write_text(code.replace("max_drop=0.05", "max_drop=1.0"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_samples_run(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path("train.py")
    assert (small / "owner.key").is_file()
    pictures = np.zeros((2, 3, 28, 28), dtype=np.uint8)
    assert runpy.run_path("found.py")["predict"](pictures).shape == (2, 10)
    shutil.copy(small / "model.ckpt", small / "trained.ckpt")
    capsys.readouterr()
    runpy.run_path("embed.py")
    assert "'epochs_kept': 1" in capsys.readouterr().out
    assert (small / "marked.ckpt").is_file()


def test_samples_are_formatted_as_our_code(tmp_path: Path) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("no ruff")
    project(tmp_path, 10, 10)
    done = subprocess.run(
        [ruff, "format", "--check", "--config", REPO / "pyproject.toml", *(tmp_path / name for name in SAMPLES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_both_models_prove_whose_they_are(train: Train, tmp_path: Path) -> None:
    """As the page shows it: trained with the three lines, and marked after it was trained without."""

    def ran(script: Path, *arguments: str, code: int = 0) -> str:
        program = (sys.executable, str(script))
        done = train(*arguments, runs=tmp_path, cwd=tmp_path, program=program, timeout=580, PYTHONPATH=str(REPO))
        assert done.code == code, str(done)
        out: str = done.out
        return out

    project(tmp_path, 1500, 500)
    ran(tmp_path / "train.py")
    ran(tmp_path / "plain.py", "plain", '{"max_epochs": 7}')
    shutil.copy(tmp_path / "plain" / "last.ckpt", tmp_path / "trained.ckpt")
    assert "'stopped': False" in ran(tmp_path / "embed.py")
    for command in COMMANDS:
        if command.startswith("python -m wmlightning.ownership commit"):
            assert subprocess.run([sys.executable, *command.split()[1:]], cwd=tmp_path, check=False).returncode == 0
    (verifying,) = (command for command in COMMANDS if command.startswith("python verify.py"))
    asked = verifying.split()[2:]
    assert "OWNED" in ran(REPO / "verify.py", *asked)
    # Exit codes: owned, not shown. The function is one suspect, whatever it loads: three looks share a level.
    for model, alpha, code in (("marked", 0.002, 0), ("trained", 0.003, 1)):
        shutil.copy(tmp_path / f"{model}.ckpt", tmp_path / "model.ckpt")
        ran(REPO / "verify.py", *asked, f"out={model}", "triggers=trained", f"alpha={alpha}", code=code)
