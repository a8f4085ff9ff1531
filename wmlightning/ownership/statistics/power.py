"""How many queries decide? Worked out before the first one.

The suspect is taken for stolen: each trigger gets the owner's label with probability ``survival``, independently, and
any other class otherwise. That errs on the careful side: where misses are the truth, which the tests leave out, fewer
queries do. What does not is told by ``idle``: a trigger whose label *is* its image's true class counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from wmlightning.ownership.statistics.fixed import several_marks
from wmlightning.ownership.statistics.guessing import SeveralMarks
from wmlightning.ownership.statistics.ranks import decoys_asked, decoys_needed, decoys_spent
from wmlightning.ownership.statistics.result import DECOY_KEYS, INDEPENDENT_LABELS, NULL_MODELS, SEVERAL_MARKS
from wmlightning.ownership.statistics.sequential import IndependentLabels

_RUNS = 200  # simulated suspects: the power is known to about 0.02

#: For a number of triggers: power, and the queries spent in the mean.
Curve = Callable[[int], tuple[float, float]]


@dataclass(frozen=True)
class Setting:
    """What a key and a suspect are like.

    Attributes:
        n_classes: classes of the task.
        n_labels: classes that the key's labels were drawn from; 0: all.
        n_marks: marks of the key.
        n_others: decoy keys, or null models.
        others_match: share of their triggers that match: the run's ``test/decoy_acc``.
        survival: share of the key's triggers that still work.
        alpha: level.
        power: how often a stolen suspect is to be found out.
        most: triggers that may be asked about.
        idle: share of triggers whose label may be expected to be their image's true class: for *several marks*, whose
            labels are drawn without regard to the images.
        sequential: whether the test may be stopped at any time.
    """

    n_classes: int
    n_labels: int = 0
    n_marks: int = 1
    n_others: int = 99
    others_match: float = 0.05
    survival: float = 0.8
    alpha: float = 0.001
    power: float = 0.9
    most: int = 200
    idle: float = 0.0
    sequential: bool = False

    def __post_init__(self) -> None:
        shares = (self.others_match, self.survival, self.power, self.idle)
        if not all(0 <= share <= 1 for share in shares) or not 0 < self.alpha < 1:
            raise ValueError("shares and levels lie between 0 and 1")
        if min(self.n_marks, self.n_others, self.most) < 1 or self.n_classes < 2:
            raise ValueError("there must be a mark, another key, a trigger and two classes")
        if not 0 <= self.n_labels <= self.n_classes:
            raise ValueError(f"{self.n_labels} labels of {self.n_classes} classes")

    @property
    def pool(self) -> int:
        """How many classes labels were drawn from."""
        return self.n_labels or self.n_classes


@dataclass(frozen=True)
class Estimate:
    """How many queries a test takes.

    Attributes:
        test: its name.
        triggers: the key's triggers to ask about, at most; ``None`` if the test cannot decide.
        queries: the same with the decoys', at most.
        spent: queries in the mean: fewer if the test stops early, or decoys are settled early.
        power: with that many triggers (if ``None``: with all that may be asked about).
        reason: why the test cannot decide, else empty.
    """

    test: str
    triggers: int | None
    queries: int | None
    spent: float | None
    power: float
    reason: str = ""


@lru_cache
def queries_needed(test: str, setting: Setting, seed: int = 0) -> Estimate:
    """The smallest number of triggers with which a test reaches ``alpha`` with probability ``power``.

    Exact for *independent labels*, *decoy keys* and *null models*; simulated for *several marks*, with the test itself.

    Args:
        test: its name.
        setting: what key and suspect are like.
        seed: of the simulation.
    """
    reason = _hopeless(test, setting)
    if reason:
        return Estimate(test, None, None, None, 0.0, reason)
    if test == INDEPENDENT_LABELS:
        n, power, spent = _independent_labels(setting)
    else:
        curve = partial(_several_marks, setting, seed) if test == SEVERAL_MARKS else partial(_ranks, test, setting)
        n, power, spent = _smallest(curve, setting)
    if n is None:
        often = f"{100 * power:.0f} % of suspects with {100 * setting.survival:g} % of triggers alive"
        reason = f"{setting.most} triggers find out {often}, not {100 * setting.power:g} %"
        return Estimate(test, None, None, None, power, reason)
    return Estimate(test, n, n * (setting.n_others + 1) if test == DECOY_KEYS else n, spent, power)


def _hopeless(test: str, setting: Setting) -> str:
    """Why alpha is out of reach even if every trigger works."""
    if test in (DECOY_KEYS, NULL_MODELS):
        if test == NULL_MODELS and setting.sequential:
            raise ValueError("null models have no sequential test")
        least = decoys_needed(setting.alpha, setting.sequential)
        wrong = f"{setting.n_others} {test}: alpha = {setting.alpha:g} takes {least} at least"
        return wrong if setting.n_others < least else ""
    if test not in (SEVERAL_MARKS, INDEPENDENT_LABELS):
        raise ValueError(f"there is no test {test!r}")
    marked = test == SEVERAL_MARKS
    n, what = (min(setting.n_marks, setting.most), "marks") if marked else (setting.most, "triggers")
    if n * math.log(setting.pool) >= -math.log(setting.alpha) * (1 - 1e-12):
        return ""
    return f"{n} {what} with labels of {setting.pool} classes: p is {setting.pool**-n:.2g} at best"


def _smallest(curve: Curve, setting: Setting) -> tuple[int | None, float, float]:
    """Doubles until the power is reached, then bisects: power hardly ever falls with more triggers."""
    low, high = 0, 1
    while (found := curve(high))[0] < setting.power:
        if high >= setting.most:
            return None, *found
        low, high = high, min(2 * high, setting.most)
    while high - low > 1:
        middle = (low + high) // 2
        tried = curve(middle)
        if tried[0] >= setting.power:
            high, found = middle, tried
        else:
            low = middle
    return high, *found


def _independent_labels(setting: Setting) -> tuple[int | None, float, float]:
    """Exact: the law of the number of matches, trigger by trigger. The fixed test's power has teeth: no bisection."""
    if not setting.sequential:
        sizes = np.arange(1, setting.most + 1)
        chance = 1 / setting.pool
        level = setting.alpha * (1 + 1e-12)  # the test itself does not round
        critical = binom.isf(level, sizes, chance) + 1  # the fewest matches with p <= alpha
        power = np.asarray(binom.sf(critical - 1, sizes, setting.survival))
        enough = np.flatnonzero(power >= setting.power)
        n = int(sizes[enough[0]]) if len(enough) else None
        return n, float(power[enough[0]] if len(enough) else power.max()), float(n or setting.most)
    law, reached, spent = np.ones(1), 0.0, 0.0
    for n in range(1, setting.most + 1):
        spent += float(law.sum())
        law = np.convolve(law, [1 - setting.survival, setting.survival])
        decided = _capital(n, setting) >= -math.log(setting.alpha)
        reached += float(law[decided].sum())
        law[decided] = 0
        if reached >= setting.power:
            return n, reached, spent
    return None, reached, spent


def _capital(n: int, setting: Setting) -> npt.NDArray[np.float64]:
    """Logarithm of the capital after ``n`` triggers, by matches."""
    matches = np.arange(n + 1)
    return IndependentLabels.log_capital(matches, n - matches, setting.pool)


def _several_marks(setting: Setting, seed: int, n: int) -> tuple[float, float]:
    """Simulated suspects, the same for every ``n``; triggers are asked in turn, one of each mark."""
    reached, spent = 0, 0
    marks = np.arange(n) % setting.n_marks
    for run in range(_RUNS):
        rng = np.random.default_rng((seed, run))
        labels = rng.integers(setting.pool, size=setting.n_marks)[marks]
        draws = rng.random((setting.most, 2))[:n]
        misses = (labels + 1 + (draws[:, 1] * (setting.n_classes - 1)).astype(np.int64)) % setting.n_classes
        answers = np.where(draws[:, 0] < setting.survival, labels, misses)
        true = np.where(rng.random(setting.most)[:n] < setting.idle, labels, -1)
        if not setting.sequential:
            reached += several_marks(answers, labels, marks, range(setting.pool), true).p_value <= setting.alpha
            spent += n
            continue
        game = SeveralMarks(labels, marks, range(setting.pool), setting.n_classes, true, setting.alpha)
        for trigger in range(n):
            if game.wanted(trigger) and not game.reached:
                game.update(trigger, int(answers[trigger]))
                spent += 1
        reached += game.reached
    return reached / _RUNS, spent / _RUNS


def _ranks(test: str, setting: Setting, n: int) -> tuple[float, float]:
    """Exact: given the owner's matches, others reach them independently of each other."""
    matches = np.arange(n + 1)
    law = binom.pmf(matches, n, setting.survival)
    reaching = binom.sf(matches - 1, n, setting.others_match)
    if not setting.sequential:
        allowed = math.floor(setting.alpha * (setting.n_others + 1) * (1 + 1e-12)) - 1
        power = float(law @ binom.cdf(allowed, setting.n_others, reaching))
        return power, float(n if test == NULL_MODELS else n * (setting.n_others + 1))
    found, entered = decoys_spent(reaching, setting.n_others, setting.alpha)
    power = float(law @ found)
    return power, n + float(law @ (entered * decoys_asked(n, setting.others_match)))
