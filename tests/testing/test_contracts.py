"""Contracts notice what is broken: each leaf here breaks one promise, and is told which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.testing.broken import configs
from wmlightning.errors import UserError
from wmlightning.testing import check_attack, check_model, check_source, check_suspect, check_watermark
from wmlightning.testing.watermarks import KEYS, check_elsewhere

Check = Callable[..., Any]


def told(check: Check, folder: Path, **options: Any) -> str:
    """What a check says of the leaf in ``folder``."""
    with pytest.raises(AssertionError) as caught:
        check("broken", config_dir=folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("GlobalNumbers", "other bytes for the same secret"),
        ("DrawsAside", "draws from torch's global generator"),
        ("Counts", "other bytes for the same secret"),
        ("WritesToImages", "wrote to the images"),
        ("GivesBackImages", "gives back the memory"),
        ("Floats", "does not give a uint8 tensor"),
        ("Crops", r"turns (4, 1, 28, 28) into (4, 1, 28, 27)"),
        ("SameForAll", "two different marks look the same"),
        ("TooMany", "where 3 of (1, 28, 28) were wanted"),
        ("OldOnesAgain", "a new trigger was trained on"),
    ],
)
def test_broken_watermarks(tmp_path: Path, name: str, words: str) -> None:
    folder = configs(tmp_path, "watermark", name)
    assert words in told(check_watermark, folder, fresh_process=False)


def test_a_watermark_that_breaks_nothing(tmp_path: Path) -> None:
    folder = configs(tmp_path, "watermark", "Whole", strength=0.1)
    assert check_watermark("broken", folder, ["watermark.strength=0.3"], fresh_process=False) == list(KEYS)


def test_a_watermark_may_refuse_several_marks_but_not_one(tmp_path: Path) -> None:
    folder = configs(tmp_path, "watermark", "OnlyOne")
    assert check_watermark("broken", folder, fresh_process=False) == ["one mark", "random labels"]
    with pytest.raises(UserError, match=r"^watermark\.n_marks: 2 marks; one$"):
        check_watermark("broken", folder, ["watermark.n_marks=2"], fresh_process=False)


@pytest.mark.slow
def test_a_watermark_that_depends_on_the_process(tmp_path: Path) -> None:
    folder = configs(tmp_path, "watermark", "HashSeed")
    check_watermark("broken", folder, fresh_process=False)
    with pytest.raises(AssertionError, match="a fresh process makes other triggers"):
        check_elsewhere(["broken"], folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Falling", "strengths must rise"),
        pytest.param("NoNumber", "no finite number", marks=pytest.mark.slow),
        pytest.param("NoName", "say what its strength_name is", marks=pytest.mark.slow),
        pytest.param("Twice", "not one final surrogate", marks=pytest.mark.slow),
        ("Clock", "the second time"),
        pytest.param("PythonsRandom", "the second time", marks=pytest.mark.slow),
        ("Boasts", "trained on 1000000 images"),
        pytest.param("TellsNoImages", "1 epochs on no images", marks=pytest.mark.slow),
        ("SeesTooMuch", "not within [0, 1]"),
    ],
)
def test_broken_attacks(tmp_path: Path, name: str, words: str) -> None:
    assert words in told(check_attack, configs(tmp_path, "attack", name))


def test_a_surrogate_of_another_architecture_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not fit the network"):
        check_attack("broken", configs(tmp_path, "attack", "OtherArchitecture"))


@pytest.mark.parametrize(("name", "kind"), [("Gentle", "removal"), ("Sees", "detection")])
def test_an_attack_that_breaks_nothing(tmp_path: Path, name: str, kind: str) -> None:
    assert check_attack("broken", configs(tmp_path, "attack", name))["type"] == kind


def test_an_attack_in_the_wrong_package(tmp_path: Path) -> None:
    folder = configs(tmp_path, "attack", "Gentle")
    (folder / "attack" / "broken.yaml").write_text("# @package attack.other\n_target_: tests.testing.broken.Gentle\n")
    assert "# @package attack.broken" in told(check_attack, folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("FloatImages", "not uint8"),
        ("Sorts", "does not follow its index"),
        ("Lends", "lends its own memory"),
        ("Shuffles", "changes from call to call"),
        ("Noisy", "does not follow its index"),
        ("OddIdentity", "does not survive JSON"),
        ("NotTheSameAgain", "gives other train images when made again"),
        ("MoreLabels", "a label is none of 0..1"),
    ],
)
def test_broken_data_sets(tmp_path: Path, name: str, words: str) -> None:
    found = told(check_source, configs(tmp_path, "dataset", name))
    assert words in found


def test_a_data_set_that_breaks_nothing(tmp_path: Path) -> None:
    check_source("broken", configs(tmp_path / "a", "dataset", "Lines"))
    other = configs(tmp_path / "b", "dataset", "Lines", unrelated="nothing_of_ours")
    assert "'nothing_of_ours' is no data set" in told(check_source, other)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Idle", "parameter net.spare.weight has no gradient"),
        ("BatchTogether", "depend on the others of its batch"),
        ("AlwaysDrops", "in evaluation the same images get other logits"),
        ("Blind", "has no gradient"),
        ("Forgets", "does not hold all of it"),
        ("Unseeded", "do not follow from torch's seed"),
    ],
)
def test_broken_networks(tmp_path: Path, name: str, words: str) -> None:
    found = told(check_model, configs(tmp_path, "model", name))
    assert words in found or (name == "Blind" and "two different images get the same logits" in found)


def test_a_network_that_breaks_nothing(tmp_path: Path) -> None:
    check_model("broken", configs(tmp_path, "model", "Plain"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Silent", "not one label"),
        ("Terse", "1 answers to 3 images"),
        ("NewReason", "'no idea' is no reason"),
        ("OutOfRange", "the label 99 is none of 0..9"),
        ("BothAtOnce", "neither a label nor a reason, or both"),
        ("Greedy", "did not allow"),
        ("OtherEachTime", "another identity()"),
        ("OpensItself", "open() is not to be overridden"),
    ],
)
def test_broken_suspects(tmp_path: Path, name: str, words: str) -> None:
    assert words in told(check_suspect, configs(tmp_path, "suspect", name))


def test_a_suspect_that_breaks_nothing(tmp_path: Path) -> None:
    check_suspect("broken", configs(tmp_path, "suspect", "Mean"))


@pytest.mark.parametrize("check", [check_attack, check_model, check_source, check_suspect, check_watermark])
def test_a_folder_that_is_not_there(tmp_path: Path, check: Check) -> None:
    with pytest.raises(UserError, match=r"^config_dir: there is no folder"):
        check("mine", config_dir=tmp_path / "nowhere")
