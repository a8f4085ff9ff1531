"""One suspect being asked its share: from the plan to a finding, whatever fails on the way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from wmlightning.errors import UserError
from wmlightning.ownership.age import Age
from wmlightning.ownership.interview import Interview
from wmlightning.ownership.key import Key
from wmlightning.ownership.questions import Question, Terms
from wmlightning.ownership.recorded import Recorded
from wmlightning.ownership.shares import TRANSCRIPT, Share
from wmlightning.ownership.spent import Look, Spent, suspect_named
from wmlightning.ownership.statistics import fixed
from wmlightning.ownership.statistics.result import ASSUMPTIONS, MISSING, TestResult
from wmlightning.ownership.suspects.base import Answer, Suspect, Unreachable
from wmlightning.ownership.suspects.network import Network
from wmlightning.watermarks.triggers import TriggerMaker


@dataclass(frozen=True)
class Claim:
    """What the verifier goes by: the same for all suspects.

    Attributes:
        key: that was checked.
        maker: what made its triggers.
        age: what is known of it.
        terms: level and limits for each suspect.
        alpha: level for all of them together.
        innocents: null models, opened.
        several: whether there are other suspects, which are asked although this one cannot be.
        show: whether triggers may stand in the report.
        spent: triggers that others have seen.
    """

    key: Key
    maker: TriggerMaker
    age: Age
    terms: Terms
    alpha: float
    innocents: list[Network]
    several: bool
    show: bool
    spent: Spent

    def opened(self, suspect: Suspect, out: Path) -> Recorded:
        """A suspect with the transcript in its folder, to be opened."""
        source = self.maker.source
        return Recorded(suspect, out / TRANSCRIPT, self.terms.budget, source.shape, len(source.classes))


@dataclass(frozen=True)
class Finding:
    """One suspect's answers, and what they are worth.

    Attributes:
        asked: the suspect.
        share: what it was to be asked; ``None`` if it could not be planned.
        result: of the test.
        ended: why less was asked than is planned.
        answered: images that the suspect had its chance to answer.
        silent: those of them without a usable answer.
        null_models: the same triggers put to models that were made without the key.
    """

    asked: Recorded
    share: Share | None
    result: TestResult
    ended: str | None = None
    answered: int = 0
    silent: int = 0
    null_models: TestResult | None = None

    @property
    def p_value(self) -> float:
        """Of the suspect alone, earlier looks at it included."""
        return min(1.0, self.result.p_value / self.share.left) if self.share else self.result.p_value


def ask(claim: Claim, suspect: Suspect, share: Share | UserError, out: Path) -> Finding:
    """Puts a question to a suspect, or reads its answers where the transcript holds all of them.

    Raises:
        UserError: if it cannot be asked, and there is no other suspect.
    """
    asked = claim.opened(suspect, out)
    if isinstance(share, UserError):
        if not claim.several:
            raise share
        return Finding(asked, None, _nothing("none", ""), str(share))
    question, interview = share.question, Interview(asked)
    result = _nothing(question.test, ASSUMPTIONS[question.test])
    if not share.begun and question.best_p() > share.plan.alpha:  # to no purpose: no trigger is shown
        return Finding(asked, share, result)
    try:
        with asked:
            result = _put(claim, share, interview, asked, out)
    except UserError as error:
        if not isinstance(error, Unreachable) and not claim.several:
            raise
        interview.lose(error)
    if interview.ended is not None and not claim.terms.sequential:
        result = replace(result, p_value=1.0, details="the test looks once, when all answers are there")
    beside = _null_models(claim.innocents, question, asked)
    return Finding(asked, share, result, interview.ended, interview.answered, interview.silent, beside)


def _put(claim: Claim, share: Share, interview: Interview, asked: Recorded, out: Path) -> TestResult:
    """Asks; triggers are set aside until it is clear which of them the suspect has seen."""
    planned, spent = set(share.plan.triggers), claim.spent
    suspect = suspect_named(asked.suspect, claim.key.secret)
    look = Look(share.plan.strangers, suspect, str(out.absolute()), share.plan.alpha)
    if not share.begun:
        if asked.shown:  # another process wrote its own plan there, or none did
            wrong = f"{out / TRANSCRIPT} names images that no plan of ours asks for"
            raise UserError("transcript", wrong, "the same command again if it was busy, or another folder")
        share.keep_strangers(out)
        asked.agree(share.plan.entry())  # a kill right after this leaves no trigger set aside that no plan names
    unseen = set[str]() if asked.done else planned - asked.shown
    spent.reserve(planned.difference(share.begun), look, share.earlier, unseen)
    finished = False
    try:
        asked.agree(share.plan.entry())
        result = share.question.put(interview)
        finished = interview.ended is None and not asked.done
        return result
    except UserError as error:  # such as the adapter's: whoever corrects it asks with another plan, or with this again
        interview.lose(error)
        raise
    finally:
        if finished:
            asked.finish()
        if not asked.shown:
            spent.release(planned, look)
        elif finished:
            spent.release(share.plan.fresh_after(asked.shown))
        elif interview.mistaken and not asked.heard:  # without an answer, what was shown depends on no label
            spent.interrupt(planned - asked.shown, look)


def _nothing(test: str, assumption: str) -> TestResult:
    """What is shown by no answer at all."""
    return TestResult(test, 1.0, 0, 0, 0, assumption, (0.0, 1.0))


def _null_models(innocents: list[Network], question: Question, asked: Recorded) -> TestResult | None:
    """The triggers that the suspect was asked about, put to models made without the key."""
    answers = [asked.answer(image) for image in question.triggers.images]
    known = [i for i, answer in enumerate(answers) if answer is not None]
    if not innocents or not known:
        return None
    images, expected = question.triggers.images[known], question.triggers.labels[known]
    ours = [_label(answer) for answer in answers if answer is not None]
    theirs = torch.stack([_labels(innocent, images) for innocent in innocents])
    return fixed.null_models(ours, expected.numpy(), theirs.numpy())


def _labels(innocent: Network, images: Tensor) -> Tensor:
    return torch.tensor([_label(answer) for batch in innocent.stream(images) for _, answer in batch])


def _label(answer: Answer) -> int:
    return MISSING if answer.label is None else answer.label
