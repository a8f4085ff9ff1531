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
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wmlightning.data.batches import ImageSet
from wmlightning.errors import UserError
from wmlightning.files import write_bytes
from wmlightning.ownership.choice import choose
from wmlightning.ownership.questions import Question, Terms
from wmlightning.ownership.spent import Spent
from wmlightning.ownership.statistics.result import INDEPENDENT_LABELS
from wmlightning.ownership.transcript import image_digests, planned
from wmlightning.ownership.verdict import estimated
from wmlightning.secret import Secret
from wmlightning.watermarks.triggers import TriggerMaker

TRANSCRIPT = "transcript.jsonl"


@dataclass(frozen=True)
class Plan:
    """What is settled before the first query to a suspect.

    Attributes:
        key: commitment to the key.
        test: name of the statistical test.
        alpha: level for this suspect.
        sequential: whether the test may stop at any time.
        queries: triggers to ask about at most, as the verifier wished.
        triggers: hashes of those that are asked about, in their order.
    """

    key: str
    test: str
    alpha: float
    sequential: bool
    queries: int
    triggers: list[str]

    def entry(self) -> dict[str, Any]:
        """As it stands in a transcript."""
        return asdict(self)

    def prolonged_by(self, queries: int) -> bool:
        """Whether asking about more is the same test, carried on."""
        return self.sequential and self.test == INDEPENDENT_LABELS and queries > self.queries


@dataclass(frozen=True)
class Share:
    """What one suspect is asked.

    Attributes:
        question: ready to be put.
        plan: what of it is held to.
        begun: the triggers of the transcript's own plan, if images left under it.
    """

    question: Question
    plan: Plan
    begun: list[str]

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
        self._taken = spent.noted()

    def deal(self, folders: Sequence[Path]) -> list[Share | UserError]:
        """A share for each suspect, or why there is none; nobody is shown what another was.

        Args:
            folders: of the suspects: what the transcript there says was planned is held to.
        """
        begun = [planned(out / TRANSCRIPT) for out in folders]
        for plan in begun:
            self._taken |= set(map(str, plan.get("triggers", []))) if plan else set()
        shares: list[Share | UserError] = []
        for i, (entry, out) in enumerate(zip(begun, folders, strict=True)):
            try:
                if entry is None:
                    shares.append(self._first(begun[i:].count(None), _strangers(out)))
                else:
                    shares.append(self._further(entry, out / TRANSCRIPT, _strangers(out)))
            except UserError as error:
                shares.append(error)
        return shares

    def _first(self, waiting: int, strangers: Secret) -> Share:
        """A share of what is fresh, if ``waiting`` suspects want one."""
        fresh = self._fresh()
        if not fresh:
            wrong = f"all {len(self._digests)} are spent, see {self._spent.path}"
            raise UserError("triggers", wrong, "the other kind of triggers")
        most = min(self._terms.queries, math.ceil(len(fresh) / waiting))
        return self._share(fresh, replace(self._terms, queries=most), strangers, [])

    def _further(self, entry: dict[str, Any], path: Path, strangers: Secret) -> Share:
        """What a transcript's plan asks for, or a longer one where that is the same test."""
        terms = self._terms
        try:
            plan = Plan(**entry)
            ours = self._places(plan.triggers)
            longer = plan.prolonged_by(terms.queries)
        except (TypeError, ValueError):
            wrong = f"the plan in {path} was altered, or is about other triggers"
            raise UserError("transcript", wrong, "another folder, or the options that it was begun with") from None
        for name, was, now in (
            ("key", plan.key, self._key),
            ("alpha (for each suspect)", plan.alpha, terms.alpha),
            ("sequential", plan.sequential, terms.sequential),
            ("queries", plan.queries, terms.queries),
        ):
            if was != now and not (name == "queries" and longer):
                raise _another(path, name, was, now)
        if longer:
            ours += self._fresh()
        else:
            terms = replace(terms, queries=len(ours), settled=True)
        share = self._share(ours, terms, strangers, plan.triggers)
        if share.plan.test != plan.test or share.plan.triggers[: len(plan.triggers)] != plan.triggers:
            raise _another(path, "test", plan.test, f"{share.plan.test} with other triggers")
        return share

    def _share(self, which: list[int], terms: Terms, strangers: Secret, begun: list[str]) -> Share:
        places = torch.tensor(which, dtype=torch.int64)
        question = choose(self._maker, self._triggers, self._true, places, terms, strangers)
        chosen = image_digests(question.triggers.images)
        self._taken |= set(chosen)
        wanted = self._terms
        plan = Plan(self._key, question.test, wanted.alpha, wanted.sequential, wanted.queries, chosen)
        return Share(question, plan, begun)

    def _fresh(self) -> list[int]:
        return [i for i, digest in enumerate(self._digests) if digest not in self._taken]

    def _places(self, digests: list[str]) -> list[int]:
        """Where triggers stand in the key; of the same image twice, one after the other."""
        left = list(self._digests)
        found = []
        for digest in digests:
            found.append(left.index(digest))
            left[found[-1]] = ""
        return found


def _another(path: Path, name: str, was: Any, now: Any) -> UserError:
    wrong = f"{path} was begun with {name}={was}, now it is {now}: one more look at the same answers is no valid test"
    return UserError("transcript", wrong, "what it was begun with")


def _strangers(out: Path) -> Secret:
    """The verifier's own secret, kept with the transcript: going on asks about the same decoys."""
    path = out / "decoys.secret"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_bytes(path, secrets.token_bytes(32), private=True)
    content = path.read_bytes()
    if len(content) != 32:
        raise UserError("out", f"{path} is damaged", "another folder")
    return Secret(content)
