"""What panels average is what tables average: runs that differ in their seed, and no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from tests.results.cards import leave, prune_card, train_card
from wmlightning.config import option_names, plain
from wmlightning.loggers import with_names
from wmlightning.results.table import read_all
from wmlightning.task import own_copy

Composed = Callable[..., DictConfig]

NOISE = "procedural smallcnn: noise, negatives"


def config(composed: Composed, *overrides: str) -> dict[str, Any]:
    """As a card has it."""
    cfg = own_copy(composed("dataset=procedural", *overrides))
    names = ("seed", "dataset", "watermark", "model", "recipe", "attack", "attacker", "tags")
    return {name: plain(cfg[name]) for name in names}


def label(composed: Composed, *overrides: str, owned: bool = False, **more: str) -> str:
    typed = ["key=my.key"] if owned else []
    return str(with_names(config(composed, *overrides, *typed), owned, **more)["about"]["label"])


#: What is typed besides ``watermark=noise``, and what the label says more of it.
MARKS = {
    "watermark.n_triggers=0.05": "n_triggers=0.05",
    "watermark.strength=0.4": "strength=0.4",
    "watermark.mix=per_batch": "mix=per_batch",
    "watermark.negatives=0.5": "negatives=0.5",
    "watermark.source_class=any": "source_class=any",
    "watermark.n_triggers=0.01": "",
    "seed=7": "",
}
ATTACKS = {"attack.prune.scope=layer": "scope=layer", "attacker.n=100": "attacker.n=100", "attacker.seed=3": ""}


@pytest.mark.parametrize("typed", MARKS)
def test_an_option_has_a_label_of_its_own_where_the_table_keeps_it_apart(
    composed: Composed, tmp_path: Path, typed: str
) -> None:
    assert label(composed) == NOISE
    assert label(composed, typed) == ", ".join(filter(None, (NOISE, MARKS[typed])))
    assert label(composed, typed, owned=True) == label(composed, "watermark.n_marks=8", typed), "it is no secret"
    for seed, overrides in enumerate(([], [typed])):
        leave(tmp_path, {**train_card(seed=seed), "config": config(composed, *overrides)})
    assert (read_all(tmp_path)["key"].nunique() > 1) is bool(MARKS[typed])


@pytest.mark.parametrize("typed", ATTACKS)
def test_an_attacks_option_has_a_label_of_its_own_where_the_table_keeps_it_apart(
    composed: Composed, tmp_path: Path, typed: str
) -> None:
    told = ", ".join(filter(None, ("prune", ATTACKS[typed])))
    assert label(composed, "attack=prune", typed, attack="prune") == f"{NOISE}; {told}"
    assert label(composed, "attack=prune", typed) == NOISE, "the training is the same"
    for seed, overrides in enumerate(([], [typed])):
        card = prune_card(train_card(seed=seed))
        leave(tmp_path, {**card, "config": config(composed, "attack=prune", *overrides)})
    settings = read_all(tmp_path).query("not is_victim")["settings"]
    assert (settings.nunique() > 1) is bool(ATTACKS[typed])


@pytest.mark.parametrize("n_marks, key", [(1, "negatives"), (20, "20 marks")])
def test_what_is_as_it_is_shipped_is_not_told(composed: Composed, n_marks: int, key: str) -> None:
    for name in ("content", "noise"):
        assert (
            label(composed, f"watermark={name}", f"watermark.n_marks={n_marks}")
            == f"procedural smallcnn: {name}, {key}"
        )
    for dataset in ("mnist", "cifar10"):  # their unrelated pictures lie in a folder of this machine
        told = label(composed, "watermark=unrelated", f"dataset={dataset}", "model=small_cnn")
        assert told == f"{dataset} smallcnn: unrelated, negatives"
    assert label(composed, "watermark=none", "watermark.n_decoys=2") == "procedural smallcnn: none"
    for name in set(option_names("attack")) - {"none"}:
        assert label(composed, f"attack={name}", attack=name) == f"{NOISE}; {name}"


def test_names_of_keys_are_not_said_twice(composed: Composed) -> None:
    fresh = ["watermark.fresh=true", "watermark.negatives=0", "watermark.label=random"]
    assert label(composed, *fresh) == "procedural smallcnn: noise, paper, random labels, fresh noise"


#: Options that an owner's runs withhold, and what a study's label says of them.
WITHHELD = {
    "watermark.text=SOTT": "text=SOTT",
    "watermark.position=[2,3]": "position=[2, 3]",
    "watermark.logo=/home/me/logo.png": "logo=…/logo.png",
    "watermark.source_class=1": "source_class=1",
}


@pytest.mark.parametrize("typed", WITHHELD)
def test_what_is_withheld_is_not_in_the_label(composed: Composed, typed: str) -> None:
    studied = label(composed, "watermark=content", typed)
    assert studied == f"procedural smallcnn: content, negatives, {WITHHELD[typed]}"
    marks = ["watermark=content", "watermark.n_marks=1"]
    assert label(composed, *marks, typed, owned=True) == label(composed, *marks, owned=True)


def test_pictures_of_another_data_set_are_told(composed: Composed) -> None:
    told = label(composed, "watermark=unrelated", "watermark.images=fashion_mnist")
    assert "images.name=fashion_mnist" in told
    assert "data_dir" not in told


def test_a_watermark_of_ones_own_is_told_by_its_class(composed: Composed) -> None:
    """Two modules may have a class of the same name; what all watermarks have in common is as usual there too."""
    card = config(composed)
    card["watermark"]["_target_"] = "mine.Noise"
    assert with_names(card, True)["about"]["label"] == f"{NOISE}, _target_=mine.Noise, strength=0.2"


def test_the_label_needs_no_hydra_at_work(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.core.global_hydra import GlobalHydra

    card = config(composed, "attack=overwrite", "watermark=unrelated")
    told = with_names(card, False, attack="overwrite")
    GlobalHydra.instance().clear()
    assert with_names(card, False, attack="overwrite") == told
    assert not GlobalHydra.instance().is_initialized()
