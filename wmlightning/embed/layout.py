"""Where a stranger's batch has its images and labels, and how rows are added to it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from wmlightning.errors import UserError, listed

#: Index or name of an entry; of an entry within others all of them from the outside in: ``("target", "label")``.
Place = int | str | tuple[int | str, ...]
Path = tuple[int | str, ...]


@dataclass(frozen=True)
class Layout:
    """How a project's batches are made: tuples, lists and dicts, one within another, of entries.

    Attributes:
        images: where the images are.
        labels: where the labels are; ``None``: it cannot be told and does not matter.
        fill: for each other entry with a value for each image: what marked images get there. One value for all;
            ``"images"`` or ``"labels"``, those that they have anyway; or ``(images, labels) -> rows``, where labels are
            int64 ``(n,)``.
        n_classes: classes of the key.
        by_image: all entries with a value for each image.
        sample: a batch of one image, for its kind and for entries that all images share.
    """

    images: Path
    labels: Path | None
    fill: Mapping[Path, Any]
    n_classes: int
    by_image: tuple[Path, ...]
    sample: Any

    @staticmethod
    def of(
        batch: Any,
        n_classes: int,
        images: Place | None = None,
        labels: Place | None = None,
        fill: Mapping[Place, Any] | None = None,
        joins: bool = True,
    ) -> Layout:
        """Finds out.

        Args:
            batch: one of the project's.
            n_classes: classes of the key.
            images: where the images are; ``None``: in the only entry that can be images.
            labels: where the labels are; ``None``: in the only entry, as near to the images as can be, that can be
                labels: whole numbers ``(n,)`` or ``(n, 1)``, for two classes also floats; or ``(n, n_classes)``.
            fill: see :class:`Layout`; entries that this batch does not have do not matter.
            joins: whether marked images are added to such batches. If not, labels need not be told.

        Raises:
            UserError: if it cannot be told, or an entry would have no value for marked images.
        """
        given = {_path(place): value for place, value in (fill or {}).items()}
        entries = dict(_entries(batch))
        found = [path for path, entry in entries.items() if _is_images(entry) and path not in given]
        at = _chosen("images", images, entries, found)
        n = len(entries[at])
        entries = dict(_entries(batch, n))
        possible = [p for p, entry in entries.items() if p not in given and _is_labels(entry, n, n_classes)]
        if labels is None:
            possible = _nearest(at, possible)
        if joins or len(possible) == 1 or (labels is not None and _path(labels) in possible):
            labels_at: Path | None = _chosen("labels", labels, entries, possible, n_classes)
        else:
            labels_at = None
        within = _shared(at[:-1], (labels_at or at)[:-1])
        rows = tuple(p for p, entry in entries.items() if _begins(p, within) and _by_image(entry, n))
        for path in rows:
            if joins and path not in (at, labels_at, *given):
                wrong = f"the batch has {_told({path: entries[path]})} beside images and labels"
                value = _likely(entries[path], n, n_classes)
                raise UserError("fill", wrong, f"what marked images get there: fill={{{_place(path)!r}: {value}}}")
        sample = _with(batch, {p: _kept(entries[p][:1]) for p in rows})
        layout = Layout(at, labels_at, given, n_classes, rows, sample)
        if joins:
            layout.batch(entries[at][:1], torch.zeros(1, dtype=torch.int64))  # what does not fit is told at once
        return layout

    def read(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Images and labels of a batch, the latter in any form that :meth:`of` takes.

        Raises:
            UserError: if they are not where they were, or are no longer images and labels.
        """
        images = self.images_of(batch)
        entries = dict(_entries(batch, len(images)))
        possible = [p for p, entry in entries.items() if _is_labels(entry, len(images), self.n_classes)]
        assert self.labels is not None, "asked for where rows are added"
        return images, entries[_chosen("labels", _place(self.labels), entries, possible, self.n_classes)]

    def images_of(self, batch: Any) -> Tensor:
        """Images of a batch.

        Raises:
            UserError: if they are not where they were.
        """
        entries = dict(_entries(batch))
        found = [path for path, entry in entries.items() if _is_images(entry)]
        images: Tensor = entries[_chosen("images", _place(self.images), entries, found)]
        return images

    def is_missing(self, batch: Any) -> bool:
        """Whether there is nothing where images would be: of several train loaders theirs is at its end."""
        for place in self.images:
            if batch is None:
                break
            batch = batch[place]
        return batch is None

    def batch(self, images: Tensor, labels: Tensor) -> Any:
        """A batch of these images and labels and nothing else, as the project would have made it.

        Args:
            images: as the project's, any number.
            labels: classes, int64 ``(n,)``.
        """
        sample = dict(_entries(self.sample, 1))
        rows = {path: self._row(path, sample[path], images, labels) for path in self.by_image}
        return _with(self.sample, rows)

    def joined(self, clean: Any, images: Tensor, labels: Tensor) -> Any:
        """A batch with more rows, the clean ones first. Entries that all images share stay as they are.

        Args:
            clean: one of the project's.
            images: of the same shape.
            labels: classes, int64 ``(n,)``; they take the form that labels have in this batch.
        """
        n = len(self.images_of(clean))
        grows = (self.images, self.labels, *self.fill)
        rows = {
            path: _both(entry, self._row(path, entry, images, labels))
            for path, entry in _entries(clean, n)
            if path in grows and _by_image(entry, n)
        }
        return _with(clean, rows)

    def _row(self, path: Path, like: Any, images: Tensor, labels: Tensor) -> Any:
        """What these images have in an entry; where nobody said, what the first image has."""
        if path == self.images:
            floats = images.is_floating_point() and like.is_floating_point()
            return images.to(like.dtype) if floats else images
        if path == self.labels:
            return _labels_like(like, labels, self.n_classes)
        if path in self.fill:
            return self._filled(path, like, images, labels)
        if isinstance(like, Tensor):
            return like[:1].repeat_interleave(len(images), 0)
        return type(like)([like[0]] * len(images))

    def _filled(self, path: Path, like: Any, images: Tensor, labels: Tensor) -> Any:
        """What these images have in an entry, as the user said."""
        value, n, rows = self.fill[path], len(images), None
        if callable(value):
            rows = value(images, labels.to(images.device))
        elif not isinstance(like, Tensor):
            rows = [value] * n
        elif value == "images":
            rows = images
        elif value == "labels":
            rows = _labels_like(like, labels, self.n_classes)
        else:
            rows = _repeated(value, like, n)
        if isinstance(like, Tensor):
            fits = isinstance(rows, Tensor) and rows.shape == (n, *like.shape[1:])
        else:
            fits = isinstance(rows, (list, tuple)) and len(rows) == n
        if not fits:
            told = _kind(rows) if callable(value) or value == "images" else repr(value)
            right = "a value, 'images', 'labels', or a function of both that gives a row for each image"
            raise UserError("fill", f"{told} does not fit in {_told({path: like})}", right)
        return rows.to(like) if isinstance(rows, Tensor) else type(like)(rows)


def _repeated(value: Any, like: Tensor, n: int) -> Tensor | None:
    """A number, or the row of one image, ``n`` times; ``None`` if it does not fit."""
    try:
        one = torch.as_tensor(value)
        return one.expand(n, *like.shape[1:]) if one.ndim < like.ndim else None
    except (TypeError, ValueError, RuntimeError):  # it is no number, or of another shape
        return None


def _likely(entry: Any, n: int, n_classes: int) -> str:
    """What marked images are likely to need in an entry."""
    if _is_images(entry):
        return "'images'"
    if _is_labels(entry, n, n_classes):
        known = are_classes(entry) and bool(((entry >= 0) & (entry < n_classes)).all())  # else it may be an index
        return "'labels'" if known or entry.shape == (n, n_classes) else "0"
    return "0"


def are_classes(labels: Tensor) -> bool:
    """Whether labels are class numbers, not values between 0 and 1."""
    return not labels.is_floating_point() and labels.shape in ((len(labels),), (len(labels), 1))


def _entries(batch: Any, n: int = 0, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All that is not a container of entries; of ``n`` images."""
    if isinstance(batch, Mapping):
        items: Any = batch.items()
    elif isinstance(batch, (tuple, list)) and not (path and _is_column(batch, n)):
        items = enumerate(batch)
    elif path:
        yield path, batch
        return
    else:
        right = "a tuple, list or dict of images, labels and whatever else"
        raise UserError("batch", f"the project's batches are {type(batch).__name__}", right)
    for place, entry in items:
        yield from _entries(entry, n, (*path, place))


def _is_column(sequence: Any, n: int) -> bool:
    """Whether a list is one entry, such as file names, and not entries itself."""
    below = [entry for _, entry in _entries(sequence) if isinstance(entry, Tensor)]
    return not below or (len(sequence) == n and not any(_by_image(entry, n) for entry in below))


def _with(batch: Any, changed: Mapping[Path, Any], path: Path = ()) -> Any:
    """A batch of the same kind with other entries."""
    if path in changed:
        return changed[path]
    if not any(_begins(p, path) for p in changed):
        return batch
    items = batch.items() if isinstance(batch, Mapping) else enumerate(batch)
    parts = {place: _with(entry, changed, (*path, place)) for place, entry in items}
    if isinstance(batch, MutableMapping):
        again = copy.copy(batch)
        again.update(parts)
        return again
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*parts.values())
    return type(batch)(parts.values())


def _is_images(entry: Any) -> bool:
    return isinstance(entry, Tensor) and entry.ndim == 4 and (entry.is_floating_point() or entry.dtype == torch.uint8)


def _is_labels(entry: Any, n: int, n_classes: int) -> bool:
    if not isinstance(entry, Tensor) or entry.is_complex() or entry.dtype == torch.bool:
        return False
    single = entry.shape in ((n,), (n, 1)) and (n_classes == 2 or not entry.is_floating_point())
    return single or entry.shape == (n, n_classes)


def _labels_like(like: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    if like.ndim == 2:
        labels = labels[:, None] if like.shape[1] == 1 else one_hot(labels, n_classes)
    return labels.to(like.dtype)


def _chosen(
    what: str, named: Place | None, entries: Mapping[Path, Any], possible: list[Path], n_classes: int = 0
) -> Path:
    """The place that was named, or the only one possible."""
    if named is not None and _path(named) in possible:
        return _path(named)
    if named is None and len(possible) == 1:
        return possible[0]
    places, told = [_place(path) for path in possible], _told(entries)
    if named is not None:
        raise UserError(what, f"{named!r} holds none in batches of {told}", f"one of {places or 'none'}")
    if possible:
        several = "; of several train loaders the one that is named gets the triggers" if len(possible[0]) > 1 else ""
        raise UserError(what, f"may be any of {places} in batches of {told}", f"{what}={places[0]!r}{several}")
    right = "one float or uint8 tensor (n, c, h, w)"
    if what == "labels":
        right = f"whole numbers (n,) or (n, 1), for two classes also floats, or a tensor (n, {n_classes})"
    raise UserError(what, f"there are none in batches of {told}", right)


def _nearest(images: Path, possible: list[Path]) -> list[Path]:
    """Of places those that share the innermost container with the images."""
    depths = range(len(images) - 1, -1, -1)
    near = ([path for path in possible if _begins(path, images[:depth])] for depth in depths)
    return next((paths for paths in near if paths), [])


def _told(entries: Mapping[Path, Any]) -> str:
    return listed(f"{_place(path)!r}: {_kind(entry)}" for path, entry in entries.items())


def _kind(entry: Any) -> str:
    if isinstance(entry, Tensor):
        return f"{str(entry.dtype).removeprefix('torch.')} {tuple(entry.shape)}"
    return type(entry).__name__


def _path(place: Place) -> Path:
    return place if isinstance(place, tuple) else (place,)


def _place(path: Path) -> Place:
    return path[0] if len(path) == 1 else path


def _begins(path: Path, start: Path) -> bool:
    return path[: len(start)] == start


def _shared(a: Path, b: Path) -> Path:
    """The start that two paths share."""
    n = next((i for i, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))
    return a[:n]


def _by_image(entry: Any, n: int) -> bool:
    """Whether an entry has a value for each of the ``n`` images."""
    if isinstance(entry, Tensor):
        return entry.ndim > 0 and len(entry) == n
    return isinstance(entry, (list, tuple)) and len(entry) == n


def _kept(entry: Any) -> Any:
    return entry.detach().clone() if isinstance(entry, Tensor) else entry


def _both(first: Any, second: Any) -> Any:
    if not isinstance(first, Tensor):
        return type(first)([*first, *second])
    second = second.to(first)
    if first.ndim == 4 and not first.is_contiguous() and first.is_contiguous(memory_format=torch.channels_last):
        second = second.contiguous(memory_format=torch.channels_last)  # a mixture would be laid out anew
    return torch.cat([first, second])
