"""Suspects made without the key: whatever they answer, they know no label."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

#: From a generator, marks, true classes and the number of classes to answers.
Innocent = Callable[[np.random.Generator, Ints, Ints, int], Ints]


def constant(rng: np.random.Generator, marks: Ints, true: Ints, k: int) -> Ints:
    return np.full(len(marks), rng.integers(k))


def class_per_mark(rng: np.random.Generator, marks: Ints, true: Ints, k: int) -> Ints:
    return np.asarray(rng.integers(k, size=int(marks.max()) + 1)[marks])


def two_classes_per_mark(rng: np.random.Generator, marks: Ints, true: Ints, k: int) -> Ints:
    return np.asarray(rng.integers(k, size=(int(marks.max()) + 1, 2))[marks, rng.integers(2, size=len(marks))])


def chance(rng: np.random.Generator, marks: Ints, true: Ints, k: int) -> Ints:
    return rng.integers(k, size=len(marks))


def good(rng: np.random.Generator, marks: Ints, true: Ints, k: int) -> Ints:
    return np.where(rng.random(len(marks)) < 0.9, true, chance(rng, marks, true, k))


def truthful(rng: np.random.Generator, marks: Ints, true: Ints, k: int) -> Ints:
    return true


def refusing(rng: np.random.Generator, marks: Ints, true: Ints, k: int) -> Ints:
    return np.where(rng.random(len(marks)) < 0.3, -1, class_per_mark(rng, marks, true, k))


def ladder(rng: np.random.Generator, marks: Ints, true: Ints, k: int) -> Ints:
    return marks % k


INNOCENTS: dict[str, Innocent] = {
    f.__name__: f for f in (constant, class_per_mark, two_classes_per_mark, chance, good, truthful, refusing, ladder)
}


def at_most(share: float, alpha: float, n: int) -> bool:
    """Whether a share found in ``n`` draws agrees with a probability of ``alpha`` or less: 3.3 standard errors."""
    return share <= alpha + 3.3 * float(np.sqrt(alpha * (1 - alpha) / n))


def ever_reaches_no_more_than_allowed(largest: Sequence[float]) -> None:
    """Ville's inequality, for every alpha, over all keys there are."""
    found = np.array(largest)
    for e in found:
        assert (found >= e * (1 - 1e-9)).mean() <= min(1.0, 1 / e) + 1e-9
