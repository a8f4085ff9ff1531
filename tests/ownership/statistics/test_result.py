"""Interval, correction for several suspects, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from wmlightning.ownership.statistics.result import (
    ASSUMPTIONS,
    bonferroni,
    bounded,
    clopper_pearson,
    integers,
    positive,
)


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


def test_bonferroni_by_hand() -> None:
    assert bonferroni(0.2, 1) == 0.2
    assert bonferroni(0.01, 4) == pytest.approx(0.04)
    assert bonferroni(0.4, 3) == 1
    assert bonferroni(0.1, 3) == 0.3, "on paper, and not 0.30000000000000004"


def test_bonferroni_refuses_what_is_no_p_value() -> None:
    for wrong in (1.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match="p-value"):
            bonferroni(wrong, 2)


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
