"""One seed per role, all derived from the user's ``seed``, so that changing one does not move the others."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def role_seed(seed: int, role: str, *parts: int) -> int:
    """Derives the seed of a role (``split``, ``init``, ``train``, ...) and of its parts (epoch, step, rank).

    Returns:
        An integer in 0..2**63 - 1, independent of platform and process.
    """
    text = "/".join(["wmlightning", str(seed), role, *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, role: str, *parts: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Makes the random generator of a role: see :func:`role_seed`."""
    return torch.Generator(device).manual_seed(role_seed(seed, role, *parts))


def seed_all(seed: int) -> None:
    """Seeds the global generators: torch's, and those of Python and NumPy, which code of the user's may draw from."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (it is this one that others draw from)


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Has the global generators draw from a seed within the block; GPUs' are left alone."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            seed_all(seed)
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
