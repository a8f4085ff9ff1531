from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from pandas.testing import assert_frame_equal

from tests.results.cards import RATES, finetune_card, inversion_card, leave, one, prune_card, read, study, train_card
from wmlightning.results.card import FILE
from wmlightning.results.rows import ACCURACIES, COLUMNS
from wmlightning.results.table import aggregate, from_csv
from wmlightning.results.text import csv


def test_every_card_gives_its_rows(tmp_path: Path) -> None:
    study(tmp_path, seeds=(0, 1))
    frame = read(tmp_path)
    counted = frame.groupby(["attack", "is_victim", "final"]).size().to_dict()
    n = 6  # three models, two seeds
    assert counted == {
        ("none", False, True): n,
        ("prune", True, True): n,
        ("prune", False, True): 2 * n,
        ("finetune", True, True): n,
        ("finetune", False, True): 2 * n,
        ("finetune", False, False): 2 * n,
        ("inversion", True, True): n,
    }
    assert list(frame.columns) == list(COLUMNS)


def test_a_training_gives_its_test_metrics(tmp_path: Path) -> None:
    victim = train_card("mnist", "noise", "negatives", seed=3)
    leave(tmp_path, victim)
    row = one(read(tmp_path))
    for name in ACCURACIES:
        assert row[name] == victim["metrics"][f"test/{name}"]
    assert (row["dataset"], row["watermark"], row["key"], row["model"]) == ("mnist", "noise", "negatives", "smallcnn")
    assert (row["seed"], row["epochs"], row["train_seconds"]) == (3, 4, 12.5)
    assert (row["victim"], row["folder"]) == (victim["fingerprint"], victim["name"])
    assert row["final"] and not row["is_victim"]
    assert row[["clean_lost", "victim_clean_acc", "strength", "seconds", "images"]].isna().all()


def test_a_removal_gives_surrogates_beside_their_victim(tmp_path: Path) -> None:
    victim = train_card()
    attack = finetune_card(victim)
    leave(tmp_path, attack)  # a model from elsewhere: no training's card
    frame = read(tmp_path)
    before, after = 0.9, attack["curve"][-1]["metrics"]["attack/clean_acc"]
    itself = one(frame, is_victim=True)
    assert math.isnan(itself["strength"])  # a logarithmic scale has no place for the untouched model
    assert (itself["clean_acc"], itself["trigger_new_acc"], itself["clean_lost"]) == (before, 0.99, 0)
    last = one(frame, strength=0.1, final=True)
    assert last["clean_lost"] == pytest.approx(before - after)
    assert (last["victim_clean_acc"], last["victim_trigger_new_acc"]) == (before, 0.99)
    assert (last["epochs"], last["seconds"], last["images"], last["queries"]) == (2, 40, 1000, 0)
    assert (last["strength_name"], last["strength_scale"]) == ("learning rate", "log")
    assert (last["attack_fingerprint"], last["victim"]) == (attack["fingerprint"], victim["fingerprint"])
    assert list(frame["epochs"]) == [0, 1, 2, 1, 2]
    assert one(read(leave(tmp_path, prune_card(victim))), is_victim=True)["strength"] == 0


def test_a_detection_gives_its_findings(tmp_path: Path) -> None:
    leave(tmp_path, inversion_card(train_card(), 0.41, 0.03))
    row = one(read(tmp_path))
    found = row[["score", "p_value", "twin_score", "twin_p_value", "seconds", "clean_acc", "trigger_new_acc"]]
    assert list(found) == [0.41, 0.03, 0.1, 0.6, 3.0, 0.9, 0.99]
    assert row["is_victim"] and math.isnan(row["strength"])


def test_without_a_watermark_there_are_no_trigger_metrics(tmp_path: Path) -> None:
    victim = train_card(watermark="none", key="8 marks")
    for card in (victim, prune_card(victim), inversion_card(victim)):
        leave(tmp_path, card)
    frame = read(tmp_path)
    assert set(frame["watermark"]) == {"none"}
    assert set(frame["key"]) == {""}  # what the config says of marks was never used
    assert frame[["trigger_acc", "trigger_new_acc", "decoy_acc", "score", "victim_trigger_new_acc"]].isna().all().all()
    assert frame["clean_acc"].notna().all()


@pytest.mark.parametrize(
    ("watermark", "name"),
    [
        ({"n_marks": 1, "negatives": 0}, "paper"),
        ({"n_marks": 1, "negatives": 0.5}, "negatives"),
        ({"n_marks": 8, "negatives": 1.0}, "8 marks"),
        ({"n_marks": 8, "negatives": 0}, "8 marks, no negatives"),
        ({"n_marks": 1, "negatives": 0, "label": "random"}, "paper, random labels"),
        ({"n_marks": 3, "negatives": 1, "label": "random"}, "3 marks, random labels"),
        ({"n_marks": 1, "negatives": 0, "fresh": True}, "paper, fresh noise"),
        ({"n_marks": 1, "negatives": 0, "fresh": False}, "paper"),
        ({}, "paper"),  # of an author who has no such options
    ],
)
def test_keys_are_named(tmp_path: Path, watermark: dict[str, Any], name: str) -> None:
    card = train_card()
    card["config"]["watermark"] = {"_target_": "my.own.Ghost", **watermark}
    leave(tmp_path, card)
    assert list(one(read(tmp_path))[["watermark", "key"]]) == ["ghost", name]


def test_what_lies_there_twice_is_counted_once(tmp_path: Path) -> None:
    study(tmp_path, seeds=(0,))
    once = read(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "zz", ignore=shutil.ignore_patterns("zz"))
    assert_frame_equal(read(tmp_path), once)


def test_a_strength_of_two_lists_is_counted_once(tmp_path: Path) -> None:
    """Asked for by itself, and then among others: the same surrogate, down to the last bit."""
    for seed in (0, 1):
        victim = train_card(seed=seed)
        leave(tmp_path, victim)
        leave(tmp_path, prune_card(victim))
    once = read(tmp_path)
    again = prune_card(train_card(seed=0), rates=RATES[:1])
    leave(tmp_path, {**again, "fingerprint": "again"}, "again")
    twice = read(tmp_path)
    assert len(twice) == len(once) + 1, "its card tells of its victim too"
    assert_frame_equal(aggregate(twice), aggregate(once))
    again["curve"][0]["metrics"]["attack/clean_acc"] += 0.001
    leave(tmp_path, {**again, "fingerprint": "again"}, "again")
    assert len(read(tmp_path)) == len(once) + 2, "something made another surrogate of it"


def versions_of(runs: Path, *found: tuple[str, dict[str, Any]]) -> None:
    """An inversion of one model for each name and identity; their p-values are their numbers."""
    for i, (name, identity) in enumerate(found, 1):
        card = {**inversion_card(train_card(), p_value=i / 100), "fingerprint": name, "identity": identity}
        leave(runs, card, name)


def test_of_an_attack_by_several_versions_the_newest_counts(tmp_path: Path) -> None:
    way = {"version": 1, "attack": {"steps": 200}, "judge": {"n_strangers": 99}}
    versions_of(tmp_path, ("c", way), ("a", {**way, "exposure": 3}), ("b", {**way, "exposure": 2}))
    assert list(read(tmp_path)["p_value"]) == [0.02]
    line = one(aggregate(read(tmp_path)))
    assert (line["n_runs"], line["p_value_mean"]) == (1, 0.02)


def test_what_was_done_in_another_way_is_not_older(tmp_path: Path) -> None:
    way = {"version": 1, "attack": {"steps": 200}}
    other = {"version": 2, "attack": {"steps": 100}}
    versions_of(tmp_path, ("a", way), ("b", other), ("c", {}), ("d", {**way, "version": True}))
    victim = train_card(seed=1)  # another model
    leave(tmp_path, {**inversion_card(victim, p_value=0.05), "identity": {**way, "version": 3}})
    leave(tmp_path, {**inversion_card(victim, p_value=0.06), "fingerprint": "e", "identity": "x"}, "e")
    assert sorted(read(tmp_path)["p_value"]) == [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]


def test_the_order_does_not_depend_on_folders(tmp_path: Path) -> None:
    cards = [
        card
        for seed in (1, 0)
        for key in ("negatives", "paper", "8 marks")
        for card in [train_card(key=key, seed=seed)]
    ]
    for i, card in enumerate(cards):
        leave(tmp_path / "one", card, f"{i}")
        leave(tmp_path / "other", card, f"deep/{9 - i}/x")
    one_way, other = (read(tmp_path / name).drop(columns="folder") for name in ("one", "other"))
    assert_frame_equal(one_way, other)
    assert list(one_way["key"]) == ["paper"] * 2 + ["negatives"] * 2 + ["8 marks"] * 2
    assert list(one_way["seed"]) == [0, 1] * 3


def test_hidden_folders_logs_and_links_are_left_out(tmp_path: Path) -> None:
    runs, outside = tmp_path / "runs", tmp_path / "outside"
    leave(runs, train_card(seed=0), "kept")
    leave(runs, train_card(seed=1), ".hidden/x")
    leave(runs, train_card(seed=2), "kept/logs/x")
    leave(outside, train_card(seed=3), "x")
    (runs / "linked").symlink_to(outside, target_is_directory=True)
    (runs / "file").mkdir()
    (runs / "file" / FILE).symlink_to(outside / "x" / FILE)
    assert list(read(runs, complaints=1)["seed"]) == [0]
    (tmp_path / "alias").symlink_to(runs, target_is_directory=True)  # the folder itself may be a link
    assert len(read(tmp_path / "alias", complaints=1)) == 1


def test_an_empty_folder_gives_an_empty_table(tmp_path: Path) -> None:
    frame = read(tmp_path)
    assert frame.empty
    assert list(frame.columns) == list(COLUMNS)
    assert aggregate(frame).empty


def test_csv_comes_back(tmp_path: Path) -> None:
    study(tmp_path / "runs")
    odd = train_card("NA", "unrelated", "8 marks")
    odd["device"], odd["group"] = 'nan, "quoted"; {x}\n=1+1', "None"
    odd["config"]["model"] = {}
    leave(tmp_path / "runs", odd)
    frame = read(tmp_path / "runs")
    (tmp_path / "x.csv").write_text(csv(frame))
    assert_frame_equal(from_csv(tmp_path / "x.csv"), frame, rtol=1e-6, atol=1e-12)
