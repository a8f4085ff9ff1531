from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from tests.results.cards import (
    accuracies,
    attack_card,
    by_heart,
    inversion_card,
    leave,
    one,
    point,
    prune_card,
    read,
    study,
    train_card,
)
from wmlightning.errors import UserError
from wmlightning.results.table import GROUP, aggregate, select


def test_the_summary_is_mean_and_range_over_seeds(tmp_path: Path) -> None:
    cleans, news = [], []
    for seed, (clean, new) in enumerate([(0.90, 0.5), (0.80, 0.7), (0.85, 0.9)]):
        victim = train_card(seed=seed)
        leave(tmp_path, victim)
        attack = prune_card(victim, rates=(0.3,))
        attack["curve"] = [
            point(0.1 + 0.2, accuracies("attack", 0.3, 0.3), epochs=1, final=False),
            point(0.3, accuracies("attack", clean, new), epochs=2),
        ]
        leave(tmp_path, attack)
        cleans.append(100 * clean)
        news.append(100 * new)
    summary = aggregate(read(tmp_path))
    assert list(summary["attack"]) == ["none", "prune", "prune"]
    line = one(summary, attack="prune", is_victim=False)
    assert (line["n_seeds"], line["n_runs"]) == (3, 3)
    for name, values in {"clean_acc": cleans, "trigger_new_acc": news}.items():
        expected = [mean(values), min(values), max(values)]
        assert [line[f"{name}_{how}"] for how in ("mean", "min", "max")] == pytest.approx(expected)
    # Victims have 90, 91 and 92 %.
    assert line["clean_lost_mean"] == pytest.approx(91 - mean(cleans))
    assert line["clean_lost_max"] == pytest.approx(91 - 80)
    assert one(summary, is_victim=True)["clean_acc_max"] == pytest.approx(92)
    assert one(summary, attack="none")["seconds_mean"] != one(summary, attack="none")["seconds_mean"]


def test_of_a_key_learned_by_heart_trained_triggers_count(tmp_path: Path) -> None:
    for card in (*by_heart(), train_card()):
        leave(tmp_path, card)
    summary = aggregate(read(tmp_path))
    lines = {key: one(summary, key=key, attack="none") for key in ("paper, random labels", "paper")}
    assert [line["kept_mean"] for line in lines.values()] == pytest.approx([100, 99])
    assert [line["trigger_new_acc_mean"] for line in lines.values()] == pytest.approx([10, 99])
    last = one(summary, attack="finetune", strength=0.1)
    assert last["kept_mean"] == pytest.approx(95)


def test_every_epoch_on_request(tmp_path: Path) -> None:
    study(tmp_path, seeds=(0, 1))
    frame = read(tmp_path)
    assert len(aggregate(frame)) == 3 * (1 + 3 + 3 + 1)
    every = aggregate(frame, every_epoch=True)
    assert len(every) == 3 * (1 + 3 + 5 + 1)
    assert set(every["n_seeds"]) == {2}
    assert not every.duplicated([*GROUP, "epochs"]).any()


def test_models_of_one_seed_that_differ_otherwise_are_told(tmp_path: Path) -> None:
    for i, card in enumerate([train_card(), train_card()]):
        leave(tmp_path, {**card, "fingerprint": f"{i}"}, f"{i}")
    line = one(aggregate(read(tmp_path)))
    assert (line["n_seeds"], line["n_runs"]) == (1, 2)


def test_attacks_with_other_options_are_kept_apart(tmp_path: Path) -> None:
    victim = train_card()
    base = prune_card(victim)
    for scope in ("layer", "global"):
        more = {name: base[name] for name in ("type", "strength", "curve")}
        options = {"scope": scope, "augment": {"shift": 2, "flip": scope == "layer"}, "lr": 0.01}
        leave(tmp_path, attack_card(victim, "prune", options=options, **more))
    summary = aggregate(read(tmp_path))
    assert set(summary["settings"]) == {"", "augment.flip=True, scope=layer", "augment.flip=False, scope=global"}
    assert set(summary["n_runs"]) == {1}  # the victim, too, which both have in common
    assert summary["is_victim"].sum() == 1


def ablation(runs: Path, *options: dict[str, Any], watermark: str = "noise") -> None:
    """A model and an attack on it for each choice of the watermark's options, all of one seed."""
    for i, chosen in enumerate(options):
        victim = train_card(watermark=watermark)
        victim["config"]["watermark"] |= chosen
        victim["fingerprint"] = f"{i}"
        for card in (victim, prune_card(victim)):
            leave(runs, card, f"{i}-{card['kind']}")


def test_watermarks_with_other_options_are_kept_apart(tmp_path: Path) -> None:
    ablation(tmp_path, *({"strength": s, "n_triggers": 60} for s in (0.4, 0.05, 0.1)))
    leave(tmp_path, train_card(key="8 marks"))
    summary = aggregate(read(tmp_path))
    keys = [f"paper, strength={s}" for s in ("0.05", "0.1", "0.4")]
    assert list(dict.fromkeys(summary["key"])) == [*keys, "8 marks"]
    assert set(summary["n_runs"]) == {1}
    assert all(len(part) == 4 for _, part in summary[summary["key"] != "8 marks"].groupby("key"))


def test_options_are_in_the_order_of_their_size(tmp_path: Path) -> None:
    ablation(tmp_path, *({"n_triggers": n} for n in (1000, 60, 0.01, 300)))
    found = list(dict.fromkeys(aggregate(read(tmp_path))["key"]))
    assert found == [f"paper, n_triggers={n}" for n in ("0.01", "60", "300", "1000")]


def test_secret_options_are_numbered_and_not_told(tmp_path: Path) -> None:
    secrets = ({"text": "SESAME", "source_class": 1}, {"text": "CRIMSON", "source_class": 2}, {"text": None})
    ablation(tmp_path, *({"source_class": "any", **chosen} for chosen in secrets), watermark="content")
    summary = aggregate(read(tmp_path))
    keys = [f"paper, source_class=(withheld) {i}, text=(withheld) {i}" for i in (1, 2)]
    assert list(dict.fromkeys(summary["key"])) == [*keys, "paper, source_class=any, text=None"]
    assert set(summary["n_runs"]) == {1}


def test_a_secret_option_of_one_value_has_no_number(tmp_path: Path) -> None:
    ablation(tmp_path, *({"text": text} for text in ("SESAME", "SESAME", None)), watermark="content")
    summary = aggregate(read(tmp_path))
    assert summary.groupby("key")["n_runs"].max().to_dict() == {"paper, text=(withheld)": 2, "paper, text=None": 1}


@pytest.mark.parametrize("values", [(0.3, 1.0), (1, 0.3)])
def test_numbers_of_secret_options_follow_fingerprints_in_every_task(
    tmp_path: Path, values: tuple[float, float]
) -> None:
    """The larger one comes first or last by chance, and one value has one number."""
    for dataset, turned in (("mnist", 1), ("cifar10", -1)):
        for i, opacity in enumerate(values[::turned]):
            victim = train_card(dataset, watermark="content")
            victim["config"]["watermark"] |= {"opacity": opacity, "place": [1, {"deep": opacity}]}
            victim["fingerprint"] = f"{'b' if turned == 1 else 'c'}{i}"
            leave(tmp_path, victim, f"{9 - i}-{dataset}")
    frame = read(tmp_path)
    assert set(frame["key"]) == {f"paper, opacity=(withheld) {i}, place=(withheld) {i}" for i in (1, 2)}
    assert dict(zip(frame["victim"], frame["key"].str[-1], strict=True)) == {"b0": "1", "b1": "2", "c0": "2", "c1": "1"}


def test_thieves_with_other_data_are_kept_apart(tmp_path: Path) -> None:
    for n in (100, None):
        card = inversion_card(train_card(), score=0.5 if n else 0.7)
        card["config"]["attacker"] = {"n": n, "data": None, "seed": n or 0}
        leave(tmp_path, {**card, "fingerprint": str(n)}, str(n))
    summary = aggregate(read(tmp_path))
    assert summary.set_index("settings")["score_mean"].to_dict() == {"attacker.n=100": 0.5, "attacker.n=None": 0.7}


def test_settings_of_a_surrogate_are_told(tmp_path: Path) -> None:
    leave(tmp_path, prune_card(train_card(), settings={"lr": 0.010, "how": "all", "n": 3}))
    assert set(read(tmp_path)["settings"]) == {"", "how=all, lr=0.01, n=3"}


@pytest.mark.parametrize(
    ("conditions", "n"),
    [
        ([], 30),  # ten for each of three models
        (["attack=prune"], 9),
        (["attack=prune", "strength=0.5"], 3),
        (["attack=prune", "attack=none"], 12),
        (["attack=prune", "attack=none", "watermark=none"], 4),
        (["key="], 10),
        (["seed=0"], 30),
        (["seed=1"], 0),
        (["final=false"], 6),
        (["is_victim=True", "strength=0"], 3),
        (["clean_acc=0.9", "attack=none"], 3),
        (["queries=0"], 24),  # not trainings and detections, which have none
        (["attack=pr"], 0),
    ],
)
def test_conditions_choose_rows(tmp_path: Path, conditions: list[str], n: int) -> None:
    study(tmp_path, seeds=(0,))
    frame = read(tmp_path)
    chosen = select(frame, conditions)
    assert len(chosen) == n
    assert list(chosen.index) == list(range(n))


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("attack", "'attack' names no value; write COLUMN=VALUE"),
        ("colour=red", "there is no column 'colour'; there are dataset, watermark"),
        ("=x", "there is no column ''"),
        ("seed=one", "'one' is no number; seed holds numbers"),
        ("final=maybe", "neither true nor false"),
    ],
)
def test_a_condition_that_says_nothing_is_refused(tmp_path: Path, condition: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        select(read(tmp_path), [condition])
    assert told in str(caught.value)
    assert str(caught.value).startswith("where: ")
