"""One seed per role, all derived from the user's ``seed``, so that changing one does not move the others."""

from __future__ import annotations

import hashlib

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
