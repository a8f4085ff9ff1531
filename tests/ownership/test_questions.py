"""The tests of ownership: valid for whoever answers, exact, and able to tell the owner's model."""

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
from wmlightning.ownership.questions import DecoyKeys, IndependentLabels, SeveralMarks


def triggers(labels: torch.Tensor, groups: torch.Tensor | None = None) -> ImageSet:
    n = len(labels)
    return ImageSet(
        torch.zeros(n, 1, 2, 2, dtype=torch.uint8), labels, torch.zeros(n).long() if groups is None else groups
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(2, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_several_marks_counts_every_way_to_draw_the_labels(marks: int, classes: int, each: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    groups = torch.arange(marks).repeat_interleave(each)
    answers = torch.from_numpy(draw.integers(-1, classes, marks * each))
    key = torch.from_numpy(draw.integers(0, classes, marks))
    found = SeveralMarks(triggers(key[groups], groups), list(range(classes))).judge(answers)
    matches = [
        int((answers == torch.tensor(labels)[groups]).sum())
        for labels in itertools.product(range(classes), repeat=marks)
    ]
    assert found.p_value == pytest.approx(np.mean([m >= found.matches for m in matches]))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(2, 12), st.data())
def test_independent_labels_is_the_binomial_test(n: int, classes: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    answers = torch.where(torch.arange(n) < hits, 0, -1)
    found = IndependentLabels(triggers(torch.zeros(n).long()), classes).judge(answers)
    assert found.p_value == pytest.approx(binomtest(hits, n, 1 / classes, alternative="greater").pvalue)
    assert found.interval == pytest.approx(tuple(binomtest(hits, n).proportion_ci(0.95, "exact")))
    assert (found.matches, found.missing) == (hits, n - hits)


@pytest.mark.parametrize(("n", "needed"), [(20, 8), (30, 10), (100, 21)])
def test_known_numbers_of_matches_that_decide(n: int, needed: int) -> None:
    question = IndependentLabels(triggers(torch.zeros(n).long()), 10)
    p = [question.p_value(torch.where(torch.arange(n) < hits, 0, 1)) for hits in (needed - 1, needed)]
    assert p[1] <= 1e-3 < p[0]


def test_24_queries_decide_when_5_of_8_marks_answer() -> None:
    groups = torch.arange(8).repeat_interleave(3)
    labels = torch.arange(8)[groups]
    answers = torch.where(groups < 5, labels, 9)
    assert SeveralMarks(triggers(labels, groups), list(range(10))).p_value(answers) < 1e-3


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


def assert_valid(p: list[float]) -> None:
    for level in (0.01, 0.05, 0.25):
        share = float(np.mean([value <= level for value in p]))
        assert share <= level + 3.5 * (level * (1 - level) / len(p)) ** 0.5, f"{share} at {level}"


@pytest.mark.parametrize("answering", INNOCENT)
def test_several_marks_is_valid(answering: Answering) -> None:
    draw, groups = np.random.default_rng(1), torch.arange(6).repeat_interleave(4)
    p = []
    for _ in range(1500):
        key = torch.from_numpy(draw.integers(0, 10, 6))
        p.append(SeveralMarks(triggers(key[groups], groups), list(range(10))).p_value(answering(draw, groups)))
    assert_valid(p)


@pytest.mark.parametrize("answering", INNOCENT)
def test_independent_labels_is_valid(answering: Answering) -> None:
    """Labels differ from the images' true classes: even a perfect classifier matches none of them."""
    draw, groups = np.random.default_rng(2), torch.arange(6).repeat_interleave(5)
    p = []
    for _ in range(1500):
        true = torch.from_numpy(draw.integers(0, 10, 30))
        labels = (true + 1 + torch.from_numpy(draw.integers(0, 9, 30))) % 10
        p.append(IndependentLabels(triggers(labels), 9).p_value(answering(draw, groups)))
    assert_valid(p)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.5, 1.0])
def test_decoy_keys_are_valid(rate: float) -> None:
    """A suspect that answers to every mark alike, often or seldom, and to some marks by chance more than to others."""
    draw, p = np.random.default_rng(3), []
    labels = torch.zeros(5).long()
    for _ in range(1500):
        liking = draw.beta(2, 2, 40) * rate  # exchangeable over keys
        answers = torch.from_numpy((draw.random((40, 5)) >= liking[:, None]).astype(int)).flatten()
        p.append(DecoyKeys(triggers(labels), [triggers(labels)] * 39).p_value(answers))
    assert_valid(p)


def test_decoy_keys_tell_the_owner() -> None:
    labels = torch.zeros(5).long()
    answers = torch.ones(1000, 5).long()
    answers[0, :4] = 0  # four of five triggers still work
    answers[7, :2] = 0
    question = DecoyKeys(triggers(labels), [triggers(labels)] * 999)
    assert question.p_value(answers.flatten()) == question.smallest_p == 0.001
    answers[7, :4] = 0
    assert question.p_value(answers.flatten()) == 0.002, "ties count against the owner"


def test_silence_after_the_owners_triggers_shows_nothing() -> None:
    labels = torch.zeros(5).long()
    answers = torch.full((100, 5), -1)
    answers[0, 0] = 0
    assert DecoyKeys(triggers(labels), [triggers(labels)] * 99).p_value(answers.flatten()) == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-1, 9), min_size=12, max_size=12), st.integers(0, 11))
def test_one_more_match_never_hurts(answers: list[int], place: int) -> None:
    groups = torch.arange(4).repeat_interleave(3)
    labels = torch.tensor([1, 5, 5, 8])[groups]
    given_, better = torch.tensor(answers), torch.tensor(answers)
    better[place] = labels[place]
    assert IndependentLabels(triggers(labels), 9).p_value(better) <= IndependentLabels(triggers(labels), 9).p_value(
        given_
    )
    ours, decoy = torch.tensor(answers[:6]), torch.tensor(answers[6:])
    question = DecoyKeys(triggers(labels[:6]), [triggers(labels[:6])])
    assert question.p_value(torch.cat([better[:6], decoy])) <= question.p_value(torch.cat([ours, decoy]))
