"""Pictures and labels of a data set that is not ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wmlightning.data.broken import BROKEN_PICTURE, reason
from wmlightning.data.decoding import fit_image, readable
from wmlightning.errors import UserError, listed

_RAW = "the data set without its transform: items of a PIL picture or uint8 pixels, and a class number"
_UNREADABLE = (*BROKEN_PICTURE, RuntimeError)  # torchvision's own decoder raises the latter


class Pictures:
    """Reads single pictures of a data set, undisturbed by what is done with them for training.

    Args:
        data: a data set whose items are tuples or dicts of a picture (PIL, or uint8 tensor ``(c, h, w)`` or array
            ``(h, w)``, ``(h, w, c)``) and a class number; or a pair of tensors, images uint8 ``(n, c, h, w)`` and
            labels ``(n,)``.
        name: of the argument, for error messages.
        fields: where items have picture and class number; ``None``: in the only entries that can be.
        broken: ``refuse`` or ``skip``: what to do with items that cannot be read.

    Attributes:
        skipped: items that were found broken and skipped, with the reason.
    """

    def __init__(
        self,
        data: Any,
        name: str,
        fields: tuple[int | str, int | str] | None = None,
        broken: Literal["refuse", "skip"] = "refuse",
    ) -> None:
        if broken not in ("refuse", "skip"):
            raise UserError("broken", f"{broken!r} is unknown", "refuse or skip")
        self.name = name
        self.data = data
        self.fields = fields
        self.broken = broken
        self.skipped: dict[str, str] = {}
        pair = isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)
        self.pair: tuple[Tensor, Tensor] | None = (data[0], data[1]) if pair else None
        if self.pair is not None and len(self.pair[0]) != len(self.pair[1]):
            raise UserError(name, f"{len(self.pair[0])} images and {len(self.pair[1])} labels", "one label an image")
        if self.pair is None and not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise UserError(name, f"{type(data).__name__} has no length or no items by number", _RAW)
        if not len(self):
            raise UserError(name, "there are no pictures", _RAW)

    def __len__(self) -> int:
        return len(self.data if self.pair is None else self.pair[0])

    def classes(self) -> list[str] | None:
        """Class names, where the data set tells them."""
        data = self.data
        while hasattr(data, "dataset") and not hasattr(data, "classes"):  # a Subset
            data = data.dataset
        if isinstance(names := getattr(data, "classes", None), (list, tuple)):
            return [str(name) for name in names]
        features = getattr(data, "features", None)  # of Hugging Face data sets
        named = [
            feature.names
            for place, feature in (features.items() if isinstance(features, Mapping) else ())
            if hasattr(feature, "names") and (self.fields is None or place == self.fields[1])
        ]
        return [str(name) for name in named[0]] if len(named) == 1 else None

    def n_shared(self, others: Pictures) -> int:
        """How many of the others are the same items of the same data set, by their numbers."""
        (ours, mine), (theirs, other) = _numbered(self.data, len(self)), _numbered(others.data, len(others))
        if self.pair is not None and others.pair is not None:
            ours, theirs = self.pair[0], others.pair[0]
        return len(set(mine) & set(other)) if ours is theirs else 0

    def at(self, index: int) -> tuple[Image.Image, int] | None:
        """One picture, decoded and upright, and its class; ``None`` if it is broken and such are skipped.

        Raises:
            UserError: if it is broken and such are refused, or if the item is something else.
        """
        try:
            item = self.data[index] if self.pair is None else (self.pair[0][index], self.pair[1][index])
            picture, label = self._parts(item, index)
            return readable(picture), label
        except _UNREADABLE as error:
            told, why = self._called(index), reason(error) or f"{type(error).__name__}: {error}"
            if self.broken == "refuse":
                right = 'mend or remove it, or broken="skip"'
                raise UserError(self.name, f"no readable picture in {told} ({why})", right) from error
            self.skipped[told] = why
            return None

    def _parts(self, item: Any, index: int) -> tuple[Image.Image, int]:
        entries = dict(item) if isinstance(item, Mapping) else dict(enumerate(item)) if _is_row(item) else {}
        if self.fields is not None:
            missing = [field for field in self.fields if field not in entries]
            if missing:
                raise UserError("fields", f"items of {self.name} have no {missing[0]!r}", f"one of {listed(entries)}")
            picture, label = (entries[field] for field in self.fields)
        else:
            picture = self._only(entries, "pictures", [v for v in entries.values() if _is_picture(v)])
            label = self._only(entries, "class numbers", [v for v in entries.values() if _is_number(v)])
        if not _is_picture(picture) or not _is_number(label):
            raise UserError(self.name, f"item {index} has {_told(picture)} and {_told(label)}", _RAW)
        return _as_picture(picture, self.name), int(label)

    def _called(self, index: int) -> str:
        """An item's number and, where the data set tells it as torchvision's do, its file."""
        data, place = self.data, index
        while hasattr(data, "dataset") and hasattr(data, "indices"):  # a Subset
            data, place = data.dataset, data.indices[place]
        samples = getattr(data, "samples", None)
        sample = samples[place] if isinstance(samples, list) and place < len(samples) else None
        file = sample[0] if isinstance(sample, tuple) and sample else None
        return f"item {index}, {file}" if isinstance(file, (str, Path)) else f"item {index}"

    def _only(self, entries: Mapping[Any, Any], what: str, found: list[Any]) -> Any:
        if len(found) == 1:
            return found[0]
        told = ", ".join(f"{place!r}: {_told(value)}" for place, value in entries.items()) or "no tuples or dicts"
        if found:
            raise UserError("fields", f"several {what} in items of {self.name} ({told})", "fields=(picture, class)")
        raise UserError(self.name, f"no {what} in its items ({told})", _RAW)


def _numbered(data: Any, n: int) -> tuple[Any, list[int]]:
    """A data set, or what it is a ``Subset`` of, and the numbers of its items there."""
    numbers = list(range(n))
    while hasattr(data, "dataset") and hasattr(data, "indices"):
        data, numbers = data.dataset, [int(data.indices[number]) for number in numbers]
    return data, numbers


def fitted(image: Image.Image, shape: tuple[int, int, int], given: bool) -> Tensor:
    """A picture as uint8 ``(c, h, w)``.

    Args:
        image: any picture.
        shape: of all images of the key.
        given: whether the user named the size; if not, pictures must have it already.

    Raises:
        UserError: if they do not.
    """
    if not given and image.size != (shape[2], shape[1]):
        wrong = f"pictures of {shape[2]}x{shape[1]} and of {image.width}x{image.height} pixels"
        raise UserError("size", wrong, "size=224, say: what a picture has when it is sent to the finished model")
    return fit_image(image, shape)


def is_grey(image: Image.Image) -> bool:
    """Whether a picture, as :meth:`Pictures.at` gives it, has a single channel."""
    return image.mode in ("1", "L", "I")


def _is_row(item: Any) -> bool:
    return isinstance(item, (tuple, list))


def _is_picture(value: Any) -> bool:
    if isinstance(value, Image.Image):
        return True
    uint8 = isinstance(value, Tensor) and value.dtype == torch.uint8
    uint8 = uint8 or (isinstance(value, np.ndarray) and value.dtype == np.uint8)
    return uint8 and value.ndim in (2, 3)


def _is_number(value: Any) -> bool:
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return value.ndim == 0 and not isinstance(value.tolist(), (bool, float))
    return isinstance(value, int) and not isinstance(value, bool)


def _as_picture(value: Any, name: str) -> Image.Image:
    if isinstance(value, Image.Image):
        return value
    array = value.numpy() if isinstance(value, Tensor) else value
    if array.ndim == 3 and isinstance(value, Tensor):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 3 and array.shape[2] != 3:
        raise UserError(name, f"pixels of shape {tuple(value.shape)}", "1 or 3 channels")
    return Image.fromarray(np.ascontiguousarray(array))


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
