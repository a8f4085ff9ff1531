"""The race against decoy keys, stopped at any time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ownership.statistics.innocents import at_most, ever_reaches_no_more_than_allowed
from wmlightning.ownership.statistics.ranks import log_rank_capital
from wmlightning.ownership.statistics.sequential import DecoyKeys


def race(rows: Sequence[Sequence[int]], alpha: float, order: Callable[[int], int] = int) -> DecoyKeys:
    """The first row is the owner's, the others are decoys, all asked at once in turn."""
    game = DecoyKeys(rows[0], [1] * len(rows[0]), alpha)
    for column in range(len(rows[0])):
        for decoy in sorted(range(len(rows) - 1), key=order):
            game.update(decoy, rows[decoy + 1][column], 1)
    return game


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 1), min_size=3, max_size=3), min_size=2, max_size=5), st.floats(0.05, 0.9))
def test_race_is_fair_for_any_scores(rows: list[list[int]], alpha: float) -> None:
    """Every order of the same scores is as likely, if the suspect does not know whose is the key."""
    games = [race(order, alpha) for order in itertools.permutations(rows)]
    assert np.mean([game.e_value for game in games]) <= 1 + 1e-9
    ever_reaches_no_more_than_allowed([1 / game.p_value for game in games])
    if len({sum(row) for row in rows}) == len(rows):
        assert np.mean([game.e_value for game in games]) == pytest.approx(1), "without ties exactly fair"


def test_race_does_not_depend_on_who_answers_first() -> None:
    rng = np.random.default_rng(0)
    rows = [[1, 1, 0, 1, 1, 1], *(rng.random((60, 6)) < 0.5).astype(int).tolist()]
    forth, back = race(rows, 0.05), race(rows, 0.05, order=lambda decoy: -decoy)
    assert forth.entered == back.entered == [sum(row) >= 5 for row in rows[1:]]
    assert forth.p_value == back.p_value


def test_race_settles_a_decoy_as_soon_as_it_is_decided() -> None:
    game = DecoyKeys([1, 1, 1, 0], [1] * 4)
    assert game.reaches(0) is None
    game.update(0, 0, 1)
    assert game.reaches(0) is None, "three more could match"
    game.update(1, 0, 1)
    game.update(1, 0, 1)
    assert game.reaches(1) is False and game.entered == [], "the first decoy comes first"
    game.update(0, -1, 1)
    game.update(0, 0, 1)
    assert game.entered == [False, False]
    before = game.e_value
    game.update(0, 1, 1)
    assert game.e_value == before
    assert game.e_value == pytest.approx(np.exp(log_rank_capital(2, 0, 0.001)))
    assert game.result().matches == 3
    with pytest.raises(ValueError, match="no decoy"):
        game.update(-1, 0, 1)


def test_race_against_a_key_without_matches() -> None:
    game = DecoyKeys([-1, 0], [1, 1])
    for decoy in range(5):
        game.update(decoy, 0, 1)
    assert game.entered == [True] * 5
    assert game.p_value == 1 and game.e_value < 1


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_race_reaches_alpha_after_122_percent_of_the_fewest_decoys(alpha: float) -> None:
    game = DecoyKeys([1] * 5, [1] * 5, alpha)
    decoy = 0
    while not game.reached:
        game.update(decoy, 0, 1)
        decoy += 1
    assert 1.15 / alpha < decoy < 1.23 / alpha + 1


def test_races_of_innocent_suspects_until_the_verifier_is_content() -> None:
    rng = np.random.default_rng(4)
    draws, p_values = 400, []
    for _ in range(draws):
        answers = (rng.random((150, 6)) < rng.random()).astype(int)
        game = DecoyKeys(answers[0], [1] * 6, 0.01)
        for decoy, row in enumerate(answers[1:].tolist()):
            for answer in row:
                if game.reaches(decoy) is None:
                    game.update(decoy, answer, 1)
            game.update(decoy, row[-1], 1)
        p_values.append(game.p_value)
    for alpha in (0.05, 0.01):
        assert at_most(float(np.mean(np.array(p_values) <= alpha)), alpha, draws)
