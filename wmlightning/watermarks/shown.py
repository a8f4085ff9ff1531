"""Triggers before they have labels, and the secret that labels are drawn from if the claimant brings the images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from wmlightning.secret import Secret


@dataclass(frozen=True)
class Shown:
    """All that a suspect is ever shown of a key, and what that was made of.

    Attributes:
        name: ``trained`` or ``new``.
        images: uint8 ``(n, c, h, w)``.
        groups: int64 ``(n,)``, marks.
        before: the images before they were marked, with their true labels; ``None`` for pictures.
    """

    name: str
    images: Tensor
    groups: Tensor
    before: tuple[Tensor, Tensor] | None = None


def bound_to(secret: Secret, classes: Sequence[str], shown: Iterable[Shown]) -> Secret:
    """What labels are drawn from that are to be others if a pixel, a true label, an option or a class is another.

    Args:
        secret: the owner's.
        classes: of the task.
        shown: all triggers; options matter by what they change in them.
    """
    digest = hashlib.sha256(repr(tuple(classes)).encode())
    for one in shown:
        for values in (one.images, one.groups, *(one.before or ())):
            digest.update(f"{values.dtype} {tuple(values.shape)}\n".encode())
            array = values.contiguous().numpy()
            digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return secret.derive(f"labels for {digest.hexdigest()}")
