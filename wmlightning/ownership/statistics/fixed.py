"""Tests of fixed size: ask a number of triggers that was settled beforehand, look once.

They are not to be looked at while asking (use :mod:`wmlightning.ownership.statistics.sequential` for that), and one of
them is to be chosen before the first query.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from wmlightning.ownership.statistics.result import (
    DECOY_KEYS,
    INDEPENDENT_LABELS,
    NULL_MODELS,
    SEVERAL_MARKS,
    Ints,
    TestResult,
    counted,
    integers,
    matched,
    positive,
)


def several_marks(
    answers: npt.ArrayLike,
    expected: npt.ArrayLike,
    marks: npt.ArrayLike,
    pool: npt.ArrayLike,
    true: npt.ArrayLike | None = None,
) -> TestResult:
    """Labels of marks drawn anew, given the answers: how often would they match as well as the key's own?

    A permutation test in Fisher's sense, exact, without a further query. If the suspect was made without the key, the
    labels are uniform on the pool and independent, *given all its answers*. The score of a key is the sum over its
    marks of ``c_j[label_j]``, where ``c_j[y]`` counts the answers y to triggers of mark j, and p is the share of all
    ``len(pool) ** n_marks`` keys that score at least as well as ours: a convolution over marks of integer counts, in
    Python's own integers, so without any rounding but the last division. Valid for any answers whatever, even if
    all triggers of a mark get one answer.

    The score, fixed beforehand by simulated power: for equally strong marks, plain matches are the likelihood ratio
    statistic (Neyman and Pearson); counting only a mark's most frequent answer, or at most two matches a mark, was
    worse, with dead marks much so.

    **The truth counts for nothing.** Where true classes are known, an answer that is the image's true class is left
    out, for the key's labels as for those drawn anew. What an innocent model will say to a mark that is hardly seen is
    known before it exists: the truth. Whoever tries secrets until labels and true classes agree would else be believed.
    It helps the owner, too, where misses are the truth; the price is a trigger in K, whose label is the truth anyway.

    A missing answer is the answer of no class: it matches no label, ours or redrawn. Whether an innocent suspect
    answers cannot depend on labels it does not know.

    Args:
        answers: int ``(n,)``, predicted labels; -1 where there is none.
        expected: int ``(n,)``, the label of each trigger's mark.
        marks: int ``(n,)``, which mark each trigger carries; any numbers.
        pool: the classes that labels were drawn from, the same for all marks.
        true: int ``(n,)``, true classes of the images that were marked (-1: none); ``None`` if not known.

    Raises:
        ValueError: if the arrays do not fit together, or a mark has two labels or one from outside the pool.
    """
    given = integers(answers, "answers")
    wanted = integers(expected, "expected", given)
    carried = integers(marks, "marks", given)
    truth = np.full_like(given, -1) if true is None else integers(true, "true", given)
    labels, classes = labels_of_marks(wanted, carried, pool)
    telling = (truth < 0) | (given != truth)
    rows, places = {mark: i for i, mark in enumerate(labels)}, {y: i for i, y in enumerate(classes)}
    scores = [[0] * len(classes) for _ in labels]
    for answer, mark in zip(given[telling].tolist(), carried[telling].tolist(), strict=True):
        if answer in places:
            scores[rows[mark]][places[answer]] += 1
    ours = sum(scores[rows[mark]][places[label]] for mark, label in labels.items())
    law: dict[int, int] = {0: 1}  # keys drawn anew, by their score
    for of_mark in scores:
        law = _added(law, of_mark)
    better = sum(ways for score, ways in law.items() if score >= ours)
    p = positive(float(Fraction(better, len(classes) ** len(labels))))
    details = (
        f"of all {len(classes)}^{len(labels)} keys with these marks, a share of {p:.3g} scores as well as the owner's"
    )
    left = "" if true is None else f", {int((~telling).sum())} answers with the true class left out"
    return counted(SEVERAL_MARKS, given, wanted, p, details + left)


def labels_of_marks(expected: Ints, marks: Ints, pool: npt.ArrayLike) -> tuple[dict[int, int], list[int]]:
    """Checks what :func:`several_marks` is given, and finds the label of each mark and the classes of the pool."""
    classes = integers(pool, "pool").tolist()
    if not classes or len(set(classes)) < len(classes) or min(classes) < 0:
        raise ValueError("the pool must hold classes, each once")
    labels: dict[int, int] = {}
    for mark, label in zip(marks.tolist(), expected.tolist(), strict=True):
        if labels.setdefault(mark, label) != label:
            raise ValueError(f"mark {mark} has two labels, {labels[mark]} and {label}")
        if label not in classes:
            raise ValueError(f"the label {label} of mark {mark} is not in the pool")
    return labels, classes


def _added(law: dict[int, int], scores: list[int]) -> dict[int, int]:
    """The law of a sum, after one more mark whose label is any of the pool's with the same weight."""
    ways_of: dict[int, int] = {}
    for score in scores:
        ways_of[score] = ways_of.get(score, 0) + 1
    new: dict[int, int] = {}
    for total, ways in law.items():
        for score, more in ways_of.items():
            new[total + score] = new.get(total + score, 0) + ways * more
    return new


def independent_labels(
    answers: npt.ArrayLike, expected: npt.ArrayLike, n_labels: int, true: npt.ArrayLike | None = None
) -> TestResult:
    """Each trigger has a label of its own, uniform over ``n_labels`` classes: matches are at most binomial.

    Given the answers of a suspect made without the key, each matches with probability 1/n_labels at most,
    independently of the others. Where true classes are known, an answer with the truth is left out, which is decided
    without a look at the label; where the labels were drawn from all *other* classes, it could not have matched, and
    what is left is exactly binomial. That helps the owner most when an attack has left few triggers alive.

    A missing answer stays in as a miss. Leaving it out would be valid too, as an innocent suspect cannot choose what it
    refuses by labels; but as a miss it cannot help a claimant whatever the reason, and it costs little power.

    **Each trigger counts once.** Asking again draws no new label, so a repeated query would be counted as new evidence;
    the same holds for two copies of an image with one label.

    Args:
        answers: int ``(n,)``, predicted labels; -1 where there is none.
        expected: int ``(n,)``, labels that the key drew.
        n_labels: how many classes each label was drawn from: K - 1 if never the true one, else K.
        true: int ``(n,)``, true classes of the images that were marked (-1: none); ``None`` if not known.

    Raises:
        ValueError: if the arrays do not fit together.
    """
    given = integers(answers, "answers")
    wanted = integers(expected, "expected", given)
    if n_labels < 1:
        raise ValueError("labels are drawn from at least one class")
    truth = np.full_like(given, -1) if true is None else integers(true, "true", given)
    telling = (truth < 0) | (given != truth)
    matches, n = int((matched(given, wanted) & telling).sum()), int(telling.sum())
    p = by_chance(matches, n, n_labels)
    left = "" if true is None else f", {len(given) - n} answers with the true class left out"
    return counted(INDEPENDENT_LABELS, given, wanted, p, f"{matches} of {n} match, by chance 1 in {n_labels}{left}")


def by_chance(matches: int, n: int, n_labels: int) -> float:
    """How likely so many of ``n`` labels match or more: in whole numbers but for the last division.

    What reaches a level exactly must not miss it by a rounding, nor be promised and then refused.
    """
    ways, of_misses = 0, 1
    for misses in range(n - matches + 1):
        ways += of_misses
        of_misses = of_misses * (n - misses) * (n_labels - 1) // (misses + 1)
    return positive(ways / n_labels**n)


def decoy_keys(
    answers: npt.ArrayLike,
    expected: npt.ArrayLike,
    decoy_answers: npt.ArrayLike,
    decoy_expected: npt.ArrayLike | None = None,
) -> TestResult:
    """The key's rank among other keys, asked about the same number of triggers: for one mark with one label.

    ``p = (1 + decoys that match as often or more) / (decoys + 1)``: a Monte Carlo test (Dwass, 1957; Phipson and Smyth,
    2010). If the suspect was made without the key, the key is one more draw among the decoys, so that its rank is
    uniform; ties count against the owner. The decoys must be drawn afresh, not those that the model was trained
    against, and from the same images as the owner's triggers.

    A missing answer is a miss of the owner's and **a match of a decoy's**: p is then at least what it would be had
    every answer come. Otherwise a service that stops answering midway, after the owner's triggers, would make
    its innocent owner guilty.

    Args:
        answers: int ``(n,)``, to the owner's triggers; -1 where there is none.
        expected: int ``(n,)``.
        decoy_answers: int ``(decoys, n)``.
        decoy_expected: int ``(decoys, n)``; ``None``: as the owner's.

    Raises:
        ValueError: if the arrays do not fit together.
    """
    return _ranked(DECOY_KEYS, "other keys", answers, expected, decoy_answers, decoy_expected)


def null_models(answers: npt.ArrayLike, expected: npt.ArrayLike, null_answers: npt.ArrayLike) -> TestResult:
    """The suspect's rank among models trained without the key, all asked about the same triggers.

    Lukas et al. (S&P 2022) calibrate on 30 such models; the rank of the suspect among them needs no assumption on the
    law of their scores. What it does assume is more than the other tests: use it as a cross-check of one. Missing
    answers count as in :func:`decoy_keys`.

    Args:
        answers: int ``(n,)``, the suspect's; -1 where there is none.
        expected: int ``(n,)``.
        null_answers: int ``(models, n)``.

    Raises:
        ValueError: if the arrays do not fit together.
    """
    return _ranked(NULL_MODELS, "null models", answers, expected, null_answers, None)


def _ranked(
    test: str,
    whose: str,
    answers: npt.ArrayLike,
    expected: npt.ArrayLike,
    others_answers: npt.ArrayLike,
    others_expected: npt.ArrayLike | None,
) -> TestResult:
    given = integers(answers, "answers")
    wanted = integers(expected, "expected", given)
    theirs = integers(others_answers, f"answers of {whose}", given, 2)
    labels = np.broadcast_to(wanted, theirs.shape)
    if others_expected is not None:
        labels = integers(others_expected, f"labels of {whose}", given, 2)
    if labels.shape != theirs.shape:
        raise ValueError(f"{len(labels)} rows of labels for {len(theirs)} rows of answers")
    ours = int(matched(given, wanted).sum())
    reached = int(((matched(theirs, labels) | (theirs < 0)).sum(1) >= ours).sum())
    p = (1 + reached) / (len(theirs) + 1)
    return counted(test, given, wanted, p, f"{reached} of {len(theirs)} {whose} match as often as the owner's")
