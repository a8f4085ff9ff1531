"""Shares of a key's triggers, dealt out anew: what was begun stays what it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import binomtest

from tests.helpers import Tag, maker_of, numbered
from wmlightning.data.batches import ImageSet
from wmlightning.ownership.questions import Terms
from wmlightning.ownership.shares import Dealer, Plan, Share
from wmlightning.ownership.spent import Spent
from wmlightning.ownership.statistics import guessing
from wmlightning.ownership.statistics.result import SEVERAL_MARKS, bonferroni
from wmlightning.ownership.transcript import image_digests

Labels = npt.NDArray[np.int64]
MAKER, *_ = maker_of(Tag(), numbered(400, 400, 8), n_triggers=24, label="random")
TRAINED = MAKER.make().trained
TERMS = Terms(0.1, 6, 5000)


def twice(triggers: ImageSet) -> ImageSet:
    """The same images once more, with other labels."""
    parts = (triggers.images, triggers.images), (triggers.labels, (triggers.labels + 1) % 8)
    return ImageSet(*(torch.cat(part) for part in parts), triggers.groups.repeat(2))


def dealt(out: Path, triggers: ImageSet, terms: Terms = TERMS) -> Share:
    """What a verifier deals out who may have begun in this folder, and sends the first image of."""
    dealer = Dealer("k", MAKER, triggers, torch.full_like(triggers.labels, -1), terms, Spent(out / "k.key"))
    (share,) = dealer.deal([out], ["suspect"])
    assert isinstance(share, Share), share
    if not share.begun:
        share.keep_strangers(out)
    lines: list[dict[str, Any]] = [{"plan": share.plan.entry()}, {"sent": share.plan.triggers[:1]}]
    (out / "transcript.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return share


@pytest.mark.parametrize("sequential", [True, False])
def test_of_the_same_image_twice_the_one_that_was_asked_about_is_found(tmp_path: Path, sequential: bool) -> None:
    terms = Terms(0.1, 24, 5000, sequential)
    first, again = dealt(tmp_path, twice(TRAINED), terms), dealt(tmp_path, twice(TRAINED), terms)
    assert len(first.question.labels) == len(again.question.labels) == 24
    assert again.plan == first.plan
    assert (again.question.labels == first.question.labels).all()


def test_triggers_that_were_given_back_follow_what_was_begun(tmp_path: Path) -> None:
    digests = image_digests(TRAINED.images)
    (tmp_path / "k.spent.json").write_text(json.dumps(digests[::2]))  # set aside for another suspect
    first = dealt(tmp_path, TRAINED)
    (tmp_path / "k.spent.json").unlink()
    longer = dealt(tmp_path, TRAINED, Terms(0.1, 20, 5000))
    assert longer.begun == first.plan.triggers == longer.plan.triggers[:6]
    assert len(set(longer.plan.triggers)) == 20
    assert set(longer.plan.triggers) & set(digests[::2])
    assert dealt(tmp_path, TRAINED, Terms(0.1, 20, 5000)).plan == longer.plan
    assert dealt(tmp_path, TRAINED, Terms(0.1, 24, 5000)).plan.triggers[:20] == longer.plan.triggers


def test_a_level_that_is_left_is_the_one_on_paper(tmp_path: Path) -> None:
    """0.011 - 0.01 is a little less than 0.001, which 999 decoys could then not show. What was planned so goes on."""
    look = {"plan": "another", "suspect": "suspect", "folder": "elsewhere", "alpha": 0.01}
    (tmp_path / "k.asked.json").write_text(json.dumps([look]))
    share = dealt(tmp_path, TRAINED, Terms(0.011, 20, 5000))
    assert share.plan.alpha == share.question.terms.alpha == 0.001
    assert bonferroni(0.001 / share.left, 1) == 0.011
    begun = {**share.plan.entry(), "alpha": 0.011 - 0.01}
    (tmp_path / "transcript.jsonl").write_text(json.dumps({"plan": begun, "sent": share.plan.triggers[:1]}) + "\n")
    assert dealt(tmp_path, TRAINED, Terms(0.011, 20, 5000)).plan.entry() == begun


def game(labels: Labels, marks: Labels, answers: Labels) -> tuple[guessing.SeveralMarks, list[int]]:
    """The test in rounds at a level of 0.05, and the triggers that it asked about."""
    found, asked = guessing.SeveralMarks(labels[marks], marks, range(10), 10, None, 0.05), []
    for trigger, answer in enumerate(answers):
        if not found.reached and found.wanted(trigger):
            found.update(trigger, int(answer))
            asked.append(trigger)
    return found, asked


@pytest.mark.parametrize(("apart", "valid"), [(16, True), (40, True), (None, True), (0, False)])
def test_a_second_look_at_several_marks_accuses_no_more_than_the_first(apart: int | None, valid: bool) -> None:
    """An innocent suspect takes each mark for some class, and the next one does as it does.

    Were what was not shown left (``apart=0``), that would be the marks whose label was guessed.
    """
    draw, keys, accused = np.random.default_rng(0), 1000, 0
    marks = np.arange(80) % 8
    plan = Plan("k", SEVERAL_MARKS, 0.05, True, 80, "s", [str(trigger) for trigger in range(80)], apart)
    for _ in range(keys):
        labels, answers = draw.integers(10, size=8), draw.integers(10, size=8)[marks]
        _, asked = game(labels, marks, answers)
        left = np.array(sorted(map(int, plan.fresh_after(set(map(str, asked))))), dtype=int)
        accused += len(left) > 0 and game(labels, marks[left], answers[left])[0].reached
    assert (binomtest(accused, keys, 0.05, "greater").pvalue > 0.01) == valid, accused / keys
