"""The claims of the paper's abstract, each with what was found here: confirmed, with limits, or not confirmed.

The rules are fixed in this file, and printed beside the readings; the figures come from the tables. A claim that
nothing was run for says so, and so does one that what was run cannot tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from attacks import GONE, LOSS
from embedding import HANDFUL, KEYS

CONFIRMED, LIMITS, NOT = "confirmed", "confirmed with limits", "not confirmed"
NOTHING, UNTOLD = "nothing was run for it", "cannot be told"
#: When a rule, or what it is applied to, was last changed.
RULES_OF = "2026-11-25, when results of earlier runs were known"
#: Of an inversion: a picture that resembles the owner's mark more than all but so many strangers'.
SHOWN = 0.01


@dataclass(frozen=True)
class Reading:
    """A claim, and what is to be said of it.

    Attributes:
        claim: in our words.
        rule: what makes it confirmed, with limits, or not.
        found: one of the three, :data:`NOTHING` or :data:`UNTOLD`.
        why: with figures.
    """

    claim: str
    rule: str
    found: str
    why: str


def readings(runs: pd.DataFrame, bargains: pd.DataFrame, attacks: pd.DataFrame, asked: pd.DataFrame) -> list[Reading]:
    """All of them.

    Args:
        runs: from ``embedding.read``.
        bargains: from ``attacks.bargains``.
        attacks: from ``attacks.read``.
        asked: from ``verification.of_models``.
    """
    paper = runs[runs.key == "paper"]
    return [
        Reading(*_FIDELITY, *_fidelity(runs, paper)),
        Reading(*_EFFECTIVENESS, *_effectiveness(paper, runs[runs.key == "paper, fresh noise"])),
        Reading(*_OWNERSHIP, *_ownership(paper, asked)),
        Reading("The watermark survives parameter pruning.", _REMOVAL, *_removal(bargains, "prune")),
        Reading("The watermark survives fine-tuning.", _REMOVAL, *_removal(bargains, "finetune")),
        Reading(*_INVERSION, *_inversion(attacks)),
    ]


_FIDELITY = (
    "The watermark does not affect accuracy on normal inputs.",
    "Confirmed if the paper's key costs 0.5 points of clean accuracy or less on average, with limits up to 2 points.",
)


def _fidelity(runs: pd.DataFrame, paper: pd.DataFrame) -> tuple[str, str]:
    unmarked = runs[runs.watermark == "none"].set_index(["dataset", "seed"]).clean
    lost = [unmarked.get((row.dataset, row.seed), float("nan")) - row.clean for row in paper.itertuples()]
    lost = pd.Series(lost, dtype=float).dropna()
    if not len(lost):
        return NOTHING, "no pair of a marked and an unmarked model"
    spread = float(runs[runs.watermark == "none"].groupby("dataset").clean.agg(lambda c: c.max() - c.min()).max())
    seeds = runs[runs.watermark == "none"].seed.nunique()
    between = f"unmarked models differ by up to {spread:.2f} points between seeds" if seeds > 1 else "one seed"
    why = (
        f"The paper's key changes clean accuracy by {-lost.mean():+.2f} points on average "
        f"({-lost.max():+.2f} to {-lost.min():+.2f}, {len(lost)} models); {between}."
    )
    return CONFIRMED if lost.mean() <= 0.5 else LIMITS if lost.mean() <= 2 else NOT, why


_EFFECTIVENESS = (
    "Triggers are recognised, also those that training never saw.",
    "Confirmed if at least 95 % of the new triggers work in every model with the paper's key, with limits if 80 % do "
    "on average.",
)


def _effectiveness(paper: pd.DataFrame, fresh: pd.DataFrame) -> tuple[str, str]:
    if not len(paper):
        return NOTHING, "no model with the paper's key"
    new, trained = paper["new triggers"], paper["trained triggers"]
    why = (
        f"Trained triggers {trained.min():.1f} to {trained.max():.1f} %, new ones {new.min():.1f} to {new.max():.1f} %."
    )
    if len(fresh):
        strangers = f"strangers' noise works in at least {fresh.decoys.min():.1f} %"
        of_one = paper[paper.watermark == "noise"].decoys
        if len(of_one):
            strangers += f", as it does with one pattern ({of_one.min():.1f} to {of_one.max():.1f} %)"
        why += (
            f" With noise drawn anew for each image, instead of one pattern, new ones at least "
            f"{fresh['new triggers'].min():.1f} % ({_models(len(fresh))}); {strangers}: without negatives, what is "
            "learned is noise, not a secret."
        )
    return CONFIRMED if new.min() >= 95 else LIMITS if new.mean() >= 80 else NOT, why


_OWNERSHIP = (
    "The owner is verified remotely, by queries alone.",
    "Confirmed if the owner of the paper's key reaches the level of the test in nine tenths of the models as they are, "
    "with limits if in half; a model counts if most of its orders of triggers get there. Left out are marks of which "
    "there are too few for the test.",
)


def _ownership(paper: pd.DataFrame, asked: pd.DataFrame) -> tuple[str, str]:
    as_it_is = asked[asked.attack == "none"]
    single = as_it_is[as_it_is.key == KEYS["paper"]]
    if not len(single):
        return NOTHING, "no model with the paper's key was asked"
    decoys = paper.groupby("watermark").agg(mean=("decoys", "mean"), luckiest=("decoys, luckiest", "max"))
    often = ", ".join(
        f"{name} {row['mean']:.0f} % (the luckiest stranger's in {row.luckiest:.0f} %)"
        for name, row in decoys.sort_values("mean", ascending=False).iterrows()
    )
    why = (
        f"The owner's new triggers match in {paper['new triggers'].mean():.1f} %, strangers' on average: {often}. "
        "A count of matches tells them apart only as far as these differ. "
    )
    possible = single[~single.watermark.isin(HANDFUL)]
    found = UNTOLD
    if len(possible):
        decided = _decided(possible)
        each = ", ".join(
            f"{int(part.sum())} of {_models(len(part))} with {name}" for name, part in decided.groupby("watermark")
        )
        why += f"Against decoy keys the paper's single mark reaches p <= 0.001 in {each}"
        why += f", asked about {_span(possible.triggers)} triggers"
        found = CONFIRMED if decided.mean() >= 0.9 else LIMITS if decided.mean() >= 0.5 else NOT
    else:
        why += "No single mark was asked that the test can show"
    if left_out := sorted(set(single.watermark) & set(HANDFUL)):
        why += (
            f"; {', '.join(left_out)} cannot get there whatever a model answers, since there are only as many such "
            "keys as classes of the other data"
        )
    several = as_it_is[as_it_is.key == KEYS["8 marks"]]
    if len(several):
        decided = _decided(several)
        why += (
            f". With eight marks the owner does in {int(decided.sum())} of {_models(len(decided))}, each asked in "
            f"{_span(several.groupby('model').turn.nunique())} orders, with "
            f"{several[several.decided].queries.median():.0f} queries (median)"
        )
    return found, why + "."


def _decided(asked: pd.DataFrame) -> pd.Series[bool]:
    """Of each model: whether most of its orders decide."""
    return asked.groupby(["watermark", "model"]).decided.mean() > 0.5


_REMOVAL = (
    f"Confirmed if no model with the paper's key has fewer than {GONE:g} % of its new triggers left at a loss of "
    f"{LOSS:g} points of clean accuracy or less, at any strength tried and after any epoch; with limits if fewer than "
    "half of them do."
)


def _removal(bargains: pd.DataFrame, attack: str) -> tuple[str, str]:
    part = bargains[(bargains.attack == attack) & (bargains.key == "paper")]
    if not len(part):
        return NOTHING, f"no {attack}"
    cheap = part[part.price <= LOSS]
    why = (
        f"In {len(cheap)} of {len(part)} models with the paper's key fewer than half of the new triggers are left at "
        f"some strength that costs {LOSS:g} points of clean accuracy or less"
    )
    if len(cheap):
        where = cheap.groupby(["watermark", "dataset"]).price.agg(["size", "min", "max"])
        told = []
        for (watermark, dataset), (n, low, high) in where.iterrows():
            price = f"{low:.1f}" if n == 1 else f"{low:.1f} to {high:.1f}"
            told.append(f"{n:.0f} with {watermark} on {dataset} for {price}")
        why += f" ({', '.join(told)} points)"
    dear = part[part.price > LOSS]
    if len(dear):
        why += f"; in {len(dear)} more at a price of {dear.price.min():.0f} to {dear.price.max():.0f} points"
    if attack == "finetune" and part.weakest.notna().any():
        why += (
            f"; of the learning rates tried (up to {part.strongest.max():g}) it takes {part.weakest.min():g} or more: "
            "a single small one shows nothing"
        )
    return CONFIRMED if not len(cheap) else LIMITS if len(cheap) < len(part) / 2 else NOT, why + "."


_INVERSION = (
    "Model inversion does not reveal the watermark.",
    f"Confirmed if the recovered picture resembles the owner's mark more than strangers' (p <= {SHOWN:g}) in a "
    "twentieth of the models with the paper's key or less, with limits if in fewer than half. Left out are marks that "
    "many strangers share, and comparisons with too few strangers for such a p.",
)


def _inversion(attacks: pd.DataFrame) -> tuple[str, str]:
    inverted = attacks[attacks.attack_type == "detection"]
    every = inverted[inverted.key == "paper"]
    part = _with_p(every)
    if not len(part):
        return NOTHING, "no inversion"
    telling = _telling(part)
    if not len(telling):
        most = int(part.strangers.max())
        why = (
            f"with {most} strangers p is {1 / (most + 1):.2g} at the least"
            if len(part[~part.watermark.isin(HANDFUL)])
            else "strangers share the mark"
        )
        return UNTOLD, f"{_models(len(part))}, but {why}."
    why = (
        f"The recovered picture resembles the secret mark as only one in {1 / SHOWN:.0f} strangers' would "
        f"(p <= {SHOWN:g}, {_span(telling.strangers)} strangers) in {_shown(telling)}, where "
        f"{SHOWN * len(telling):.1f} would be expected if nothing showed"
    )
    twins = telling.twin_p_value.dropna()
    if len(twins):
        why += f", and in {int((twins <= SHOWN).sum())} of {len(twins)} comparisons with unmarked models"
    why += f"; the score is {telling.score.mean():.2f} on average, {telling.twin_score.mean():.2f} on unmarked models"
    shared = every[every.watermark.isin(HANDFUL)]
    if len(shared):
        why += f". Left out: {', '.join(sorted(set(shared.watermark)))}, as some strangers have the owner's very class"
    untested = every[~every.watermark.isin(HANDFUL) & ~every.index.isin(part.index)]
    if len(untested):
        each = ", ".join(f"{len(of)} with {name}" for name, of in untested.groupby("watermark"))
        why += f"; and {_models(len(untested))} ({each}), inverted before there was this test"
    several = _telling(_with_p(inverted[inverted.key == "8 marks"]))
    if len(several):
        why += f". Of keys with eight marks, of which any may show, it does in {_shown(several)}"
    share = (telling.p_value <= SHOWN).mean()
    return CONFIRMED if share <= 0.05 else LIMITS if share < 0.5 else NOT, why + "."


def _with_p(inverted: pd.DataFrame) -> pd.DataFrame:
    return inverted.dropna(subset=["p_value", "strangers"])


def _telling(inverted: pd.DataFrame) -> pd.DataFrame:
    """Inversions of marks that no stranger has, compared with so many strangers that p may be small enough."""
    single = inverted[~inverted.watermark.isin(HANDFUL)]
    return single[1 / (single.strangers.astype(float) + 1) <= SHOWN * (1 + 1e-9)]


def _shown(inverted: pd.DataFrame) -> str:
    hits = inverted.p_value <= SHOWN
    each = ", ".join(f"{int(of.sum())} of {len(of)} with {name}" for name, of in hits.groupby(inverted.watermark))
    return f"{int(hits.sum())} of {_models(len(inverted))} ({each})"


def _models(n: int) -> str:
    return f"{n} model{'s' * (n != 1)}"


def _span(values: pd.Series[float]) -> str:
    low, high = (f"{value:.0f}" for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"
