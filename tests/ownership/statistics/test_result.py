"""Interval, correction for several suspects, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from wmlightning.ownership.statistics.result import ASSUMPTIONS, bounded, clopper_pearson, holm, integers, positive


@given(st.integers(0, 60), st.integers(1, 60), st.sampled_from([0.9, 0.95, 0.99]))
def test_interval_is_scipys(matches: int, n: int, confidence: float) -> None:
    matches = min(matches, n)
    wanted = binomtest(matches, n).proportion_ci(confidence, "exact")
    assert clopper_pearson(matches, n, confidence) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


def test_interval_of_nothing() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.97])
def test_interval_covers(share: float) -> None:
    n = 25
    covered = [low <= share <= high for low, high in (clopper_pearson(m, n) for m in range(n + 1))]
    assert binom.pmf(np.arange(n + 1), n, share)[covered].sum() >= 0.95


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.2]) == [0.2]
    assert holm([0.1, 0.9, 0.9])[0] == 0.3, "on paper, and not 0.30000000000000004"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_stepping_down_rejects(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= c * (1 + 1e-11) and c <= 1 for p, c in zip(p_values, corrected, strict=True))
    alpha, order = 0.05, sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = set()
    for step, i in enumerate(order):
        if p_values[i] * (len(order) - step) > alpha:
            break
        rejected.add(i)
    assert rejected == {i for i, c in enumerate(corrected) if c <= alpha}


def test_holm_refuses_what_is_no_p_value() -> None:
    for wrong in ([1.5], [-0.1], [[0.1]], [float("nan")]):
        with pytest.raises(ValueError, match="p-values"):
            holm(wrong)


def test_numbers_stay_finite() -> None:
    assert 0 < positive(0.0) < 1e-300
    assert positive(1 + 1e-12) == 1
    assert np.isfinite(bounded(1e6))
    assert bounded(-np.inf) == 0


def test_assumptions_are_sentences() -> None:
    for sentence in ASSUMPTIONS.values():
        assert sentence[0].isupper() and sentence.endswith(".")


@pytest.mark.parametrize("wrong", [[0.5], [[1]], ["a"], [True]])
def test_wrong_input(wrong: list[object]) -> None:
    with pytest.raises(ValueError, match="answers must"):
        integers(wrong, "answers")  # type: ignore[arg-type]


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="expected has 1 entries, and there are 2 triggers"):
        integers([1], "expected", np.array([1, 2]))
