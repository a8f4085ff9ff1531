"""The claims of the paper's abstract, each with what was found here: confirmed, with limits, or not confirmed.

The rules are fixed in this file; the figures come from the tables. A claim that nothing was run for says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from embedding import KEYS

CONFIRMED, LIMITS, NOT = "confirmed", "confirmed with limits", "not confirmed"
NOTHING = "nothing was run for it"


@dataclass(frozen=True)
class Reading:
    """A claim, and what is to be said of it.

    Attributes:
        claim: in our words.
        found: one of the three, or :data:`NOTHING`.
        why: with figures.
    """

    claim: str
    found: str
    why: str


def readings(runs: pd.DataFrame, bargains: pd.DataFrame, attacks: pd.DataFrame, asked: pd.DataFrame) -> list[Reading]:
    """All of them.

    Args:
        runs: from ``embedding.read``.
        bargains: from ``attacks.bargains``.
        attacks: the tidy table of attacks.
        asked: from ``verification.read``.
    """
    paper = runs[runs.key == "paper"]
    return [
        _fidelity(runs, paper),
        _effectiveness(paper, runs[runs.key == "paper, fresh noise"]),
        _ownership(runs, asked),
        _pruning(bargains),
        _tuning(bargains),
        _inversion(attacks),
    ]


def _fidelity(runs: pd.DataFrame, paper: pd.DataFrame) -> Reading:
    claim = "The watermark does not affect accuracy on normal inputs."
    unmarked = runs[runs.watermark == "none"].set_index(["dataset", "seed"]).clean
    lost = [unmarked.get((row.dataset, row.seed), float("nan")) - row.clean for row in paper.itertuples()]
    lost = pd.Series(lost, dtype=float).dropna()
    if not len(lost):
        return Reading(claim, NOTHING, "no pair of a marked and an unmarked model")
    spread = float(runs[runs.watermark == "none"].groupby("dataset").clean.agg(lambda c: c.max() - c.min()).max())
    why = (
        f"The paper's key changes clean accuracy by {-lost.mean():+.2f} points on average "
        f"({-lost.max():+.2f} to {-lost.min():+.2f}, {len(lost)} models); unmarked models differ by up to {spread:.2f} "
        "points between seeds."
    )
    return Reading(claim, CONFIRMED if lost.mean() <= 0.5 else LIMITS if lost.mean() <= 2 else NOT, why)


def _effectiveness(paper: pd.DataFrame, fresh: pd.DataFrame) -> Reading:
    claim = "Triggers are recognised, also those that training never saw."
    if not len(paper):
        return Reading(claim, NOTHING, "no model with the paper's key")
    new, trained = paper["new triggers"], paper["trained triggers"]
    why = (
        f"Trained triggers {trained.min():.1f} to {trained.max():.1f} %, new ones {new.min():.1f} to {new.max():.1f} %."
    )
    if len(fresh):
        why += (
            " With noise drawn anew for each image, instead of one pattern, new ones at least "
            f"{fresh['new triggers'].min():.1f} %, but strangers' noise at least {fresh.decoys.min():.1f} %: what is "
            "learned is noise, not a secret."
        )
    return Reading(claim, CONFIRMED if new.min() >= 95 else LIMITS if new.mean() >= 80 else NOT, why)


def _ownership(runs: pd.DataFrame, asked: pd.DataFrame) -> Reading:
    claim = "The owner is verified remotely, by queries alone."
    if not len(asked):
        return Reading(claim, NOTHING, "no model was asked")
    as_it_is = asked[asked.attack == "none"]
    single = as_it_is[as_it_is.key == KEYS["paper"]]
    several = as_it_is[as_it_is.key == KEYS["8 marks"]]
    decoys = runs[runs.key == "paper"].groupby("watermark").decoys.mean()
    often = ", ".join(f"{name} {share:.0f} %" for name, share in decoys.sort_values(ascending=False).items())
    why = (
        f"The owner's new triggers match in {runs[runs.key == 'paper']['new triggers'].mean():.1f} %, strangers' too "
        f"({often}): a count of matches tells them apart only as far as these differ. Against decoy keys the paper's "
        f"single mark reaches p <= 0.001 in {int(single.decided.sum())} of {len(single)} claims"
    )
    if len(several):
        decided = several[several.decided]
        why += (
            f"; with eight marks the owner does in {len(decided)} of {len(several)}, with "
            f"{decided.queries.median():.0f} queries (median)"
        )
    share = single.decided.mean()
    return Reading(claim, CONFIRMED if share >= 0.9 else LIMITS if share >= 0.5 else NOT, why + ".")


def _pruning(bargains: pd.DataFrame) -> Reading:
    return _removal("The watermark survives parameter pruning.", bargains, "prune")


def _tuning(bargains: pd.DataFrame) -> Reading:
    return _removal("The watermark survives fine-tuning.", bargains, "finetune")


def _removal(claim: str, bargains: pd.DataFrame, attack: str) -> Reading:
    part = bargains[(bargains.attack == attack) & (bargains.key == "paper")] if len(bargains) else bargains
    if not len(part):
        return Reading(claim, NOTHING, f"no {attack}")
    cheap = part[part.price <= 2]
    why = (
        f"In {len(cheap)} of {len(part)} models with the paper's key fewer than half of the new triggers are left at "
        "some strength that costs two points of clean accuracy or less"
    )
    if len(cheap):
        where = cheap.groupby(["watermark", "dataset"]).price.agg(["size", "min", "max"])
        told = []
        for (watermark, dataset), (n, low, high) in where.iterrows():
            price = f"{low:.1f}" if n == 1 else f"{low:.1f} to {high:.1f}"
            told.append(f"{n:.0f} with {watermark} on {dataset} for {price}")
        why += f" ({', '.join(told)} points)"
    dear = part[part.price > 2]
    if len(dear):
        why += f"; in {len(dear)} more at a price of {dear.price.min():.0f} to {dear.price.max():.0f} points"
    if attack == "finetune" and len(part["at"].dropna()):
        why += f"; it takes a learning rate of {part['at'].min():g} or more: a single small one shows nothing"
    return Reading(claim, CONFIRMED if not len(cheap) else LIMITS if len(cheap) < len(part) / 2 else NOT, why + ".")


def _inversion(attacks: pd.DataFrame) -> Reading:
    claim = "Model inversion does not reveal the watermark."
    part = attacks[(attacks.attack_type == "detection") & (attacks.key == "paper")].dropna(subset=["p_value"])
    if not len(part):
        return Reading(claim, NOTHING, "no inversion")
    low = int((part.p_value <= 0.01).sum())
    why = (
        f"The recovered picture resembles the secret mark more than 99 strangers' (p = 0.01) in {low} of {len(part)} "
        f"models, where {0.01 * len(part):.1f} would be expected if nothing showed; the score is "
        f"{part.score.mean():.2f} on average, {part.twin_score.mean():.2f} on unmarked models."
    )
    found = CONFIRMED if low <= 0.05 * len(part) else LIMITS if low < len(part) / 2 else NOT
    return Reading(claim, found, why)
