"""What a test says, and what all tests share: names, assumptions, input, interval, correction for several suspects.

Every null hypothesis here is "the suspect was made without the key". Its answers may then be any function of the images
whatever, good or bad, constant or random, but not of the labels that the key drew.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

Ints = npt.NDArray[np.int64]

#: The answer of a suspect that gave none, or none that can be read.
MISSING: Final = -1

SEVERAL_MARKS: Final = "several marks"
INDEPENDENT_LABELS: Final = "independent labels"
DECOY_KEYS: Final = "decoy keys"
NULL_MODELS: Final = "null models"

#: What no date can show: secrets cost nothing, and the one committed to may be the best of many.
_NO_OTHER: Final = (
    "The owner tried no other key before committing to this one: if the best of several was kept, p is to be "
    "multiplied by the number that were tried, whatever the date of the commitment."
)
#: What each test's validity rests on, besides a transcript that leaves out no answer because of what it says.
ASSUMPTIONS: Final = {
    SEVERAL_MARKS: (
        "The label of each mark was drawn from the owner's secret, uniformly and independently of everything else, "
        "before the suspect existed; no part of a mark's look (such as a text) was chosen with the labels in view, and "
        f"which triggers were asked about did not depend on them. {_NO_OTHER}"
    ),
    INDEPENDENT_LABELS: (
        "The label of each trigger was drawn from the owner's secret, uniformly and independently of everything else, "
        "before the suspect existed, each trigger counts once, and which were asked about did not depend on the labels."
        f" {_NO_OTHER}"
    ),
    DECOY_KEYS: (
        "The owner's mark was drawn from the same distribution as the decoys' marks, before the suspect existed, and "
        "no part of its look (such as a text) was chosen; all are put on the same images or show pictures drawn alike, "
        f"and an answer does not depend on when it is asked for. {_NO_OTHER}"
    ),
    NULL_MODELS: (
        "A suspect made without the key is like one more of the null models, which were trained independently of the "
        "key and of each other: this holds for suspects trained in the same way on like data, not for any model."
    ),
}


@dataclass(frozen=True)
class TestResult:
    """What one test says about one suspect.

    Attributes:
        test: name of the test.
        p_value: if the suspect was made without the key, it is at most a with probability a or less. Of a sequential
            test: whenever it is stopped.
        matches: triggers answered with the label that the key expects.
        n: triggers asked about, those without an answer included.
        n_missing: triggers without a usable answer.
        assumption: what validity rests on, in one sentence.
        interval: Clopper-Pearson interval of the match rate, 95 %. After a sequential test only a description: when to
            stop was decided by what is counted.
        details: how the number came about, in one sentence.
        e_value: evidence of a sequential test where it stopped, ``None`` for a test of fixed size.
    """

    __test__ = False  # no test of pytest's

    test: str
    p_value: float
    matches: int
    n: int
    n_missing: int
    assumption: str
    interval: tuple[float, float]
    details: str = ""
    e_value: float | None = None


def integers(values: npt.ArrayLike, what: str, like: Ints | None = None, dimensions: int = 1) -> Ints:
    """Checks an argument: whole numbers of the right shape.

    Args:
        values: the argument.
        what: its name.
        like: what it must be as long as (in its last dimension).
        dimensions: how many it must have.

    Raises:
        ValueError: if it is something else.
    """
    array = np.asarray(values)
    if array.size == 0:
        array = array.astype(np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{what} must be whole numbers, not {array.dtype}")
    if array.ndim != dimensions:
        raise ValueError(f"{what} must have {dimensions} dimension(s), not {array.ndim}")
    if like is not None and array.shape[-1] != len(like):
        raise ValueError(f"{what} has {array.shape[-1]} entries, and there are {len(like)} triggers")
    return array.astype(np.int64)


def matched(answers: Ints, expected: Ints) -> npt.NDArray[np.bool_]:
    """Which answers are the expected label. A missing answer never is, whatever is expected."""
    hits: npt.NDArray[np.bool_] = (answers == expected) & (answers >= 0)
    return hits


def counted(
    test: str, answers: Ints, expected: Ints, p_value: float, details: str, e: float | None = None
) -> TestResult:
    """A result with everything filled in that is counted the same way for all tests."""
    matches = int(matched(answers, expected).sum())
    interval = clopper_pearson(matches, len(answers))
    missing = int((answers < 0).sum())
    return TestResult(test, p_value, matches, len(answers), missing, ASSUMPTIONS[test], interval, details, e)


def clopper_pearson(matches: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact confidence interval of a share (Clopper and Pearson, Biometrika 1934); (0, 1) where nothing was asked.

    It is about the share of *all* triggers of the key that match, if those asked about are a random part of them.
    """
    if n == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = float(betaincinv(matches, n - matches + 1, tail)) if matches else 0.0
    high = float(betaincinv(matches + 1, n - matches, 1 - tail)) if matches < n else 1.0
    return low, high  # what scipy's binomtest finds, hundreds of times faster: power estimates judge thousands of keys


def bonferroni(p_value: float, n: int) -> float:
    """The p-value of one of ``n`` suspects asked at once, corrected for the others.

    Whatever the dependence between the suspects, calling those "owned" whose corrected p-value is at most alpha calls
    any innocent one so with probability alpha or less, and each with alpha / n or less. Holm's correction keeps the
    first promise only: where others are guilty it tests an innocent one at up to the whole of alpha, although its look
    was noted as costing alpha / n, and all looks at it together would exceed the last alpha.
    """
    if not 0 <= p_value <= 1 or n < 1:
        raise ValueError("a p-value lies in [0, 1], and there is a suspect")
    return min(1.0, rounded(n * p_value))


def rounded(value: float) -> float:
    """To 12 digits: what sums, differences and multiples of levels leave is then what they are on paper."""
    return float(f"{value:.12g}")


def bounded(log_e: float) -> float:
    """``exp`` of an e-value's logarithm, kept finite."""
    return math.exp(min(log_e, math.log(sys.float_info.max)))


def positive(p_value: float) -> float:
    """No p-value of ours is 0: what is too small for a float is told as the smallest one."""
    return min(1.0, max(p_value, sys.float_info.min))
