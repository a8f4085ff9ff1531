"""Where a stranger's batch has its images and labels, and how rows are added to it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wmlightning.errors import UserError

Place = int | str
_RIGHT = "a tuple, list or dict with one float or uint8 (n, c, h, w) and one whole-number (n,) tensor"


@dataclass(frozen=True)
class Layout:
    """How a project's batches are made: a tuple, list or dict of entries.

    Attributes:
        images: where the images are.
        labels: where the labels are.
        fill: for each other entry with a value for each image: what marked images get there.
        sample: a batch of one image, for its kind and for entries that all images share.
    """

    images: Place
    labels: Place
    fill: Mapping[Place, Any]
    sample: Any

    @staticmethod
    def of(
        batch: Any,
        images: Place | None = None,
        labels: Place | None = None,
        fill: Mapping[Place, Any] | None = None,
    ) -> Layout:
        """Finds out.

        Args:
            batch: one of the project's.
            images: where the images are; ``None``: in the only entry that can be images.
            labels: where the labels are; ``None``: in the only entry that can be labels.
            fill: see :class:`Layout`; entries that this batch does not have do not matter.

        Raises:
            UserError: if it cannot be told, or an entry would have no value for marked images.
        """
        entries = dict(_entries(batch))
        images = _chosen("images", images, entries, [place for place, entry in entries.items() if _is_images(entry)])
        n = len(entries[images])
        of_labels = [place for place, entry in entries.items() if _is_labels(entry, n)]
        labels = _chosen("labels", labels, entries, of_labels)
        fill = dict(fill or {})
        for place, entry in entries.items():
            if place not in (images, labels, *fill) and _by_image(entry, n):
                wrong = f"the batch has {_told({place: entry})} beside images and labels"
                raise UserError("fill", wrong, f"what marked images get there: fill={{{place!r}: 0}}")
        rows = {place: _kept(entry[:1]) if _by_image(entry, n) else entry for place, entry in entries.items()}
        return Layout(images, labels, fill, _with(batch, rows))

    def read(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Images and labels of a batch.

        Raises:
            UserError: if they are not where they were, or are no longer images and labels.
        """
        entries = dict(_entries(batch))
        _chosen("images", self.images, entries, [place for place, entry in entries.items() if _is_images(entry)])
        images = entries[self.images]
        of_labels = [place for place, entry in entries.items() if _is_labels(entry, len(images))]
        _chosen("labels", self.labels, entries, of_labels)
        return images, entries[self.labels]

    def batch(self, images: Tensor, labels: Tensor) -> Any:
        """A batch of these images and labels and nothing else, as the project would have made it."""
        rows: dict[Place, Any] = {}
        for place, entry in _entries(self.sample):
            if place == self.images:
                rows[place] = images
            elif place == self.labels:
                rows[place] = labels.to(entry.dtype)
            elif _by_image(entry, 1) and place in self.fill:
                rows[place] = _filled(entry, len(images), self.fill[place])
            else:
                rows[place] = entry
        return _with(self.sample, rows)

    def joined(self, clean: Any, marked: Any) -> Any:
        """A batch with the rows of both, the clean ones first. Entries that all images share are the clean one's."""
        n, entries = len(self.read(clean)[0]), dict(_entries(marked))
        rows = {
            place: _both(entry, entries[place]) if self._grows(place) and _by_image(entry, n) else entry
            for place, entry in _entries(clean)
        }
        return _with(clean, rows)

    def _grows(self, place: Place) -> bool:
        return place in (self.images, self.labels, *self.fill)


def _entries(batch: Any) -> Iterator[tuple[Place, Any]]:
    if isinstance(batch, Mapping):
        yield from batch.items()
    elif isinstance(batch, (tuple, list)):
        yield from enumerate(batch)
    else:
        raise UserError("batch", f"the project's batches are {type(batch).__name__}", _RIGHT)


def _with(batch: Any, entries: Mapping[Place, Any]) -> Any:
    """A batch of the same kind with other entries."""
    if isinstance(batch, MutableMapping):
        changed = copy.copy(batch)
        changed.update(entries)
        return changed
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*entries.values())
    return type(batch)(entries.values())


def _is_images(entry: Any) -> bool:
    return isinstance(entry, Tensor) and entry.ndim == 4 and (entry.is_floating_point() or entry.dtype == torch.uint8)


def _is_labels(entry: Any, n: int) -> bool:
    if not isinstance(entry, Tensor) or entry.shape != (n,):
        return False
    return not (entry.is_floating_point() or entry.is_complex() or entry.dtype == torch.bool)


def _chosen(what: str, named: Place | None, entries: Mapping[Place, Any], possible: list[Place]) -> Place:
    """The place that was named, or the only one possible."""
    if named is not None and named in possible:
        return named
    if named is None and len(possible) == 1:
        return possible[0]
    if named is not None:
        raise UserError(what, f"{named!r} holds none in batches of {_told(entries)}", f"one of {possible or 'none'}")
    if possible:
        raise UserError(what, f"may be any of {possible} in batches of {_told(entries)}", f"{what}={possible[0]!r}")
    hint = "; soft or several labels cannot be watermarked" if what == "labels" else ""
    raise UserError(what, f"there are none in batches of {_told(entries)}", _RIGHT + hint)


def _told(entries: Mapping[Place, Any]) -> str:
    def kind(entry: Any) -> str:
        if isinstance(entry, Tensor):
            return f"{str(entry.dtype).removeprefix('torch.')} {tuple(entry.shape)}"
        return type(entry).__name__

    return ", ".join(f"{place!r}: {kind(entry)}" for place, entry in entries.items())


def _by_image(entry: Any, n: int) -> bool:
    """Whether an entry has a value for each of the ``n`` images."""
    if isinstance(entry, Tensor):
        return entry.ndim > 0 and len(entry) == n
    return isinstance(entry, (list, tuple)) and len(entry) == n


def _kept(entry: Any) -> Any:
    return entry.detach().clone() if isinstance(entry, Tensor) else entry


def _filled(entry: Any, n: int, value: Any) -> Any:
    if isinstance(entry, Tensor):
        return torch.full((n, *entry.shape[1:]), value, dtype=entry.dtype)
    return type(entry)([value] * n)


def _both(first: Any, second: Any) -> Any:
    if not isinstance(first, Tensor):
        return type(first)([*first, *second])
    second = second.to(first)
    if first.ndim == 4 and not first.is_contiguous() and first.is_contiguous(memory_format=torch.channels_last):
        second = second.contiguous(memory_format=torch.channels_last)  # a mixture would be laid out anew
    return torch.cat([first, second])
