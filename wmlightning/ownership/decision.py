"""From a finding to a verdict: what may be said, and under which condition."""

from __future__ import annotations

from typing import Any

from wmlightning.errors import UserError
from wmlightning.ownership.asking import Claim, Finding
from wmlightning.ownership.spent import told
from wmlightning.ownership.statistics.result import TestResult
from wmlightning.ownership.verdict import ABOUT, Decision, Verdict, trigger_sample
from wmlightning.results.fields import Fields
from wmlightning.results.rows import names_of
from wmlightning.watermarks.triggers import TriggerMaker

#: With fewer answers than this share of what was asked, silence explains too much.
_ANSWERED = 0.5
_SHOWN = "The suspect has seen the triggers it was asked about: they are spent, and the next dispute takes others."


def verdict_of(claim: Claim, found: Finding, adjusted: float) -> Verdict:
    """A verdict.

    Args:
        claim: what the verifier goes by.
        found: the suspect's answers.
        adjusted: p-value after correction for several suspects.
    """
    share, result, age = found.share, found.result, claim.age
    decision, reason = _decision(claim, found, adjusted)
    return Verdict(
        decision,
        reason,
        found.asked.name,
        claim.key.commitment(),
        age.made.isoformat() if age.made else None,
        result.test,
        result.assumption,
        claim.alpha,
        result.p_value,
        result.e_value,
        queries=found.asked.queries,
        triggers=result.n,
        matches=result.matches,
        missing=result.n_missing,
        interval=result.interval,
        estimate=share.estimate if share else "nothing was planned",
        stopped=_stopped(claim, found),
        details=result.details,
        p_adjusted=adjusted if claim.several or (share and share.earlier) else None,
        identity=_identity(found),
        null_models=_beside(found.null_models, len(claim.innocents)),
        stamped=str(age.stamp) if age.stamp else None,
        notes=[
            *([_SHOWN + _beyond(found)] if found.asked.queries else []),
            *_earlier(found),
            *age.doubts,
            *_looks(found),
            *_left_out(found),
            _data(claim.maker),
        ],
        sample=trigger_sample(share.question.triggers, found.asked) if claim.show and share else [],
        about=_about(claim.key.config),
    )


def _about(config: dict[str, Any]) -> dict[str, str]:
    """What a key is called in tables; neither its marks nor its labels."""
    names = names_of(Fields(config))
    return {name: names[name] for name in ABOUT}


def _identity(found: Finding) -> str:
    try:
        return told(found.asked.suspect.identity())
    except UserError:  # it is not there any more
        return ""


def _looks(found: Finding) -> list[str]:
    """What was done before to get a verdict on the same suspect."""
    if found.share is None or not found.share.earlier:
        return []
    n, own = len(found.share.earlier) + 1, found.share.plan.alpha
    left = f"This is look {n} at this suspect with this key: alpha = {own:g} was left for it by those before"
    return [f"{left}, so that p is divided by {found.share.left:.3g}."]


def _beyond(found: Finding) -> str:
    """What is spent without having been shown."""
    if found.share is None:
        return ""
    plan, shown = found.share.plan, found.asked.shown
    spent = set(plan.triggers) - plan.fresh_after(shown)
    if found.ended is not None or not spent - shown:
        return ""
    return f" So are {len(spent - shown)} more: with several marks, what is left must not depend on labels."


def _left_out(found: Finding) -> list[str]:
    """Who says what is spent chooses what is asked about."""
    if found.share is None or not found.share.left_out:
        return []
    return [f"{found.share.left_out}: that file must be the verifier's own, not the claimant's."]


def _data(maker: TriggerMaker) -> str:
    """Whose pictures the triggers were made of, and whether it matters."""
    data = " and ".join(f"{source.name} ({source.stored_as()})" for source in maker.data)
    if maker.bound:
        return f"Data: {data}. Labels are bound to the images: with another pixel they would be others."
    if maker.mark_bound:
        return f"Data: {data}. The mark is bound to the images: with another pixel it would be another."
    advice = "They must be the verifier's own copy (data_dir), not the claimant's."
    return f"Data: {data}. Labels follow from the secret alone, and are not bound to the images. {advice}"


def _decision(claim: Claim, found: Finding, p: float) -> tuple[Decision, str]:
    if p <= claim.alpha:
        what = f"a model made without this key would answer so with a probability of {p:.2g} at the most"
        return "owned", f"{_condition(claim)} {what}."
    if found.share is None:
        return "cannot tell", f"It was not asked: {found.ended}."
    if (best := found.share.question.best_p()) > found.share.question.terms.alpha:
        wrong = f"Even if every trigger had matched, p would be {best:.2g}"
        return "cannot tell", f"{wrong}: ask for more, or use a larger alpha."
    if found.ended is not None:
        return "cannot tell", f"It was not asked about all that could decide: {found.ended}."
    if found.silent > (1 - _ANSWERED) * found.answered:
        return "cannot tell", f"{100 * found.silent / found.answered:.0f} % of the images had no usable answer."
    return "not shown", "The suspect answers to the triggers as a model made without the key may."


def _condition(claim: Claim) -> str:
    """What must be true for p to mean anything: age and, of several marks, a look that nobody chose for its label.

    Of one mark, decoys have the same text or logo.
    """
    maker, age = claim.maker, claim.age.condition
    chosen = maker.watermark.chosen()
    if chosen is None or maker.bound or maker.scheme.label == "random" or maker.scheme.n_marks == 1:
        return age
    return f"{age} and if the {chosen} of the first mark, which somebody chose, is not taken for its label anyway,"


def _stopped(claim: Claim, found: Finding) -> str:
    if found.ended is not None:
        return found.ended
    if not found.answered:
        return "nothing was asked, since no answer could decide"
    if not claim.terms.sequential:
        return "all that was planned"
    assert found.share is not None, "something was asked"
    reached = found.result.p_value <= found.share.question.terms.alpha
    return "the level was reached" if reached else "nothing more that was planned could have decided"


def _earlier(found: Finding) -> list[str]:
    """Whoever is at that address today may be somebody else."""
    first, last = found.asked.answered_from, found.asked.answered_until
    if not found.answered or found.asked.contacted or first is None:
        return []
    when = f"between {first} and {last}" if first != last else f"at {first}"
    return [f"All answers are of an earlier call, {when}: the suspect was not contacted now."]


def _beside(result: TestResult | None, n: int) -> str | None:
    """How the null models fared: a cross-check, for it assumes more than the test."""
    if result is None:
        return None
    among = f"{n} models made without the key, put the same {result.n} triggers"
    return f"p = {result.p_value:.3g} by rank among {among}. {result.assumption}"
