"""What decoy keys cost: how many must be drawn, and how many queries each takes."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import betainc
from scipy.stats import binom

Floats = npt.NDArray[np.float64]

#: Decoys that may reach the owner's score before the sequential test is given up in estimates.
_FORGIVEN = 20


def log_rank_capital(decoys: int, reaching: int, alpha: float) -> float:
    """Logarithm of the capital of :class:`~wmlightning.ownership.statistics.sequential.DecoyKeys`."""
    most = alpha / 3
    share = float(betainc(reaching + 1, decoys - reaching + 1, most))
    return math.log(share / most) if share > 0 else -math.inf


def decoys_needed(alpha: float, sequential: bool, reaching: int = 0) -> int:
    """The fewest decoys that can show ``alpha`` if so many of them reach the owner's score."""
    least = math.ceil((reaching + 1) / alpha * (1 - 1e-12)) - 1
    if not sequential:
        return least
    low, high = least - 1, 2 * least + 2
    while log_rank_capital(high, reaching, alpha) < -math.log(alpha):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if log_rank_capital(middle, reaching, alpha) >= -math.log(alpha) else (middle, high)
    return high


def decoys_asked(n: int, match: float) -> Floats:
    """Mean queries until a decoy is settled, by the owner's matches 0..n.

    It is open after t queries while it has fewer matches than the owner and could still get as many.

    Args:
        n: triggers a key.
        match: how likely a decoy's trigger matches.
    """
    score, t = np.arange(n + 1)[:, None], np.arange(n)[None]
    still = binom.cdf(score - 1, t, match) - binom.cdf(t - (n - score) - 1, t, match)
    asked: Floats = np.clip(still, 0, None).sum(1)
    return np.maximum(asked, 1)  # the query that a score of 0 would not need is sent all the same


def decoys_spent(reaching: Floats, n_decoys: int, alpha: float) -> tuple[Floats, Floats]:
    """How often the sequential test reaches alpha, and after how many decoys it ends in the mean.

    Args:
        reaching: how likely a decoy reaches the owner's score: any number of cases.
        n_decoys: after so many it ends.
        alpha: level.
    """
    needed = np.array([decoys_needed(alpha, True, reached) for reached in range(_FORGIVEN)])
    law = np.zeros((len(reaching), _FORGIVEN + 1))  # the last column: too many have reached the score
    law[:, 0] = 1
    found, spent = np.zeros(len(reaching)), np.zeros(len(reaching))
    for decoy in range(1, n_decoys + 1):
        spent += law.sum(1)
        up = law * reaching[:, None]
        law = law - up
        law[:, 1:] += up[:, :-1]
        law[:, -1] += up[:, -1]
        decided = np.append(needed <= decoy, False)
        found += law[:, decided].sum(1)
        law[:, decided] = 0
    return found, spent
