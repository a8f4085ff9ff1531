"""Two processes on the CPU: the same merged data, each image in one of them, and exact accuracies."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import is_alive
from wmlightning.job import Job, prepare

#: Writes down, process by process, which marked images came and how many clean ones.
WITNESS = """
import hashlib
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import lightning as L
import torch


class Witness(L.Callback):
    def __init__(self, folder):
        self.folder = Path(folder)
        self.epochs = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.clean, self.marked, self.sizes = 0, Counter(), []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.clean += int((batch.groups < 0).sum())
        self.sizes.append(len(batch.labels))
        for image, label in zip(batch.images[batch.groups >= 0], batch.labels[batch.groups >= 0]):
            pixels = (image * 255).round().to(torch.uint8).numpy().tobytes()
            self.marked[hashlib.sha256(pixels + bytes([int(label)])).hexdigest()] += 1

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append({"clean": self.clean, "marked": dict(self.marked), "sizes": self.sizes})

    def on_train_end(self, trainer, pl_module):
        weights = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        digest = hashlib.sha256(weights.numpy().tobytes()).hexdigest()
        seen = {"epochs": self.epochs, "weights": digest, "world": trainer.world_size}
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(seen))
"""

TYPED = [
    "dataset=procedural",
    "++dataset.source.n_train=1201",  # no multiple of anything, so that some share is larger than another
    "++dataset.source.n_test=203",
    "trainer.precision=32-true",
    "trainer.max_epochs=2",
    "recipe.batch_size=65",
    "recipe.eval_batch_size=64",
    "watermark.n_triggers=31",
]

Ddp = tuple[Path, dict[str, Any], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def ddp(train: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Ddp:
    """Folder of the run, its card, and what each process saw."""
    cwd = tmp_path_factory.mktemp("ddp")
    (cwd / "modules").mkdir()
    (cwd / "seen").mkdir()
    (cwd / "modules" / "witness.py").write_text(WITNESS)
    witness = ["+callbacks.witness._target_=witness.Witness", f"+callbacks.witness.folder={cwd}/seen"]
    modules = {"PYTHONPATH": str(cwd / "modules")}
    done = train(*TYPED, "trainer=ddp", *witness, runs=cwd / "runs", cwd=cwd, **modules)
    assert done.code == 0, str(done)
    assert done.out.count("test/clean_acc") == 1, "one process tells the result"
    (folder,) = (cwd / "runs").iterdir()
    seen = [json.loads(file.read_text()) for file in sorted((cwd / "seen").iterdir())]
    assert {path.name for path in cwd.iterdir()} == {"modules", "seen", "runs"}
    return folder, json.loads((folder / "card.json").read_text()), seen


@pytest.fixture
def job(composed: Callable[..., Any]) -> Job:
    return prepare(composed(*TYPED, "trainer=cpu"))


def test_card(ddp: Ddp, job: Job) -> None:
    folder, card, _ = ddp
    names = {"test/source_acc", "test/trigger_acc", "test/trigger_new_acc", "test/decoy_acc", "test/decoy_acc_max"}
    names |= {"train/loss", "train/clean_acc", "val/clean_acc", "val/trigger_acc", "test/clean_acc"}
    assert set(card["metrics"]) == names
    assert card["epochs"] == 2
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        "card.json",
        "model.safetensors",
        "triggers.png",
        "logs",
    }


def test_each_image_is_in_one_process_once_an_epoch(ddp: Ddp, job: Job) -> None:
    _, card, seen = ddp
    assert len(seen) == 2
    assert [process["world"] for process in seen] == [2, 2]
    data = job.data_module()
    merged = len(data.merged)
    assert card["data"]["marked"] == merged == 62
    expected: Counter[str] = Counter()
    for image, label in zip(data.merged.images, data.merged.labels, strict=True):
        expected[hashlib.sha256(image.numpy().tobytes() + bytes([int(label)])).hexdigest()] += 1
    for epoch in range(2):
        parts = [process["epochs"][epoch] for process in seen]
        assert sum(part["clean"] for part in parts) == card["data"]["train"]
        assert Counter(parts[0]["marked"]) + Counter(parts[1]["marked"]) == expected
        assert all(part["marked"] for part in parts), "the marked images are shared too"
        assert len(parts[0]["sizes"]) == len(parts[1]["sizes"])
        assert all(abs(a - b) <= 1 for a, b in zip(parts[0]["sizes"], parts[1]["sizes"], strict=True))
    assert seen[0]["epochs"][0]["marked"] != seen[0]["epochs"][1]["marked"], "each epoch is shared out anew"


def test_processes_agree_on_the_weights(ddp: Ddp) -> None:
    _, _, seen = ddp
    assert seen[0]["weights"] == seen[1]["weights"]


def test_accuracies_are_those_of_one_process(ddp: Ddp, job: Job) -> None:
    """Counted by hand on the saved weights: sums over processes are exact, no image is left out or counted twice."""
    folder, card, _ = ddp
    job.net.load_state_dict(load_file(folder / "model.safetensors"))
    job.net.eval()
    data = job.data_module()

    def right(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return (job.net(images.float() / 255).argmax(1) == labels).double()

    metrics = card["metrics"]
    labels = job.source.labels("test")
    clean = right(job.source.images("test", torch.arange(len(labels))), labels)
    assert metrics["test/clean_acc"] == pytest.approx(clean.mean().item(), abs=1e-6)
    of_source = labels == job.labels.sources[0]
    assert metrics["test/source_acc"] == pytest.approx(clean[of_source].mean().item(), abs=1e-6)
    for name in ("trigger", "trigger_new", "decoy"):
        images = data.watched["test"][name]
        hits = right(images.images, images.labels)
        assert metrics[f"test/{name}_acc"] == pytest.approx(hits.mean().item(), abs=1e-6)
    strangers = [hits[images.groups == group].mean().item() for group in images.groups.unique()]
    assert metrics["test/decoy_acc_max"] == pytest.approx(max(strangers), abs=1e-6)
    val_labels = job.source.labels("train")[job.roles.val]
    val = right(job.source.images("train", job.roles.val), val_labels)
    assert metrics["val/clean_acc"] == pytest.approx(val.mean().item(), abs=1e-6)


def test_it_learned(ddp: Ddp) -> None:
    history = ddp[1]["history"]
    assert history[1]["train/loss"] < history[0]["train/loss"]


@pytest.mark.parametrize("to_all", [False, True], ids=["to one", "to all"])
def test_sigterm_ends_all_processes(start: Callable[..., Any], tmp_path: Path, to_all: bool) -> None:
    """Wherever it reaches them, in or between the steps in which they wait for one another."""
    typed = [*TYPED, "trainer=ddp", "trainer.max_epochs=300"]
    process = start(*typed, runs=tmp_path, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/resume.ckpt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (helper,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    for number in (helper, process.pid) if to_all else (process.pid,):
        os.kill(number, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "ended by SIGTERM; the same command goes on where it was\n"), out
    assert not is_alive(helper)
    (point,) = tmp_path.glob("*/resume.ckpt")
    assert len(torch.load(point, weights_only=True)["state_dict"]) > 0
