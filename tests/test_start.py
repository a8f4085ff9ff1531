"""A watermark into a model that is already trained."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from tests.conftest import REPO
from wmlightning import load_run
from wmlightning.job import prepare
from wmlightning.pipeline import train as train_job
from wmlightning.results.fields import Fields
from wmlightning.results.rows import rows_of

Command = Callable[..., Any]

TASK = (
    "dataset=procedural",
    "++dataset.source.n_train=800",
    "++dataset.source.n_test=200",
    "trainer=cpu",
    "trainer.precision=32-true",
    "logger=none",
    "callbacks=none",
)
MARKED = ("watermark=noise", "watermark.n_triggers=50", "watermark.negatives=0", "watermark.n_decoys=2")
FAST = ("trainer.max_epochs=3", "recipe.batch_size=32", "recipe.optimizer.lr=0.001")
EMBED = (*TASK, *MARKED, "recipe=embed", "guard.max_drop=0.1", *FAST)


#: Ends the process, or stops the training, when an epoch begins; only once.
CRASH = """
import os
import signal

import lightning as L


class Crash(L.Callback):
    def __init__(self, path, epoch, kill=False):
        self.path, self.epoch, self.kill = path, epoch, kill

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch and not os.path.exists(self.path):
            open(self.path, "w").close()
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("crash")
"""


@pytest.fixture(scope="module")
def unmarked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run without a watermark."""
    runs = tmp_path_factory.mktemp("unmarked")
    typed = [f"runs_dir={runs}", *TASK, "watermark=none", "trainer.max_epochs=5", "recipe.batch_size=32"]
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        job = prepare(compose("train", [*typed, "trainer.enable_progress_bar=false"]))
    train_job(job, force=False)
    return job.folder


@pytest.fixture
def crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "crash.py").write_text(CRASH)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))

    def options(epoch: int) -> list[str]:
        once = f"+callbacks.crash.path={tmp_path}/once"
        return ["+callbacks.crash._target_=crash.Crash", once, f"+callbacks.crash.epoch={epoch}"]

    return options


def card_of(runs: Path) -> dict[str, Any]:
    (file,) = runs.glob("*/card.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_it_learns_the_triggers_and_keeps_what_it_knew(main: Command, runs: Path, unmarked: Path) -> None:
    before = json.loads((unmarked / "card.json").read_text())
    done = main(*EMBED, f"start={unmarked}", "logger=csv")
    assert done.code == 0, str(done)
    card = card_of(runs)
    assert card["metrics"]["test/trigger_new_acc"] > 0.6
    assert card["metrics"]["test/clean_acc"] > before["metrics"]["test/clean_acc"] - 0.1
    assert card["start"]["run"] == unmarked.name
    guard = card["guard"]
    assert guard["clean_acc_before"] == pytest.approx(before["metrics"]["val/clean_acc"]), "on the same images"
    assert guard["clean_acc"] == card["metrics"]["val/clean_acc"] >= guard["clean_acc_before"] - 0.1
    assert not guard["stopped"]
    assert guard["epochs_kept"] == card["epochs"] == 3
    assert f"{100 * guard['clean_acc_before']:.2f} % before" in done.out
    assert "trained before" in main(*EMBED, f"start={unmarked / 'model.safetensors'}").out, "the same weights"
    (row,) = rows_of(card, "")
    assert row["key"] == "paper, into a trained model"


def test_it_loads_without_what_it_began_from(main: Command, runs: Path, unmarked: Path, tmp_path: Path) -> None:
    start = Path(shutil.copytree(unmarked, tmp_path / "start"))
    assert main(*EMBED, f"start={start}", "trainer.max_epochs=1").code == 0
    shutil.rmtree(start)
    (file,) = runs.glob("*/card.json")
    run = load_run(file.parent)
    images = run.triggers.trained.images.float() / 255
    with torch.no_grad():
        hits = (run.network(images).argmax(1) == run.triggers.trained.labels).float().mean()
    assert float(hits) == pytest.approx(run.card["metrics"]["test/trigger_acc"], abs=1e-6)
    attacked = main(f"victim={file.parent}", "attack=prune", "attack.prune.rates=[0.5]", "recipe=embed", "logger=none")
    assert attacked.code == 0, str(attacked)
    (card,) = file.parent.glob("attacks/*/card.json")
    keys = {row["key"] for row in rows_of(json.loads(card.read_text()), "")}
    assert keys == {"paper, into a trained model"}, "not mixed with models that were trained from scratch"


# -- weights from elsewhere ------------------------------------------------------------------------------------------


def test_weights_in_another_file(main: Command, runs: Path, unmarked: Path, tmp_path: Path) -> None:
    state = load_file(unmarked / "model.safetensors")
    file = tmp_path / "theirs.ckpt"  # as Lightning writes it
    torch.save({"state_dict": {f"net.{name}": value for name, value in state.items()}, "epoch": 3}, file)
    done = main(*EMBED, f"start={file}", "trainer.max_epochs=1")
    assert done.code == 0, str(done)
    card = card_of(runs)
    assert card["start"]["run"] is None
    before = json.loads((unmarked / "card.json").read_text())
    assert card["guard"]["clean_acc_before"] == pytest.approx(before["metrics"]["val/clean_acc"])


def test_mistakes_are_told_before_anything_is_written(
    main: Command, runs: Path, unmarked: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pt").write_text("no weights")
    cases = {
        f"start={tmp_path}/nowhere": "start: there is no",
        f"start={tmp_path}/empty": "start: no finished run in",
        f"start={tmp_path}/text.pt": "start: cannot read",
        "start=null": "guard.max_drop: there is no accuracy to keep",
    }
    for option, expected in cases.items():
        done = main(*EMBED, option)
        assert done.code == 1, str(done)
        assert len(done.errors) == 1, str(done)
        assert expected in done.errors[0]
    done = main(*EMBED, f"start={unmarked}", "model.width=7")
    assert "does not fit the network" in done.errors[0]
    done = main(f"start={unmarked}", f"victim={unmarked}", "attack=prune")
    assert "victim or start" in done.errors[0]
    done = main(*EMBED, f"start={unmarked}", "guard.max_drop=5")
    assert "guard.max_drop: 5 is out of range" in done.errors[0]
    assert not runs.exists()


# -- which model it is -----------------------------------------------------------------------------------------------


def test_start_and_guard_tell_models_apart(composed: Callable[..., Any], unmarked: Path, tmp_path: Path) -> None:
    from wmlightning.store import find_start

    def identity(*more: str, start: Path | None = None) -> dict[str, Any]:
        return prepare(composed(*TASK, *more), start=find_start(start)).identity

    plain = identity()
    assert "start" not in plain
    assert "guard" not in plain, "what is trained from scratch keeps its fingerprint"
    other = Path(shutil.copytree(unmarked, tmp_path / "elsewhere"))
    assert identity(start=unmarked) == identity(start=other), "where it lies does not matter"
    state = load_file(other / "model.safetensors")
    torch.save(state, tmp_path / "other.pt")
    found = [
        plain,
        identity(start=unmarked),
        identity(start=tmp_path / "other.pt"),
        identity("guard.max_drop=0.1", start=unmarked),
        identity("guard.max_drop=0.2", start=unmarked),
    ]
    assert len({json.dumps(one, sort_keys=True) for one in found}) == len(found)


def test_fingerprints_of_trainings_from_scratch_stand(composed: Callable[..., Any]) -> None:
    """There are stores of finished runs: what names them must not move."""
    assert prepare(composed(*TASK, "watermark=none")).fingerprint == "e5e667129212"
    assert prepare(composed(*TASK, *MARKED)).fingerprint == "99af0ece287b"


# -- the guard ---------------------------------------------------------------------------------------------------------


def test_a_model_that_lost_its_accuracy_is_not_kept(main: Command, runs: Path, unmarked: Path) -> None:
    ruinous = (*EMBED, f"start={unmarked}", "recipe.optimizer.lr=5.0", "guard.max_drop=0.01")
    for _ in range(2):  # asked again it says the same, without training again
        done = main(*ruinous)
        assert done.code == 1, str(done)
        assert len(done.errors) == 1, str(done)
        assert "guard.max_drop: clean validation accuracy fell from" in done.errors[0]
        assert "Traceback" not in done.err
        (folder,) = runs.iterdir()
        assert not (folder / "card.json").exists()
        assert not (folder / "model.safetensors").exists()


def test_stopped_training_goes_back_to_the_last_good_weights(
    main: Command, runs: Path, unmarked: Path, tmp_path: Path, crash: Callable[..., list[str]]
) -> None:
    """A schedule that ruins the third epoch: what is kept are the weights that two epochs give."""
    n = 26  # steps an epoch: 760 clean images and 50 triggers in batches of 32
    kind = "_target_:torch.optim.lr_scheduler.MultiStepLR,_partial_:true"
    ruin = [f"recipe.schedule={{{kind},milestones:[{2 * n}],gamma:500}}"]
    typed = (*EMBED, f"start={unmarked}", *ruin, *crash(2))
    (tmp_path / "once").touch()  # not yet
    assert main(*typed, "trainer.max_epochs=2", f"runs_dir={tmp_path}/two").code == 0
    done = main(*typed, "trainer.max_epochs=6")
    assert done.code == 0, str(done)
    card, two = card_of(runs), card_of(tmp_path / "two")
    assert card["guard"]["stopped"]
    assert card["guard"]["epochs_kept"] == 2
    assert card["epochs"] == 3
    assert "back to the weights of epoch 2" in done.out
    assert card["metrics"] == two["metrics"], "metrics are those of the weights that are kept"
    first, second = (next(folder.glob("*/model.safetensors")) for folder in (runs, tmp_path / "two"))
    assert first.read_bytes() == second.read_bytes()

    cut = f"runs_dir={tmp_path}/cut"  # a training that was cut off on the way ends alike
    (tmp_path / "once").unlink()
    assert "RuntimeError: crash" in main(*typed, "trainer.max_epochs=6", cut).err
    assert not list(tmp_path.glob("cut/*/card.json"))
    assert main(*typed, "trainer.max_epochs=6", cut).code == 0
    resumed = card_of(tmp_path / "cut")
    for part in ("metrics", "history", "guard", "fingerprint"):
        assert resumed[part] == card[part], part
    assert next((tmp_path / "cut").glob("*/model.safetensors")).read_bytes() == first.read_bytes()


def test_unmarked_model_to_compare_with_is_what_it_began_from(main: Command, runs: Path, unmarked: Path) -> None:
    short = ("attack=inversion", "attack.inversion.steps=2", "attack.inversion.restarts=1", "judge.n_strangers=3")
    done = main(*EMBED, f"start={unmarked}", "trainer.max_epochs=1", *short)
    assert done.code == 0, str(done)
    (folder,) = runs.iterdir()
    (card,) = folder.glob("attacks/*/card.json")
    assert Fields(json.loads(card.read_text())).part("findings").part("twin").has("score")


@pytest.mark.slow
def test_killed_by_the_system(
    start: Callable[..., subprocess.Popen[str]], train: Command, unmarked: Path, tmp_path: Path
) -> None:
    (tmp_path / "crash.py").write_text(CRASH)
    place: dict[str, Any] = {"cwd": tmp_path, "PYTHONPATH": str(tmp_path)}
    deadly = ["+callbacks.crash._target_=crash.Crash", f"+callbacks.crash.path={tmp_path}/once"]
    typed = [*EMBED, f"start={unmarked}", *deadly, "+callbacks.crash.epoch=2", "+callbacks.crash.kill=true"]
    (tmp_path / "once").touch()  # not yet
    assert train(*typed, runs=tmp_path / "whole", **place).code == 0
    (tmp_path / "once").unlink()
    process = start(*typed, runs=tmp_path / "killed", **place)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("killed/*/card.json"))
    assert train(*typed, runs=tmp_path / "killed", **place).code == 0
    first, second = (next(tmp_path.glob(f"{name}/*/model.safetensors")) for name in ("whole", "killed"))
    assert first.read_bytes() == second.read_bytes()
    cards = [card_of(tmp_path / name) for name in ("whole", "killed")]
    assert cards[0]["guard"] == cards[1]["guard"]


@pytest.mark.slow
@pytest.mark.parametrize("lr", [0.001, 5.0])
def test_two_processes_decide_alike(train: Command, unmarked: Path, tmp_path: Path, lr: float) -> None:
    typed = [option for option in EMBED if option != "trainer=cpu"]
    typed += ["trainer=ddp", f"start={unmarked}", f"recipe.optimizer.lr={lr}"]
    done = train(*typed, runs=tmp_path / "runs", cwd=tmp_path)
    if lr < 1:
        assert done.code == 0, str(done)
        assert card_of(tmp_path / "runs")["guard"]["epochs_kept"] == 3
    else:
        assert done.code == 1, str(done)
        assert len(done.errors) == 1, "one process tells it"
        assert not list(tmp_path.glob("runs/*/card.json"))
