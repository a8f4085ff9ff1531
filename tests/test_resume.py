"""A killed training goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from wmlightning.models.classifier import Classifier

Outcome = Any

DIARY = '''
import os

import lightning as L


class Diary(L.Callback):
    """Notes what begins, on a line of its own, written at once."""

    def __init__(self, path):
        self.path = path

    def note(self, what):
        with open(self.path, "a") as file:
            file.write(f"{os.getpid()} {what}\\n")

    def on_train_start(self, trainer, pl_module):
        self.note("start")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.note(f"epoch {trainer.current_epoch}")
'''

EPOCHS = 6
TYPED = [
    "dataset=procedural",
    "++dataset.source.n_train=2500",
    "++dataset.source.n_test=300",
    "trainer=cpu",
    "trainer.precision=32-true",
    f"trainer.max_epochs={EPOCHS}",
    "recipe.batch_size=64",
    "+callbacks.diary._target_=diary.Diary",
    "+callbacks.diary.path=diary.txt",  # in the working folder: the same command everywhere
]


def diary(cwd: Path) -> list[str]:
    """What began, without who began it."""
    return [line.split(" ", 1)[1] for line in (cwd / "diary.txt").read_text().splitlines()]


def place(cwd: Path) -> dict[str, Any]:
    (cwd / "modules").mkdir(parents=True, exist_ok=True)
    (cwd / "modules" / "diary.py").write_text(DIARY)
    return {"runs": cwd / "runs", "cwd": cwd, "PYTHONPATH": str(cwd / "modules")}


def only_run(cwd: Path) -> Path:
    (folder,) = (cwd / "runs").iterdir()
    return folder


@pytest.fixture(scope="module")
def pair(
    start: Callable[..., subprocess.Popen[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """Two processes with the same command at the same time: where, and what they printed."""
    cwd = tmp_path_factory.mktemp("pair")
    both = [start(*TYPED, **place(cwd)) for _ in range(2)]
    outs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    return cwd, [out for out, _ in outs]


@pytest.fixture(scope="module")
def undisturbed(pair: tuple[Path, list[str]]) -> Path:
    return pair[0]


@pytest.fixture(scope="module")
def killed(
    start: Callable[..., subprocess.Popen[str]],
    train: Callable[..., Outcome],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[float]]:
    """Killed twice, somewhere between two epochs' ends; then left alone. Folder, and the moments of the kills."""
    cwd = tmp_path_factory.mktemp("killed")
    moments = [random.uniform(0, 0.3), random.uniform(0, 0.6)]
    stamp = 0
    for moment in moments:
        process = start(*TYPED, **place(cwd))
        deadline = time.monotonic() + 120
        while True:  # until a resume point appears that was not there before
            points = list(cwd.glob("runs/*/resume.ckpt"))
            if points and (newest := points[0].stat().st_mtime_ns) != stamp:
                stamp = newest
                break
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "no resume point within two minutes"
            time.sleep(0.002)
        time.sleep(moment)
        assert process.poll() is None, "the training was over before it could be killed"
        process.kill()
        process.communicate()
        stamp = points[0].stat().st_mtime_ns if points[0].exists() else stamp
        assert not list(cwd.glob("runs/*/card.json")), "a card says that a run is finished"
    done = train(*TYPED, **place(cwd))
    assert done.code == 0, str(done)
    return cwd, moments


def test_weights_are_the_same_to_the_bit(undisturbed: Path, killed: tuple[Path, list[float]]) -> None:
    cwd, moments = killed
    first, second = (only_run(folder) / "model.safetensors" for folder in (undisturbed, cwd))
    assert first.read_bytes() == second.read_bytes(), f"killed {moments} s after the ends of epochs"


def test_card_is_the_same(undisturbed: Path, killed: tuple[Path, list[float]]) -> None:
    first, second = (json.loads((only_run(folder) / "card.json").read_text()) for folder in (undisturbed, killed[0]))
    assert len(first["history"]) == EPOCHS
    for part in ("metrics", "history", "fingerprint", "identity", "data", "epochs"):
        assert first[part] == second[part], part


def test_finished_epochs_are_not_trained_again(killed: tuple[Path, list[float]]) -> None:
    begun = diary(killed[0])
    assert begun.count("start") == 3
    assert begun.count("epoch 0") == 1
    assert {f"epoch {epoch}" for epoch in range(EPOCHS)} < set(begun)
    assert len(begun) - 3 <= EPOCHS + 2, "each kill costs the epoch it fell into, and no more"


def test_log_has_every_epoch(undisturbed: Path, killed: tuple[Path, list[float]]) -> None:
    logs = [pd.read_csv(only_run(folder) / "logs" / "metrics.csv") for folder in (undisturbed, killed[0])]
    whole, resumed = (log.dropna(subset=["val/clean_acc"])["epoch"].tolist() for log in logs)
    assert whole == list(range(EPOCHS))
    assert sorted(set(resumed)) == whole


def test_nothing_is_left_over(killed: tuple[Path, list[float]]) -> None:
    files = {path.name for path in only_run(killed[0]).iterdir() if not path.name.startswith(".")}
    assert files == {"card.json", "model.safetensors", "triggers.png", "logs"}


# -- resume points that are none -------------------------------------------------------------------------------------


class _Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def begun(main: Callable[..., Outcome], small: list[str], runs: Path) -> Path:
    """The folder of a run that has weights and triggers but no card."""
    assert main(*small).code == 0
    (card,) = runs.glob("*/card.json")
    card.unlink()
    return card.parent


@pytest.mark.parametrize("form", ["torch", "legacy torch", "pickle"])
def test_code_in_a_resume_point_is_not_run(
    main: Callable[..., Outcome], small: list[str], begun: Path, tmp_path: Path, form: str
) -> None:
    proof = tmp_path / "executed"
    content = {"state_dict": {}, "epoch": 0, "global_step": 0, "payload": _Code(proof)}
    if form == "pickle":
        (begun / "resume.ckpt").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, begun / "resume.ckpt", _use_new_zipfile_serialization=form == "torch")
    done = main(*small)
    assert not proof.exists(), "somebody else's code was run"
    refused(done, begun)


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000])
def test_spoiled_resume_point(main: Callable[..., Outcome], small: list[str], begun: Path, content: bytes) -> None:
    (begun / "resume.ckpt").write_bytes(content)
    refused(main(*small), begun)


def test_half_a_resume_point(main: Callable[..., Outcome], small: list[str], begun: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(10000)}}, begun / "resume.ckpt")
    whole = (begun / "resume.ckpt").read_bytes()
    (begun / "resume.ckpt").write_bytes(whole[: len(whole) // 2])
    refused(main(*small), begun)


def refused(done: Outcome, folder: Path) -> None:
    """One line that says which file is wrong and what to do; the file stays for whoever wants to look at it."""
    assert done.code == 1, str(done)
    assert "Traceback" not in done.out + done.err, str(done)
    assert len(done.errors) == 1, str(done)
    assert "resume.ckpt" in done.errors[0]
    assert "force=true" in done.errors[0] or "remove" in done.errors[0]
    assert (folder / "resume.ckpt").exists()
    assert not (folder / "card.json").exists()


def test_force_gets_rid_of_a_spoiled_resume_point(main: Callable[..., Outcome], small: list[str], begun: Path) -> None:
    (begun / "resume.ckpt").write_bytes(b"garbage")
    done = main(*small, "force=true")
    assert done.code == 0, str(done)
    assert (begun / "card.json").exists()
    assert not (begun / "resume.ckpt").exists()


# -- killed when all epochs are there --------------------------------------------------------------------------------

LAST = '''
import os
from pathlib import Path

import lightning as L


class Last(L.Callback):
    """Ends like a kill once a test has begun, until a file says not to."""

    def __init__(self, path):
        self.path = Path(path)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.path.exists():
            raise RuntimeError("an epoch is trained again")

    def on_test_start(self, trainer, pl_module):
        if not self.path.exists():
            self.path.touch()
            raise RuntimeError("crash")
'''


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["+callbacks.ema._target_=lightning.pytorch.callbacks.EMAWeightAveraging", "+callbacks.ema.decay=0.9"],
        [
            "+callbacks.early._target_=lightning.pytorch.callbacks.EarlyStopping",
            "+callbacks.early.monitor=train/loss",
            "+callbacks.early.mode=max",
            "+callbacks.early.patience=1",
            "trainer.max_epochs=5",
        ],
    ],
    ids=["plain", "averages", "stopped early"],
)
def test_killed_between_fitting_and_the_card(
    main: Callable[..., Outcome],
    small: list[str],
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
) -> None:
    """It is tested with the weights that fitting ended with; not an epoch is trained again."""
    (tmp_path / "last.py").write_text(LAST)
    monkeypatch.syspath_prepend(str(tmp_path))
    once = tmp_path / "once"
    typed = [
        *small,
        "trainer.max_epochs=2",
        *more,
        "+callbacks.last._target_=last.Last",
        f"+callbacks.last.path={once}",
    ]
    assert "RuntimeError: crash" in main(*typed).err
    folder = only_run(tmp_path)
    assert not (folder / "card.json").exists()
    assert main(*typed).code == 0
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        "card.json",
        "model.safetensors",
        "triggers.png",
        "logs",
    }
    resumed, weights = json.loads((folder / "card.json").read_text()), (folder / "model.safetensors").read_bytes()
    log = pd.read_csv(folder / "logs" / "metrics.csv")
    shutil.rmtree(runs)
    once.unlink()
    typed[-2:] = ["+callbacks.last._target_=lightning.Callback"]
    assert main(*typed).code == 0
    whole = only_run(tmp_path)
    assert (whole / "model.safetensors").read_bytes() == weights
    card = json.loads((whole / "card.json").read_text())
    for part in ("metrics", "history", "epochs"):
        assert card[part] == resumed[part], part
    pd.testing.assert_series_equal(
        log.iloc[-1],
        pd.read_csv(whole / "logs" / "metrics.csv").iloc[-1],
        check_index=False,
        check_names=False,
    )


def test_spoiled_weights_of_an_ended_fitting(main: Callable[..., Outcome], small: list[str], begun: Path) -> None:
    (begun / "fitted.safetensors").write_bytes((begun / "model.safetensors").read_bytes()[:500])
    done = main(*small)
    assert done.code == 1, str(done)
    assert len(done.errors) == 1, str(done)
    assert "fitted.safetensors" in done.errors[0]
    assert main(*small, "force=true").code == 0


# -- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "code", "told"),
    [
        (signal.SIGINT, 130, "interrupted; the same command goes on where it was"),
        (signal.SIGTERM, 143, "ended by SIGTERM; the same command goes on where it was"),
    ],
)
def test_a_training_ended_by_a_signal_says_so_and_goes_on(
    main: Callable[..., Outcome],
    small: list[str],
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    sent: signal.Signals,
    code: int,
    told: str,
) -> None:
    step = Classifier.training_step
    epochs = []

    def noted(self: Classifier, *args: Any) -> Any:
        epochs.append(self.current_epoch)
        if len(epochs) > 1 and epochs[-2] == 0 and epochs[-1] == 1:
            os.kill(os.getpid(), sent)
        return step(self, *args)

    monkeypatch.setattr(Classifier, "training_step", noted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what they put aside ignore it
    try:
        done = main(*small, "trainer.max_epochs=3")
        assert (done.code, done.err.splitlines()) == (code, [told]), str(done)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the next one is answered too"
    finally:
        signal.signal(signal.SIGINT, before)
    assert not list(runs.glob("*/card.json"))
    epochs.clear()
    assert main(*small, "trainer.max_epochs=3").code == 0
    assert set(epochs) == {1, 2}


@pytest.mark.parametrize("where", ["wmlightning.job.Job.data_module", "wmlightning.attacks.execution._remove"])
def test_sigterm_before_and_after_the_training_says_so_too(
    main: Callable[..., Outcome], small: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    typed = [*small, "attack=prune", "attack.prune.rates=[0.5]"]
    with monkeypatch.context() as patch:
        patch.setattr(where, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        done = main(*typed)
    assert done.code == 143, str(done)
    assert done.err == "ended by SIGTERM; the same command goes on where it was\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert not list(runs.glob("*/attacks/*/card.json"))
    assert main(*typed).code == 0
    assert len(list(runs.glob("*/attacks/*/card.json"))) == 1


# -- two at once -----------------------------------------------------------------------------------------------------


def test_two_processes_train_one_model_once(pair: tuple[Path, list[str]]) -> None:
    cwd, outs = pair
    assert diary(cwd).count("start") == 1
    assert [line for line in diary(cwd) if line != "start"] == [f"epoch {epoch}" for epoch in range(EPOCHS)]
    short, long = sorted(outs, key=len)
    assert long.endswith(short), "both show the same card"
    assert only_run(cwd).name in outs[0]


def test_a_lock_left_by_a_killed_process_locks_nobody_out(
    main: Callable[..., Outcome], small: list[str], begun: Path
) -> None:
    shutil.rmtree(begun)
    begun.mkdir()
    (begun / ".lock").write_text("1")
    assert main(*small).code == 0
    assert (begun / "card.json").exists()
