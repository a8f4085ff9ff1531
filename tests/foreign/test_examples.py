"""The examples, as a user runs them: they train, and prove whose the model is."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO

pytestmark = pytest.mark.slow

Train = Callable[..., Any]


def ran(train: Train, cwd: Path, example: str, *arguments: str, **env: str) -> str:
    program = (sys.executable, str(REPO / "examples" / example))
    done = train(*arguments, runs=cwd, cwd=cwd, program=program, timeout=580, PYTHONPATH=str(REPO), **env)
    assert done.code == 0, str(done)
    out: str = done.out
    return out


def told(out: str, name: str) -> float:
    found = re.search(rf"'{name}': ([\d.]+)", out)
    assert found, out
    return float(found[1])


@pytest.mark.parametrize("example", ["torchvision_finetune/finetune.py", "huggingface_parquet/train.py"])
def test_three_lines_know_of_us_until_the_owner_verifies(example: str) -> None:
    code = (REPO / "examples" / example).read_text().split('"""', 2)[2]
    training, verifying = code.split("\ndef verify(")
    lines = [line for line in training.splitlines() if "wmlightning" in line]
    assert [line[-1] for line in lines if "# ours, " in line] == ["1", "2", "3"]
    assert len(lines) == 3
    assert "wmlightning.ownership.verify" in verifying


def test_class_folders_and_a_torchvision_network(train: Train, tmp_path: Path) -> None:
    ran(train, tmp_path, "torchvision_finetune/make_folder.py", "digits", "--train", "2400", "--val", "400")
    out = ran(train, tmp_path, "torchvision_finetune/finetune.py", "digits", "--epochs", "4")
    assert told(out, "val/acc") > 0.8
    assert told(out, "val/trigger_acc") > 0.8
    assert "OWNED: finetuned/model.ts" in out
    assert (tmp_path / "finetuned" / "owner.key").is_file()


def test_hugging_face_parquet(train: Train, tmp_path: Path, data_dir: Path) -> None:
    pytest.importorskip("datasets", reason="the extra examples is not installed")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "WML_DATA_DIR": str(data_dir)}
    out = ran(train, tmp_path, "huggingface_parquet/train.py", "--images", "4000", "--epochs", "5", **offline)
    assert told(out, "val/acc") > 0.35
    assert told(out, "val/trigger_acc") > 0.6
    assert "OWNED: __main__:stolen" in out
