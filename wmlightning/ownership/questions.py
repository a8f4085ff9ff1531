"""The statistical tests as questions: what is asked, in which order, and what the answers are worth.

A test is put **at once** (all that was planned, one look) or **in rounds** (until the level is reached). Labels are all
it needs. What each rests on is told by :data:`~wmlightning.ownership.statistics.result.ASSUMPTIONS`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from wmlightning.data.batches import ImageSet
from wmlightning.errors import UserError
from wmlightning.ownership.interview import Interview
from wmlightning.ownership.statistics import fixed, guessing, sequential
from wmlightning.ownership.statistics.power import Estimate, Setting, queries_needed
from wmlightning.ownership.statistics.ranks import decoys_needed, log_rank_capital
from wmlightning.ownership.statistics.result import (
    DECOY_KEYS,
    INDEPENDENT_LABELS,
    MISSING,
    SEVERAL_MARKS,
    TestResult,
    positive,
)

_POWER = 0.9
_FIRST_DECOYS = 8  # a suspect that takes any mark for the owner's shows itself in a few


@dataclass(frozen=True)
class Terms:
    """What the verifier wants, and expects.

    Attributes:
        alpha: level that is to be reached.
        queries: triggers to ask about, at most.
        budget: images that may be sent in all.
        sequential: stop as soon as ``alpha`` is reached.
        survival: share of triggers that a stolen model still answers to.
        decoys: share of strangers' triggers that it answers to.
        settled: whether the triggers were chosen by an earlier call, so that all of them belong to the test.
    """

    alpha: float
    queries: int
    budget: int
    sequential: bool = True
    survival: float = 0.8
    decoys: float = 0.05
    settled: bool = False

    @property
    def most(self) -> int:
        """Triggers to plan: what cannot be sent belongs to no test."""
        return self.queries if self.settled else min(self.queries, self.budget)

    @property
    def missing(self) -> float:
        """Logarithm of the e-value that decides."""
        return -math.log(self.alpha)


class Question(ABC):
    """A test, ready to be put.

    Args:
        triggers: of the key, those that may be asked about, in this order; groups are marks.
        true: true classes of the images that were marked, -1 where there is none: int64 ``(n,)``.
        terms: see :class:`Terms`.
    """

    test: str

    def __init__(self, triggers: ImageSet, true: Tensor, terms: Terms) -> None:
        self.triggers = triggers
        self.true = true.numpy()
        self.terms = terms
        self.labels = triggers.labels.numpy()

    def put(self, interview: Interview) -> TestResult:
        """Asks, and tells what the answers are worth."""
        return self._in_rounds(interview) if self.terms.sequential else self._at_once(interview)

    def estimate(self) -> Estimate:
        """How many queries decide, if the suspect is as expected."""
        return queries_needed(self.test, self._setting())

    def apart(self) -> int:
        """How many of the first triggers are spent if the test ends among them; else all are, shown or not.

        ``0``: those that were shown are, since no label that another look at the key guesses decides which they are.
        """
        return 0

    @abstractmethod
    def best_p(self) -> float:
        """The p-value if every trigger matches, and nothing else: what the test can show at best."""

    @abstractmethod
    def _setting(self) -> Setting:
        """What key and suspect are like."""

    @abstractmethod
    def _at_once(self, interview: Interview) -> TestResult:
        """The test of fixed size."""

    @abstractmethod
    def _in_rounds(self, interview: Interview) -> TestResult:
        """The test that may stop at any time."""

    def _chosen(self, which: Sequence[int]) -> Tensor:
        return self.triggers.images[torch.tensor(which, dtype=torch.int64)]


class SeveralMarks(Question):
    """Which label did the owner draw for each mark? No decoys, no further query.

    Args:
        triggers: one of each mark, then the next of each, and so on.
        true: see :class:`Question`.
        terms: see :class:`Question`.
        pool: classes that labels were drawn from.
        n_classes: classes of the task.
    """

    test = SEVERAL_MARKS

    def __init__(self, triggers: ImageSet, true: Tensor, terms: Terms, pool: list[int], n_classes: int) -> None:
        super().__init__(triggers, true, terms)
        self.pool = pool
        self.n_classes = n_classes
        self.marks = triggers.groups.numpy()

    def _setting(self) -> Setting:
        marks, terms = len(np.unique(self.marks)), self.terms
        drawn_true = np.isin(self.true, self.pool).sum() / len(self.pool)  # in the mean, whatever the labels are
        return Setting(
            self.n_classes,
            len(self.pool),
            marks,
            survival=terms.survival,
            alpha=terms.alpha,
            power=_POWER,
            most=len(self.labels),
            idle=float(drawn_true) / len(self.labels),
            sequential=terms.sequential,
        )

    def apart(self) -> int:
        """See :meth:`Question.apart`. A mark whose label was guessed is asked about no more.

        What is left then has more of the marks that innocent models take for the owner's, and the next look at a
        suspect that answers alike would accuse it too often. So what is left must not depend on labels: all that comes
        after the first ones, twice as many as will probably do, or nothing.
        """
        enough = self.estimate().triggers
        return len(self.labels) if enough is None else min(2 * enough, len(self.labels))

    def _game(self) -> guessing.SeveralMarks:
        return guessing.SeveralMarks(self.labels, self.marks, self.pool, self.n_classes, self.true, self.terms.alpha)

    def best_p(self) -> float:
        """See :meth:`Question.best_p`."""
        if not self.terms.sequential:
            return fixed.several_marks(self.labels, self.labels, self.marks, self.pool, self.true).p_value
        game = self._game()
        for trigger, label in enumerate(self.labels):
            if not game.reached and game.wanted(trigger):
                game.update(trigger, int(label))
        return game.p_value

    def _at_once(self, interview: Interview) -> TestResult:
        answers = interview.ask(self.triggers.images).numpy()
        n = len(answers)  # what was never asked is no miss
        return fixed.several_marks(answers, self.labels[:n], self.marks[:n], self.pool, self.true[:n])

    def _in_rounds(self, interview: Interview) -> TestResult:
        """Each round asks about as many open marks as could decide it, which depends on no label not yet looked at."""
        game = self._game()
        left = filter(game.wanted, range(len(self.labels)))  # looked at late, and once: what is settled stays so
        while not game.reached and interview.ended is None:
            few = max(1, math.ceil((self.terms.missing - game.log_e) / math.log(max(2, len(self.pool)))))
            wanted = list(islice(left, few))
            if not wanted:
                break
            for trigger, answer in zip(wanted, interview.stream(self._chosen(wanted)), strict=False):
                game.update(trigger, answer)
                if game.reached:
                    break
        return game.result()


class IndependentLabels(Question):
    """Each trigger has a label of its own: does it match?

    Args:
        triggers: no image twice.
        true: see :class:`Question`.
        terms: see :class:`Question`.
        n_labels: classes that each label was drawn from.
        n_classes: classes of the task.
    """

    test = INDEPENDENT_LABELS

    def __init__(self, triggers: ImageSet, true: Tensor, terms: Terms, n_labels: int, n_classes: int) -> None:
        super().__init__(triggers, true, terms)
        self.n_labels = n_labels
        self.n_classes = n_classes

    def _setting(self) -> Setting:
        terms = self.terms
        return Setting(
            self.n_classes,
            self.n_labels,
            survival=terms.survival,
            alpha=terms.alpha,
            power=_POWER,
            most=len(self.labels),
            sequential=terms.sequential,
        )

    def best_p(self) -> float:
        """See :meth:`Question.best_p`."""
        n = len(self.labels)
        if not self.terms.sequential:
            return fixed.by_chance(n, n, self.n_labels)
        return math.exp(-self._capital(n, 0))

    def _capital(self, matches: int, misses: int) -> float:
        return float(sequential.IndependentLabels.log_capital(matches, misses, self.n_labels))

    def _at_once(self, interview: Interview) -> TestResult:
        answers = interview.ask(self.triggers.images).numpy()
        n = len(answers)
        return fixed.independent_labels(answers, self.labels[:n], self.n_labels, self.true[:n])

    def _in_rounds(self, interview: Interview) -> TestResult:
        """Each round asks about as many triggers as could decide it."""
        game = sequential.IndependentLabels(self.labels, self.n_labels, self.true, self.terms.alpha)
        first = 0
        while first < len(self.labels) and not game.reached and interview.ended is None:
            wanted = range(first, min(len(self.labels), first + self._few(game)))
            for trigger, answer in zip(wanted, interview.stream(self._chosen(wanted)), strict=False):
                game.update(trigger, answer)
                if game.reached:
                    break
            first = wanted.stop
        return game.result()

    def _few(self, game: sequential.IndependentLabels) -> int:
        few = 1
        while few < len(self.labels) and self._capital(game.matches + few, game.misses) < self.terms.missing:
            few += 1
        return few


class DecoyKeys(Question):
    """The key against other keys, drawn now, on the very same images: for one mark with one label.

    Args:
        triggers: see :class:`Question`.
        true: see :class:`Question`.
        terms: see :class:`Question`.
        decoy: images of a decoy key, by its number: uint8 like the triggers'.
        n_classes: classes of the task.

    Raises:
        UserError: if the budget does not allow the test.
    """

    test = DECOY_KEYS

    def __init__(
        self, triggers: ImageSet, true: Tensor, terms: Terms, decoy: Callable[[int, int], Tensor], n_classes: int
    ) -> None:
        super().__init__(triggers, true, terms)
        self._decoy = decoy
        self._images: dict[int, Tensor] = {}
        self.n_classes = n_classes
        self.least = decoys_needed(terms.alpha, terms.sequential)
        if terms.budget <= self.least:
            wrong = f"{terms.budget} queries, but a key of one mark needs {self.least} decoys for alpha={terms.alpha:g}"
            right = f"at least {self.least + 1}, a larger alpha, or a key of several marks"
            raise UserError("budget", wrong, right)
        n = self._enough() if terms.sequential else terms.budget // (self.least + 1)
        if n < len(triggers) and not terms.settled:
            self.triggers, self.true, self.labels = _first(triggers, n), self.true[:n], self.labels[:n]

    def _enough(self) -> int:
        """As many triggers as a suspect takes that is as expected: each more makes every decoy dearer."""
        return self.estimate().triggers or len(self.triggers)

    def _setting(self) -> Setting:
        terms = self.terms
        return Setting(
            self.n_classes,
            n_others=terms.budget - 1 if terms.sequential else self.least,
            others_match=terms.decoys,
            survival=terms.survival,
            alpha=terms.alpha,
            power=_POWER,
            most=len(self.labels),
            sequential=terms.sequential,
        )

    def best_p(self) -> float:
        """See :meth:`Question.best_p`."""
        if not self.terms.sequential:
            return 1 / (self.least + 1)
        return positive(math.exp(-log_rank_capital(self.terms.budget - len(self.labels), 0, self.terms.alpha)))

    def decoy(self, number: int) -> Tensor:
        """The images of a decoy key."""
        if number not in self._images:
            self._images[number] = self._decoy(number, len(self.labels))
        return self._images[number]

    def _at_once(self, interview: Interview) -> TestResult:
        images = torch.cat([self.triggers.images, *(self.decoy(number) for number in range(self.least))])
        answers = interview.ask(images).numpy()
        n = min(len(answers), len(self.labels))
        theirs = np.full((self.least, len(self.labels)), MISSING)  # what no decoy was asked counts against the owner
        theirs.flat[: len(answers) - n] = answers[n:]
        return fixed.decoy_keys(answers[:n], self.labels[:n], theirs[:, :n])

    def _in_rounds(self, interview: Interview) -> TestResult:
        """Decoys enter in blocks that double; a block ends when each of its decoys is settled."""
        answers = interview.ask(self.triggers.images).numpy()
        game = sequential.DecoyKeys(answers, self.labels[: len(answers)], self.terms.alpha)
        while game.score and not game.reached and interview.ended is None:
            entered = len(game.entered)
            needed = decoys_needed(self.terms.alpha, True, sum(game.entered))
            if needed > self.terms.budget - len(self.labels):
                break  # nothing that may still be asked can decide
            self._settle(game, interview, range(entered, min(needed, entered + max(_FIRST_DECOYS, entered))))
        return game.result()

    def _settle(self, game: sequential.DecoyKeys, interview: Interview, block: range) -> None:
        for trigger, label in enumerate(self.labels):
            still = [number for number in block if game.reaches(number) is None]
            if not still or interview.ended is not None:
                return
            images = torch.stack([self.decoy(number)[trigger] for number in still])
            for number, answer in zip(still, interview.stream(images), strict=False):
                game.update(number, answer, int(label))


def _first(triggers: ImageSet, n: int) -> ImageSet:
    return ImageSet(triggers.images[:n], triggers.labels[:n], triggers.groups[:n])
