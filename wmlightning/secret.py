"""The owner's secret, and everything random that follows from it, byte for byte, on every platform."""

from __future__ import annotations

import functools
import hashlib
import hmac
import math

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri


class Secret:
    """32 secret bytes from which any number of independent secrets and streams are derived.

    Derivation is HMAC-SHA256 over a label; a stream expands a derived secret with SHAKE-256. Neither depends on
    the platform, on a library's random generator or on what the process drew before.

    Args:
        key: exactly 32 bytes.

    Raises:
        ValueError: if ``key`` has another length.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError(f"a secret has 32 bytes, not {len(key)}")
        self._key = key

    @classmethod
    def from_seed(cls, seed: int) -> Secret:
        """The secret of a study: reproducible, and only as secret as the seed."""
        return cls(hashlib.sha256(f"wmlightning/study-secret/{seed}".encode()).digest())

    def derive(self, label: str) -> Secret:
        """An independent secret for ``label``; the parent cannot be found from it."""
        return Secret(hmac.digest(self._key, label.encode(), "sha256"))

    def reveal(self) -> bytes:
        """The bytes themselves, for the owner's key file."""
        return self._key

    def name(self) -> str:
        """16 hexadecimal digits that tell secrets apart in public and reveal nothing of them."""
        return self.derive("public name")._key.hex()[:16]

    def stream(self, label: str) -> Stream:
        """Random numbers for ``label``."""
        return Stream(self.derive(label)._key)

    def __repr__(self) -> str:
        return "Secret(...)"  # a secret printed by accident is a secret lost


class Stream:
    """Random numbers that follow from a key alone. Two streams of one key give the same numbers."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._drawn = 0

    def _bytes(self, n: int) -> bytes:
        block = hashlib.shake_256(self._key + self._drawn.to_bytes(8, "little")).digest(n)
        self._drawn += 1
        return block

    def _words(self, n: int) -> npt.NDArray[np.uint64]:
        return np.frombuffer(self._bytes(8 * n), "<u8").astype(np.uint64)

    def integers(self, n: int, bound: int) -> npt.NDArray[np.int64]:
        """``n`` integers, uniform over 0..bound-1 without the modulo's bias."""
        if bound < 1:
            raise ValueError("bound must be positive")
        limit = 2**64 - 2**64 % bound
        words = self._words(n)
        while (bad := words > np.uint64(limit - 1)).any():
            words[bad] = self._words(int(bad.sum()))
        numbers: npt.NDArray[np.int64] = (words % np.uint64(bound)).astype(np.int64)
        return numbers

    def integer(self, bound: int) -> int:
        """One integer, uniform over 0..bound-1."""
        return int(self.integers(1, bound)[0])

    def sample(self, n: int, k: int) -> npt.NDArray[np.int64]:
        """``k`` different integers of 0..n-1 in random order."""
        if not 0 <= k <= n:
            raise ValueError(f"cannot draw {k} of {n}")
        order: npt.NDArray[np.int64] = np.argsort(self._words(n), kind="stable").astype(np.int64)
        return order[:k]

    def normal(self, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Standard normal numbers on a grid of 2**16 equally likely quantiles, each a multiple of 2**-20.

        Tables of exact numbers instead of a formula: logarithms differ in their last bit between platforms.
        """
        words = np.frombuffer(self._bytes(2 * math.prod(shape)), "<u2")
        numbers: npt.NDArray[np.float64] = _normal_quantiles()[words].reshape(shape) / 2.0**20
        return numbers


@functools.lru_cache(maxsize=1)
def _normal_quantiles() -> npt.NDArray[np.int64]:
    middles = (np.arange(2**16) + 0.5) / 2**16
    return np.rint(ndtri(middles) * 2**20).astype(np.int64)
