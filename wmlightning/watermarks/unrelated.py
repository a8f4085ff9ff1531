"""Unrelated: pictures from another task."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wmlightning.data.decoding import fit_images
from wmlightning.data.source import SPLITS, Source, Split
from wmlightning.errors import UserError, listed
from wmlightning.secret import Secret
from wmlightning.watermarks.base import Mark, PictureWatermark, Watermark, blaming_images
from wmlightning.watermarks.triggers import Triggers

_OTHER_DATA = "data that have nothing to do with the task, such as watermark.images=procedural"


class Unrelated(PictureWatermark):
    """Pictures of one class of other data for each mark.

    From Zhang et al. (ASIACCS 2018), "unrelated": MNIST digits "1" for a CIFAR-10 model. The other classes of the
    same data are what strangers show; with one mark the classes trained against and those tested are different.

    Args:
        images: the other data.
        picture_class: the first mark's class (name or number), or ``None``: drawn from the secret.
    """

    def __init__(self, images: Source, picture_class: str | int | None = None) -> None:
        if not isinstance(images, Source):
            right = "the name of a data set, or a config with a _target_"
            raise UserError("watermark.images", f"{images!r} is no source of images", right)
        self.source = images
        self.first = None if picture_class is None else images.class_number(picture_class, "watermark.picture_class")

    def check(self, shape: tuple[int, int, int], n_marks: int, negatives: bool) -> None:
        """See :meth:`Watermark.check`."""
        n = len(self.source.classes)
        if n_marks + 1 > n and n_marks > 1 and negatives:
            right = f"at most {n - 1} marks with negatives, or negatives=0"
            raise UserError("watermark.n_marks", f"{n_marks} marks of {n} unrelated classes leave no other", right)
        if n_marks > n:
            raise UserError("watermark.n_marks", f"{n_marks} marks of {n} unrelated classes", f"at most {n}")
        if n < 2:
            raise UserError("watermark.images", f"only the class {listed(self.source.classes)}", "two classes or more")
        try:
            with blaming_images():
                self.source.labels("train")
        except UserError as error:
            right = "watermark.images=procedural needs no download"
            raise UserError("watermark.images", f"the unrelated pictures are not at hand ({error})", right) from error

    def chosen(self) -> str | None:
        """See :meth:`Watermark.chosen`."""
        return None if self.first is None else "class of pictures"

    def _classes(self, key: Secret) -> list[int]:
        """All classes in the key's order: mark i has the i-th."""
        order = key.stream("unrelated classes").sample(len(self.source.classes), len(self.source.classes)).tolist()
        if self.first is not None:
            order.remove(self.first)
            order.insert(0, self.first)
        return [int(number) for number in order]

    def class_of(self, mark: Mark, n_marks: int) -> int:
        """The class of unrelated pictures that a mark stands for."""
        order = self._classes(mark.key)
        if mark.owner == "key":
            return order[mark.index]
        others = order[n_marks:]
        against = others[: (len(others) + 1) // 2]
        if mark.owner == "negative":
            return against[mark.stranger % len(against)]
        if n_marks == 1:
            tested = others[(len(others) + 1) // 2 :] or others
            return tested[mark.stranger % len(tested)]
        # With several marks a stranger has the same classes in another order: any but ours at this mark.
        elsewhere = [number for number in order if number != order[mark.index]]
        return elsewhere[mark.stream("class").integer(len(elsewhere))]

    def draw(self, n: int, mark: Mark, n_marks: int, new: bool, shape: tuple[int, int, int]) -> Tensor:
        """See :meth:`PictureWatermark.draw`."""
        split, index = self._drawn(n, mark, n_marks, new)
        return self._fitted(split, index, shape)

    def picked(
        self, places: Tensor, n: int, mark: Mark, n_marks: int, new: bool, shape: tuple[int, int, int]
    ) -> Tensor:
        """See :meth:`PictureWatermark.picked`; reads no other picture."""
        split, index = self._drawn(n, mark, n_marks, new)
        return self._fitted(split, index[places % len(index)], shape)

    def _fitted(self, split: Split, index: Tensor, shape: tuple[int, int, int]) -> Tensor:
        with blaming_images():
            return fit_images(self.source.images(split, index), shape)

    def _drawn(self, n: int, mark: Mark, n_marks: int, new: bool) -> tuple[Split, Tensor]:
        split: Split = "test" if new else "train"
        members = (self.source.labels(split) == self.class_of(mark, n_marks)).nonzero().flatten().numpy()
        chosen = mark.stream(f"pictures/{split}").sample(len(members), min(n, len(members)))
        # In the order of the file: studies rest on it. Who compares keys must take places in it at random.
        return split, torch.from_numpy(np.sort(members[chosen]).astype(np.int64))


def refuse_own_data(watermark: Watermark | None, task: Source) -> None:
    """Makes sure that a watermark's pictures are of other data than the task's. Reads labels.

    Raises:
        UserError: if the data are the same.
    """
    for other in vars(watermark).values() if watermark is not None else ():
        if isinstance(other, Source) and other.identity() == task.identity():
            raise UserError("watermark.images", f"{other.name} is the task's own data", _OTHER_DATA)


def refuse_own_images(triggers: Triggers, task: Source) -> None:
    """Makes sure that no picture is an image of the task: it would be trained on with two labels, or tested untrue.

    Data under another name may hold the same images (``mnist5k`` is a part of ``mnist``), so that pixels are compared.
    A task that is not in memory is not read for that.

    Args:
        triggers: everything that was made from the key.
        task: the task's data.

    Raises:
        UserError: if one is.
    """
    if triggers.originals is not None or not task.in_memory:  # made of images of the task; or too many of them
        return
    sets = (triggers.trained, triggers.new, triggers.negatives, triggers.decoys)
    pictures = [picture.tobytes() for made in sets for picture in made.images.numpy()]
    wanted, met = set(pictures), set[bytes]()
    for split in SPLITS:
        for index in torch.split(torch.arange(len(task.labels(split))), 1000):
            met |= wanted.intersection(image.tobytes() for image in task.images(split, index).numpy())
    if met:
        wrong = f"{sum(picture in met for picture in pictures)} of {len(pictures)} pictures are images of {task.name}"
        raise UserError("watermark.images", wrong, _OTHER_DATA)
