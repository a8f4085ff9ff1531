from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import many
from wmlightning.results.front import ACCEPTABLE_LOSS, best_bargain

shares = st.integers(0, 20).map(lambda n: n / 20)


@many
@given(shares, st.lists(st.tuples(shares, shares), min_size=1, max_size=8))
def test_a_thief_takes_the_fewest_triggers_for_little_accuracy(
    before: float, points: list[tuple[float, float]]
) -> None:
    clean, left = [c for c, _ in points], [t for _, t in points]
    best = best_bargain(before, clean, left)
    cheap = [i for i, c in enumerate(clean) if before - c <= ACCEPTABLE_LOSS + 1e-9]
    if cheap:
        assert best in cheap and left[best] == min(left[i] for i in cheap)
    else:
        assert clean[best] == max(clean)


def test_two_points_in_single_precision_are_two_points() -> None:
    before, after = (float(np.float32(share)) for share in (0.818, 0.798))
    assert before - after > ACCEPTABLE_LOSS
    assert best_bargain(before, [before, after, after - 0.0001], [0.9, 0.5, 0.1]) == 1
