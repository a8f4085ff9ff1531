"""What a thief would choose among surrogates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: A thief who loses more clean accuracy than this has won nothing.
ACCEPTABLE_LOSS = 0.02

#: As many as a share in single precision is good for.
_DIGITS = 6


def pareto_front(lost: ArrayLike, left: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point beats: none has less of one and not more of the other.

    Args:
        lost: accuracy that the thief lost.
        left: trigger accuracy that is left.

    Returns:
        One flag for each point. A point with a missing number neither is on the front nor beats another.
    """
    points = np.column_stack([np.asarray(lost, float), np.asarray(left, float)])
    front: NDArray[np.bool_] = ~np.isnan(points).any(axis=1)
    best = math.inf
    last = (math.nan, math.nan)
    for i in np.lexsort((points[:, 1], points[:, 0])):
        if not front[i]:
            continue
        here = (points[i, 0], points[i, 1])
        front[i] = here[1] < best or here == last  # by growing loss: only less of the watermark is worth more loss
        if front[i]:
            best, last = here[1], here
    return front


def best_bargain(before: float, clean: Sequence[float], left: Sequence[float]) -> int:
    """The surrogate with the fewest triggers left among those that lose little clean accuracy.

    It is chosen by what the judge measures, among all epochs and settings: no thief sees these numbers, and the
    smallest of many is small by chance too. That errs to the thief's side: the watermark is reported as weaker than a
    thief could count on.

    Args:
        before: the victim's clean accuracy.
        clean: clean accuracy of each surrogate; at least one.
        left: its trigger accuracy.

    Returns:
        Its place. If all lose more than :data:`ACCEPTABLE_LOSS`, the one that loses least.
    """
    # Single precision is behind these numbers: 0.7979999781 is 0.798, and two points below 0.818 are two points.
    good = [i for i, accuracy in enumerate(clean) if round(before - accuracy, _DIGITS) <= ACCEPTABLE_LOSS]
    if not good:
        good = [max(range(len(clean)), key=clean.__getitem__)]
    return min(good, key=left.__getitem__)
