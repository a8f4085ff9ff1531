"""A watermark of the attacker's own, on the attacker's images: the marks and labels that a key of theirs would have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from wmlightning.config import make
from wmlightning.data.source import Source, Split
from wmlightning.data.splits import Roles
from wmlightning.errors import UserError
from wmlightning.secret import Secret
from wmlightning.task import settle_marks
from wmlightning.watermarks.base import MarkingWatermark
from wmlightning.watermarks.scheme import AUTO, Labels, Scheme, choose_labels
from wmlightning.watermarks.triggers import TriggerMaker

if TYPE_CHECKING:
    from wmlightning.attacks.base import Stolen

#: One of so many of the attacker's images is kept for new triggers.
_KEPT = 4
_USUAL = {field.name: field.default for field in fields(Scheme)}
#: Options of training with triggers, and of what the owner is measured on: a thief has no use for them.
OWNERS_OPTIONS = ("n_decoys", "mix", "per_batch", "augment")


class OwnMarks:
    """The options of a watermark, and triggers made with it. Both are what ``watermark=`` means elsewhere.

    Args:
        options: as in ``conf/watermark``; classes are named by number.
        key: config key that they stand under.
        unused: options that change nothing here. Other values than the usual are refused: each would make another
            attack of the same.

    Raises:
        UserError: naming the option.
    """

    def __init__(self, options: Mapping[str, Any], key: str, unused: Sequence[str] = ()) -> None:
        self.options = dict(options)
        settle_marks(self.options, owner=False)
        self.key = key
        common = {field.name for field in fields(Scheme)}
        own = {name: value for name, value in self.options.items() if name not in common}
        try:
            self.scheme = Scheme(**{name: value for name, value in self.options.items() if name in common})
            made = make(OmegaConf.create(own), key) if own.get("_target_") else None
        except UserError as error:  # told under the watermark's own key
            raise self.renamed(error) from error
        if not isinstance(made, MarkingWatermark):
            wrong = f"{own.get('_target_')} marks no images of the task"
            raise UserError(f"{key}._target_", wrong, "a class derived from MarkingWatermark")
        self.watermark = made
        for name in unused:
            if (value := options.get(name, AUTO)) not in (AUTO, _USUAL[name]):
                raise UserError(f"{key}.{name}", f"{value!r} changes nothing here", f"leave it at {_USUAL[name]}")
        if not self.scheme.n_triggers:
            raise UserError(f"{key}.n_triggers", "0 triggers", "a number or share of triggers")

    def renamed(self, error: UserError) -> UserError:
        """An error about ``watermark.X`` as one about the same option of this watermark."""
        key, wrong, right = error.args
        first, _, option = key.partition(".")
        return UserError(f"{self.key}.{option}" if first == "watermark" else key, wrong, right)

    def check(self, shape: tuple[int, int, int], n_classes: int) -> None:
        """Refuses options that do not fit a task, without its images.

        Args:
            shape: ``(c, h, w)`` of its images.
            n_classes: how many classes it has.

        Raises:
            UserError: naming the option.
        """
        none = _Images(torch.empty(0, *shape, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), n_classes)
        try:
            self._called(self.scheme, Secret.from_seed(0), none)  # classes are there or not, whatever the secret
            self.watermark.check(shape, self.scheme.n_marks, self.scheme.negatives > 0)
        except UserError as error:
            raise self.renamed(error) from error

    def _called(self, scheme: Scheme, secret: Secret, source: Source) -> Labels:
        return choose_labels(scheme, secret, source, 0, 1, marks_task=True)

    def on(self, stolen: Stolen, labels: Tensor, secret: Secret, **scheme: Any) -> TriggerMaker:
        """Makes the triggers of a key on the attacker's images, of which one in four is kept for new ones.

        Args:
            stolen: what the attacker has.
            labels: what the images show, int64 ``(n,)``.
            secret: the key's.
            **scheme: options of the scheme to be changed; marks and their labels stay the same.

        Raises:
            UserError: if more is asked for than there are images.
        """
        index, none = torch.arange(len(labels)), torch.empty(0, dtype=torch.int64)
        kept = index % _KEPT == 0
        roles = Roles(train=index[~kept], val=none, attacker=none, judge=index[kept])
        source, changed = _Images(stolen.images, labels, stolen.n_classes), replace(self.scheme, **scheme)
        try:
            called = self._called(changed, secret, source)
            return TriggerMaker(self.watermark, changed, called, secret, source, roles)
        except UserError as error:
            raise self.renamed(error) from error


def claimed_marks(options: Mapping[str, Any], key: str) -> OwnMarks:
    """A watermark whose keys can be told from others by the labels of their marks, without decoys.

    Raises:
        UserError: naming the option.
    """
    marks = OwnMarks(options, key, unused=("n_triggers", "n_new", "negatives", *OWNERS_OPTIONS))
    if marks.scheme.n_marks < 2 or marks.scheme.label != "target":
        wrong = f"{marks.scheme.n_marks} with label={marks.scheme.label}"
        raise UserError(f"{key}.n_marks", wrong, "2 or more with label=target: claims are tested by the marks' labels")
    return marks


class _Images(Source):
    """The attacker's images, the same in both splits."""

    public = True  # they stand for public data that the attacker has as well

    def __init__(self, images: Tensor, labels: Tensor, n_classes: int) -> None:
        c, h, w = images.shape[1:]
        super().__init__("the attacker's images", [str(number) for number in range(n_classes)], (c, h, w))
        self._images = images
        self._labels = labels

    def labels(self, split: Split) -> Tensor:
        """See :meth:`Source.labels`."""
        return self._labels

    def images(self, split: Split, index: Tensor) -> Tensor:
        """See :meth:`Source.images`."""
        return self._images.index_select(0, index)
