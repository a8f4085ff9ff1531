"""From somebody's project to a verdict: three lines, a kill, a theft, an answer over the net."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from torchvision.transforms import v2

from tests.conftest import REPO
from tests.foreign.stranger import LINES, diary, write_project
from wmlightning.embed.inputs import picture
from wmlightning.ownership.commitment import write_commitment
from wmlightning.ownership.key import read_key
from wmlightning.ownership.verdict import Verdict
from wmlightning.ownership.verify import verify

pytestmark = pytest.mark.slow

EPOCHS = 7
Start = Callable[..., subprocess.Popen[str]]


def started(start: Start, folder: Path, script: str, name: str, **options: Any) -> subprocess.Popen[str]:
    told = json.dumps({"max_epochs": EPOCHS, "enable_model_summary": False, **options})
    program = (sys.executable, str(folder / script))
    return start(name, told, runs=folder, cwd=folder, program=program, PYTHONPATH=f"{folder}:{REPO}")


def ended(process: subprocess.Popen[str]) -> dict[str, float]:
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err[-3000:]
    metrics: dict[str, float] = json.loads(out.splitlines()[-1])
    return metrics


def killed_in_the_middle_of(epoch: int, process: subprocess.Popen[str], file: Path) -> None:
    """SIGKILL after the twelfth of thirty batches."""
    deadline = time.monotonic() + 300
    while not (file.exists() and f"\n{epoch} 12 " in file.read_text()):
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def project(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained without and with the three lines, the latter killed and resumed on the way."""
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    metrics = {}
    process = started(start, folder, "marked.py", "marked")
    killed_in_the_middle_of(2, process, folder / "marked.diary.0")
    shutil.copy(folder / "marked.diary.0", folder / "before.diary")
    (folder / "marked.diary.0").unlink()
    assert not (folder / "marked.pt").exists()
    metrics["marked"] = ended(started(start, folder, "marked.py", "marked"))
    metrics["plain"] = ended(started(start, folder, "plain.py", "plain"))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_three_lines() -> None:
    assert len(LINES.splitlines()) + 1 == 3


def test_project_is_as_good_as_before(project: Path) -> None:
    metrics = json.loads((project / "metrics.json").read_text())
    assert set(metrics["marked"]) == {*metrics["plain"], "val/trigger_acc"}
    assert metrics["marked"]["val_accuracy"] > metrics["plain"]["val_accuracy"] - 0.08
    assert metrics["plain"]["val_accuracy"] > 0.9
    assert metrics["marked"]["val/trigger_acc"] > 0.9


def test_killed_and_resumed_training_saw_every_trigger(project: Path) -> None:
    before, after = diary(project / "before.diary"), diary(project / "marked.diary.0")
    assert min(after) > (1, 0), "it went on where it was killed"
    assert max(after) == (EPOCHS - 1, 29)
    both = before.keys() & after.keys()
    assert both, "the batches after the last checkpoint came twice"
    assert all(before[at][50:] == after[at][50:] != [] for at in both)
    expected = Counter(names_of(read_key(project / "owner.key").trained.images))
    for epoch in range(EPOCHS):
        rows = [row for at, found in {**before, **after}.items() if at[0] == epoch for row in found[50:]]
        assert Counter(rows) == expected


def names_of(images: Tensor) -> list[str]:
    """What the project's module calls them when they have come along its road of evaluation."""
    finish = [v2.Grayscale(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.45], [0.3])]
    inputs = [v2.Compose(finish)(picture(image)) for image in images]
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16] for image in inputs]


def verdict_on(start: Start, project: Path, name: str, out: Path) -> Verdict:
    """Asks the stolen model over HTTP with nothing but the key, in a folder without the project's data."""
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    program = (sys.executable, str(project / "serve.py"))
    process = start(f"{name}.pt", runs=out, cwd=project, program=program, PYTHONPATH=f"{project}:{REPO}")
    assert process.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert found, process.communicate()[1][-2000:]
    shutil.copy(project / "owner.key", out / "owner.key")
    published = out / "owner.commitment.json"
    write_commitment(read_key(out / "owner.key"), published)
    typed = [f"key={out}/owner.key", f"commitment={published}", "suspect=oip", f"suspect.url={found[0]}"]
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        cfg = compose("verify", [*typed, f"data_dir={out}/nowhere"])
    try:
        (verdict,) = verify(cfg)
    finally:
        process.terminate()
        process.wait(20)
    return verdict


def test_owned(start: Start, project: Path, tmp_path: Path) -> None:
    verdict = verdict_on(start, project, "marked", tmp_path)
    assert verdict.decision == "owned", verdict.text()
    assert verdict.test.startswith("several marks")
    assert verdict.queries <= 40
    assert verdict.committed is not None


def test_not_shown_without_the_three_lines(start: Start, project: Path, tmp_path: Path) -> None:
    verdict = verdict_on(start, project, "plain", tmp_path)
    assert verdict.decision == "not shown", verdict.text()


def test_two_processes_share_the_triggers(start: Start, project: Path) -> None:
    metrics = ended(started(start, project, "marked.py", "ddp", max_epochs=2, strategy="ddp", devices=2))
    names = names_of(read_key(project / "owner.key").trained.images)
    parts = [diary(project / f"ddp.diary.{rank}") for rank in range(2)]
    for epoch in range(2):
        seen = [[row for at, rows in part.items() if at[0] == epoch for row in rows if row in names] for part in parts]
        assert sorted(seen[0] + seen[1]) == sorted(names)
        assert [len(rows) for rows in seen] == [150, 150]
        assert all(len([at for at in part if at[0] == epoch]) == 15 for part in parts), "1,500 images, twice 50 a step"
    assert 0 < metrics["val/trigger_acc"] <= 1
