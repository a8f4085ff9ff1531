"""The store: each model trained once, each attack done once, whatever is killed, cut off or hostile."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.attacks.conftest import TASK, copy_of
from wmlightning import load_run
from wmlightning.attacks.judge import Judge
from wmlightning.errors import UserError
from wmlightning.pipeline import run

Command = Callable[..., Any]
FAST = ("attack=prune", "attack.prune.rates=[0.5,0.9]")


@pytest.fixture
def copied(victim_folder: Path, runs: Path) -> Path:
    """A copy of the trained victim where the command looks for it."""
    runs.mkdir()
    return copy_of(victim_folder, runs)


def card_of(folder: Path, attack: str = "prune") -> dict[str, Any]:
    (card,) = cards_of(folder, attack)
    return card


def cards_of(folder: Path, attack: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in folder.glob(f"attacks/{attack}-*/card.json")]


def metrics(card: dict[str, Any]) -> list[dict[str, float]]:
    return [row["metrics"] for row in card["curve"]]


# -- found instead of done again -------------------------------------------------------------------------------------


def test_finished_model_is_attacked_without_training(main: Command, copied: Path) -> None:
    weights = copied / "model.safetensors"
    before = weights.stat().st_mtime_ns
    done = main(*TASK, "attack=[prune,finetune]", *FAST[1:], "attack.finetune.epochs=1")
    assert done.code == 0, str(done)
    assert "trained before" in done.out
    assert weights.stat().st_mtime_ns == before
    assert {folder.name.split("-")[0] for folder in (copied / "attacks").iterdir()} == {"prune", "finetune"}
    assert len(card_of(copied)["curve"]) == 2

    stamps = {path: path.stat().st_mtime_ns for path in copied.rglob("*.safetensors")}
    again = main(*TASK, "attack=[prune,finetune]", *FAST[1:], "attack.finetune.epochs=1")
    assert again.out.count("carried out before") == 2
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*.safetensors")} == stamps

    forced = main(*TASK, *FAST, "force=true")
    assert "carried out before" not in forced.out
    assert weights.stat().st_mtime_ns == before, "force redoes what the command names last: the attack"


def test_weights_that_were_not_kept_are_made_when_they_are_wanted(main: Command, copied: Path) -> None:
    assert main(*TASK, *FAST, "judge.keep_surrogates=false").code == 0
    first = card_of(copied)
    kept = main(*TASK, *FAST)
    assert "carried out before" not in kept.out
    assert metrics(card_of(copied)) == metrics(first)
    assert all((next(copied.glob("attacks/prune-*")) / row["weights"]).is_file() for row in card_of(copied)["curve"])
    for wanted in ("true", "false"):
        assert "carried out before" in main(*TASK, *FAST, f"judge.keep_surrogates={wanted}").out


def test_a_victim_is_attacked_with_the_data_it_was_trained_on(main: Command, copied: Path) -> None:
    card = json.loads((copied / "card.json").read_text())
    card["identity"]["data"] = {**card["identity"]["data"], "n": 3}
    (copied / "card.json").write_text(json.dumps(card))
    done = main(f"victim={copied}", *FAST)
    assert done.code == 1
    assert re.search(r"^error: victim: it was trained on data .*, here are .*; the same data$", done.err, re.MULTILINE)
    assert not (copied / "attacks").exists()
    with pytest.raises(UserError, match=r"^path: it was trained on data"):
        load_run(copied).triggers  # noqa: B018


@pytest.mark.parametrize("odd", [{"curve": None}, {"curve": [3]}, {"curve": 3}])
def test_a_card_that_lacks_its_rows_is_made_anew(main: Command, copied: Path, odd: dict[str, Any]) -> None:
    assert main(*TASK, *FAST).code == 0
    (file,) = copied.glob("attacks/prune-*/card.json")
    whole = json.loads(file.read_text())
    file.write_text(json.dumps({**whole, **odd}))
    done = main(*TASK, *FAST)
    assert done.code == 0, str(done)
    assert metrics(card_of(copied)) == metrics(whole)


@pytest.mark.parametrize("told", ["\x1b[31mred\n", "x" * 10**5, [3], {"name": "\x1b[31m"}])
def test_what_a_card_says_of_its_data_is_shown_as_text(main: Command, copied: Path, told: Any) -> None:
    card = json.loads((copied / "card.json").read_text())
    card["identity"]["data"] = told
    (copied / "card.json").write_text(json.dumps(card))
    done = main(f"victim={copied}", *FAST)
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert line.startswith("error: victim: it was trained on data ")
    assert len(line) < 1000 and "\x1b" not in line


def test_the_unmarked_model_is_looked_for_beside_the_victim(main: Command, copied: Path, tmp_path: Path) -> None:
    attack = ("attack=inversion", "attack.inversion.steps=2", "attack.inversion.restarts=1", "judge.n_strangers=3")
    elsewhere = main(f"victim={copied}", *attack, f"runs_dir={tmp_path / 'other'}")
    assert elsewhere.code == 0, str(elsewhere)
    assert "no unmarked model to compare with" in elsewhere.out
    assert card_of(copied, "inversion")["findings"]["twin"] is None
    trained = main(*TASK, *attack, "judge.unmarked=true")  # trains it, and looks again
    assert trained.code == 0, str(trained)
    assert "carried out before" not in trained.out
    assert card_of(copied, "inversion")["findings"]["twin"] is not None
    again = main(f"victim={copied}", *attack, f"runs_dir={tmp_path / 'other'}", "force=true")
    assert "no unmarked model" not in again.out
    assert card_of(copied, "inversion")["findings"]["twin"] is not None


def test_sweep_trains_each_model_once(main: Command, runs: Path, small: list[str]) -> None:
    sweep = ["-m", *small, "watermark=noise,content", "attack=prune,inversion", "judge.unmarked=false"]
    sweep += ["++attack.inversion.steps=2", "watermark.n_decoys=2", "logger=none", "callbacks=none"]
    done = main(*sweep)
    assert done.code == 0, str(done)
    models = [folder for folder in runs.iterdir() if (folder / "model.safetensors").exists()]
    assert len(models) == 2
    assert done.out.count("trained before") == 2
    assert len(list(runs.glob("*/attacks/*/card.json"))) == 4


def test_unmarked_model_is_trained_once_to_compare_with(main: Command, copied: Path, runs: Path) -> None:
    short = ("attack=inversion", "attack.inversion.steps=3", "attack.inversion.restarts=1", "judge.unmarked=true")
    done = main(*TASK, *short)
    assert done.code == 0, str(done)
    card = card_of(copied, "inversion")
    assert {"score", "p_value", "ssim", "ssim_p_value"} <= set(card["findings"]["twin"])
    (folder,) = copied.glob("attacks/inversion-*")
    assert (folder / "inversion.png").read_bytes().startswith(b"\x89PNG")
    names = sorted(path.parent.name for path in runs.glob("*/card.json"))
    assert [name.split("-")[1] for name in names] == ["noise", "none"]
    assert "trained before" in main(*TASK, "watermark=none").out, "the twin is the model that watermark=none trains"


def test_unmarked_model_is_attacked_once(main: Command, copied: Path, runs: Path) -> None:
    """What the attack recovers from it is kept for the next watermark, and is the same as if it were done again."""
    short = ("attack=inversion", "attack.inversion.steps=3", "attack.inversion.restarts=1", "judge.unmarked=true")
    assert main(*TASK, *short).code == 0
    (kept,) = runs.glob("*/recovered/*.safetensors")
    assert "-none-" in kept.parents[1].name
    first, whole = card_of(copied, "inversion")["findings"], kept.read_bytes()

    parts = load_file(kept)
    save_file({**parts, "images": 1 - parts["images"]}, kept)
    assert main(*TASK, *short, "judge.n_strangers=50").code == 0, "another judge: the attack is done again"
    taken = next(c for c in cards_of(copied, "inversion") if c["findings"]["n_null"] == 50)
    assert taken["findings"]["twin"]["score"] == pytest.approx(-first["twin"]["score"]), "what is kept was not taken"
    assert taken["findings"]["score"] == first["score"]

    kept.write_bytes(whole[: len(whole) // 2])
    assert main(*TASK, *short, "judge.n_strangers=51").code == 0
    again = next(c for c in cards_of(copied, "inversion") if c["findings"]["n_null"] == 51)
    assert again["findings"]["twin"]["score"] == first["twin"]["score"]
    assert kept.read_bytes() == whole

    save_file({**parts, "images": parts["images"][:, :, :, 1:].contiguous()}, kept)
    assert main(*TASK, *short, "judge.n_strangers=52").code == 0
    assert kept.read_bytes() == whole, "pictures of another size are none of this attack's"

    def refuse(*_: Any) -> None:
        raise PermissionError

    kept.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wmlightning.attacks.twin.write_bytes", refuse)
        assert main(*TASK, *short, "judge.n_strangers=53").code == 0, "the unmarked run is another user's"
    assert not kept.exists()

    save_file({**parts, "images": 1 - parts["images"]}, kept)
    assert main(*TASK, *short, "force=true").code == 0
    assert kept.read_bytes() == whole, "force does it again"
    assert main(*TASK, *short, "attack.inversion.steps=4").code == 0
    assert len(list(kept.parent.iterdir())) == 2, "another attack finds something else"


# -- victims from elsewhere ------------------------------------------------------------------------------------------


def test_unmarked_model_beside_an_owners_key(composed_task: Callable[..., Any], tmp_path: Path) -> None:
    """The twin has no key: it must not be held against the owner's."""
    typed = [
        f"runs_dir={tmp_path / 'runs'}",
        f"key={tmp_path / 'owner.key'}",
        "attack=inversion",
        "judge.unmarked=true",
    ]
    short = ("trainer.max_epochs=1", "attack.inversion.steps=2", "attack.inversion.restarts=1")
    card = run(composed_task(*typed, *short))
    assert card["identity"]["key"]
    twins = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*-none-*/card.json")]
    assert [twin["identity"].get("key") for twin in twins] == [None]


def test_run_folder_as_victim(main: Command, copied: Path, tmp_path: Path, data_dir: Path) -> None:
    elsewhere = Path(shutil.move(copied, tmp_path / "sent by mail"))
    done = main(f"victim='{elsewhere}'", *FAST, "logger=none")
    assert done.code == 0, str(done)
    assert card_of(elsewhere)["victim"]["name"] == copied.name
    straight = main(*TASK, *FAST)  # trains it here, then attacks
    assert straight.code == 0
    assert metrics(card_of(copied)) == metrics(card_of(elsewhere))


@pytest.mark.parametrize("how", ["safetensors", "torch", "inner", "lightning"])
def test_weights_as_victim(main: Command, copied: Path, runs: Path, tmp_path: Path, how: str) -> None:
    state = load_file(copied / "model.safetensors")
    path = tmp_path / ("weights.safetensors" if how == "safetensors" else "weights.pt")
    if how == "safetensors":
        save_file(state, path)
    elif how == "torch":
        torch.save(state, path)
    elif how == "inner":
        torch.save({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")}, path)
    else:
        torch.save({"epoch": 3, "state_dict": {f"net.{k}": v for k, v in state.items()}}, path)
    done = main(*TASK, f"victim={path}", *FAST)
    assert done.code == 0, str(done)
    (folder,) = runs.glob("*-file-*")
    own = main(*TASK, *FAST)
    assert own.code == 0
    assert metrics(card_of(folder)) == metrics(card_of(copied))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.unlink(), "there is no"),
        (lambda path: path.write_bytes(b"PK\x03\x04 nothing"), "cannot read"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "cannot read"),
        (lambda path: torch.save({"net.weight": torch.zeros(3)}, path), "does not fit"),
        (lambda path: torch.save([1, 2], path), "holds more or other than tensors"),
        (lambda path: torch.save({"a": "text"}, path), "holds more or other than tensors"),
    ],
)
def test_weights_that_are_none(main: Command, tmp_path: Path, spoil: Callable[[Path], Any], told: str) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"net.weight": torch.zeros(300)}, path)
    spoil(path)
    done = main(*TASK, f"victim={path}", *FAST)
    (line,) = done.errors
    assert line.startswith("error: victim: ")
    assert told in line


def test_victim_without_attack(main: Command, copied: Path) -> None:
    (line,) = main(f"victim={copied}").errors
    assert line == "error: victim: there is nothing to do to it; say which attack="


# -- hostile and damaged ---------------------------------------------------------------------------------------------


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_hostile_pickle_runs_nothing(main: Command, tmp_path: Path) -> None:
    fuse = tmp_path / "executed"
    for name, write in (("a.pt", torch.save), ("b.ckpt", lambda x, p: Path(p).write_bytes(pickle.dumps(x)))):
        write({"state_dict": {"net.weight": Bomb(fuse)}}, tmp_path / name)
        (line,) = main(*TASK, f"victim={tmp_path / name}", *FAST).errors
        assert line.startswith("error: victim: cannot read")
        assert not fuse.exists()


def change(folder: Path, *keys: str, value: Any) -> None:
    path = folder / "card.json"
    card = json.loads(path.read_text())
    node = card
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    path.write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("config", "model", "_target_"), "os.system"),
        (("config", "model", "hidden"), {"_target_": "os.system", "command": "touch executed"}),
        (("config", "model", "_target_"), "wmlightning.job.inspect.os.system"),
        (("config", "model", "_target_"), "wmlightning.config.make"),
        (("config", "dataset", "source", "reader"), {"_target_": "builtins.eval", "_args_": ["open('executed','w')"]}),
        (("config", "dataset", "source", "name"), "${oc.env:HOME}"),
        (("config", "recipe", "augment"), [{"_target_": "subprocess.run"}]),
        (("config", "watermark", "${oc.env:HOME}"), 1),
        (("config", "trainer", "profiler"), {"_target_": "subprocess.run", "args": "touch executed"}),
    ],
)
def test_foreign_targets_run_nothing(main: Command, copied: Path, keys: tuple[str, ...], value: Any) -> None:
    change(copied, *keys, value=value)
    (line,) = main(f"victim={copied}", *FAST).errors
    assert line.startswith("error: victim: its config ")
    with pytest.raises(UserError, match=r"^path: its config"):
        load_run(copied)
    assert not Path("executed").exists()


def test_trusted_target_of_ones_own(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_net.py").write_text(
        "from wmlightning.models.networks import SmallCNN\nclass Own(SmallCNN): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    change(copied, "config", "model", "_target_", value="own_net.Own")
    with pytest.raises(UserError, match="trust="):
        load_run(copied)
    assert type(load_run(copied, trust=["own_net.Own"]).network.net).__name__ == "Own"


def test_odd_cards_of_victims(main: Command, copied: Path) -> None:
    whole = (copied / "card.json").read_text()
    for text in (whole[: len(whole) // 2], "[]", "{}", '{"schema": 1}', '{"schema": 1, "kind": "train"}', "\x00"):
        (copied / "card.json").write_text(text)
        (line,) = main(f"victim={copied}", *FAST).errors
        assert line.startswith("error: victim: ")
    (copied / "card.json").write_text(whole)
    change(copied, "schema", value=99)
    (line,) = main(f"victim={copied}", *FAST).errors
    assert "schema 99" in line


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("name",), None),
        (("fingerprint",), 3),
        (("config", "seed"), "x"),
        (("config", "dataset"), {}),
        (("config", "dataset", "source"), 5),
        (("config", "dataset", "mean"), None),
        (("config", "dataset", "classes"), []),
        (("config", "watermark"), {}),
        (("config", "watermark", "n_marks"), {"a": 1}),
        (("config", "model"), {"_target_": None}),
        (("config", "recipe"), {}),
        (("config", "trainer"), [1]),
        (("precision",), None),
        (("identity",), 7),
    ],
)
def test_cards_with_parts_missing_or_odd_are_told_in_one_line(
    main: Command, copied: Path, keys: tuple[str, ...], value: Any
) -> None:
    change(copied, *keys, value=value)
    done = main(f"victim={copied}", *FAST, "logger=none")
    assert "Traceback" not in done.out + done.err
    assert done.code == 0 or (done.code == 1 and len(done.errors) == 1), str(done)
    try:
        _ = load_run(copied).triggers
    except UserError as error:
        assert "; " in str(error)


def test_a_name_with_markup_is_printed_as_it_is(main: Command, copied: Path) -> None:
    change(copied, "name", value="stolen [/bold] [red]")
    done = main(f"victim={copied}", *FAST, "logger=none")
    assert done.code == 0, str(done)
    assert "prune on stolen [/bold] [red]" in " ".join(done.out.split())


def test_truncated_attack_card_is_done_again_and_a_newer_one_is_kept(main: Command, copied: Path) -> None:
    assert main(*TASK, *FAST).code == 0
    (path,) = copied.glob("attacks/prune-*/card.json")
    first = metrics(card_of(copied))
    path.write_text(path.read_text()[:100])
    done = main(*TASK, *FAST)
    assert "carried out before" not in done.out
    assert metrics(card_of(copied)) == first
    change(path.parent, "schema", value=99)
    text = path.read_text()
    (line,) = main(*TASK, *FAST).errors
    assert "schema 99" in line
    assert path.read_text() == text, "nothing lost"


# -- killed ----------------------------------------------------------------------------------------------------------

SLOW = ("attack=finetune", "attack.finetune.epochs=12", "attack.finetune.learning_rates=[0.01,0.1]")


def test_killed_attack_starts_over_and_never_counts(start: Command, main: Command, copied: Path, runs: Path) -> None:
    process = start(*TASK, *SLOW, runs=runs, cwd=runs)
    deadline = time.monotonic() + 120
    while not list(copied.glob("attacks/finetune-*/surrogate-003.safetensors")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(copied.glob("attacks/*/card.json"))
    trained = (copied / "model.safetensors").stat().st_mtime_ns
    done = main(*TASK, *SLOW)
    assert done.code == 0, str(done)
    assert len(card_of(copied, "finetune")["curve"]) == 24
    assert (copied / "model.safetensors").stat().st_mtime_ns == trained


KILLED_IN_THE_CARD = """
import os, signal, sys
import wmlightning.files as files
sync = os.fsync
def fsync(handle):
    if "card.json" in os.readlink(f"/proc/self/fd/{handle}"):
        os.kill(os.getpid(), signal.SIGKILL)
    sync(handle)
files.os.fsync = fsync
from wmlightning.cli import train
train()
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds out what is written from /proc")
def test_killed_while_the_card_is_written(train: Command, main: Command, copied: Path, runs: Path) -> None:
    program = (sys.executable, "-c", KILLED_IN_THE_CARD)
    done = train(*TASK, *FAST, runs=runs, cwd=runs, program=program)
    assert done.code == -signal.SIGKILL
    assert not list(copied.glob("attacks/*/card.json"))
    assert list(copied.glob("attacks/*/.card.json.*")), "the card was being written"
    assert main(*TASK, *FAST).code == 0
    assert len(card_of(copied)["curve"]) == 2
    assert not list(copied.glob("attacks/*/.card.json.*")), "the remains are swept up"


def test_two_processes_at_the_same_attack(start: Command, copied: Path, runs: Path) -> None:
    both = [start(*TASK, *SLOW, f"group={who}", runs=runs, cwd=runs) for who in "ab"]
    outputs = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("carried out before" in out for out in outputs) == 1, "one does it, the other waits and finds it"
    assert len(card_of(copied, "finetune")["curve"]) == 24


# -- loading ---------------------------------------------------------------------------------------------------------


def test_loaded_run_answers_as_the_trained_one(stage: Any, victim_folder: Path) -> None:
    run = load_run(victim_folder)
    triggers = run.triggers
    images = triggers.new.images.float() / 255
    with torch.no_grad():
        assert torch.equal(run.network(images), stage.job.net.eval()(images)), "identical logits"
    made = stage.job.maker.make()
    assert torch.equal(triggers.trained.images, made.trained.images)
    assert torch.equal(triggers.new.labels, made.new.labels)
    assert run.card["fingerprint"] == stage.job.fingerprint
    assert not run.network.training


def test_loading_needs_no_place_to_write(victim_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(victim_folder, tmp_path / "store")
    os.chmod(folder.parent, 0o555)  # noqa: PTH101
    try:
        assert len(load_run(folder).triggers.trained) == 60
    finally:
        os.chmod(folder.parent, 0o755)  # noqa: PTH101


# -- the attacker's own data -----------------------------------------------------------------------------------------


def test_images_of_another_task_with_the_victims_labels(main: Command, copied: Path) -> None:
    short = ("attack.finetune.epochs=1", "attack.finetune.learning_rates=[0.01]", "attack.finetune.labels=victim")
    done = main(*TASK, "attack=finetune", *short, "attacker.data=mnist5k", "attacker.n=150")
    assert done.code == 0, str(done)
    card = card_of(copied, "finetune")
    assert card["data"]["attacker"] == 150
    assert [(row["images"], row["queries"]) for row in card["curve"]] == [(150, 150)]
    assert card["identity"]["attacker"]["data"]["name"] == "mnist5k"
    assert "shared" not in card["data"] and "shared" not in card["identity"]["attacker"]["data"]


@pytest.mark.parametrize(("label", "best"), [("target", 0.1), ("random", 0.2)])
def test_best_bargain_counts_what_the_key_is_judged_by(
    main: Command, runs: Path, small: list[str], monkeypatch: pytest.MonkeyPatch, label: str, best: float
) -> None:
    """New triggers; of a key that is learned by heart, trained ones: of new ones its model never knew a thing."""
    real = Judge.measure
    scripted = iter([(0.9, 0.9), (0.9, 0.0), (0.4, 0.1)])  # trained and new ones: of the victim, then after the attack

    def measure(self: Judge, network: nn.Module) -> dict[str, float]:
        trained, new = next(scripted)
        told = {"attack/clean_acc": 0.5, "attack/trigger_acc": trained, "attack/trigger_new_acc": new}
        return {**real(self, network), **told}

    monkeypatch.setattr(Judge, "measure", measure)
    key = [f"watermark.label={label}", "watermark.source_class=any", "watermark.negatives=0"]
    done = main(*small, *key, "attack=prune", "attack.prune.rates=[0.1,0.2]")
    assert done.code == 0, str(done)
    (card,) = (json.loads(path.read_text()) for path in runs.glob("*/attacks/*/card.json"))
    assert card["metrics"]["attack/strength"] == best
