"""False claims to a model: what they reach, and why the protocol does not hear them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from tests.attacks.test_leaves import stolen_from
from wmlightning.attacks.adversarial import Adversarial
from wmlightning.attacks.base import Claim, ClaimAttack, Stolen
from wmlightning.attacks.claims import Court, ruling
from wmlightning.attacks.execution import Scene, carry_out
from wmlightning.attacks.keysearch import KeySearch
from wmlightning.attacks.planning import Victim, intend, plan
from wmlightning.errors import UserError
from wmlightning.job import prepare
from wmlightning.pipeline import train
from wmlightning.results.summary import show_attack
from wmlightning.store import WEIGHTS, load_weights

MARKS = {"_target_": "wmlightning.watermarks.noise.Noise", "n_marks": 20}


@pytest.fixture
def stolen() -> Stolen:
    """A network that gives noise several answers."""
    torch.manual_seed(0)
    return replace(stolen_from(nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10)), n=120), seed=0)


def rows(attack: ClaimAttack, stolen: Stolen) -> list[dict[str, Any]]:
    court = Court(attack, stolen, stolen.copy())
    return [court.hear(claim) for claim in attack.run(stolen)]


def test_a_search_finds_what_was_never_there(stolen: Stolen) -> None:
    """The best of N keys has a p-value of about 1/N: without a commitment anybody owns any network."""
    found = rows(KeySearch(MARKS, [1, 30, 300]), stolen)
    assert [row["queries"] for row in found] == [40, 1200, 12000]
    p = [row["p_value"] for row in found]
    assert p[0] > p[1] > p[2]
    assert 1e-4 < p[2] < 1e-2, "it is no better than the number of tries"
    assert all(row["refused"] is None for row in found), "a searched key follows from its secret"
    assert [row["before"] for row in found] == [True, False, False]
    told = ruling(found)
    assert told["p_value"] == p[2]
    assert told["p_value_protocol"] == p[0]
    assert not told["accepted"]


def test_forged_triggers_match_and_are_refused(stolen: Stolen) -> None:
    """Whatever the age of the commitment: they do not follow from the secret."""
    honest, forged = rows(Adversarial(MARKS, [0, 40]), stolen)
    assert honest["refused"] is None and honest["p_value"] > 0.001
    assert forged["p_value"] < 1e-6 and forged["matches"] > 30
    assert forged["refused"].startswith("key: its trained triggers do not follow from its secret")
    told = ruling([honest, forged])
    assert told["accepted_naively"] and not told["accepted"]
    assert told["p_value_protocol"] == honest["p_value"]


def test_forged_triggers_stay_within_bounds(stolen: Stolen) -> None:
    honest, *forged = Adversarial(MARKS, [0, 1, 7], step_size=0.02, epsilon=0.06).run(stolen)
    assert honest.forged is None
    attack = Adversarial(MARKS)
    labels, _ = stolen.true_labels()
    start = attack.key_maker(stolen, labels, honest.secret).make().trained
    for claim, most in zip(forged, (0.02, 0.06), strict=True):
        assert claim.forged is not None
        change = (claim.forged.images.int() - start.images.int()).abs().max()
        assert 0 < int(change) <= round(most * 255)
        assert torch.equal(claim.forged.labels, start.labels)


def test_images_made_on_a_network_of_their_own_may_be_older(stolen: Stolen) -> None:
    """Then a commitment is no defence, and what is left is that triggers must follow from the secret."""
    attack = Adversarial(MARKS, [5], surrogate_epochs=1)
    (claim,) = attack.run(stolen)
    assert claim.before and claim.n_queries == 0
    (own,), (other,) = (attack.run(replace(stolen, network=net)) for net in (stolen.copy(), another(stolen)))
    assert own.forged is not None and other.forged is not None
    assert torch.equal(own.forged.images, other.forged.images), "no weight of the suspect went into them"
    told = ruling(rows(attack, stolen))
    assert told["p_value_protocol"] == 1.0 and not told["accepted"]
    blind = replace(stolen, labels=None)  # the suspect's answers stand in for labels: it was seen after all
    (claim,) = attack.run(blind)
    assert not claim.before and claim.n_queries == 120


def test_a_search_on_a_network_of_their_own_may_be_older(stolen: Stolen) -> None:
    """It is heard, and worth as much as the suspect has in common with that network, besides the truth."""
    attack = KeySearch(MARKS, [1, 40], surrogate_epochs=2)
    (first, best), other = attack.run(stolen), list(attack.run(replace(stolen, network=another(stolen))))
    assert [claim.secret.name() for claim in other] == [first.secret.name(), best.secret.name()], "no weight went in"
    assert best.secret.name() != first.secret.name()
    assert best.before and best.n_queries == 0
    _, told = rows(attack, stolen)
    assert told["refused"] is None and told["p_value"] > 0.001
    blind = replace(stolen, labels=None)  # the suspect's answers stand in for labels: it was seen after all
    assert [(claim.before, claim.n_queries) for claim in attack.run(blind)] == [(False, 120)] * 2


def test_a_search_for_the_truth_finds_nothing(stolen: Stolen) -> None:
    """A suspect and a network of the accuser's that are both always right about marks that are hardly seen."""

    class Right(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return -(images.mean((1, 2, 3)) * 10 - 0.5)[:, None].sub(torch.arange(10)).abs()

    labels = torch.arange(120) % 10
    images = (labels * 25.5 + 12).to(torch.uint8)[:, None, None, None].expand(120, 1, 28, 28).contiguous()
    right = replace(stolen, network=Right().eval(), images=images, labels=labels)
    found = rows(KeySearch({**MARKS, "strength": 0.01, "n_marks": 8}, [1, 60]), right)
    assert [row["p_value"] for row in found] == [1, 1]


def another(stolen: Stolen) -> nn.Module:
    network = stolen.copy()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.5)
    return network


def test_the_rightful_owner_would_be_heard(stolen: Stolen) -> None:
    """What refuses false claims does not refuse all: a key that the network was taught, drawn beforehand."""

    class Rightful(KeySearch):
        def run(self, stolen: Stolen) -> Any:
            yield Claim(next(iter(super().run(stolen))).secret, 1, 0, before=True)

    attack = Rightful(MARKS, [1])
    labels, _ = stolen.true_labels()
    (claim,) = attack.run(stolen)
    triggers = attack.key_maker(stolen, labels, claim.secret).make().trained
    network = stolen.copy().train()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        loss = nn.functional.cross_entropy(network(stolen.arithmetic.floats(triggers.images)), triggers.labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    told = ruling([Court(attack, stolen, network.eval()).hear(claim)])
    assert told["accepted"] and told["p_value_protocol"] < 1e-6


@pytest.mark.parametrize("make", [KeySearch, Adversarial])
@pytest.mark.parametrize("options", [{"n_marks": 1}, {"label": "random"}])
def test_keys_that_need_decoys_are_no_claims(make: Callable[..., Any], options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^attack\.(keysearch|adversarial)\.watermark\.n_marks: .*; 2 or more"):
        make({**MARKS, **options})


def test_innocent_network_is_claimed(composed_task: Callable[..., DictConfig]) -> None:
    """The whole way, on a model without any watermark: the card tells what verification says."""
    cfg = composed_task(
        "watermark=none",
        "watermark.n_decoys=20",
        "trainer.max_epochs=1",
        "attack=[keysearch,adversarial]",
        "attack.keysearch.candidates=[1,20]",
        "attack.adversarial.steps=[0,30]",
        "attack.adversarial.epsilon=0.4",
    )
    job = prepare(cfg)
    train(job, force=False)
    load_weights(job.net, job.folder / WEIGHTS)
    scene = Scene(job, job.net, lambda: None)
    intents = intend(job.cfg, job.source, job.net)
    for assault in plan(intents, job, Victim(job.name, job.fingerprint, job.folder)):
        card, _ = carry_out(assault, lambda: scene, force=False)
        assert card["type"] == "claim"
        assert card["metrics"]["attack/accepted"] == 0.0
        assert card["metrics"]["attack/p_value"] < card["metrics"]["attack/p_value_protocol"]
        assert len(card["findings"]["claims"]) == 2
        show_attack(card, assault.folder, False, screen := Console(record=True, width=120, file=StringIO()))
        rulings = {"keysearch": "too young", "adversarial": "forged"}
        told = screen.export_text()
        assert "heard" in told and rulings[card["attack"]] in told
    assert card["metrics"]["attack/accepted_naively"] == 1.0, "of forged triggers"
