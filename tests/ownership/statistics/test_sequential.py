"""Tests that may be stopped at any time: fair for every key there is, and against suspects that try everything."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from tests.ownership.statistics.innocents import INNOCENTS, Ints, at_most, ever_reaches_no_more_than_allowed
from wmlightning.ownership.statistics.fixed import several_marks
from wmlightning.ownership.statistics.guessing import SeveralMarks
from wmlightning.ownership.statistics.sequential import IndependentLabels

Game = SeveralMarks | IndependentLabels


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_guessing_is_a_fair_game_for_any_answers(data: st.DataObject) -> None:
    """All keys of 3 marks and 4 classes: the mean of the capital is 1 at the end, and at every stopping rule's."""
    n, m = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    each: dict[str, Any] = {"min_size": n, "max_size": n}
    marks: Ints = np.array(data.draw(st.lists(st.integers(0, 2), **each)))
    answers = data.draw(st.lists(st.integers(-1, 4), **each))
    true = data.draw(st.none() | st.lists(st.integers(-1, 4), **each))
    alpha, stop = data.draw(st.sampled_from([0.3, 0.01])), data.draw(st.floats(0.1, 4))
    last, largest, stopped = [], [], []
    for key in itertools.product(range(m), repeat=3):
        game = SeveralMarks(np.array(key)[marks], marks, range(m), 5, true, alpha)
        held = None
        for trigger, answer in enumerate(answers):
            game.update(trigger, answer)
            if held is None and not 1 / stop < game.e_value < 1 + stop:
                held = game.e_value
        last.append(game.e_value)
        largest.append(1 / game.p_value)
        stopped.append(game.e_value if held is None else held)
    assert np.mean(last) == pytest.approx(1)
    assert np.mean(stopped) == pytest.approx(1)
    ever_reaches_no_more_than_allowed(largest)


def adaptive(history: list[tuple[int, int]], trigger: int) -> int:
    """A suspect that remembers what it was asked and guesses at what the verifier does."""
    repeated = sum(1 for asked, _ in history if asked % 3 == trigger % 3)
    return (len(history) // 2 + repeated * (trigger % 2) + (history[-1][0] if history else 0)) % 3


@pytest.mark.parametrize("alpha", [0.2, 0.01])
def test_guessing_is_fair_if_suspect_and_verifier_react_to_each_other(alpha: float) -> None:
    """Closed marks are asked no more, so that the suspect learns from what it is asked."""
    marks, last, largest = np.arange(18) % 3, [], []
    for key in itertools.product(range(3), repeat=3):
        game = SeveralMarks(np.array(key)[marks], marks, range(3), 3, alpha=alpha)
        history: list[tuple[int, int]] = []
        for trigger in range(18):
            if game.wanted(trigger) and not game.reached:
                history.append((trigger, adaptive(history, trigger)))
                game.update(*history[-1])
        last.append(game.e_value)
        largest.append(1 / game.p_value)
    assert np.mean(last) == pytest.approx(1)
    ever_reaches_no_more_than_allowed(largest)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_bets_on_labels_are_fair_for_any_answers(data: st.DataObject) -> None:
    pairs = data.draw(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 2)), min_size=1, max_size=6))
    known = data.draw(st.booleans())
    answers, true = [a for a, _ in pairs], [t for _, t in pairs]
    last, largest = [], []
    for key in itertools.product(*([c for c in range(3) if c != t] for t in true)):
        game = IndependentLabels(key, 2, true if known else None)
        for trigger, answer in enumerate(answers):
            game.update(trigger, answer)
        last.append(game.e_value)
        largest.append(1 / game.p_value)
    assert np.mean(last) <= 1 + 1e-9
    if known and not {-1, 3} & set(answers):
        assert np.mean(last) == pytest.approx(1), "exactly fair"
    ever_reaches_no_more_than_allowed(largest)


def play(game: Game, answers: Ints, wanted: bool = True) -> Game:
    for trigger, answer in enumerate(answers.tolist()):
        if not wanted or game.wanted(trigger):
            game.update(trigger, answer)
        if game.reached:
            break
    return game


@pytest.mark.parametrize("name", INNOCENTS)
def test_innocent_suspects_until_the_verifier_is_content(name: str) -> None:
    rng = np.random.default_rng(3)
    marks, draws = np.arange(32) % 8, 200
    found: dict[str, list[float]] = {}
    for _ in range(draws):
        true = rng.integers(10, size=32)
        answers = INNOCENTS[name](rng, marks, true, 10)
        expected = rng.integers(10, size=8)[marks]
        own = (true + 1 + rng.integers(9, size=32)) % 10
        known = true if rng.random() < 0.5 else None
        found.setdefault("marks", []).append(
            play(SeveralMarks(expected, marks, range(10), 10, known, 0.01), answers).p_value
        )
        found.setdefault("labels", []).append(play(IndependentLabels(own, 9, known, 0.01), answers).p_value)
    for test, p_values in found.items():
        for alpha in (0.05, 0.01):
            share = float(np.mean(np.array(p_values) <= alpha))
            assert at_most(share, alpha, draws), (test, alpha, share)


def test_peeking_at_a_test_of_fixed_size_would_not_do() -> None:
    """What the tests above are there for: they would notice."""
    rng = np.random.default_rng(5)
    marks, draws, content = np.arange(24) % 8, 250, 0
    for _ in range(draws):
        answers, expected = rng.integers(10, size=24), rng.integers(10, size=8)[marks]
        looks = (several_marks(answers[:n], expected[:n], marks[:n], range(10)).p_value for n in range(1, 25))
        content += any(p <= 0.05 for p in looks)
    assert not at_most(content / draws, 0.05, draws)


def test_recomputed_stakes_would_not_do() -> None:
    """The e-value of a fixed moment, followed from answer to answer: what the proof of the game forbids."""
    largest = []
    for label in range(4):
        likelihood, best = np.ones(4), 1.0
        for answer in (0, 1, 1, 2, 2, 2, 3, 3, 3, 3):
            likelihood = likelihood * np.where(np.arange(4) == answer, 0.7, 0.1)
            best = max(best, 4 * float(likelihood[label] / likelihood.sum()))
        largest.append(best)
    with pytest.raises(AssertionError):
        ever_reaches_no_more_than_allowed(largest)


@pytest.mark.parametrize("survival", [1.0, 0.8])
def test_stolen_suspects_are_found_out_early(survival: float) -> None:
    rng = np.random.default_rng(6)
    marks, spent = np.arange(40) % 8, {"marks": 0, "labels": 0}
    for _ in range(60):
        expected, own = rng.integers(10, size=8)[marks], rng.integers(10, size=40)
        for name, game in (
            ("marks", SeveralMarks(expected, marks, range(10), 10)),
            ("labels", IndependentLabels(own, 9)),
        ):
            hits = rng.random(40) < survival
            play(game, np.where(hits, game.expected, (game.expected + rng.integers(1, 10, size=40)) % 10))
            assert game.reached
            assert game.result().e_value == game.e_value >= 1000
            spent[name] += len(game.answers)
    assert max(spent.values()) / 60 < {1.0: 5, 0.8: 9}[survival]


def games() -> list[Any]:
    return [SeveralMarks([1, 2, 1], [0, 1, 0], [1, 2], 3), IndependentLabels([1, 2, 1], 2)]


@pytest.mark.parametrize("game", games())
def test_a_trigger_is_answered_once(game: Game) -> None:
    assert game.wanted(0)
    game.update(0, 1)
    assert not game.wanted(0)
    with pytest.raises(ValueError, match="answered before"):
        game.update(0, 1)
    with pytest.raises(ValueError, match="no trigger 3"):
        game.update(3, 1)


@pytest.mark.parametrize("game", games())
def test_nothing_answered(game: Game) -> None:
    assert (game.result().p_value, game.result().e_value, game.result().n) == (1, 1, 0)
    for trigger in range(3):
        game.update(trigger, -1)
    result = game.result()
    assert (result.p_value, result.n, result.n_missing) == (1, 3, 3)
    assert result.e_value is not None and result.e_value <= 1


def test_the_truth_shows_nothing() -> None:
    """Also of the labels that agree with it best: it is known before there is a suspect."""
    marks, true = np.arange(40) % 8, np.arange(40) % 8
    game = SeveralMarks(true, marks, range(10), 10, true)
    play(game, true)
    assert (game.p_value, game.e_value) == (1, 1)
    told = SeveralMarks(true, marks, range(10), 10)
    play(told, true)
    assert told.reached, "what it would be worth if it counted"


def test_closed_marks_are_not_asked_again() -> None:
    game = SeveralMarks([4] * 6, [0, 1] * 3, range(10), 10, true=[2] * 6)
    game.update(0, 4)
    game.update(2, 4)
    assert not game.wanted(4), "two surprising answers that agree: the label was guessed, and right"
    assert game.wanted(1)
    before = game.e_value
    game.update(4, 5)
    assert game.e_value == before


def test_one_mark_and_two_classes() -> None:
    game = SeveralMarks([1] * 50, [0] * 50, [0, 1], 2)
    play(game, np.ones(50, dtype=int))
    assert 1.7 < game.e_value <= 2
    assert SeveralMarks([1], [0], [1], 2).wanted(0) is False, "one class to draw from"


def test_hundreds_of_answers_that_disagree_stay_finite() -> None:
    for label in (0, 1, 2):
        game = SeveralMarks([label] * 800, [0] * 800, range(1000), 1000)
        play(game, np.arange(800) % 2, wanted=False)
        assert np.isfinite(game.log_e) and 0 < game.p_value <= 1


def test_settings_are_checked() -> None:
    for alpha in (0, 1, -1):
        with pytest.raises(ValueError, match="alpha"):
            IndependentLabels([1], 2, alpha=alpha)
    with pytest.raises(ValueError, match="at least one"):
        IndependentLabels([1], 0)
    with pytest.raises(ValueError, match="there are 2 classes"):
        SeveralMarks([1], [0], [1, 2], 2)


def test_bets_are_numbers_for_every_number_of_classes() -> None:
    """Of 7 labels the last alternative was larger than 1 by a rounding, and its bet no number after a miss."""
    n = 12
    matches = np.arange(n + 1)
    for n_labels in range(1, 1001):
        capital = np.exp(IndependentLabels.log_capital(matches, n - matches, n_labels))
        assert binom.pmf(matches, n, 1 / n_labels) @ capital == pytest.approx(1), n_labels
    game = IndependentLabels(np.zeros(40, dtype=int), 7)
    for trigger in range(40):
        game.update(trigger, int(trigger % 4 == 0))
    assert game.reached
