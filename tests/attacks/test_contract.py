"""One contract over every file in conf/attack: found by listing the folder."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from tests.attacks.conftest import ATTACKS, Stage
from wmlightning import load_run
from wmlightning.attacks.base import RemovalAttack
from wmlightning.attacks.execution import carry_out
from wmlightning.attacks.judge import digest
from wmlightning.data.source import Source
from wmlightning.secret import Secret
from wmlightning.watermarks.triggers import TriggerMaker, Triggers

AttackConfig = Callable[..., DictConfig]

each = pytest.mark.parametrize("name", ATTACKS)


def test_the_attacks_of_the_paper_are_there() -> None:
    assert {"finetune", "prune", "inversion"} <= set(ATTACKS)


def stable(card: dict[str, Any]) -> dict[str, Any]:
    """What must be the same each time: all but times."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in card.get("curve", [])]
    return {"metrics": card["metrics"], "curve": rows, "findings": card.get("findings"), "identity": card["identity"]}


@each
def test_result(stage: Stage, attack_config: AttackConfig, name: str) -> None:
    """Victim unchanged, same result each time, kept whole, and not done twice."""
    before = digest(stage.scene.network)
    assault = stage.assault(attack_config(name), name)
    shutil.rmtree(assault.folder, ignore_errors=True)
    card, there = carry_out(assault, lambda: stage.scene, force=False)
    assert not there
    assert digest(stage.scene.network) == before
    weights = {p.name: p.read_bytes() for p in assault.folder.glob("*.safetensors")}

    torch.manual_seed(12345)  # whatever the process has drawn before
    again, there = carry_out(assault, lambda: stage.scene, force=True)
    assert not there
    assert stable(again) == stable(card)
    assert {p.name: p.read_bytes() for p in assault.folder.glob("*.safetensors")} == weights

    def never() -> Any:
        raise AssertionError("a finished attack reads nothing")

    kept, there = carry_out(assault, never, force=False)
    assert there
    assert stable(kept) == stable(card)
    assert kept["victim"]["fingerprint"] == stage.job.fingerprint
    assert kept["seconds"].keys() == {"attack", "judge"}


@each
def test_surrogates_survive_a_round_trip(stage: Stage, attack_config: AttackConfig, name: str) -> None:
    assault = stage.assault(attack_config(name), name)
    if not isinstance(assault.attack, RemovalAttack):
        pytest.skip("yields no surrogates")
    card, _ = carry_out(assault, lambda: stage.scene, force=False)
    run = load_run(stage.job.folder)
    for number in (0, len(card["curve"]) - 1):
        network = run.surrogate(assault.folder.name, number)
        assert stage.scene.judge.measure(network) == card["curve"][number]["metrics"]


@each
def test_strengths_rise_and_costs_are_told(stage: Stage, attack_config: AttackConfig, name: str) -> None:
    assault = stage.assault(attack_config(name), name)
    if not isinstance(assault.attack, RemovalAttack):
        pytest.skip("yields no surrogates")
    card, _ = carry_out(assault, lambda: stage.scene, force=False)
    curve = card["curve"]
    strengths = [row["strength"] for row in curve]
    assert strengths == sorted(strengths)
    finals = [row["strength"] for row in curve if row["final"]]
    assert finals == sorted(set(strengths)), "one final row for each strength"
    for row in curve:
        assert row["seconds"] >= 0
        assert row["images"] == len(stage.job.roles.attacker) or not row["epochs"]
        assert {"attack/clean_acc", "attack/source_acc", "attack/trigger_acc"} <= set(row["metrics"])
        assert {"attack/trigger_new_acc", "attack/decoy_acc", "attack/decoy_acc_max"} <= set(row["metrics"])


@each
def test_other_seed_other_result(stage: Stage, attack_config: AttackConfig, name: str) -> None:
    assault = stage.assault(attack_config(name), name)
    stage.job.cfg.attacker.seed = 7
    assert stage.assault(attack_config(name), name).fingerprint != assault.fingerprint


@each
def test_no_secret_is_within_the_thiefs_reach(stage: Stage, attack_config: AttackConfig, name: str) -> None:
    """Walks every object that the thief's view leads to: no key, no trigger, no image of the owner's or the judge's."""
    stolen = stage.scene.stolen(stage.assault(attack_config(name), name))
    seen: dict[int, Any] = {}
    todo: list[Any] = [stolen]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type) or type(thing).__name__ in ("module", "function", "builtin"):
            continue
        seen[id(thing)] = thing
        todo += [x for x in gc.get_referents(thing) if type(x).__name__ not in ("module", "type")]
    forbidden = (Secret, Source, TriggerMaker, Triggers)
    assert not [thing for thing in seen.values() if isinstance(thing, forbidden)]
    images = stolen.images
    assert images.untyped_storage().nbytes() == images.numel(), "no view into a larger tensor"
    job = stage.job
    mine = job.source.images("test", job.roles.attacker)
    assert torch.equal(images, mine)
    assert job.maker is not None
    owners = {bytes(x.numpy().tobytes()) for x in job.maker.make().trained.images}
    assert not owners & {bytes(x.numpy().tobytes()) for x in images}
    assert stolen.network is not stage.scene.network
