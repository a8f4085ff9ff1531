"""One contract over every file in conf/attack: found by listing the folder."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from tests.attacks.conftest import ATTACKS, SHORT, Stage
from wmlightning.attacks.execution import carry_out
from wmlightning.data.source import Source
from wmlightning.secret import Secret
from wmlightning.testing import check_attack
from wmlightning.watermarks.triggers import TriggerMaker, Triggers

AttackConfig = Callable[..., DictConfig]

#: What makes an attack draw random numbers that draws none as it is shipped.
DRAWING = {"prune": ("attack.prune.rates=[0.5]", "attack.prune.repair_epochs=1")}
#: Data that hold some of the task's images.
LOOT = "{_target_:tests.attacks.test_belongings.Loot,task:[1500,400]}"

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
    results = []
    for seed in (0, 7):
        stage.job.cfg.attacker.seed = seed
        assault = stage.assault(attack_config(name, *DRAWING.get(name, ())), name)
        card, _ = carry_out(assault, lambda: stage.scene, force=True)
        kept = {path.name: path.read_bytes() for path in assault.folder.glob("*.safetensors")}
        results.append(kept or card["findings"]["claims"])
        shutil.rmtree(assault.folder)
    assert results[0] != results[1]


@each
@pytest.mark.parametrize("data", ["null", LOOT])
@pytest.mark.filterwarnings("ignore:attacker.data")
def test_no_secret_is_within_the_thiefs_reach(stage: Stage, attack_config: AttackConfig, name: str, data: str) -> None:
    """Walks every object that the thief's view leads to: no key, no trigger, no image of the owner's or the judge's."""
    cfg = attack_config(name, f"attacker.data={data}")
    stage.job.cfg.attacker = cfg.attacker
    stolen = stage.scene.stolen(stage.assault(cfg, name))
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
    half = job.source.images("test", job.roles.attacker)
    assert torch.equal(images, half) if data == "null" else len(images) == 60
    assert job.maker is not None
    theirs = [job.maker.make().trained.images]
    if data != "null":  # two of the task's own drawn images may be alike
        theirs += [job.source.images("train", torch.cat([job.roles.train, job.roles.val]))]
        theirs += [job.source.images("test", job.roles.judge)]
    owners = {image.tobytes() for part in theirs for image in part.numpy()}
    assert not owners & {image.tobytes() for image in images.numpy()}
    assert stolen.network is not stage.scene.network
