"""The one error a user's mistake ends in."""

from __future__ import annotations

from collections.abc import Iterable

from hydra.errors import CompactHydraException


class UserError(CompactHydraException):
    """A mistake in what was asked for, told in one line and without a traceback.

    Hydra prints subclasses of its compact exception as their message alone, in single runs and in sweeps.

    Args:
        key: the config key that holds the wrong value, as the user would type it.
        wrong: what is wrong with it.
        right: what would be right.
    """

    def __init__(self, key: str, wrong: str, right: str) -> None:
        super().__init__(key, wrong, right)
        self.key = key

    def __str__(self) -> str:
        key, wrong, right = self.args
        return " ".join(f"{key}: {wrong}; {right}".split())


def listed(values: Iterable[object], most: int = 12) -> str:
    """Joins values for an error message and cuts long lists."""
    items = [str(value) for value in values]
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more} more" if more > 0 else "")


def reason_of(error: Exception) -> str:
    """The first line of what an error of other code says, or the error's name."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
