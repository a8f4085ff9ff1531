"""Tests that may be stopped at any time: bets against a suspect made without the key.

Each test is a game that is fair, or unfavourable, if the suspect was made without the key. It starts with a capital of
1 and stakes it, on labels, before it looks at them; the capital is the **e-value**. By Ville's inequality (1939) it
ever reaches 1/alpha with probability alpha or less, whence the anytime-valid p-value, 1 over the largest e-value so
far. (Shafer, "Testing by betting", JRSS A 2021; Ramdas et al., "Game-theoretic statistics and safe anytime-valid
inference", Statistical Science 2023.)

**What the verifier knows.** It holds the key and so knows every label from the start; fairness is in the sequence in
which labels *enter the capital*, and answers of an innocent suspect tell nothing of those that have not entered. Two
things follow. What is asked next may depend on answers and on the capital, but not on labels that have not entered:
take the triggers in an order fixed beforehand. And p is valid however the moment to stop is chosen, even with a look
ahead, since the whole path of the capital is bounded; the e-value itself has mean 1 or less if the
moment depends on nothing but the path so far.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import xlogy

from wmlightning.ownership.statistics.ranks import log_rank_capital
from wmlightning.ownership.statistics.result import (
    DECOY_KEYS,
    INDEPENDENT_LABELS,
    MISSING,
    Ints,
    TestResult,
    bounded,
    counted,
    integers,
    matched,
    positive,
)

#: What :class:`IndependentLabels` spreads its capital over.
_ALTERNATIVES = 20


class Sequential:
    """A capital, and what was asked so far.

    Args:
        test: name of the test.
        expected: the label of each trigger of the key.
        alpha: level that is to be reached.
    """

    def __init__(self, test: str, expected: npt.ArrayLike, alpha: float) -> None:
        if not 0 < alpha < 1:
            raise ValueError("alpha must lie between 0 and 1")
        self.test = test
        self.expected: Ints = integers(expected, "expected")
        self.alpha = alpha
        self.answers: dict[int, int] = {}
        self.log_e = 0.0
        self._best = 0.0

    @property
    def e_value(self) -> float:
        """The capital: evidence now."""
        return bounded(self.log_e)

    @property
    def p_value(self) -> float:
        """Anytime-valid: 1 over the largest capital so far."""
        return positive(math.exp(-self._best))

    @property
    def reached(self) -> bool:
        """Whether alpha was reached: then there is no need to ask on."""
        return self.p_value <= self.alpha

    def wanted(self, trigger: int) -> bool:
        """Whether an answer to this trigger can still change anything."""
        return trigger not in self.answers

    def result(self) -> TestResult:
        """What was shown so far."""
        asked = sorted(self.answers)
        given = np.array([self.answers[i] for i in asked], dtype=np.int64)
        return counted(self.test, given, self.expected[asked], self.p_value, self._details(), self.e_value)

    def _details(self) -> str:
        return f"largest e-value {bounded(self._best):.3g} after {len(self.answers)} triggers"

    def _note(self, trigger: int, answer: int) -> int:
        """Takes an answer to a trigger that has none; what is no class is :data:`MISSING`."""
        if not 0 <= trigger < len(self.expected):
            raise ValueError(f"there is no trigger {trigger}")
        if trigger in self.answers:
            raise ValueError(f"trigger {trigger} was answered before: the same query twice is no new evidence")
        self.answers[trigger] = answer if answer >= 0 else MISSING
        return self.answers[trigger]

    def _hold(self, log_e: float) -> None:
        self.log_e = log_e
        self._best = max(self._best, log_e)


class IndependentLabels(Sequential):
    """One bet for each answer: does it match? For labels that are drawn for each trigger alone.

    If the suspect was made without the key, the label is independent of its answers and of all other labels, so that
    a match has probability p0 = 1/n_labels at most, whatever came before. Staking as if it were p > p0 multiplies the
    capital by p/p0 after a match and by (1-p)/(1-p0) after a miss: at most 1 in the mean. The capital is spread evenly
    over 20 alternatives from p0 to 1, so that nothing needs tuning (a mixture, Robbins 1970); their number bounds the
    price of not knowing p by a factor of 20. Prior weights that lean to large p stop no earlier at survival 0.8 and
    later below 0.5.

    An answer that is the image's true class is passed over, which is decided before its label is looked at; a missing
    one is a miss. Both as in :func:`~wmlightning.ownership.statistics.fixed.independent_labels`, for the same reasons.

    Args:
        expected: int ``(n,)``, labels that the key drew.
        n_labels: how many classes each label was drawn from: K - 1 if never the true one, else K.
        true: int ``(n,)``, true classes of the images that were marked (-1: none); ``None`` if not known.
        alpha: level that is to be reached.
    """

    def __init__(
        self, expected: npt.ArrayLike, n_labels: int, true: npt.ArrayLike | None = None, alpha: float = 0.001
    ) -> None:
        super().__init__(INDEPENDENT_LABELS, expected, alpha)
        if n_labels < 1:
            raise ValueError("labels are drawn from at least one class")
        self._true = np.full_like(self.expected, -1) if true is None else integers(true, "true", self.expected)
        self._n_labels = n_labels
        self.matches = self.misses = 0

    @staticmethod
    def log_capital(matches: npt.ArrayLike, misses: npt.ArrayLike, n_labels: int) -> npt.NDArray[np.float64]:
        """Logarithm of the capital after so many matches and misses, in whatever order."""
        hits, fails = np.asarray(matches)[..., None], np.asarray(misses)[..., None]
        chance = 1 / n_labels
        if n_labels == 1:  # one class to draw from: nothing to bet on
            return np.zeros(hits.shape[:-1])
        alternatives = chance + (1 - chance) * np.arange(1, _ALTERNATIVES + 1) / _ALTERNATIVES
        alternatives = np.minimum(alternatives, 1)  # else the last one may be larger by a rounding
        logs = xlogy(hits, alternatives / chance) + xlogy(fails, (1 - alternatives) / (1 - chance))
        capital: npt.NDArray[np.float64] = np.logaddexp.reduce(logs, axis=-1) - math.log(_ALTERNATIVES)
        return capital

    def update(self, trigger: int, answer: int) -> None:
        """Takes the answer to a trigger (its number in the key): -1 where there is none.

        Raises:
            ValueError: if the trigger was answered before.
        """
        given = self._note(trigger, answer)
        if given != MISSING and given == self._true[trigger]:
            return
        hit = given == self.expected[trigger] and given != MISSING
        self.matches, self.misses = self.matches + hit, self.misses + (not hit)
        self._hold(float(self.log_capital(self.matches, self.misses, self._n_labels)))


class DecoyKeys(Sequential):
    """One bet for each decoy key: does it match as often as the owner's? For one mark with one label.

    Fischer and Ramdas ("Sequential Monte Carlo testing by betting", JRSS B 2025). If the suspect was made without the
    key, owner's and decoys' scores are exchangeable: with ties broken by lot, after L of t decoys reached the owner's
    score, the next does with probability (L + 1) / (t + 2). A forecaster who takes that probability for an unknown
    constant, uniform on (0, c), then has the capital ``P(Binomial(t + 1, c) > L) / c``. It falls with L, so that
    counting all ties against the owner only lowers it. We take c = alpha / 3: alpha is reached after 1.22 / alpha
    decoys if none reaches the score, and a few that do are forgiven. The test of fixed size needs 1 / alpha - 1, and
    no rank can do with fewer; what stopping at any time buys is an early end where nothing will be shown. (The e-value
    (m+1) * score / sum of all scores is simpler, but cannot pass 1 / (decoys' share of matches): 20 if strangers'
    triggers match in 5 % of cases. The p-value of Besag and Clifford, 1991, holds only at its own stopping time.)

    **Decoys are cheap.** A decoy that can no longer reach the owner's score, or has, is settled: no more of its
    triggers need be asked. Against a key whose triggers all match, that is after little more than one query.

    Ask the owner's triggers first. Decoys enter the capital in the order of their numbers, in whatever order answers
    arrive: those that fall short are settled sooner, and must not enter sooner. A missing answer is a miss of the
    owner's and a match of a decoy's, see :func:`~wmlightning.ownership.statistics.fixed.decoy_keys`.

    Args:
        answers: int ``(n,)``, to the owner's triggers, asked before any decoy's; -1 where there is none.
        expected: int ``(n,)``.
        alpha: level that is to be reached.
    """

    def __init__(self, answers: npt.ArrayLike, expected: npt.ArrayLike, alpha: float = 0.001) -> None:
        super().__init__(DECOY_KEYS, expected, alpha)
        given = integers(answers, "answers", self.expected)
        self.answers = dict(enumerate(given.tolist()))
        self.score = int(matched(given, self.expected).sum())
        self.entered: list[bool] = []  # for each decoy that has entered: whether it reached the owner's score
        self._asked: dict[int, tuple[int, int]] = {}  # for each that has not: answers and matches

    def reaches(self, decoy: int) -> bool | None:
        """Whether a decoy reaches the owner's score; ``None`` while that is open, and it is worth asking on."""
        if decoy < len(self.entered):
            return self.entered[decoy]
        asked, matches = self._asked.get(decoy, (0, 0))
        if matches >= self.score:
            return True
        return False if matches + len(self.expected) - asked < self.score else None

    def update(self, decoy: int, answer: int, expected: int) -> None:
        """Takes the answer to another trigger of a decoy. Answers to a decoy that is settled change nothing.

        Args:
            decoy: its number, from 0.
            answer: -1 where there is none.
            expected: the label that would match.
        """
        if decoy < 0:
            raise ValueError(f"there is no decoy {decoy}")
        if decoy < len(self.entered) or (decoy in self._asked and self.reaches(decoy) is not None):
            return
        asked, matches = self._asked.get(decoy, (0, 0))
        self._asked[decoy] = asked + 1, matches + (answer < 0 or answer == expected)
        while (following := len(self.entered)) in self._asked and (reaches := self.reaches(following)) is not None:
            del self._asked[following]
            self.entered.append(reaches)
            self._hold(log_rank_capital(len(self.entered), sum(self.entered), self.alpha))

    def _details(self) -> str:
        return (
            f"{sum(self.entered)} of {len(self.entered)} other keys match as often as the owner's; {super()._details()}"
        )
