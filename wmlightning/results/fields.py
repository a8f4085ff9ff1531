"""Plain content read field by field. Anybody may have written a card: what is not as expected is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

#: A longer name is cut: no table and no picture has room for it.
LONGEST = 120


class UnexpectedError(ValueError):
    """A field holds something else than it should."""


def cleaned(text: str, longest: int = LONGEST) -> str:
    """One printable line: no control characters that a terminal would obey, and not too long."""
    line = "".join(c if c.isprintable() else "?" for c in text[: longest + 1])
    return line if len(line) <= longest else line[: longest - 3] + "..."


class Fields:
    """A mapping whose values are asked for by name and type.

    Args:
        content: what was read.
        where: its place in the card, for the error.

    Raises:
        UnexpectedError: if it is no mapping; its methods, if a value is not of the type asked for.
    """

    def __init__(self, content: Any, where: str = "") -> None:
        self.where = where
        if not isinstance(content, dict):
            raise UnexpectedError(f"{where or 'the card'} is no mapping")
        self._content: dict[str, Any] = content

    def _at(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where else name

    def has(self, name: str) -> bool:
        """Whether there is a value, and not null."""
        return self._content.get(name) is not None

    def content(self) -> dict[str, Any]:
        """All of it, as it was read."""
        return self._content

    def part(self, name: str) -> Fields:
        """The mapping at ``name``; an empty one where there is none."""
        return Fields(self._content[name] if self.has(name) else {}, self._at(name))

    def parts(self, name: str) -> Iterator[Fields]:
        """The mappings in the list at ``name``."""
        found = self._content.get(name)
        if not isinstance(found, list):
            raise UnexpectedError(f"{self._at(name)} is no list")
        return (Fields(value, f"{self._at(name)}[{i}]") for i, value in enumerate(found))

    def text(self, name: str, default: str | None = None, longest: int = LONGEST) -> str:
        """A line of text; ``default``, if there is one, where nothing stands."""
        found = self._content.get(name)
        if found is None and default is not None:
            return default
        if not isinstance(found, str):
            raise UnexpectedError(f"{self._at(name)} is no text")
        return cleaned(found, longest)

    def choice(self, name: str, *allowed: str) -> str:
        """One of the ``allowed`` texts."""
        found = self.text(name)
        if found not in allowed:
            raise UnexpectedError(f"{self._at(name)} is none of {', '.join(allowed)}")
        return found

    def real(self, name: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A number from ``low`` to ``high``; NaN where nothing stands."""
        found = self._content.get(name)
        if found is None:
            return math.nan
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise UnexpectedError(f"{self._at(name)} is no number")
        try:
            number = float(found)
        except OverflowError:  # a whole number of more than 308 digits
            number = math.inf
        if math.isinf(number) or number < low or number > high:
            raise UnexpectedError(f"{self._at(name)} is out of range")
        return number

    def share(self, name: str) -> float:
        """A number from 0 to 1, for which a mean in single precision may be off by a rounding."""
        return min(self.real(name, 0, 1 + 1e-6), 1.0)

    def whole(self, name: str, low: int = 0) -> int | None:
        """A whole number that fits in 64 bits; ``None`` where nothing stands."""
        number = self.real(name, low, 2**63 - 1)
        if math.isnan(number):
            return None
        if not number.is_integer():
            raise UnexpectedError(f"{self._at(name)} is no whole number")
        return int(self._content[name])

    def flag(self, name: str) -> bool:
        """Yes or no."""
        found = self._content.get(name)
        if not isinstance(found, bool):
            raise UnexpectedError(f"{self._at(name)} is neither true nor false")
        return found

    def scalars(self, prefix: str = "") -> dict[str, str]:
        """All single values in it, however deep, under dotted names; no lists."""
        found: dict[str, str] = {}
        for name, value in sorted(self._content.items()):
            if isinstance(value, dict):
                found |= Fields(value, self._at(name)).scalars(f"{prefix}{name}.")
            elif not isinstance(value, list):
                found[cleaned(prefix + name)] = cleaned(f"{value:g}" if isinstance(value, float) else str(value))
        return found


def spelled(values: dict[str, str]) -> str:
    """In one line: ``lr=0.01, steps=3``."""
    return cleaned(", ".join(f"{name}={value}" for name, value in values.items()))
