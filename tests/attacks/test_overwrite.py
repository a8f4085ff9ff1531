"""The thief's own watermark: a second key to the same network."""

from __future__ import annotations

import pytest
import torch

from tests.attacks.conftest import Stage
from tests.attacks.test_contract import AttackConfig
from tests.attacks.test_leaves import stolen_from
from wmlightning.attacks.base import Stolen
from wmlightning.attacks.execution import carry_out
from wmlightning.attacks.marking import OwnMarks
from wmlightning.attacks.overwrite import Overwrite, secret_of_thief
from wmlightning.errors import UserError
from wmlightning.models.networks import SmallCNN
from wmlightning.task import settle
from wmlightning.watermarks.base import Mark

NOISE = {"_target_": "wmlightning.watermarks.noise.Noise", "n_marks": 4, "n_triggers": 0.5, "negatives": 0}


def small() -> Stolen:
    return stolen_from(SmallCNN(1, 28, 10, width=4, hidden=16))


def test_thief_learns_triggers_of_their_own(stage: Stage, attack_config: AttackConfig) -> None:
    """Measured on images that carried no mark in training, and told beside the owner's."""
    more = ("attack.overwrite.learning_rates=[0.01]", "attack.overwrite.epochs=10")
    strong = ("attack.overwrite.watermark.strength=0.4", "attack.overwrite.watermark.n_marks=2")
    assault = stage.assault(attack_config("overwrite", *more, *strong), "overwrite")
    card, _ = carry_out(assault, lambda: stage.scene, force=False)
    first, last = card["curve"][0], card["curve"][-1]
    assert last["measured"]["thief's triggers"] > 0.6 > first["measured"]["thief's triggers"]
    assert last["metrics"]["attack/clean_acc"] > 0.8


def test_its_key_is_one_that_the_thief_could_prove(stage: Stage, attack_config: AttackConfig) -> None:
    """Marks and labels are those that ``watermark=`` makes of the thief's secret on the whole data set."""
    cfg = attack_config("overwrite")
    stolen = stage.scene.stolen(stage.assault(cfg, "overwrite"))
    assert stolen.labels is not None
    secret = secret_of_thief(stolen.seed)
    ours = OwnMarks(NOISE, "x").on(stolen, stolen.labels, secret)
    task = stage.job.cfg.copy()
    task.watermark.update({"n_marks": 4})
    plan = settle(task, secret)
    theirs = plan.maker(stage.job.roles)
    assert theirs is not None
    assert torch.equal(ours.labels.of_marks, theirs.labels.of_marks)
    image = stolen.images[:1]
    for index in range(4):
        marked = [
            maker.watermark.apply(image, Mark(maker.secret, "key", 0, index), "trained")  # type: ignore[union-attr]
            for maker in (ours, theirs)
        ]
        assert torch.equal(*marked)


def test_without_triggers_it_is_fine_tuning_only_in_name() -> None:
    """The network sees the triggers: what comes out differs from training on the same images without them."""
    many, few = (next(iter(Overwrite({**NOISE, "n_triggers": n}, [0.1], 1).run(small()))) for n in (28, 4))
    assert any(not torch.equal(a, b) for a, b in zip(many.network.parameters(), few.network.parameters(), strict=True))
    assert many.n_images == few.n_images == 40


def test_images_of_others_need_the_victims_answers() -> None:
    stolen = small()
    blind = Stolen(stolen.network, stolen.images, None, 10, 5, stolen.arithmetic)
    (surrogate,) = Overwrite(NOISE, [0.01], epochs=1, labels="victim").run(blind)
    assert surrogate.n_queries == 40
    with pytest.raises(UserError, match=r"^attack\.overwrite\.labels: .*; victim$"):
        list(Overwrite(NOISE, [0.01], epochs=1).run(blind))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"n_marks": 0}, "attack.overwrite.watermark.n_marks"),
        ({"n_triggers": 0.0}, "attack.overwrite.watermark.n_triggers"),
        ({"n_triggers": 31}, "attack.overwrite.watermark.n_triggers"),  # ten of 40 images are kept for new ones
        ({"strength": 2}, "attack.overwrite.watermark.strength"),
        ({"n_marks": 1, "source_class": "cat"}, "attack.overwrite.watermark.source_class"),
        ({"_target_": None}, "attack.overwrite.watermark._target_"),
        ({"_target_": "torch.nn.Identity"}, "attack.overwrite.watermark._target_"),
    ],
)
def test_mistakes_name_the_thiefs_option(options: dict[str, object], key: str) -> None:
    with pytest.raises(UserError) as caught:
        list(Overwrite({**NOISE, **options}, [0.1], 1).run(small()))
    assert caught.value.args[0] == caught.value.key == key
