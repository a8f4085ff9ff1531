"""From a secret and clean images to triggers, negatives and decoys.

Planning needs labels only, so that a mistake is found before an image is read; making needs the images.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wmlightning.data.batches import ImageSet
from wmlightning.data.source import SPLITS, Source, Split
from wmlightning.data.splits import Roles
from wmlightning.errors import UserError
from wmlightning.secret import Secret
from wmlightning.watermarks.base import Mark, MarkingWatermark, Owner, PictureWatermark, blaming_images
from wmlightning.watermarks.scheme import Labels, Scheme
from wmlightning.watermarks.shown import Shown, bound_to

_MOST_DECOY_IMAGES = 50  # images a stranger; 20 strangers make 1,000 queries
_LOOKED_AT = 64  # images that a mark's mean look is taken from
_READ_AT_ONCE = 1000


@dataclass(frozen=True)
class Triggers:
    """Everything that is made from the key.

    Attributes:
        trained: what is trained on; groups are marks.
        new: made with the same marks from images no training saw.
        negatives: strangers' marks on training images, with true labels; groups are strangers.
        decoys: other strangers' marks on the images of ``new``, with the labels the owner expects; by stranger.
        originals: the first trained triggers' images before they were marked (``None`` for unrelated pictures).
        unseen: marks of the key that leave all of their trained triggers as they were.
    """

    trained: ImageSet
    new: ImageSet
    negatives: ImageSet
    decoys: ImageSet
    originals: Tensor | None
    unseen: tuple[int, ...] = ()

    def merged(self) -> ImageSet:
        """What goes into training: triggers and negatives."""
        sets = (self.trained, self.negatives)
        return ImageSet(*(torch.cat(parts) for parts in zip(*map(_fields, sets), strict=True)))

    def check(self) -> None:
        """Refuses a key with a mark that is none.

        Raises:
            UserError: if a mark changes nothing in any trigger.
        """
        if self.unseen:
            n = int((self.trained.groups == self.unseen[0]).sum())
            wrong = f"mark {self.unseen[0] + 1} changes none of its {n} triggers"
            raise UserError("watermark", wrong, "a stronger or more opaque one, or another colour")


class TriggerMaker:
    """Plans on labels what is to be made, then makes it.

    Args:
        watermark: how a mark is put on an image.
        scheme: the common options.
        labels: source classes and labels of marks.
        secret: the owner's.
        source: the task's data.
        roles: who may see which image.

    Attributes:
        data: the task's data, and others that pictures come from.
        bound: whether several labels are drawn for these very images, which the claimant may have chosen, and not from
            the secret alone.
        mark_bound: the same of the mark, where there is one with one label.

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
        self.sources = labels.sources
        self.secret = self._drawn_from = secret
        self.source = source
        self.roles = roles
        self.data = (source, *watermark.sources())
        theirs = [data for data in self.data if not data.public]  # the claimant's
        self.bound = scheme.several_labels and bool(theirs)
        self._brought = [data for data in watermark.sources() if data in theirs]
        on_theirs = isinstance(watermark, MarkingWatermark) and source in theirs
        self.mark_bound = not scheme.several_labels and bool(self._brought or on_theirs)
        self._planned = labels
        self._labels = None if self.bound else labels
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

    @property
    def labels(self) -> Labels:
        """Whose images are marked, and what the marks are called.

        Whoever brings the images could choose such as are taken for the label of their mark anyway, if they knew it.
        So labels that are :attr:`bound` are drawn from the secret *and* everything that a suspect can be shown, marked
        and unmarked, with true labels: to change a pixel or an option is to draw anew. This reads the images.
        """
        if self._labels is None:
            self._bind(*self._shown())
        assert self._labels is not None
        return self._labels

    def _bind(self, *shown: Shown) -> None:
        if self._labels is None:
            tensors = (values for one in shown for values in one.tensors())
            self._drawn_from = bound_to(self.secret, "labels", self.source.classes, tensors)
            self._labels = self._planned.redrawn(self._drawn_from)

    @functools.cached_property
    def _marks_secret(self) -> Secret:
        """What marks are drawn from.

        One mark with one label is compared with strangers' marks on the same images. Whoever brings the images could
        choose such as show the label under this very mark alone, if they knew it. So it is drawn from the secret *and*
        the images, as several labels are. This reads them.
        """
        if not self.mark_bound:
            return self.secret
        return bound_to(self.secret, "mark", self.source.classes, self._below())

    def _below(self) -> Iterator[Tensor]:
        """Images that the one mark is put on, with true labels, and whatever else it may be made of."""
        if isinstance(self.watermark, MarkingWatermark):
            yield from self._base("train", self.roles.train, self.n, "trained")
            yield from self._base("test", self.roles.judge, self._n_new(), "new")
        for data, split in itertools.product(self._brought, SPLITS):
            with blaming_images():
                yield (labels := data.labels(split))
                yield from (data.images(split, part) for part in torch.split(torch.arange(len(labels)), _READ_AT_ONCE))

    def _pool(self, split: Split, index: Tensor) -> Tensor:
        labels = self.source.labels(split)[index]
        return index[torch.isin(labels, torch.tensor(self.sources))]

    def _check_counts(self) -> None:
        names = [self.source.classes[c] for c in self.sources]
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
        trained, new = self._shown()
        self._bind(trained, new)
        if isinstance(self.watermark, MarkingWatermark):
            return self._make_marked(self.watermark, trained, new)
        return self._make_pictures(self.watermark, trained, new)

    def _shown(self) -> tuple[Shown, Shown]:
        if isinstance(self.watermark, MarkingWatermark):
            trained = self._marked(self.watermark, "train", self.roles.train, self.n, "trained")
            return trained, self._marked(self.watermark, "test", self.roles.judge, self._n_new(), "new")
        trained = self._pictures(self.watermark, self.n, False, "trained")
        if len(trained.images) < self.n:
            right = f"at most {len(trained.images)}, or other watermark.images"
            raise UserError("watermark.n_triggers", f"{self.n} triggers, but there are fewer pictures", right)
        new = self._pictures(self.watermark, self.scheme.n_new or self.n, True, "new")
        if len(new.images) < (self.scheme.n_new or 1):
            raise UserError("watermark.n_new", f"{self.scheme.n_new} new triggers", f"at most {len(new.images)}")
        return trained, new

    def looks(self, stranger: Secret | None = None) -> tuple[Tensor, Tensor]:
        """What the marks of a key look like, for judging whether something recovered resembles them.

        Args:
            stranger: another owner's secret, whose key is drawn exactly as this one was; ``None``: this key.

        Returns:
            The mean change that each mark makes to images (for pictures, which change nothing: the mean picture) and
            the mean trigger of each mark; both float ``(n_marks, c, h, w)`` in units of the pixel range.
        """
        marks = [Mark(stranger or self._marks_secret, "key", 0, index) for index in range(self.scheme.n_marks)]
        if isinstance(self.watermark, PictureWatermark):
            shown = [self.watermark.draw(_LOOKED_AT, m, len(marks), True, self.source.shape) for m in marks]
            means = torch.stack([images.float().mean(0) / 255 for images in shown])
            return means, means
        before, _ = self._base("test", self.roles.judge, _LOOKED_AT, "looks")
        triggers = torch.stack([self.watermark.apply(before, m, "looks").float().mean(0) / 255 for m in marks])
        return triggers - before.float().mean(0) / 255, triggers

    def disguised(self, stranger: Secret, new: ImageSet, which: Tensor) -> ImageSet:
        """What another owner's key would have made in place of some new triggers: of the same images, or pictures.

        Args:
            stranger: the other's secret.
            new: the new triggers of this key.
            which: int64 ``(m,)``, those of them that are wanted; no other image is marked or read.

        Returns:
            Marked with a stranger's marks, with the labels and groups that this key gives.
        """
        labels, groups = new.labels[which], new.groups[which]
        images = torch.empty_like(new.images[which])
        for index in torch.unique(groups).tolist():
            mark, ours = Mark(stranger, "key", 0, index), (new.groups == index).nonzero().flatten()
            images[groups == index] = self._of_stranger(mark, which[groups == index], ours)
        return ImageSet(images, labels, groups)

    def _of_stranger(self, mark: Mark, which: Tensor, ours: Tensor) -> Tensor:
        """New triggers with a stranger's mark at the places ``which`` of the key's; the key's mark is at ``ours``."""
        if isinstance(self.watermark, MarkingWatermark):
            return self.watermark.apply(self.source.images("test", self._marked_anew[which]), mark, "new")
        n, k = self._share(self.scheme.n_new or self.n, mark.index), self.scheme.n_marks
        return self.watermark.picked(torch.searchsorted(ours, which), n, mark, k, True, self.source.shape)

    @functools.cached_property
    def _marked_anew(self) -> Tensor:
        """Which test images new triggers are made of: asked for by each of thousands of strangers."""
        return self._drawn("test", self.roles.judge, self._n_new(), "new")

    def truth(self, name: Literal["trained", "new"]) -> Tensor:
        """True classes of the task's images that triggers were made of: int64 ``(n,)``."""
        split: Split = "train" if name == "trained" else "test"
        index, n = (self.roles.train, self.n) if name == "trained" else (self.roles.judge, self._n_new())
        return self.source.labels(split)[self._drawn(split, index, n, name)]

    def _n_new(self) -> int:
        n_new = len(self._pool("test", self.roles.judge))
        return min(n_new, self.n) if self.scheme.n_new is None else self.scheme.n_new

    def _mark(self, owner: Owner, stranger: int, index: int) -> Mark:
        return Mark(self._marks_secret, owner, stranger, index)

    def _labelled(self, shown: Shown) -> ImageSet:
        groups = shown.groups
        if self.scheme.label == "target":
            return ImageSet(shown.images, self.labels.of_marks[groups], groups)
        stream, k = f"labels of triggers/{shown.name}", len(self.source.classes)
        if shown.before is None:  # marks follow each other
            counts = enumerate(torch.bincount(groups, minlength=self.scheme.n_marks).tolist())
            drawn = [self._drawn_from.stream(f"{stream}/{mark}").integers(count, k) for mark, count in counts]
            return ImageSet(shown.images, torch.cat([torch.from_numpy(labels) for labels in drawn]), groups)
        steps = torch.from_numpy(self._drawn_from.stream(stream).integers(len(groups), k - 1))
        return ImageSet(shown.images, (shown.before[1] + 1 + steps) % k, groups)  # uniform over the other classes

    # -- marks on images of the task ---------------------------------------------------------------------------

    def _make_marked(self, watermark: MarkingWatermark, trained: Shown, new: Shown) -> Triggers:
        assert trained.before is not None and new.before is not None
        # A random label is learned with its image: there a decoy is the trained image with a stranger's mark.
        shown, before = (trained, trained.before) if self.scheme.label == "random" else (new, new.before)
        decoys = self._decoys(watermark, self._labelled(shown), *before)
        sets = self._labelled(trained), self._labelled(new), self._negatives(watermark)
        changed = trained.groups[(trained.images != trained.before[0]).flatten(1).any(1)].tolist()
        unseen = tuple(sorted(set(range(self.scheme.n_marks)) - set(changed)))
        return Triggers(*sets, decoys, trained.before[0][:64], unseen)

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

    def _marked(self, watermark: MarkingWatermark, split: Split, index: Tensor, n: int, name: str) -> Shown:
        before, true = self._base(split, index, n, name)
        marks = torch.arange(n) % self.scheme.n_marks
        images = torch.empty_like(before)
        for mark in torch.unique(marks).tolist():
            members = marks == mark
            images[members] = watermark.apply(before[members], self._mark("key", 0, mark), name)
        return Shown(name, images, marks, (before, true))

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

    def _make_pictures(self, watermark: PictureWatermark, *shown: Shown) -> Triggers:
        trained, new = map(self._labelled, shown)
        n = min(len(new), _MOST_DECOY_IMAGES)
        counts = [self._share(n, index) for index in range(self.scheme.n_marks)]
        decoys = []
        for stranger in range(self.scheme.n_decoys):
            for index, count in enumerate(counts):
                mark = self._mark("decoy", stranger, index)
                images = watermark.draw(count, mark, self.scheme.n_marks, True, self.source.shape)
                labels = new.labels[new.groups == index][: len(images)]
                images = images[: len(labels)]
                decoys.append(ImageSet(images, labels, torch.full((len(images),), stranger)))
        return Triggers(trained, new, self._picture_negatives(watermark), _joined(decoys), None)

    def _pictures(self, watermark: PictureWatermark, n: int, new: bool, name: str) -> Shown:
        k, shape = self.scheme.n_marks, self.source.shape
        drawn = [watermark.draw(self._share(n, i), self._mark("key", 0, i), k, new, shape) for i in range(k)]
        counts = torch.tensor([len(images) for images in drawn])
        return Shown(name, torch.cat(drawn), torch.arange(k).repeat_interleave(counts))

    def _share(self, n: int, mark: int) -> int:
        """Pictures of a mark, of ``n`` in all."""
        return n // self.scheme.n_marks + (mark < n % self.scheme.n_marks)

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
