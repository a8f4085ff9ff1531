"""From a secret and clean images to triggers, negatives and decoys.

Planning needs labels only, so that a mistake is found before an image is read; making needs the images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wmlightning.data.batches import ImageSet
from wmlightning.data.source import Source, Split
from wmlightning.data.splits import Roles
from wmlightning.errors import UserError
from wmlightning.secret import Secret
from wmlightning.watermarks.base import Mark, MarkingWatermark, Owner, PictureWatermark
from wmlightning.watermarks.scheme import Labels, Scheme

_MOST_DECOY_IMAGES = 50  # images a stranger; 20 strangers make 1,000 queries
_LOOKED_AT = 64  # images that a mark's mean look is taken from


@dataclass(frozen=True)
class Triggers:
    """Everything that is made from the key.

    Attributes:
        trained: what is trained on; groups are marks.
        new: made with the same marks from images no training saw.
        negatives: strangers' marks on training images, with true labels; groups are strangers.
        decoys: other strangers' marks on the images of ``new``, with the labels the owner expects; by stranger.
        originals: the first trained triggers' images before they were marked (``None`` for unrelated pictures).
    """

    trained: ImageSet
    new: ImageSet
    negatives: ImageSet
    decoys: ImageSet
    originals: Tensor | None

    def merged(self) -> ImageSet:
        """What goes into training: triggers and negatives."""
        sets = (self.trained, self.negatives)
        return ImageSet(*(torch.cat(parts) for parts in zip(*map(_fields, sets), strict=True)))


class TriggerMaker:
    """Plans on labels what is to be made, then makes it.

    Args:
        watermark: how a mark is put on an image.
        scheme: the common options.
        labels: source classes and labels of marks.
        secret: the owner's.
        source: the task's data.
        roles: who may see which image.

    Raises:
        UserError: if more is asked for than there is.
    """

    def __init__(
        self,
        watermark: MarkingWatermark | PictureWatermark,
        scheme: Scheme,
        labels: Labels,
        secret: Secret,
        source: Source,
        roles: Roles,
    ) -> None:
        self.watermark = watermark
        self.scheme = scheme
        self.labels = labels
        self.secret = secret
        self.source = source
        self.roles = roles
        asked = scheme.n_triggers
        self.n = asked if isinstance(asked, int) else max(scheme.n_marks, round(asked * len(roles.train)))
        if self.n < scheme.n_marks:
            right = "at least one trigger a mark"
            raise UserError("watermark.n_triggers", f"{self.n} triggers for {scheme.n_marks} marks", right)
        self.n_negatives = round(self.n * scheme.negatives)
        if isinstance(watermark, MarkingWatermark):
            self._check_counts()
        elif scheme.label == "random" and scheme.negatives:
            right = "negatives=0 or label=target"
            raise UserError("watermark.negatives", "unrelated pictures with random labels have no negatives", right)

    def _pool(self, split: Split, index: Tensor) -> Tensor:
        labels = self.source.labels(split)[index]
        return index[torch.isin(labels, torch.tensor(self.labels.sources))]

    def _check_counts(self) -> None:
        names = [self.source.classes[c] for c in self.labels.sources]
        whose = f"class {names[0]!r}" if len(names) == 1 else "the task"
        there = len(self._pool("train", self.roles.train))
        if self.n > there:
            right = f"at most {there} (or another source_class)"
            raise UserError("watermark.n_triggers", f"{self.n} triggers, but {whose} has {there} images", right)
        there = len(self._pool("test", self.roles.judge))
        if not there:
            right = "another class, or more test images: half of them are for new triggers"
            raise UserError("watermark.source_class", f"{whose} has too few test images", right)
        if (self.scheme.n_new or 1) > there:
            wrong = f"{self.scheme.n_new or 1} new triggers, but {whose} has {there} images to make them from"
            raise UserError("watermark.n_new", wrong, f"at most {there}")

    def make(self) -> Triggers:
        """Makes all triggers. Two calls give the same bytes."""
        if isinstance(self.watermark, MarkingWatermark):
            return self._make_marked(self.watermark)
        return self._make_pictures(self.watermark)

    def looks(self, owner: Owner, stranger: int = 0) -> tuple[Tensor, Tensor]:
        """What the marks of a key look like, for judging whether something recovered resembles them.

        Returns:
            The mean change that each mark makes to images (for pictures, which change nothing: the mean picture) and
            the mean trigger of each mark; both float ``(n_marks, c, h, w)`` in units of the pixel range.
        """
        marks = [self._mark(owner, stranger, index) for index in range(self.scheme.n_marks)]
        if isinstance(self.watermark, PictureWatermark):
            shown = [self.watermark.draw(_LOOKED_AT, m, len(marks), True, self.source.shape) for m in marks]
            means = torch.stack([images.float().mean(0) / 255 for images in shown])
            return means, means
        before, _ = self._base("test", self.roles.judge, _LOOKED_AT, "looks")
        triggers = torch.stack([self.watermark.apply(before, m, "looks").float().mean(0) / 255 for m in marks])
        return triggers - before.float().mean(0) / 255, triggers

    def disguised(self, stranger: Secret, n: int) -> ImageSet:
        """What another owner's key would have made: the same images as the first ``n`` new triggers, or pictures.

        Returns:
            Marked with a stranger's marks, with the labels and groups that this key gives.
        """
        marks = [Mark(stranger, "key", 0, index) for index in range(self.scheme.n_marks)]
        if isinstance(self.watermark, PictureWatermark):
            drawn = [self.watermark.draw(n, mark, len(marks), True, self.source.shape) for mark in marks]
            images = torch.stack(
                [drawn[i % len(marks)][i // len(marks) % len(drawn[i % len(marks)])] for i in range(n)]
            )
            groups = torch.arange(n) % len(marks)
            return ImageSet(images, self.labels.of_marks[groups], groups)
        before, true = self._base("test", self.roles.judge, n, "new")
        groups = torch.arange(n) % len(marks)
        images = torch.empty_like(before)
        for index, mark in enumerate(marks):
            images[groups == index] = self.watermark.apply(before[groups == index], mark, "new")
        return ImageSet(images, self._trigger_labels("new", groups, true), groups)

    def truth(self, name: Literal["trained", "new"]) -> Tensor:
        """True classes of the task's images that triggers were made of: int64 ``(n,)``."""
        split: Split = "train" if name == "trained" else "test"
        index, n = (self.roles.train, self.n) if name == "trained" else (self.roles.judge, self._n_new())
        return self.source.labels(split)[self._drawn(split, index, n, name)]

    def _n_new(self) -> int:
        n_new = len(self._pool("test", self.roles.judge))
        return min(n_new, self.n) if self.scheme.n_new is None else self.scheme.n_new

    def _mark(self, owner: Owner, stranger: int, index: int) -> Mark:
        return Mark(self.secret, owner, stranger, index)

    def _trigger_labels(self, name: str, marks: Tensor, true: Tensor | None) -> Tensor:
        if self.scheme.label == "target":
            return self.labels.of_marks[marks]
        stream, k = self.secret.stream(f"labels of triggers/{name}"), len(self.source.classes)
        if true is None:
            return torch.from_numpy(stream.integers(len(marks), k))
        steps = torch.from_numpy(stream.integers(len(marks), k - 1))
        return (true + 1 + steps) % k  # uniform over the other classes

    # -- marks on images of the task ---------------------------------------------------------------------------

    def _make_marked(self, watermark: MarkingWatermark) -> Triggers:
        trained, before, trained_true = self._marked(watermark, "train", self.roles.train, self.n, "trained")
        new, new_before, new_true = self._marked(watermark, "test", self.roles.judge, self._n_new(), "new")
        # A random label is learned with its image: there a decoy is the trained image with a stranger's mark.
        shown = (trained, before, trained_true) if self.scheme.label == "random" else (new, new_before, new_true)
        decoys = self._decoys(watermark, *shown)
        return Triggers(trained, new, self._negatives(watermark), decoys, before[:64])

    def _decoys(self, watermark: MarkingWatermark, shown: ImageSet, before: Tensor, true: Tensor) -> ImageSet:
        """Strangers' marks on images whose true label is not the owner's: else the truth would count as a hit."""
        chosen = (shown.labels != true).nonzero().flatten()[:_MOST_DECOY_IMAGES]
        before, labels, marks = before[chosen], shown.labels[chosen], shown.groups[chosen]
        sets = []
        for stranger in range(self.scheme.n_decoys):
            images = torch.empty_like(before)
            for index in torch.unique(marks).tolist():
                members = marks == index
                mark = self._mark("decoy", stranger, index)
                images[members] = watermark.apply(before[members], mark, "decoys")
            sets.append(ImageSet(images, labels, torch.full_like(labels, stranger)))
        return _joined(sets)

    def _marked(
        self, watermark: MarkingWatermark, split: Split, index: Tensor, n: int, name: str
    ) -> tuple[ImageSet, Tensor, Tensor]:
        """Triggers, the same images before they were marked, and their true labels."""
        before, true = self._base(split, index, n, name)
        marks = torch.arange(n) % self.scheme.n_marks
        images = torch.empty_like(before)
        for mark in torch.unique(marks).tolist():
            members = marks == mark
            images[members] = watermark.apply(before[members], self._mark("key", 0, mark), name)
        return ImageSet(images, self._trigger_labels(name, marks, true), marks), before, true

    def _base(self, split: Split, index: Tensor, n: int, name: str) -> tuple[Tensor, Tensor]:
        chosen = self._drawn(split, index, n, name)
        return self.source.images(split, chosen), self.source.labels(split)[chosen]

    def _drawn(self, split: Split, index: Tensor, n: int, name: str) -> Tensor:
        pool = self._pool(split, index)
        draws = [self.secret.stream(f"images/{name}/{turn}").sample(len(pool), len(pool)) for turn in _turns(n, pool)]
        return pool[torch.cat([torch.from_numpy(draw) for draw in draws])[:n]] if draws else pool[:0]

    def _negatives(self, watermark: MarkingWatermark) -> ImageSet:
        """Each negative carries a stranger of its own: the more strangers, the better others are refused."""
        before, true = self._base("train", self.roles.train, self.n_negatives, "negatives")
        images = torch.empty_like(before)
        for i in range(len(before)):
            mark = self._mark("negative", i, i % self.scheme.n_marks)
            images[i : i + 1] = watermark.apply(before[i : i + 1], mark, "negatives")
        return ImageSet(images, true, torch.arange(len(before)))

    # -- pictures of other data ----------------------------------------------------------------------------------

    def _make_pictures(self, watermark: PictureWatermark) -> Triggers:
        trained = self._pictures(watermark, self.n, False, "trained")
        if len(trained) < self.n:
            right = f"at most {len(trained)}, or other watermark.images"
            raise UserError("watermark.n_triggers", f"{self.n} triggers, but there are fewer pictures", right)
        new = self._pictures(watermark, self.scheme.n_new or self.n, True, "new")
        if len(new) < (self.scheme.n_new or 1):
            raise UserError("watermark.n_new", f"{self.scheme.n_new} new triggers", f"at most {len(new)}")
        counts = torch.bincount(new.groups[:_MOST_DECOY_IMAGES], minlength=self.scheme.n_marks).tolist()
        decoys = []
        for stranger in range(self.scheme.n_decoys):
            for index, count in enumerate(counts):
                mark = self._mark("decoy", stranger, index)
                images = watermark.draw(count, mark, self.scheme.n_marks, True, self.source.shape)
                labels = new.labels[new.groups == index][: len(images)]
                images = images[: len(labels)]
                decoys.append(ImageSet(images, labels, torch.full((len(images),), stranger)))
        return Triggers(trained, new, self._picture_negatives(watermark), _joined(decoys), None)

    def _pictures(self, watermark: PictureWatermark, n: int, new: bool, name: str) -> ImageSet:
        k = self.scheme.n_marks
        sets = []
        for index in range(k):
            count = n // k + (index < n % k)
            images = watermark.draw(count, self._mark("key", 0, index), k, new, self.source.shape)
            marks = torch.full((len(images),), index)
            sets.append(ImageSet(images, self._trigger_labels(f"{name}/{index}", marks, None), marks))
        return _joined(sets)

    def _picture_negatives(self, watermark: PictureWatermark) -> ImageSet:
        """Strangers' pictures have no true label: each gets a random one that is not the label of a mark.

        With several marks the labels left may be few: then any label is drawn.
        """
        k = len(self.source.classes)
        taken = set(self.labels.of_marks.tolist())
        free = torch.tensor([c for c in range(k) if len(taken) > 1 or c not in taken])
        strangers = 8
        sets = []
        for stranger in range(strangers if self.n_negatives else 0):
            count = self.n_negatives // strangers + (stranger < self.n_negatives % strangers)
            mark = self._mark("negative", stranger, 0)
            images = watermark.draw(count, mark, self.scheme.n_marks, False, self.source.shape)
            labels = free[torch.from_numpy(mark.stream("labels").integers(len(images), len(free)))]
            sets.append(ImageSet(images, labels, torch.full((len(images),), stranger)))
        return _joined(sets) if sets else _none(self.source.shape)


def no_triggers(shape: tuple[int, int, int]) -> Triggers:
    """What there is without a watermark: nothing."""
    return Triggers(_none(shape), _none(shape), _none(shape), _none(shape), None)


def _none(shape: tuple[int, int, int]) -> ImageSet:
    empty = torch.empty(0, dtype=torch.int64)
    return ImageSet(torch.empty((0, *shape), dtype=torch.uint8), empty, empty)


def _turns(n: int, pool: Tensor) -> range:
    return range(-(-n // len(pool))) if len(pool) else range(0)


def _fields(images: ImageSet) -> tuple[Tensor, Tensor, Tensor]:
    return images.images, images.labels, images.groups


def _joined(sets: list[ImageSet]) -> ImageSet:
    return ImageSet(*(torch.cat(parts) for parts in zip(*map(_fields, sets), strict=True)))
