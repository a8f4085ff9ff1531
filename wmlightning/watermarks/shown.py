"""Triggers before they have labels, and the secret that labels are drawn from if the claimant brings the images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
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

    def tensors(self) -> Iterator[Tensor]:
        """All of it, in this order."""
        yield from (self.images, self.groups, *(self.before or ()))


def bound_to(secret: Secret, what: str, classes: Sequence[str], tensors: Iterable[Tensor]) -> Secret:
    """What is drawn from this is another if a pixel, a true label, an option or a class is another.

    Args:
        secret: the owner's.
        what: is drawn.
        classes: of the task.
        tensors: images and labels; options matter by what they change in them.
    """
    digest = hashlib.sha256(repr(tuple(classes)).encode())
    for values in tensors:
        digest.update(f"{values.dtype} {tuple(values.shape)}\n".encode())
        array = values.contiguous().numpy()
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return secret.derive(f"{what} for {digest.hexdigest()}")
