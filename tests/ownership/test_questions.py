"""The tests as they are put to a suspect: valid for whoever answers, sparing, and able to tell the owner's model."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from wmlightning.data.batches import ImageSet
from wmlightning.errors import UserError
from wmlightning.ownership.interview import Interview
from wmlightning.ownership.questions import DecoyKeys, IndependentLabels, Question, SeveralMarks, Terms
from wmlightning.ownership.recorded import Recorded
from wmlightning.ownership.statistics.result import TestResult, clopper_pearson
from wmlightning.ownership.suspects.base import Answer, Suspect, missing

Answers = Callable[[torch.Tensor], torch.Tensor]
AT_ONCE = Terms(0.001, 1000, 100_000, sequential=False)


def numbered(first: int, n: int) -> torch.Tensor:
    """Images that tell their number, to a fake suspect alone."""
    numbers = torch.arange(first, first + n)
    return torch.stack([numbers % 251, numbers // 251 % 251, numbers // 63001], 1).to(torch.uint8)[:, None, None]


def triggers(labels: torch.Tensor, groups: torch.Tensor | None = None) -> ImageSet:
    return ImageSet(numbered(0, len(labels)), labels, torch.zeros_like(labels) if groups is None else groups)


class Fake(Suspect):
    """Answers by the image's number; -1 is none.

    Args:
        answers: int64 numbers to labels.
    """

    name = "fake"
    batch_size = 4

    def __init__(self, answers: Answers) -> None:
        self.answers = answers

    def ask(self, images: torch.Tensor) -> list[Answer]:
        digits = images[:, 0, 0].long()
        labels = self.answers(digits @ torch.tensor([1, 251, 63001]))
        return [Answer(label) if label >= 0 else missing("refused", 1)[0] for label in labels.tolist()]


def put(question: Question, answers: Answers | torch.Tensor, budget: int | None = None) -> tuple[TestResult, int]:
    """What comes out, and how many images were sent."""
    fixed = answers if callable(answers) else (lambda numbers: answers[numbers])
    with Recorded(Fake(fixed), budget=budget) as asked:
        return question.put(Interview(asked)), asked.queries


def marks(
    labels: torch.Tensor, groups: torch.Tensor, classes: int, terms: Terms = AT_ONCE, true: torch.Tensor | None = None
) -> SeveralMarks:
    true = torch.full_like(labels, -1) if true is None else true
    return SeveralMarks(triggers(labels, groups), true, terms, list(range(classes)), classes)


def independent(labels: torch.Tensor, n_labels: int, terms: Terms = AT_ONCE) -> IndependentLabels:
    return IndependentLabels(triggers(labels), torch.full_like(labels, -1), terms, n_labels, 12)


def decoys(n: int, terms: Terms) -> DecoyKeys:
    """Decoy d's images have the numbers 1000 (d + 1) and following."""
    labels = torch.zeros(n, dtype=torch.int64)
    return DecoyKeys(triggers(labels), labels - 1, terms, lambda d, n: numbered(1000 * (d + 1), n), 10)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(2, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_several_marks_counts_every_way_to_draw_the_labels(n: int, classes: int, each: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    groups = torch.arange(n).repeat_interleave(each)
    answers = torch.from_numpy(draw.integers(-1, classes, n * each))
    key = torch.from_numpy(draw.integers(0, classes, n))
    found, _ = put(marks(key[groups], groups, classes), answers)
    matches = [
        int((answers == torch.tensor(labels)[groups]).sum()) for labels in itertools.product(range(classes), repeat=n)
    ]
    assert found.p_value == pytest.approx(np.mean([m >= found.matches for m in matches]))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(2, 12), st.data())
def test_independent_labels_is_the_binomial_test(n: int, classes: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    found, sent = put(independent(torch.zeros(n).long(), classes), torch.where(torch.arange(n) < hits, 0, -1))
    assert found.p_value == pytest.approx(binomtest(hits, n, 1 / classes, alternative="greater").pvalue)
    assert found.interval == pytest.approx(tuple(binomtest(hits, n).proportion_ci(0.95, "exact")))
    assert (found.matches, found.n_missing, sent) == (hits, n - hits, n)


@pytest.mark.parametrize(("n", "needed"), [(20, 8), (30, 10), (100, 21)])
def test_known_numbers_of_matches_that_decide(n: int, needed: int) -> None:
    question = independent(torch.zeros(n).long(), 10)
    p = [put(question, torch.where(torch.arange(n) < hits, 0, 1))[0].p_value for hits in (needed - 1, needed)]
    assert p[1] <= 1e-3 < p[0]


@pytest.mark.parametrize(("n_labels", "n"), [(10, 3), (10, 2), (10, 6), (5, 4), (9, 3), (1, 4)])
def test_a_level_that_is_reached_exactly_is_reached(n_labels: int, n: int) -> None:
    """What is promised before asking holds after it, to the last digit."""
    level = 1 / n_labels**n
    question = independent(torch.zeros(n).long(), n_labels, Terms(0.5, 1000, 5000, sequential=False))
    found, _ = put(question, torch.zeros(n).long())
    assert found.p_value == question.best_p() == level
    if level < 1:
        expected = Terms(level, n, 5000, sequential=False, survival=1)
        assert independent(torch.zeros(n).long(), n_labels, expected).estimate().triggers == n


def test_24_queries_decide_when_5_of_8_marks_answer() -> None:
    groups = torch.arange(8).repeat_interleave(3)
    labels = torch.arange(8)[groups]
    found, _ = put(marks(labels, groups, 10), torch.where(groups < 5, labels, 9))
    assert found.p_value < 1e-3


@pytest.mark.parametrize("sequential", [True, False])
def test_what_can_be_shown_and_is_estimated_leaves_out_what_shows_nothing(sequential: bool) -> None:
    """Of three marks one has the labels of its images' true classes: whatever is answered, two are left."""
    groups = torch.arange(3).repeat(5)
    labels = torch.tensor([3, 1, 4])[groups]
    true = torch.where(groups == 0, 3, 7)
    question = marks(labels, groups, 10, Terms(0.001, 1000, 5000, sequential), true)
    found, _ = put(question, labels)
    assert found.p_value == pytest.approx(question.best_p())
    assert 0.01 <= found.p_value < 0.02
    four = marks(labels, groups, 10, Terms(0.05, 1000, 5000, sequential, survival=1), true).estimate()
    assert four.triggers is not None and four.triggers > 2, "two marks would do, but a label may be the truth"


# -- in rounds: as few queries as decide -------------------------------------------------------------------------------

IN_ROUNDS = Terms(0.001, 1000, 5000)


def test_owner_of_several_marks_needs_a_handful() -> None:
    groups = torch.arange(8).repeat(5)
    labels = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])[groups]
    found, sent = put(marks(labels, groups, 10, IN_ROUNDS), labels)
    assert found.p_value <= 0.001
    assert sent <= 8
    innocent, sent = put(marks(labels, groups, 10, IN_ROUNDS), torch.full_like(labels, 7))
    assert innocent.p_value > 0.1
    assert sent <= len(labels)


def test_marks_whose_label_is_known_are_asked_no_more() -> None:
    """Half of the marks are dead: the others decide, and the dead ones take the queries."""
    groups = torch.arange(8).repeat(5)
    labels = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])[groups]
    terms = Terms(1e-6, 1000, 5000)
    asked: list[int] = []

    def answers(numbers: torch.Tensor) -> torch.Tensor:
        asked.extend(numbers.tolist())
        return torch.where(groups[numbers] < 4, labels[numbers], 0)

    put(marks(labels, groups, 10, terms), answers)
    alive = [number for number in asked if groups[number] < 4]
    assert len(asked) == len(set(asked))
    assert len(alive) < len(asked) - len(alive)


def test_owner_of_independent_labels_needs_a_handful() -> None:
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 9, 40))
    found, sent = put(independent(labels, 9, IN_ROUNDS), labels)
    assert found.p_value <= 0.001
    assert sent <= 6
    assert found.e_value is not None
    assert found.e_value >= 1000


def test_owner_of_one_mark_needs_little_more_than_a_query_a_decoy() -> None:
    found, sent = put(decoys(6, IN_ROUNDS), lambda numbers: torch.where(numbers < 6, 0, 1))
    assert found.p_value <= 0.001
    assert 1216 < sent <= 1216 + 6 + 60
    everything, sent = put(decoys(6, IN_ROUNDS), torch.zeros_like)
    assert everything.p_value == 1
    assert sent <= 60, "a suspect that takes any mark for the owner's shows itself soon"
    nothing, sent = put(decoys(6, IN_ROUNDS), torch.ones_like)
    assert (nothing.p_value, sent) == (1, 6)


@pytest.mark.parametrize("n", [1, 5, 6, 7, 39])
def test_budget_is_never_exceeded(n: int) -> None:
    groups = torch.arange(8).repeat(5)
    wrong = torch.ones(40).long()
    for question in (marks(wrong * 0, groups, 10, IN_ROUNDS), independent(wrong * 0, 9, IN_ROUNDS)):
        assert put(question, wrong, budget=n)[1] == n
    assert put(decoys(6, IN_ROUNDS), lambda numbers: torch.where(numbers < 6, 0, 1), budget=n)[1] == n


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("n", [0, 1, 4, 13])
def test_what_was_never_asked_is_counted_nowhere(n: int, sequential: bool) -> None:
    """Neither as a trigger asked about nor as a miss, wherever the budget ends."""
    terms, groups = Terms(0.01, 1000, 5000, sequential), torch.arange(4).repeat(5)
    labels, wrong = torch.zeros(20).long(), torch.arange(20).clamp(max=1)
    for question in (marks(labels, groups, 10, terms), independent(labels, 9, terms), decoys(6, terms)):
        asked = min(n, len(question.labels))
        found, _ = put(question, lambda numbers: wrong[numbers % 20], budget=n)
        assert (found.n, found.matches, found.n_missing) == (asked, asked > 0, 0)
        assert found.interval == clopper_pearson(found.matches, asked)
    assert found.p_value == 1, "decoys that were not asked count against the owner"


@pytest.mark.parametrize("sequential", [True, False])
def test_best_that_can_be_shown(sequential: bool) -> None:
    """It is what comes out if everything matches and nothing else does; and no estimate promises more."""
    groups = torch.arange(3).repeat(5)
    labels = torch.tensor([3, 1, 4])[groups]
    terms = Terms(1e-9, 1000, 5000, sequential)
    few = [marks(labels, groups, 10, terms), independent(labels, 9, terms)]
    for question in few:
        found, _ = put(question, labels)
        assert question.best_p() <= found.p_value * (1 + 1e-9)
        assert found.p_value <= 1e-9 or found.p_value == pytest.approx(question.best_p())
    assert few[0].best_p() > 1e-9
    assert few[0].estimate().triggers is None
    question = decoys(6, Terms(0.01, 1000, 700, sequential))
    found, _ = put(question, lambda numbers: torch.where(numbers < 6, 0, 1))
    assert question.best_p() <= found.p_value <= 0.01


def test_budget_must_allow_the_decoys() -> None:
    with pytest.raises(UserError, match=r"^budget: 999 queries, but a key of one mark needs 999 decoys"):
        decoys(6, Terms(0.001, 6, 999, sequential=False))
    assert len(decoys(6, Terms(0.001, 6, 3500, sequential=False)).labels) == 3


# -- validity: whoever answers, however, without the key ---------------------------------------------------------------


def one_class(draw: np.random.Generator, groups: torch.Tensor) -> torch.Tensor:
    return torch.full_like(groups, 3)


def class_by_mark(draw: np.random.Generator, groups: torch.Tensor) -> torch.Tensor:
    return (groups * 7 + 2) % 10


def at_random(draw: np.random.Generator, groups: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(draw.integers(0, 10, len(groups)))


def random_class_by_mark(draw: np.random.Generator, groups: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(draw.integers(0, 10, int(groups.max()) + 1))[groups]


def refuses_every_fifth(draw: np.random.Generator, groups: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.arange(len(groups)) % 5 == 0, -1, at_random(draw, groups))


INNOCENT = [one_class, class_by_mark, at_random, random_class_by_mark, refuses_every_fifth]
Answering = Callable[[np.random.Generator, torch.Tensor], torch.Tensor]
MODES = [Terms(0.01, 1000, 100_000, sequential=mode) for mode in (True, False)]


def assert_valid(p: list[float]) -> None:
    for level in (0.01, 0.05, 0.25):
        share = float(np.mean([value <= level for value in p]))
        assert share <= level + 3.5 * (level * (1 - level) / len(p)) ** 0.5, f"{share} at {level}"


@pytest.mark.parametrize("terms", MODES, ids=["in rounds", "at once"])
@pytest.mark.parametrize("answering", INNOCENT)
def test_several_marks_is_valid(answering: Answering, terms: Terms) -> None:
    draw, groups = np.random.default_rng(1), torch.arange(6).repeat(4)
    p = []
    for _ in range(200):
        key, true = torch.from_numpy(draw.integers(0, 10, 6)), torch.from_numpy(draw.integers(0, 10, 24))
        question = marks(key[groups], groups, 10, terms, true)
        p.append(put(question, answering(draw, groups))[0].p_value)
    assert_valid(p)


@pytest.mark.parametrize("terms", MODES, ids=["in rounds", "at once"])
@pytest.mark.parametrize("answering", INNOCENT)
def test_independent_labels_is_valid(answering: Answering, terms: Terms) -> None:
    """Labels differ from the images' true classes: even a perfect classifier matches none of them."""
    draw, groups = np.random.default_rng(2), torch.arange(6).repeat(5)
    p = []
    for _ in range(200):
        true = torch.from_numpy(draw.integers(0, 10, 30))
        labels = (true + 1 + torch.from_numpy(draw.integers(0, 9, 30))) % 10
        question = IndependentLabels(triggers(labels), true, terms, 9, 10)
        p.append(put(question, answering(draw, groups))[0].p_value)
    assert_valid(p)


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("rate", [0.0, 0.02, 0.5, 1.0])
def test_decoy_keys_are_valid(rate: float, sequential: bool) -> None:
    """A suspect that answers to every mark alike, often or seldom, and to some marks by chance more than to others."""
    draw, p = np.random.default_rng(3), []
    terms = Terms(0.05, 5, 5 * 40, sequential)
    for _ in range(80):
        liking = torch.from_numpy(draw.beta(2, 2, 300) * rate)  # exchangeable over keys
        luck = torch.from_numpy(draw.random((300, 5)))

        def answers(numbers: torch.Tensor, liking: torch.Tensor = liking, luck: torch.Tensor = luck) -> torch.Tensor:
            return (luck[numbers // 1000, numbers % 1000] >= liking[numbers // 1000]).long()

        p.append(put(decoys(5, terms), answers)[0].p_value)
    assert_valid(p)


def test_ties_count_against_the_owner() -> None:
    answers = torch.ones(1000, 1000).long()
    answers[0, :4] = 0  # four of five triggers still work
    answers[8, :2] = 0
    terms = Terms(0.001, 5, 5000, sequential=False)
    assert put(decoys(5, terms), answers.flatten())[0].p_value == 0.001
    answers[8, :4] = 0
    assert put(decoys(5, terms), answers.flatten())[0].p_value == 0.002


@pytest.mark.parametrize("sequential", [True, False])
def test_silence_after_the_owners_triggers_shows_nothing(sequential: bool) -> None:
    terms = Terms(0.01, 5, 2000, sequential)
    found, _ = put(decoys(5, terms), lambda numbers: torch.where(numbers < 5, 0, -1))
    assert found.p_value == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-1, 9), min_size=12, max_size=12), st.integers(0, 11))
def test_one_more_match_never_hurts(answers: list[int], place: int) -> None:
    labels = torch.tensor([1, 5, 5, 8]).repeat_interleave(3)
    given_, better = torch.tensor(answers), torch.tensor(answers)
    better[place] = labels[place]
    question = independent(labels, 9)
    assert put(question, better)[0].p_value <= put(question, given_)[0].p_value
