"""Tests of fixed size against brute force, scipy and the numbers we promise."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from tests.ownership.statistics.innocents import INNOCENTS, at_most
from wmlightning.ownership.statistics.fixed import decoy_keys, independent_labels, null_models, several_marks


@st.composite
def small(draw: st.DrawFn) -> dict[str, Any]:
    """Answers to at most 4 marks with labels of at most 4 classes of 4."""
    n = draw(st.integers(0, 9))
    k, m = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    each: dict[str, Any] = {"min_size": n, "max_size": n}
    return {
        "answers": draw(st.lists(st.integers(-1, 3), **each)),
        "marks": draw(st.lists(st.integers(0, k - 1), **each)),
        "true": draw(st.none() | st.lists(st.integers(-1, 3), **each)),
        "pool": draw(st.permutations(range(4)))[:m],
        "k": k,
    }


def labellings(case: dict[str, Any]) -> list[list[int]]:
    """The expected labels of every key there is, one in turn for each drawing of labels."""
    keys = itertools.product(case["pool"], repeat=case["k"])
    return [[key[mark] for mark in case["marks"]] for key in keys]


def score(case: dict[str, Any], expected: list[int]) -> int:
    true = case["true"] or [-1] * len(expected)
    hits = zip(case["answers"], expected, true, strict=True)
    return sum(a == e != t for a, e, t in hits)


@settings(max_examples=60, deadline=None)
@given(small())
def test_several_marks_is_the_share_of_all_keys_and_valid(case: dict[str, Any]) -> None:
    """For any answers at all: exact, and P(p <= a) <= a for every a, by going through all keys."""
    keys = labellings(case)
    scores = np.array([score(case, key) for key in keys])
    p_values = np.empty(len(keys))
    for i in {int(s): i for i, s in enumerate(scores)}.values():  # one key for each score
        found = several_marks(case["answers"], keys[i], case["marks"], case["pool"], case["true"])
        assert found.p_value == pytest.approx((scores >= scores[i]).mean(), rel=1e-12)
        p_values[scores == scores[i]] = found.p_value
    for a in p_values:
        assert (p_values <= a).mean() <= a + 1e-12


def eight_marks(each: int, alive: int) -> tuple[Any, Any, Any]:
    marks = np.arange(8 * each) % 8
    labels = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    return np.where(marks < alive, labels[marks], (labels[marks] + 1) % 10), labels[marks], marks


def test_eight_marks_of_three_images() -> None:
    """Five marks that answer are enough, as promised."""
    answers, expected, marks = eight_marks(3, 5)
    result = several_marks(answers, expected, marks, range(10))
    assert result.p_value == pytest.approx(binom.sf(4, 8, 0.1), rel=1e-12)
    assert result.p_value < 5e-4
    assert (result.test, result.matches, result.n, result.n_missing) == ("several marks", 15, 24, 0)
    assert result.e_value is None
    scattered = np.where(expected == answers, answers, np.random.default_rng(0).integers(10, size=24))
    assert several_marks(scattered, expected, marks, range(10)).p_value < 1e-4, "dead marks hardly ever agree"
    assert several_marks(expected, expected, marks, range(10)).p_value == pytest.approx(1e-8)


def test_one_mark_shows_one_in_ten_at_best() -> None:
    assert several_marks([7] * 100, [7] * 100, [0] * 100, range(10)).p_value == pytest.approx(0.1)


def test_the_truth_counts_for_nothing() -> None:
    """Else secrets could be tried, before there is a suspect, until labels and true classes agree."""
    rng = np.random.default_rng(5)
    marks, true = np.arange(40) % 8, rng.integers(10, size=40)
    best = max(
        (rng.integers(10, size=8)[marks] for _ in range(500)), key=lambda expected: int((expected == true).sum())
    )
    assert several_marks(true, best, marks, range(10)).p_value < 0.01, "this is what the search is for"
    found = several_marks(true, best, marks, range(10), true)
    assert found.p_value == 1
    assert found.details.endswith(", 40 answers with the true class left out")


def test_the_truth_left_out_helps_the_owner_where_misses_are_the_truth() -> None:
    rng = np.random.default_rng(5)
    marks, true = np.arange(16) % 8, rng.integers(10, size=16)
    expected = rng.integers(10, size=8)[marks]
    answers = np.where(np.arange(16) % 3 == 0, expected, true)
    assert several_marks(answers, expected, marks, range(10), true).p_value < 0.1 * (
        several_marks(answers, expected, marks, range(10)).p_value
    )


def test_many_marks_stay_exact() -> None:
    marks = np.repeat(np.arange(400), 2)
    labels = (marks * 7) % 10
    assert 0 < several_marks(labels, labels, marks, range(10)).p_value < 1e-300
    half = np.where(np.arange(800) % 16 < 3, labels, (labels + 3) % 10)
    assert 1e-20 < several_marks(half, labels, marks, range(10)).p_value < 1e-2


@pytest.mark.parametrize(
    ("expected", "pool", "wrong"),
    [
        ([1, 2], [1, 2], "two labels"),
        ([3, 3], [1, 2], "not in the pool"),
        ([1, 1], [1, 1], "each once"),
        ([1, 1], [], "each once"),
        ([-1, -1], [-1], "each once"),
        ([1], [1], "entries"),
    ],
)
def test_several_marks_refuses(expected: list[int], pool: list[int], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        several_marks([1, 1], expected, [0, 0], pool)


@pytest.mark.parametrize(("n", "needed"), [(20, 8), (30, 10), (100, 21)])
def test_known_numbers_of_independent_labels(n: int, needed: int) -> None:
    expected = np.arange(n) % 10
    for matches in (needed, needed - 1):
        answers = np.where(np.arange(n) < matches, expected, (expected + 1) % 10)
        p = independent_labels(answers, expected, 10).p_value
        assert p == pytest.approx(binom.sf(matches - 1, n, 0.1))
        assert (p <= 1e-3) == (matches == needed)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 2)), max_size=6), st.booleans())
def test_independent_labels_valid_for_any_answers(pairs: list[tuple[int, int]], known: bool) -> None:
    """All keys whose labels are drawn from the classes other than the true one."""
    answers, true = [a for a, _ in pairs], [t for _, t in pairs]
    keys = itertools.product(*([c for c in range(3) if c != t] for t in true))
    p_values = np.array([independent_labels(answers, key, 2, true if known else None).p_value for key in keys])
    for a in p_values:
        assert (p_values <= a).mean() <= a + 1e-12
    if known and -1 not in answers:
        assert p_values.mean() > 0.5  # exact, not only bounded


def test_answers_with_the_truth_are_left_out() -> None:
    true = np.zeros(40, dtype=int)
    expected = 1 + np.arange(40) % 9
    answers = np.where(np.arange(40) < 6, expected, true)
    result = independent_labels(answers, expected, 9, true)
    assert result.p_value == pytest.approx(9.0**-6)
    assert (result.matches, result.n) == (6, 40)
    assert independent_labels(answers, expected, 9).p_value > 0.1


def test_one_class_to_draw_from_shows_nothing() -> None:
    assert independent_labels([1, 1, 1], [1, 1, 1], 1).p_value == 1
    assert several_marks([1, 1, 1], [1, 1, 1], [0, 1, 2], [1]).p_value == 1
    assert independent_labels([1] * 10, [1] * 10, 2).p_value == pytest.approx(2**-10), "two classes are enough"


def test_ranks_by_hand() -> None:
    expected = [1, 1, 1, 1]
    decoys = [[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, -1, -1, 1]]
    assert decoy_keys([1, 1, 1, 0], expected, decoys).p_value == pytest.approx(3 / 5), "ties count, missing match"
    assert decoy_keys([1, 1, 1, 1], expected, decoys).p_value == pytest.approx(1 / 5)
    assert decoy_keys([1, 1, 1, 1], expected, decoys, [[1, 0, 0, 0], *[[1] * 4] * 3]).p_value == pytest.approx(2 / 5)
    assert null_models([1, 1, 1, 1], expected, decoys).test == "null models"
    with pytest.raises(ValueError, match="rows of labels"):
        decoy_keys([1, 1, 1, 1], expected, decoys, decoys[:2])
    with pytest.raises(ValueError, match="entries"):
        decoy_keys([1, 1, 1], [1, 1, 1], decoys)


def test_service_that_dies_after_the_owners_triggers() -> None:
    silent = np.full((99, 10), -1)
    assert decoy_keys([1] * 10, [1] * 10, silent).p_value == 1


@given(st.lists(st.lists(st.integers(-1, 1), min_size=3, max_size=3), min_size=1, max_size=7))
def test_rank_is_valid_whoever_is_the_owner(rows: list[list[int]]) -> None:
    others = [np.array(rows[:i] + rows[i + 1 :], dtype=int).reshape(-1, 3) for i in range(len(rows))]
    p_values = [decoy_keys(row, [1] * 3, rest).p_value for row, rest in zip(rows, others, strict=True)]
    for a in p_values:
        assert np.mean(np.array(p_values) <= a) <= a + 1e-12


NOTHING: list[list[int]] = [[], [-1, -1, -1, -1]]


@pytest.mark.parametrize("answers", NOTHING)
def test_nothing_answered_shows_nothing(answers: list[int]) -> None:
    n = len(answers)
    results = [
        several_marks(answers, [1] * n, list(range(n)), range(10)),
        independent_labels(answers, [1] * n, 9),
        decoy_keys(answers, [1] * n, np.zeros((9, n), dtype=int)),
        null_models(answers, [1] * n, np.zeros((9, n), dtype=int)),
    ]
    for result in results:
        assert result.p_value == 1
        assert (result.matches, result.n, result.n_missing) == (0, n, n)
        assert result.interval[0] == 0


@given(st.data())
def test_more_matches_never_raise_p(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    answers = np.array(data.draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n)))
    marks, i = np.arange(n) % 3, data.draw(st.integers(0, n - 1))
    expected = np.array([0, 1, 3])[marks]
    better = answers.copy()
    better[i] = expected[i]
    decoys = np.array(data.draw(st.lists(st.integers(-1, 3), min_size=5 * n, max_size=5 * n))).reshape(5, n)
    assert independent_labels(better, expected, 4).p_value <= independent_labels(answers, expected, 4).p_value
    assert decoy_keys(better, expected, decoys).p_value <= decoy_keys(answers, expected, decoys).p_value
    assert several_marks(better, expected, marks, range(4)).p_value <= (
        several_marks(answers, expected, marks, range(4)).p_value
    )


@pytest.mark.parametrize("name", INNOCENTS)
def test_innocent_suspects_of_size(name: str) -> None:
    """Ten classes, 8 marks of 3 images and random labels, in thousands of draws."""
    rng = np.random.default_rng(1)
    marks, draws = np.arange(24) % 8, 1000
    found: dict[str, list[float]] = {}
    for _ in range(draws):
        true = rng.integers(10, size=24)
        answers = INNOCENTS[name](rng, marks, true, 10)
        expected = rng.integers(10, size=8)[marks]
        own = (true + 1 + rng.integers(9, size=24)) % 10
        found.setdefault("marks", []).append(several_marks(answers, expected, marks, range(10)).p_value)
        found.setdefault("marks, true", []).append(several_marks(answers, expected, marks, range(10), true).p_value)
        found.setdefault("labels", []).append(independent_labels(answers, own, 9).p_value)
        found.setdefault("labels, true", []).append(independent_labels(answers, own, 9, true).p_value)
    for test, p_values in found.items():
        for alpha in (0.05, 0.01):
            share = float(np.mean(np.array(p_values) <= alpha))
            assert at_most(share, alpha, draws), (test, alpha, share)


def test_ranks_of_innocent_suspects() -> None:
    """Scores of all keys depend on a common mood of the suspect: exchangeable, not independent."""
    rng = np.random.default_rng(2)
    draws, p_values, nulls = 2000, [], []
    for _ in range(draws):
        mood = rng.random()
        answers = (rng.random((100, 8)) < mood).astype(int)
        answers[rng.random((100, 8)) < 0.1] = -1
        p_values.append(decoy_keys(answers[0], np.ones(8, dtype=int), answers[1:]).p_value)
        nulls.append(null_models(answers[0], np.ones(8, dtype=int), answers[1:]).p_value)
    for alpha in (0.05, 0.01):
        assert at_most(float(np.mean(np.array(p_values) <= alpha)), alpha, draws)
        assert at_most(float(np.mean(np.array(nulls) <= alpha)), alpha, draws)
