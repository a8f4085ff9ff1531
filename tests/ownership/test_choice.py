"""Which triggers are asked about, in which order, and whether decoys could as well be the owner's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.helpers import SECRET, Tag, maker_of, numbered, read_numbers
from tests.ownership.test_questions import Fake, assert_valid
from wmlightning.data.batches import ImageSet
from wmlightning.errors import UserError
from wmlightning.ownership.choice import choose
from wmlightning.ownership.interview import Interview
from wmlightning.ownership.questions import DecoyKeys, Question, Terms
from wmlightning.ownership.recorded import Recorded
from wmlightning.ownership.suspects.base import Answer
from wmlightning.secret import Secret
from wmlightning.watermarks.triggers import TriggerMaker
from wmlightning.watermarks.unrelated import Unrelated

TASK, PICTURES = numbered(), numbered(400, 400, 8)
AT_ONCE = Terms(0.05, 40, 200, sequential=False)


def asked(
    maker: TriggerMaker, new: ImageSet, verifier: Secret, fresh: list[int] | None = None, terms: Terms = AT_ONCE
) -> Question:
    pictures = isinstance(maker.watermark, Unrelated)
    true = torch.full_like(new.labels, -1) if pictures else maker.truth("new")
    which = torch.arange(len(new)) if fresh is None else torch.tensor(fresh)
    return choose(maker, new, true, which, terms, verifier)


class ByFile(Fake):
    """Takes pictures for the target if they stand near the beginning of their class in the file: no key is in it."""

    def __init__(self, target: int) -> None:
        self.target = target

    def ask(self, images: torch.Tensor) -> list[Answer]:
        _, numbers, _ = read_numbers(images)
        return [Answer(self.target if number < 80 else self.target + 1) for number in numbers.tolist()]


@pytest.mark.parametrize("sequential", [True, False])
def test_pictures_of_decoys_stand_where_the_owners_do(sequential: bool) -> None:
    """Data lie in some order: whoever asks about the first of a key must ask about the first of all keys."""
    p = []
    for seed in range(80):
        options: dict[str, Any] = {"n_triggers": 40, "n_new": 40, "negatives": 0, "n_decoys": 1}
        maker, *_ = maker_of(Unrelated(PICTURES), TASK, Secret.from_seed(seed), **options)
        terms = Terms(0.05, 40, 200, sequential)
        question = asked(maker, maker.make().new, Secret.from_seed(1000 + seed), terms=terms)
        assert isinstance(question, DecoyKeys)
        with Recorded(ByFile(int(question.labels[0])), budget=None) as suspect:
            p.append(question.put(Interview(suspect)).p_value)
    assert_valid(p)


def test_pictures_that_nobody_asks_about_are_not_read() -> None:
    read: list[int] = []

    class Counting(type(PICTURES)):  # type: ignore[misc]
        def images(self, split: Any, index: torch.Tensor) -> torch.Tensor:
            read.append(len(index))
            return super().images(split, index)

    pictures = Counting(PICTURES.read("train"), PICTURES.read("test"), 8)
    maker, *_ = maker_of(Unrelated(pictures), TASK, n_triggers=40, negatives=0)
    new = maker.make().new
    question = asked(maker, new, SECRET)
    assert isinstance(question, DecoyKeys)
    read.clear()
    question.decoy(0)
    assert sum(read) == len(question.labels) == 10


@pytest.mark.parametrize("options", [{"n_marks": 1}, {"n_marks": 3}, {"label": "random"}])
def test_the_verifiers_secret_orders_the_triggers(options: dict[str, Any]) -> None:
    """The same again, another for another verifier, and the same when others were spent in between."""
    maker, *_ = maker_of(Tag(), TASK, n_triggers=24, **options)
    new = maker.make().new

    def order(verifier: Secret, fresh: list[int] | None = None) -> list[int]:
        return read_numbers(
            asked(maker, new, verifier, fresh, Terms(0.05, 24, 5000, sequential=False)).triggers.images
        )[1].tolist()

    first = order(SECRET)
    assert first == order(SECRET) != order(SECRET.derive("other"))
    if "n_marks" in options and options["n_marks"] > 1:
        return  # marks take turns
    spent = [0, 5, 11]
    numbers = read_numbers(new.images[spent])[1].tolist()
    left = order(SECRET, [i for i in range(len(new)) if i not in spent])
    assert left == [number for number in first if number not in numbers][: len(left)]


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("options", [{"n_marks": 4}, {"label": "random"}])
def test_the_budget_bounds_what_is_planned(options: dict[str, Any], sequential: bool) -> None:
    """The first of the order; not where it was settled earlier, and not where that could decide nothing."""
    maker, *_ = maker_of(Tag(), TASK, n_triggers=24, **options)
    new = maker.make().new
    whole = asked(maker, new, SECRET, terms=Terms(0.2, 20, 5000, sequential))
    short = asked(maker, new, SECRET, terms=Terms(0.2, 20, 7, sequential))
    assert (len(whole.labels), len(short.labels)) == (20, 7)
    assert torch.equal(short.triggers.images, whole.triggers.images[:7])
    assert short.best_p() > whole.best_p() or sequential
    assert len(asked(maker, new, SECRET, terms=Terms(0.2, 20, 7, sequential, settled=True)).labels) == 20
    with pytest.raises(UserError, match=r"^budget: 2 queries, but even if every one matches, p is .*; more, or"):
        asked(maker, new, SECRET, terms=Terms(0.001, 20, 2, sequential))
    few = asked(maker, new, SECRET, terms=Terms(0.001, 2, 5000, sequential))
    assert few.best_p() > 0.001, "which is no fault of the budget"


def test_of_one_mark_no_trigger_is_asked_about_whose_truth_is_the_label() -> None:
    """Else a mark that hides less than strangers' marks would match by the plain truth."""
    maker, *_ = maker_of(Tag(), TASK, n_triggers=30, source_class="any", target_class=2)
    new = maker.make().new
    assert (maker.truth("new") == 2).any()
    question = asked(maker, new, SECRET)
    assert len(question.labels) and not (question.true == question.labels).any()
    truth = [i for i, true in enumerate(maker.truth("new").tolist()) if true == 2]
    with pytest.raises(UserError, match=r"^triggers: all show the class"):
        asked(maker, new, SECRET, truth)
