"""Who may see which images: the owner's training and validation images, the attacker's and the judge's halves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wmlightning.seeds import generator


@dataclass(frozen=True)
class Roles:
    """Sorted, disjoint indices (int64) of the images of each role.

    Attributes:
        train: into the training split; the owner's.
        val: into the training split; held out from training.
        attacker: into the test split; what a thief has.
        judge: into the test split; on it surrogates are judged, and new triggers are made from it.
    """

    train: Tensor
    val: Tensor
    attacker: Tensor
    judge: Tensor


def assign_roles(train_labels: Tensor, test_labels: Tensor, seed: int, val_share: float) -> Roles:
    """Splits both data splits class by class. The same labels and seed give the same roles.

    Rare classes go without a role: of a single test image of a class, the judge has none. Where that is so of all
    classes, half of all test images are the judge's, whatever their class.

    Args:
        train_labels: int64 ``(n,)``.
        test_labels: int64 ``(m,)``.
        seed: the user's seed.
        val_share: share of each class of the training split that is held out, in [0, 1).
    """
    train, val = _split_by_class(train_labels, 1 - val_share, generator(seed, "split", 0))
    draw = generator(seed, "split", 1)
    judge, attacker = _split_by_class(test_labels, 0.5, draw)
    if not len(judge):
        halves = torch.randperm(len(test_labels), generator=draw).tensor_split(2)
        judge, attacker = (half.sort().values for half in halves)
    return Roles(train=train, val=val, attacker=attacker, judge=judge)


def _split_by_class(labels: Tensor, share: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws ``share`` of each class; returns the drawn indices and the rest, both sorted."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    order = torch.randperm(len(labels), generator=draw)
    by_class = order[torch.argsort(labels[order], stable=True)]  # one pass, however many classes there are
    for members in torch.split(by_class, torch.unique(labels, return_counts=True)[1].tolist()):
        chosen[members[: round(len(members) * share)]] = True
    index = torch.arange(len(labels))
    return index[chosen], index[~chosen]
