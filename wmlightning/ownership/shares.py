"""Who is asked what: settled for all suspects before the first query, and held to in every later call.

A test that looks once must look once. So what it takes is written into the transcript before anything is sent, and the
same transcript is not judged by another plan: that would be a second look at answers that are known. Only a plan whose
test runs through its triggers one by one, with stakes that do not depend on how many follow, may be prolonged: its
capital then goes on along one and the same path. That is *independent labels* in rounds. *Several marks* in rounds
stakes more boldly on a mark's last trigger, so that a longer plan would be another game with the same labels.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wmlightning.data.batches import ImageSet
from wmlightning.errors import UserError
from wmlightning.files import write_bytes
from wmlightning.ownership.choice import choose, in_order
from wmlightning.ownership.questions import Question, Terms
from wmlightning.ownership.spent import Look, Spent, earlier_than
from wmlightning.ownership.statistics.result import INDEPENDENT_LABELS, rounded
from wmlightning.ownership.transcript import Planned, image_digests, planned
from wmlightning.ownership.verdict import estimated
from wmlightning.secret import Secret
from wmlightning.watermarks.triggers import TriggerMaker

TRANSCRIPT = "transcript.jsonl"
_SECRET = "decoys.secret"  # noqa: S105 (the name of a file)
_LEAST = 1e-12  # of a level: less is what rounding left
_ALIKE = 1e-11  # relative: levels that differ by less are the same, rounded in another way


@dataclass(frozen=True)
class Plan:
    """What is settled before the first query to a suspect.

    Attributes:
        key: commitment to the key.
        test: name of the statistical test.
        alpha: level for this suspect.
        sequential: whether the test may stop at any time.
        queries: triggers to ask about at most, as the verifier wished.
        strangers: the verifier's secret, in public: decoys and the order of triggers follow from it.
        triggers: hashes of those that are asked about, in their order.
        apart: see :meth:`Question.apart`; ``None``: all are spent that stand here.
    """

    key: str
    test: str
    alpha: float
    sequential: bool
    queries: int
    strangers: str
    triggers: list[str]
    apart: int | None = None

    def entry(self) -> dict[str, Any]:
        """As it stands in a transcript."""
        return asdict(self)

    def fresh_after(self, shown: set[str]) -> set[str]:
        """The triggers that other looks may take when this one has ended."""
        if self.apart == 0 or not shown:
            return set(self.triggers) - shown
        left = set() if self.apart is None else set(self.triggers[self.apart :]) - set(self.triggers[: self.apart])
        return set() if left & shown else left

    @property
    def goes_on(self) -> bool:
        """Whether asking about more is the same test, carried on."""
        return self.sequential and self.test == INDEPENDENT_LABELS


@dataclass(frozen=True)
class Share:
    """What one suspect is asked.

    Attributes:
        question: ready to be put.
        plan: what of it is held to.
        begun: the triggers of the transcript's own plan, if images left under it.
        strangers: the verifier's secret of this plan.
        earlier: looks at the same suspect: what they were allowed is spent.
        left_out: why triggers of the key are not asked about; empty if none is.
    """

    question: Question
    plan: Plan
    begun: list[str]
    strangers: Secret
    earlier: list[Look] = field(default_factory=list)
    left_out: str = ""

    def keep_strangers(self, out: Path) -> None:
        """Keeps the verifier's own secret with the transcript: going on asks about the same decoys.

        One that lies there already belongs to no transcript: whoever put it there may have prepared for its decoys.
        """
        write_bytes(out / _SECRET, self.strangers.reveal(), private=True)

    @property
    def left(self) -> float:
        """The part of the level that earlier looks have left: p-values are divided by it."""
        return self.plan.alpha / (self.plan.alpha + _spent_on(self.earlier))

    @cached_property
    def estimate(self) -> str:
        """How many queries will probably decide: a sentence."""
        terms = self.question.terms
        return estimated(self.question.estimate(), terms.alpha, terms.survival)


class Dealer:
    """Deals out a key's triggers.

    Args:
        key: commitment to the key.
        maker: what made its triggers.
        triggers: see :func:`~wmlightning.ownership.choice.triggers_of`.
        true: see :func:`~wmlightning.ownership.choice.triggers_of`.
        terms: level and limits for each suspect.
        spent: triggers that nobody else is to be shown.
    """

    def __init__(
        self, key: str, maker: TriggerMaker, triggers: ImageSet, true: Tensor, terms: Terms, spent: Spent
    ) -> None:
        self._key, self._maker, self._triggers, self._true = key, maker, triggers, true
        self._terms, self._spent = terms, spent
        self._digests = image_digests(triggers.images)
        self._taken, self._looks = spent.noted(), spent.looks()
        self._free = {digest for digest in self._digests if digest not in self._taken}

    def deal(self, folders: Sequence[Path], suspects: Sequence[str | None]) -> list[Share | UserError]:
        """A share for each suspect, or why there is none; nobody is shown what another was.

        Args:
            folders: of the suspects: what the transcript there says was planned is held to.
            suspects: their names, see :func:`~wmlightning.ownership.spent.suspect_named`; ``None`` if it is not there.
        """
        found = [planned(out / TRANSCRIPT) for out in folders]
        begun = [one.plan if self._is_begun(one, out) else None for one, out in zip(found, folders, strict=True)]
        for one, plan in zip(found, begun, strict=True):
            self._taken |= _held(plan, one)
        shares: list[Share | UserError] = []
        for i, (entry, out, suspect) in enumerate(zip(begun, folders, suspects, strict=True)):
            try:
                if entry is None:
                    shares.append(self._first(begun[i:].count(None), suspect))
                else:
                    shares.append(self._further(entry, out, suspect))
            except UserError as error:
                shares.append(error)
        return shares

    def _is_begun(self, found: Planned, out: Path) -> bool:
        """Whether images left under the plan in a folder, or were about to when the process was killed."""
        plan, at = found.plan or {}, str(out.absolute())
        known = any((look.plan, look.folder) == (plan.get("strangers"), at) for look in self._looks)
        return bool(found.shown) or known

    def _first(self, waiting: int, suspect: str | None) -> Share:
        """A share of what is fresh, if ``waiting`` suspects want one."""
        earlier = [look for look in self._looks if look.suspect == suspect]
        terms = replace(self._terms, alpha=self._left(earlier))
        if earlier and terms.alpha < _LEAST:
            raise _looked_at(earlier, self._terms.alpha)
        fresh = self._fresh()
        if not fresh:
            wrong = f"all {len(self._digests)} are spent, see {self._spent.path}"
            raise UserError("triggers", wrong, "the other kind of triggers")
        most = min(terms.queries, math.ceil(len(fresh) / waiting))
        share = self._share(fresh, replace(terms, queries=most), Secret(secrets.token_bytes(32)), [], earlier)
        self._taken |= set(share.plan.triggers)
        apart: int | None = share.question.apart()
        if apart and set(share.plan.triggers) != self._free:  # then others are left, whatever becomes of these
            apart = None
        return replace(share, plan=replace(share.plan, apart=apart))

    def _further(self, entry: dict[str, Any], out: Path, suspect: str | None) -> Share:
        """What a transcript's plan asks for, or a longer one where that is the same test."""
        path, strangers = out / TRANSCRIPT, _kept(out / _SECRET)
        own = Look(strangers.name(), str(suspect), "", 0)
        earlier = earlier_than(own, self._looks)
        terms = replace(self._terms, alpha=self._left(earlier))
        try:
            plan = Plan(**entry)
            if type(plan.apart) not in (int, type(None)):
                raise TypeError("no number of triggers")
            ours = self._places(plan.triggers, strangers)
            longer = plan.goes_on and terms.queries > plan.queries
            if math.isclose(plan.alpha, terms.alpha, rel_tol=_ALIKE):
                terms = replace(terms, alpha=plan.alpha)
        except (TypeError, ValueError, OverflowError):
            wrong = f"the plan in {path} was altered, or is about other triggers"
            raise UserError("transcript", wrong, "another folder, or the options that it was begun with") from None
        for name, was, now in (
            ("key", plan.key, self._key),
            (_SECRET, plan.strangers, strangers.name()),
            ("alpha (for each suspect)", plan.alpha, terms.alpha),
            ("sequential", plan.sequential, terms.sequential),
            ("queries", plan.queries, terms.queries),
        ):
            if was != now and not (name == "queries" and longer):
                raise _another(path, name, was, now)
        if longer:
            terms = replace(terms, budget=max(terms.budget, len(ours)))  # what was begun belongs to it
        else:
            terms = replace(terms, queries=len(ours), settled=True)
        which = ours + self._fresh() if longer else ours
        kept = ours if plan.goes_on else []
        share = self._share(which, terms, strangers, plan.triggers, earlier, kept)
        if share.plan.test != plan.test or share.plan.triggers[: len(plan.triggers)] != plan.triggers:
            raise _another(path, "test", plan.test, f"{share.plan.test} with other triggers")
        if longer:
            self._taken |= set(share.plan.triggers)
        return replace(share, plan=replace(share.plan, apart=plan.apart))

    def _share(
        self,
        which: list[int],
        terms: Terms,
        strangers: Secret,
        begun: list[str],
        earlier: list[Look],
        kept: Sequence[int] = (),
    ) -> Share:
        places = torch.tensor(which, dtype=torch.int64)
        question = choose(self._maker, self._triggers, self._true, places, terms, strangers, kept)
        chosen = image_digests(question.triggers.images)
        wanted = self._terms
        settled = (terms.alpha, wanted.sequential, wanted.queries, strangers.name())
        spent = len(set(self._digests) - self._free - set(begun))
        left_out = f"{spent} of {len(self._digests)} triggers were left out as spent, as {self._spent.path.name} says"
        plan = Plan(self._key, question.test, *settled, chosen)
        return Share(question, plan, begun, strangers, earlier, left_out * bool(spent))

    def _left(self, earlier: list[Look]) -> float:
        """The level that earlier looks have left."""
        return rounded(self._terms.alpha - _spent_on(earlier)) if earlier else self._terms.alpha

    def _fresh(self) -> list[int]:
        return [i for i, digest in enumerate(self._digests) if digest not in self._taken]

    def _places(self, digests: list[str], strangers: Secret) -> list[int]:
        """Where triggers stand in the key; of the same image twice, where the question that was planned looked."""
        wanted = set(digests)
        alike = [i for i, digest in enumerate(self._digests) if digest in wanted]
        if not alike:
            raise ValueError("none is of this key")
        order = in_order(self._maker, self._triggers, self._true, torch.tensor(alike), strangers).tolist()
        found = []
        for digest in digests:
            found.append(next((i for i in order if self._digests[i] == digest), -1))
            order.remove(found[-1])
        return found


def _another(path: Path, name: str, was: Any, now: Any) -> UserError:
    wrong = f"{path} was begun with {name}={was}, now it is {now}: one more look at the same answers is no valid test"
    return UserError("transcript", wrong, "what it was begun with")


def _looked_at(earlier: list[Look], alpha: float) -> UserError:
    used, where = _spent_on(earlier), earlier[0].folder
    wrong = f"it was asked with this key before, see {where}, and alpha={used:g} was spent on that, now it is {alpha:g}"
    right = f"out={where} goes on where its transcript ends; another look has what a larger alpha leaves of it"
    return UserError("suspect", wrong, right)


def _spent_on(looks: list[Look]) -> float:
    return sum(look.alpha for look in looks)


def _held(plan: dict[str, Any] | None, found: Planned) -> set[str]:
    """What a plan that was begun keeps from others: of one that has ended, and cannot be prolonged, what was shown."""
    if plan is None:
        return set()
    if found.done and plan.get("test") != INDEPENDENT_LABELS:
        return found.shown  # what else is spent, the notes say
    triggers = plan.get("triggers")
    return set(map(str, triggers)) if isinstance(triggers, list) else set()


def _kept(path: Path) -> Secret:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError("out", f"{path} is gone: what was asked follows from it", "a copy, or another folder") from None
    except OSError as error:
        raise UserError("out", f"{path}: {error.strerror}", "a file that you may read") from error
    if len(content) != 32:
        raise UserError("out", f"{path} is damaged", "another folder")
    return Secret(content)
