"""Attacks on real data: what pruning and a large learning rate do to a watermark; each model is trained once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["mnist", "cifar10"])
def cards(
    request: pytest.FixtureRequest,
    train: Callable[..., Any],
    data_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict[str, Any]]:
    """Cards of one training and three attacks on it, by ``train`` and the attacks' names."""
    cwd = tmp_path_factory.mktemp("attacks")
    typed = ["-m", f"dataset={request.param}", "trainer.max_epochs=2", "attack=prune,finetune,inversion"]
    typed += ["++attack.finetune.learning_rates=[0.001,0.3]", "++attack.finetune.epochs=5"]
    env = {"WML_DATA_DIR": str(data_dir), "OMP_NUM_THREADS": "2"}
    done = train(*typed, runs=cwd / "runs", cwd=cwd, timeout=3000, **env)
    assert done.code == 0, str(done)
    found = [json.loads(path.read_text()) for path in (cwd / "runs").rglob("card.json")]
    marked = [card for card in found if "-none-" not in card["name"]]
    assert sum(card["kind"] == "train" for card in marked) == 1
    assert sum(card["kind"] == "train" for card in found) == 2, "and the unmarked one, for the inversion"
    return {card.get("attack", "train"): card for card in marked}


def test_light_attacks_leave_the_watermark(cards: dict[str, dict[str, Any]]) -> None:
    for name, strength in (("prune", 0.3), ("finetune", 0.001)):
        row = next(row for row in cards[name]["curve"] if row["strength"] == strength and row["final"])
        assert row["metrics"]["attack/trigger_new_acc"] > 0.9
        lost = cards[name]["victim"]["metrics"]["attack/clean_acc"] - row["metrics"]["attack/clean_acc"]
        assert lost < 0.02


def test_a_large_learning_rate_removes_it(cards: dict[str, dict[str, Any]]) -> None:
    row = cards["finetune"]["curve"][-1]
    assert row["strength"] == 0.3
    assert row["metrics"]["attack/trigger_new_acc"] < 0.3


def test_pruning_nearly_everything_breaks_the_model(cards: dict[str, dict[str, Any]]) -> None:
    first, last = cards["prune"]["curve"][0], cards["prune"]["curve"][-1]
    assert last["strength"] == 0.9
    assert last["metrics"]["attack/clean_acc"] < first["metrics"]["attack/clean_acc"]


def test_inversion_is_scored_against_its_null(cards: dict[str, dict[str, Any]]) -> None:
    findings = cards["inversion"]["findings"]
    assert findings["n_null"] == 99
    assert findings["null_mean"] <= findings["null_max"]
    for found in (findings, findings["twin"]):
        assert 0.01 <= found["p_value"] <= 1
        assert -1 <= found["score"] <= 1


def test_the_victim_on_the_judges_half_is_the_model_on_the_test_split(cards: dict[str, dict[str, Any]]) -> None:
    whole = cards["train"]["metrics"]["test/clean_acc"]
    half = cards["prune"]["victim"]["metrics"]["attack/clean_acc"]
    assert abs(whole - half) < 0.02
    for name in ("trigger_acc", "trigger_new_acc", "decoy_acc"):
        theirs = cards["prune"]["victim"]["metrics"][f"attack/{name}"]
        assert theirs == pytest.approx(cards["train"]["metrics"][f"test/{name}"], abs=0.01)
