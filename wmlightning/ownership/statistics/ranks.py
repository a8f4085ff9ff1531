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
    law = np.zeros((len(reaching), _FORGIVEN + 1))  # the last column: too many have reached the score
    law[:, 0] = 1
    found, spent = np.zeros(len(reaching)), np.zeros(len(reaching))
    entered = 0
    for reached in range(_FORGIVEN):  # until then nothing can be decided
        needed = decoys_needed(alpha, True, reached)
        if needed > n_decoys:
            break
        spent += (needed - entered) * law.sum(1)
        law, entered = _reached(law, reaching, needed - entered), needed
        found += law[:, : reached + 1].sum(1)
        law[:, : reached + 1] = 0
    spent += (n_decoys - entered) * law.sum(1)
    return found, spent


def _reached(law: Floats, reaching: Floats, n_decoys: int) -> Floats:
    """The law of how many decoys have reached the owner's score, after so many more."""
    steps: Floats = np.asarray(binom.pmf(np.arange(_FORGIVEN), n_decoys, reaching[:, None]))
    after = np.zeros_like(law)
    for reached in range(_FORGIVEN):
        after[:, reached] = (law[:, : reached + 1] * steps[:, reached::-1]).sum(1)
    after[:, -1] = np.clip(law.sum(1) - after.sum(1), 0, None)
    return after
