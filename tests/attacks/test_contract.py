"""One contract over every file in conf/attack: found by listing the folder."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from tests.attacks.conftest import ATTACKS, SHORT, Stage
from wmlightning.data.source import Source
from wmlightning.secret import Secret
from wmlightning.testing import check_attack
from wmlightning.watermarks.triggers import TriggerMaker, Triggers

AttackConfig = Callable[..., DictConfig]

each = pytest.mark.parametrize("name", ATTACKS)


def test_the_attacks_of_the_paper_are_there() -> None:
    assert {"finetune", "prune", "inversion"} <= set(ATTACKS)


@each
def test_every_shipped_attack_keeps_the_contract(name: str) -> None:
    card = check_attack(name, overrides=SHORT.get(name, ()))
    kinds = {"inversion": "detection", "keysearch": "claim", "adversarial": "claim"}
    assert card["type"] == kinds.get(name, "removal")


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
