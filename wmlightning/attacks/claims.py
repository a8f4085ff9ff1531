"""What a claim is worth: to a verifier who asks for nothing, and to one who goes by the protocol."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch import nn

from wmlightning.attacks.base import Arithmetic, Claim, ClaimAttack, Stolen
from wmlightning.data.batches import ImageSet
from wmlightning.errors import UserError
from wmlightning.ownership.key import Key
from wmlightning.ownership.statistics.fixed import several_marks
from wmlightning.ownership.statistics.result import TestResult
from wmlightning.watermarks.triggers import TriggerMaker

#: The level at which ``verify.py`` decides unless told otherwise.
ALPHA = 0.001


def matching(triggers: ImageSet, maker: TriggerMaker, network: nn.Module, arithmetic: Arithmetic) -> TestResult:
    """How well a network answers to triggers, as if their labels had been drawn without a look at it.

    Args:
        triggers: shown as the trained ones that follow from a secret; groups are marks.
        maker: what makes those that do.
        network: in evaluation mode.
        arithmetic: where and how it is computed.
    """
    answers = arithmetic.labels(network, triggers.images).numpy()
    pool, true = list(maker.labels.pool), maker.truth("trained").numpy()
    return several_marks(answers, triggers.labels.numpy(), triggers.groups.numpy(), pool, true)


def hear_all(attack: ClaimAttack, stolen: Stolen, suspect: nn.Module) -> dict[str, Any]:
    """Carries out an attack, and hears its claims.

    Args:
        attack: whose claims they are.
        stolen: what the accuser has.
        suspect: the network that is claimed, out of the accuser's reach.

    Returns:
        What the attack's card holds of it.
    """
    court = Court(attack, stolen, suspect)
    rows: list[dict[str, Any]] = []
    spent = judging = 0.0
    started = time.monotonic()
    for claim in attack.run(stolen):
        spent += (seconds := time.monotonic() - started)
        rows.append(court.hear(claim))
        judging += time.monotonic() - started - seconds
        started = time.monotonic()
    told = ruling(rows)
    return {
        "type": "claim",
        "findings": {"effort": attack.effort_name, "claims": rows, **told},
        "metrics": {f"attack/{name}": float(value) for name, value in told.items()},
        "seconds": {"attack": round(spent, 2), "judge": round(judging, 2)},
    }


class Court:
    """Hears claims to one network. Keys are checked by the code that ``verify.py`` checks them by.

    The p-value holds for triggers that follow from a secret that was drawn without a look at the suspect. The protocol
    therefore asks for a commitment that is older than the suspect, and makes the triggers anew from the secret. A claim
    without the first may come of a search, one without the second of images made for the purpose.

    Args:
        attack: whose claims they are.
        stolen: what the accuser has; keys mark those images.
        suspect: the network that is claimed, out of the accuser's reach.
    """

    def __init__(self, attack: ClaimAttack, stolen: Stolen, suspect: nn.Module) -> None:
        self.attack = attack
        self.stolen = stolen
        self.suspect = suspect
        self.labels, _ = stolen.true_labels()

    def hear(self, claim: Claim) -> dict[str, Any]:
        """Asks the suspect about the triggers that are shown, and whether they follow from the secret.

        Returns:
            ``effort``, ``queries`` (of the accuser's), ``matches`` of ``n``, ``p_value`` as if the key were old,
            ``before`` (whether a commitment to it may be older than the suspect), and ``refused``: why the key does
            not count whatever its age, or ``None``.
        """
        maker = self.attack.key_maker(self.stolen, self.labels, claim.secret)
        made = maker.make()
        config = {"watermark": self.attack.marks.options, "data": maker.source.identity()}
        key = Key(claim.secret, config, made.trained if claim.forged is None else claim.forged, made.new)
        found = matching(key.trained, maker, self.suspect, self.stolen.arithmetic)
        return {
            "effort": claim.effort,
            "queries": claim.n_queries,
            "matches": found.matches,
            "n": found.n,
            "p_value": found.p_value,
            "before": claim.before,
            "refused": _refused(key, maker),
        }


def ruling(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What came of all claims: the best p-value, and who would accept one.

    Args:
        rows: from :meth:`Court.hear`.

    Returns:
        ``p_value`` of the best claim, whatever its key; ``p_value_protocol`` of the best that the protocol hears (1 if
        there is none); ``accepted_naively`` and ``accepted``: whether they reach :data:`ALPHA`.
    """
    best = min(row["p_value"] for row in rows)
    heard = min((row["p_value"] for row in rows if row["before"] and row["refused"] is None), default=1.0)
    return {
        "p_value": best,
        "p_value_protocol": heard,
        "accepted_naively": best <= ALPHA,
        "accepted": heard <= ALPHA,
    }


def _refused(key: Key, maker: TriggerMaker) -> str | None:
    try:
        key.follows_from(maker)
    except UserError as error:
        return str(error)
    return None
