"""How a picture becomes what a stranger's network takes: by the project's own road of evaluation, checked."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from wmlightning.errors import UserError

#: A PIL picture to a tensor ``(c, h, w)``.
ToInput = Callable[[Image.Image], Tensor]

_LOOKED_AT = 64  # clean images that a scale is judged by
_TRIED = 16  # items of the evaluation data that a transform found there is tried with
_GIVE = "Watermark(..., to_input=f), f the project's transform of evaluation: a PIL picture to a (c, h, w) tensor"
_SIZE = "; if it trains at another size than it evaluates, train_input= makes triggers of that size"
_TRUST = "; check_inputs=False if all is as it should be, with classes one after the other, say"


class Inputs:
    """Images of a key as the network takes them.

    Args:
        images: uint8 ``(n, c, h, w)``.
        to_input: see :data:`ToInput`.
        room: bytes of ready inputs to keep for the next time.
    """

    def __init__(self, images: Tensor, to_input: ToInput, room: int = 0) -> None:
        self.images = images
        self.to_input = to_input
        self._made: dict[int, Tensor] = {}
        self._room = room

    def __len__(self) -> int:
        return len(self.images)

    def at(self, index: Tensor) -> Tensor:
        """The inputs at ``index`` (int64 ``(m,)``): ``(m, c', h', w')``, with m > 0."""
        return torch.stack([self._at(i) for i in index.tolist()])

    def _at(self, i: int) -> Tensor:
        if i in self._made:
            return self._made[i]
        made = converted(self.images[i], self.to_input)
        size = made.numel() * made.element_size()
        if size <= self._room:
            self._room -= size
            self._made[i] = made
        return made


def picture(image: Tensor) -> Image.Image:
    """A uint8 image ``(c, h, w)`` with one or three channels as PIL has it."""
    pixels = image.numpy()
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def converted(image: Tensor, to_input: ToInput) -> Tensor:
    """One image by the project's road.

    Raises:
        UserError: if no image tensor comes out.
    """
    try:
        made = to_input(picture(image))
    except UserError:  # ours: there is no road
        raise
    except Exception as error:  # others wrote it: it may raise anything
        reason = (str(error).strip().splitlines() or [""])[0][:150]
        raise UserError("to_input", f"it takes no PIL picture ({type(error).__name__}: {reason})", _GIVE) from error
    if isinstance(made, np.ndarray):
        made = torch.from_numpy(np.ascontiguousarray(made))  # it may be a flipped view
    if not isinstance(made, Tensor) or made.ndim != 3:
        found = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise UserError("to_input", f"it makes {found} of a picture", _GIVE)
    return made


@contextmanager
def undrawn(devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Whatever is drawn inside, generators of torch, NumPy and Python are as before: they are the project's.

    Args:
        devices: GPUs whose generators are meant too.
    """
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (not ours: to be left alone)
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002


def check_steady(name: str, images: Tensor, to_input: ToInput) -> None:
    """Refuses a road that is not the same each time: a random crop or flip would destroy marks.

    Args:
        name: of the argument that it was given as.
        images: uint8 ``(n, c, h, w)``; the first of them are looked at.
        to_input: the road.

    Raises:
        UserError: if it is random, or sizes differ.
    """
    with undrawn():
        for image in images[:_LOOKED_AT]:
            first, second = (converted(image, to_input) for _ in range(2))
            if not _same(first, second):
                raise UserError(name, "it makes something else of the same picture each time", _GIVE)


class Scale:
    """Compares what the project trains on with what the key's clean images become: they must look alike.

    A forgotten normalisation, 0..255 for 0..1 or another size would teach the model triggers that it is never shown.

    Args:
        ours: the key's clean images as inputs, ``(n, c, h, w)``.
    """

    def __init__(self, ours: Tensor) -> None:
        self.ours = _moments(ours)
        self.like = ours[:1].cpu()
        self._seen: list[Tensor] = []

    def fits(self, clean: Tensor) -> None:
        """Looks at the shape and type of a training batch.

        Raises:
            UserError: if the key's images have others.
        """
        if clean.shape[1:] != self.like.shape[1:] or clean.is_floating_point() != self.like.is_floating_point():
            wrong = f"it makes {_kind(self.like)}, the project trains on {_kind(clean)}"
            raise UserError("to_input", wrong, _GIVE + (_SIZE if clean.dtype == self.like.dtype else ""))

    def see(self, clean: Tensor) -> None:
        """Looks at a training batch; judges when it has seen enough.

        Raises:
            UserError: if the key's images have another mean or spread.
        """
        self._seen.append(clean.detach().float().cpu())
        if sum(map(len, self._seen)) < _LOOKED_AT:
            return
        theirs = _moments(torch.cat(self._seen))
        self._seen = []
        for (mean, std), (their_mean, their_std) in zip(self.ours, theirs, strict=True):
            low, high = sorted((std, their_std))
            if abs(mean - their_mean) > high or high > 2 * low + 1e-6:
                wrong = f"it makes pixels {_spread(mean, std)}, the project trains on {_spread(their_mean, their_std)}"
                raise UserError("to_input", wrong, _GIVE + _TRUST)


def find_to_input(loaders: Any) -> ToInput:
    """The transform that the project's evaluation data apply, if it can be found and shown to be the whole road.

    Args:
        loaders: evaluation loaders as Lightning has them.

    Raises:
        UserError: if it cannot.
    """
    loader = next((loader for loader in _leaves(loaders) if isinstance(loader, DataLoader)), None)
    dataset: Any = getattr(loader, "dataset", None)
    n = len(dataset) if hasattr(dataset, "__len__") else 1
    tried: Sequence[int] = range(0, n, max(1, n // _TRIED))  # from all over: some pictures may be left alone
    while hasattr(dataset, "dataset") and hasattr(dataset, "indices"):  # a Subset
        tried, dataset = [int(dataset.indices[index]) for index in tried], dataset.dataset
    transform = getattr(dataset, "transform", None)
    if not callable(transform):
        raise UserError("to_input", "the project's evaluation data have no transform to take over", _GIVE)
    try:
        raw = copy.copy(dataset)
        raw.transform = _itself
        whole = len(tried) > 0 and all(_is_made_by(transform, raw[index], dataset[index]) for index in tried)
    except (TypeError, AttributeError, LookupError, ValueError, RuntimeError, NotImplementedError, OSError):
        whole = False  # it is not what it looked like
    if not whole:
        wrong = f"{type(dataset).__name__}.transform is not all that makes inputs of its pictures, or is random"
        raise UserError("to_input", wrong, _GIVE)
    found: ToInput = transform
    return found


def _itself(image: Any) -> Any:
    return image


def _is_made_by(transform: ToInput, raw: Any, item: Any) -> bool:
    before, after = _image_of(raw, Image.Image), _image_of(item, Tensor)
    return before is not None and after is not None and _same(transform(before), after)


def _image_of(item: Any, kind: type) -> Any:
    values = item.values() if isinstance(item, dict) else item if isinstance(item, (tuple, list)) else ()
    return next((value for value in values if isinstance(value, kind)), None)


def _leaves(loaders: Any) -> Sequence[Any]:
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, (list, tuple)):
        return [leaf for loader in loaders for leaf in _leaves(loader)]
    return [loaders]


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)


def _moments(images: Tensor) -> list[tuple[float, float]]:
    """Mean and standard deviation of each channel."""
    channels = images.detach().float().cpu().transpose(0, 1).flatten(1)
    return [(float(c.mean()), float(c.std())) for c in channels]


def _kind(images: Tensor) -> str:
    return f"{str(images.dtype).removeprefix('torch.')} {'x'.join(map(str, images.shape[1:]))}"


def _spread(mean: float, std: float) -> str:
    return f"around {mean:.3g} (standard deviation {std:.2g})"
