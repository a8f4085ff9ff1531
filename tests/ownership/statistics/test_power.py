"""Estimates before the first query, against the tests themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from wmlightning.ownership.statistics.fixed import decoy_keys, independent_labels, several_marks
from wmlightning.ownership.statistics.guessing import SeveralMarks
from wmlightning.ownership.statistics.power import Setting, queries_needed
from wmlightning.ownership.statistics.ranks import decoys_asked, decoys_needed, log_rank_capital
from wmlightning.ownership.statistics.result import DECOY_KEYS
from wmlightning.ownership.statistics.sequential import DecoyKeys, IndependentLabels

TEN: dict[str, Any] = {"n_classes": 10}


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize(
    ("test", "more"),
    [("several marks", {"n_marks": 8}), ("independent labels", {"n_labels": 9})],
)
def test_thirty_queries_are_enough_at_80_percent(test: str, more: dict[str, Any], sequential: bool) -> None:
    found = [
        queries_needed(test, Setting(**TEN, **more, survival=survival, sequential=sequential))
        for survival in (1.0, 0.8, 0.5)
    ]
    needed = [estimate.triggers or 0 for estimate in found]
    assert 3 <= needed[0] <= needed[1] <= needed[2] <= 40
    assert needed[1] <= 12
    for estimate in found:
        assert estimate.power >= 0.9 and not estimate.reason and estimate.queries == estimate.triggers
        assert estimate.spent is not None and estimate.spent <= (estimate.triggers or 0)
    if sequential:
        assert (found[2].spent or 0) < 0.7 * needed[2]


def test_independent_labels_is_the_fewest_that_reach_the_power() -> None:
    setting = Setting(**TEN, n_labels=9, survival=0.6)
    n = queries_needed("independent labels", setting).triggers
    assert n

    def power(n: int) -> float:
        p_values = [independent_labels(np.where(np.arange(n) < m, 1, 0), [1] * n, 9).p_value for m in range(n + 1)]
        return float(binom.pmf(np.arange(n + 1), n, 0.6)[np.array(p_values) <= 0.001].sum())

    assert power(n) == pytest.approx(queries_needed("independent labels", setting).power)
    assert all(power(fewer) < 0.9 for fewer in range(1, n))


def test_sequential_estimate_agrees_with_the_test() -> None:
    setting = Setting(**TEN, n_labels=9, survival=0.7, sequential=True, alpha=0.01)
    estimate = queries_needed("independent labels", setting)
    rng, reached, spent = np.random.default_rng(0), 0, []
    for _ in range(600):
        game = IndependentLabels([1] * (estimate.triggers or 0), 9, alpha=0.01)
        for trigger in range(estimate.triggers or 0):
            if not game.reached:
                game.update(trigger, int(rng.random() < 0.7))
        reached += game.reached
        spent.append(len(game.answers))
    assert reached / 600 == pytest.approx(estimate.power, abs=0.04)
    assert np.mean(spent) == pytest.approx(estimate.spent, rel=0.06)


@pytest.mark.parametrize("sequential", [False, True])
def test_decoy_estimate_agrees_with_the_test(sequential: bool) -> None:
    setting = Setting(**TEN, n_others=80, alpha=0.02, survival=0.7, others_match=0.2, sequential=sequential)
    estimate = queries_needed("decoy keys", setting)
    n = estimate.triggers
    assert n and estimate.queries == 81 * n
    rng, reached, spent = np.random.default_rng(1), 0, []
    for _ in range(300):
        ours, theirs = (rng.random(n) < 0.7).astype(int), (rng.random((80, n)) < 0.2).astype(int)
        game, asked = DecoyKeys(ours, [1] * n, 0.02), n
        for decoy, row in enumerate(theirs.tolist()):
            for answer in row:
                if decoy >= len(game.entered) and not (sequential and game.reached):
                    game.update(decoy, answer, 1)
                    asked += 1
        spent.append(asked if sequential else 81 * n)  # all at once
        reached += game.reached if sequential else decoy_keys(ours, [1] * n, theirs).p_value <= 0.02
    assert reached / 300 == pytest.approx(estimate.power, abs=0.06)
    assert np.mean(spent) == pytest.approx(estimate.spent, rel=0.05)


@pytest.mark.parametrize("sequential", [False, True])
def test_estimate_leaves_out_what_the_test_leaves_out(sequential: bool) -> None:
    """Labels drawn among all classes are now and then the truth: with few classes that is a trigger in three."""
    setting = Setting(3, n_marks=8, survival=0.9, alpha=0.01, most=100, idle=1 / 3, sequential=sequential)
    estimate = queries_needed("several marks", setting)
    assert estimate.triggers is not None
    rng, reached, n = np.random.default_rng(7), 0, estimate.triggers
    for _ in range(150):
        marks, true = np.arange(n) % 8, rng.integers(3, size=n)
        labels = rng.integers(3, size=8)[marks]
        answers = np.where(rng.random(n) < 0.9, labels, (labels + rng.integers(1, 3, size=n)) % 3)
        if sequential:
            game = SeveralMarks(labels, marks, range(3), 3, true, 0.01)
            for trigger in range(n):
                if game.wanted(trigger) and not game.reached:
                    game.update(trigger, int(answers[trigger]))
            reached += game.reached
        else:
            reached += several_marks(answers, labels, marks, range(3), true).p_value <= 0.01
    assert reached / 150 >= estimate.power - 0.08
    naive = queries_needed("several marks", replace(setting, idle=0.0)).triggers
    assert naive is not None and naive < n


def test_decoys_cost_little_more_than_a_query_if_every_trigger_works() -> None:
    assert decoys_asked(10, 0.05)[10] == pytest.approx(1 / 0.95, rel=1e-6)
    assert decoys_asked(10, 0.0)[8] == pytest.approx(3)
    assert decoys_asked(1, 0.3).tolist() == [1, 1]


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001])
def test_fewest_decoys(alpha: float) -> None:
    assert decoys_needed(alpha, False) == round(1 / alpha) - 1
    for reaching in (0, 1, 3):
        n = decoys_needed(alpha, True, reaching)
        assert log_rank_capital(n, reaching, alpha) >= -np.log(alpha) > log_rank_capital(n - 1, reaching, alpha)


@pytest.mark.parametrize(
    ("test", "more", "reason"),
    [
        ("several marks", {}, "1 marks with labels of 10 classes: p is 0.1 at best"),
        ("several marks", {"n_marks": 2, "sequential": True}, "p is 0.01 at best"),
        ("several marks", {"n_marks": 8, "most": 2}, "p is 0.01 at best"),
        ("independent labels", {"most": 2}, "2 triggers with labels of 10 classes: p is 0.01 at best"),
        ("independent labels", {"n_labels": 1}, "p is 1 at best"),
        ("decoy keys", {}, "99 decoy keys: alpha = 0.001 takes 999 at least"),
        ("decoy keys", {"n_others": 999, "sequential": True}, "takes 1216 at least"),
        ("null models", {"n_others": 30}, "30 null models: alpha = 0.001 takes 999 at least"),
        ("several marks", {"n_marks": 4, "survival": 0.1, "most": 30}, "30 triggers find out"),
        ("independent labels", {"survival": 0.1}, "200 triggers find out"),
        ("independent labels", {"survival": 0.1, "sequential": True}, "of suspects with 10 % of triggers alive"),
        ("decoy keys", {"n_others": 999, "survival": 0.05}, "not 90 %"),
    ],
)
def test_hopeless_keys(test: str, more: dict[str, Any], reason: str) -> None:
    estimate = queries_needed(test, Setting(**TEN, **more))
    assert (estimate.triggers, estimate.queries, estimate.spent) == (None, None, None)
    assert reason in estimate.reason
    assert estimate.power < 0.9


def test_exactly_enough_is_not_hopeless() -> None:
    assert queries_needed("several marks", Setting(**TEN, n_marks=3, survival=1)).triggers == 3
    assert queries_needed("decoy keys", Setting(**TEN, n_others=999, survival=1)).triggers
    assert queries_needed("null models", Setting(**TEN, n_others=19, alpha=0.05)).triggers


def test_simulation_is_seeded() -> None:
    setting = Setting(**TEN, n_marks=6, survival=0.7)
    assert queries_needed("several marks", setting, 1) == queries_needed("several marks", setting, 1)


@pytest.mark.parametrize(
    "wrong",
    [{"survival": 2}, {"alpha": 0}, {"n_marks": 0}, {"n_classes": 1}, {"n_labels": 11}, {"most": 0}],
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|lie|labels"):
        Setting(**{**TEN, **wrong})


def test_unknown_tests() -> None:
    with pytest.raises(ValueError, match="there is no test"):
        queries_needed("chi squared", Setting(**TEN))
    with pytest.raises(ValueError, match="no sequential"):
        queries_needed("null models", Setting(**TEN, sequential=True))


def test_a_huge_budget_takes_no_longer() -> None:
    """What becomes of a decoy is worked out from decision to decision, not from decoy to decoy."""
    huge = Setting(10, n_others=10**12, others_match=0.05, survival=0.8, alpha=0.001, most=40, sequential=True)
    assert queries_needed(DECOY_KEYS, huge).triggers is not None


def test_a_test_of_fixed_size_asks_each_decoy_everything() -> None:
    """Its answers come all at once: no decoy is settled early."""
    estimate = queries_needed(DECOY_KEYS, Setting(10, n_others=99, alpha=0.01))
    assert estimate.triggers is not None
    assert estimate.spent == estimate.queries == estimate.triggers * 100
