"""Several marks, stopped at any time: guess the owner's labels from the suspect's answers, before looking at them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from wmlightning.ownership.statistics.fixed import labels_of_marks
from wmlightning.ownership.statistics.result import MISSING, SEVERAL_MARKS, integers
from wmlightning.ownership.statistics.sequential import Sequential

#: Forecasts: how often a stolen model answers with the mark's label.
_SURVIVAL = np.array([0.15, 0.35, 0.55, 0.75, 0.95])
#: Share of each stake that is spread evenly: what is left of it if a mark does not do what the forecast says.
_RESERVE = 0.05
#: How sure a guess must be: while there are marks in plenty, and when they are scarce. Fixed by simulation.
_BOLD, _CAREFUL = 0.5, 0.85


class SeveralMarks(Sequential):
    """A guessing game: which label did the owner draw for this mark? Only the answers may be looked at.

    *Game.* For each mark there is a set of labels still possible, at first the whole pool. At some moment the capital
    is staked on the guess "it is y", with share w, and 1 - w on "it is another"; then this much of the label is looked
    at. A right guess multiplies the capital by w * u, where u labels were possible, and closes the mark; a wrong one by
    (1 - w) * u / (u - 1), and y is possible no more.

    *Proof.* If the suspect was made without the key, it has never seen a label. All it could learn from is what it is
    asked next, and that depends on what was looked at alone. So given all answers so far and everything looked at, the
    labels are still independent, each uniform on what is possible for it; y, w and the moment are computed from just
    these. The mean factor is ``(1/u) * w * u + ((u-1)/u) * (1-w) * u/(u-1) = 1``: the capital is a martingale in the
    sequence of looks and constant between them, and Ville's inequality bounds its whole path, wherever one stops.
    Nothing was assumed on how answers to one mark's triggers depend on each other. What the proof does *not* allow
    is to look and then recompute the stake with later answers: ``len(pool) * w(label)``, followed from answer to
    answer, is no martingale.

    *Strategy.* Any is valid; ours decides how many queries it takes. The forecast is Bayes's, for each mark alone: an
    answer is the label with probability s, else any class; s is uniform on a small grid. A guess is made when the
    forecast is sure enough. A bold one (0.5: on the first answer that is not the truth) pays less than a sure one and
    costs a third of the queries; so we are bold while the open marks could pay twice what is missing, and careful
    (0.85) otherwise. When all planned triggers of a mark are answered, what is left is staked as it is. With 8 marks of
    10 classes and alpha = 0.001 that takes about 7 queries in the mean at survival 0.8, and 19 at survival 0.5 (9 where
    the misses are the truth).

    A missing answer tells nothing of the label, and is passed over. So is one that is the image's true class, as in
    :func:`~wmlightning.ownership.statistics.fixed.several_marks`, for the same reason.

    Args:
        expected: int ``(n,)``, the label of the mark of each trigger *that is planned to be asked*.
        marks: int ``(n,)``, which mark each trigger carries.
        pool: the classes that labels were drawn from, the same for all marks.
        n_classes: classes of the task.
        true: int ``(n,)``, true classes of the images that were marked (-1: none); ``None`` if not known.
        alpha: level that is to be reached.
    """

    def __init__(
        self,
        expected: npt.ArrayLike,
        marks: npt.ArrayLike,
        pool: npt.ArrayLike,
        n_classes: int,
        true: npt.ArrayLike | None = None,
        alpha: float = 0.001,
    ) -> None:
        super().__init__(SEVERAL_MARKS, expected, alpha)
        self._marks = integers(marks, "marks", self.expected)
        self._true = np.full_like(self.expected, -1) if true is None else integers(true, "true", self.expected)
        self._labels, classes = labels_of_marks(self.expected, self._marks, pool)
        if n_classes <= max(classes):
            raise ValueError(f"the pool holds the class {max(classes)}, and there are {n_classes} classes")
        self._n_classes = n_classes
        self._pool = np.array(classes)
        self._belief = {mark: np.ones((len(_SURVIVAL), len(classes))) for mark in self._labels}
        self._left = {mark: int((self._marks == mark).sum()) for mark in self._labels}
        self._possible = {mark: np.ones(len(classes), dtype=bool) for mark in self._labels}
        self._there = len(self._labels) * math.log(len(classes))  # what open marks could pay, logarithm

    def wanted(self, trigger: int) -> bool:
        """Whether an answer to this trigger can still change anything: its mark's label is not known yet."""
        return super().wanted(trigger) and self._open(int(self._marks[trigger]))

    def update(self, trigger: int, answer: int) -> None:
        """Takes the answer to a trigger (its number in what was planned): -1 where there is none.

        Raises:
            ValueError: if the trigger was answered before.
        """
        given, mark = self._note(trigger, answer), int(self._marks[trigger])
        self._left[mark] -= 1
        if not self._open(mark):
            return
        if given not in (MISSING, self._true[trigger]):
            self._learn(mark, given)
        sure = self._sure()
        while self._guess(mark, sure):
            pass

    def _open(self, mark: int) -> bool:
        return int(self._possible[mark].sum()) > 1

    def _learn(self, mark: int, answer: int) -> None:
        """Bayes's rule on (survival) x (label)."""
        likelihood = _SURVIVAL[:, None] * (self._pool == answer) + ((1 - _SURVIVAL) / self._n_classes)[:, None]
        belief = self._belief[mark] * likelihood
        self._belief[mark] = np.maximum(belief / belief.max(), 1e-200)  # never 0, however many answers

    def _sure(self) -> float:
        """How sure a guess must be now. Depends on what was looked at alone."""
        missing = -math.log(self.alpha) - self.log_e
        return _BOLD if 2 * missing < self._there else _CAREFUL

    def _guess(self, mark: int, sure: float) -> bool:
        """Stakes on the likeliest label, if that is sure enough, and looks. Returns whether another may follow."""
        possible = self._possible[mark]
        by_label = self._belief[mark].sum(0) * possible
        y, u = int(by_label.argmax()), int(possible.sum())
        share = (1 - _RESERVE) * float(by_label[y] / by_label.sum()) + _RESERVE / u
        if (share < sure and self._left[mark] > 0) or share * u <= 1 + 1e-9:
            return False
        if self._labels[mark] == self._pool[y]:
            self._hold(self.log_e + math.log(share * u))
            self._there -= math.log(u)
            self._possible[mark] = self._pool == self._labels[mark]
            return False
        self._hold(self.log_e + math.log((1 - share) * u / (u - 1)))
        self._there += math.log((u - 1) / u)
        possible[y] = False
        return u > 2
