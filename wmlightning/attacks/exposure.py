"""Does a recovered image show the secret? A score, and the same score for strangers' marks as its null."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from wmlightning.attacks.base import Recovered
from wmlightning.data.decoding import visible
from wmlightning.watermarks.triggers import TriggerMaker

#: Raise it when the same recovered images no longer have the same score or p-value.
EXPOSURE_VERSION = 2
_ALIKE = 0.8  # correlation of two marks, from which on one is taken for the other: pictures of one class, say


@dataclass(frozen=True)
class Marks:
    """What the marks of the key and of strangers look like.

    Attributes:
        changes: float ``(1 + strangers, n_marks, c, h, w)``: the mean change a mark makes; the key's comes first.
        triggers: the same shape: mean triggers in [0, 1].
        labels: int64 ``(n_marks,)``: the class that each mark of the key stands for, or -1 for any.
    """

    changes: Tensor
    triggers: Tensor
    labels: Tensor

    @classmethod
    def of(cls, maker: TriggerMaker, n_strangers: int = 99) -> Marks:
        """Takes the key's marks and those of strangers: whole keys, each drawn as the owner's was.

        The strangers of a training will not do here: they have other classes of pictures than the owner, and other
        texts than one that the owner chose.
        """
        strangers = (maker.secret.derive(f"stranger/{number}") for number in range(n_strangers))
        looks = [maker.looks(), *map(maker.looks, strangers)]
        labels = maker.labels.of_marks
        if maker.scheme.label == "random":
            labels = torch.full((maker.scheme.n_marks,), -1)
        return cls(torch.stack([c for c, _ in looks]), torch.stack([t for _, t in looks]), labels)


def expose(recovered: Recovered, marks: Marks) -> dict[str, Any]:
    """Scores recovered images against the key's marks and against strangers'.

    For each mark the best of the restarts counts, on the images of the mark's class; marks are averaged. Under the
    hypothesis that the images tell nothing about *this* secret, the key's score is one draw among the strangers', so
    that ``p = (1 + #{stranger >= key}) / (strangers + 1)`` is a valid p-value. It cannot show what keys share: of one
    mark that is one of ten classes of pictures, a tenth of the strangers have the same.

    Returns:
        ``score`` (normalised correlation with the change, in [-1, 1]) and ``ssim`` (structural similarity to the mean
        trigger), each with ``p_value``, ``null_mean`` and ``null_max``; and ``p_least``, about the least p-value that
        is to be had: strangers whose marks look like the key's cannot be told from it.
    """
    n_marks = len(marks.labels)
    scores, similar = [0.0] * len(marks.changes), [0.0] * len(marks.changes)
    for i, label in enumerate(marks.labels.tolist()):
        shown = _shown(recovered, label).double()
        best = _correlation(shown, marks.changes[:, i]).amax(1), _ssim(shown, marks.triggers[:, i]).amax(1)
        for key, (correlation, ssim) in enumerate(zip(*(b.tolist() for b in best), strict=True)):
            scores[key] += correlation
            similar[key] += ssim
    scores, similar = [s / n_marks for s in scores], [s / n_marks for s in similar]
    found = {**_ranked("", scores), "n_null": len(scores) - 1}
    found["score"] = scores[0]
    found["p_least"] = _least(marks)
    return {**found, **_ranked("ssim_", similar), "ssim": similar[0]}


def _ranked(prefix: str, scores: list[float]) -> dict[str, float]:
    key, null = scores[0], scores[1:]
    return {
        f"{prefix}p_value": (1 + sum(score >= key for score in null)) / len(scores),
        f"{prefix}null_mean": sum(null) / len(null),
        f"{prefix}null_max": max(null),
    }


def _least(marks: Marks) -> float:
    """The p-value of images that show the key's marks so far as strangers' do not: each mark of theirs is another."""
    alike = torch.ones(len(marks.changes) - 1, dtype=torch.bool)
    for key, *others in zip(*marks.changes, strict=True):
        alike &= _correlation(key[None], torch.stack(others))[:, 0] > _ALIKE
    return (1 + int(alike.sum())) / len(marks.changes)


def _shown(recovered: Recovered, label: int) -> Tensor:
    """Restarts of a class, or of all classes: ``(n, c, h, w)``."""
    return recovered.images.flatten(0, 1) if label < 0 else recovered.images[label]


def _correlation(images: Tensor, patterns: Tensor) -> Tensor:
    """Normalised correlation of patterns with images: ``(patterns, images)``; 0 where either is flat.

    One pattern at a time: equal patterns must have equal scores to the last bit, since ties count as strangers' points.
    """
    a, b = (x.flatten(1).double() for x in (images, patterns))
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    lengths: Tensor = torch.linalg.vector_norm(b, dim=1)[:, None] * torch.linalg.vector_norm(a, dim=1)
    return torch.stack([(a * one).sum(1) for one in b]) / lengths.clamp_min(1e-12)


def _ssim(images: Tensor, triggers: Tensor) -> Tensor:
    """Structural similarity of triggers and images: ``(triggers, images)``, of images that are reflected at the border.

    As by Wang et al. (IEEE TIP 2004) with uniform windows. What torchmetrics tells with ``gaussian_kernel=False``, in a
    seventieth of its time: means over windows are pooled, and those of the images are taken once for all triggers.
    """
    side = min(images.shape[-2:])
    window = 11 if side >= 11 else side - 1 + side % 2

    def local(x: Tensor) -> Tensor:
        means: Tensor = avg_pool2d(pad(x, [window // 2] * 4, mode="reflect"), window, stride=1)
        return means

    mean = local(images)
    power = mean**2
    spread = (local(images**2) - power).clamp_min(0)
    found = []
    for trigger in triggers.double():
        other = local(trigger[None])
        its_power, product = other**2, mean * other
        its_spread = (local(trigger[None] ** 2) - its_power).clamp_min(0)
        shared = local(images * trigger) - product
        luminance = (2 * product + 0.01**2) / (power + its_power + 0.01**2)
        structure = (2 * shared + 0.03**2) / (spread + its_spread + 0.03**2)
        found.append((luminance * structure).flatten(1).mean(1))
    return torch.stack(found)


def picture(recovered: Recovered, twin: Recovered | None, classes: tuple[str, ...]) -> Figure:
    """The most confident image of each class: from the watermarked network, and beside it from the unmarked one."""
    shown = {"watermarked": recovered, **({"unmarked": twin} if twin else {})}
    n = min(len(classes), 20)
    figure = Figure(figsize=(1.1 * n + 1.2, 1.35 * len(shown) + 0.5), layout="constrained")
    axes = figure.subplots(len(shown), n, squeeze=False)
    for row, (name, found) in zip(axes, shown.items(), strict=True):
        for k, axis in enumerate(row):
            best = visible(found.images[k, int(found.confidence[k].argmax())])
            axis.imshow(best.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            title = f"{classes[k]}\n{100 * float(found.confidence[k].max()):.0f} %"
            axis.set_title(title, fontsize=7, parse_math=False)
        row[0].set_ylabel(name, fontsize=8)
    figure.suptitle("What the network thinks each class looks like (confidence below the name)", fontsize=9)
    return figure
