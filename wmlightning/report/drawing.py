"""Where values lie in a drawing, which of them are labelled, and how lines are told apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from wmlightning.results.rows import is_by_heart

#: Of every drawing, in its own units; the page scales it.
WIDTH, HEIGHT = 380, 236
LEFT, RIGHT, TOP, BOTTOM = 40, 372, 10, 194

_LETTER, _LARGE = 6.4, 8.8  # width of a digit of a label, and of one on a narrow screen
_MARGIN = 16  # for symbols beside the outermost values
_SLOT = 56  # on a logarithmic axis, for the untouched model, which has no strength
_LOSSES = (-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50, 100)
_COLOURS, _SHAPES, _DASHES = 6, 7, 4  # as many as style.css and the symbols on the page


@dataclass(frozen=True)
class Axis:
    """A direction of a drawing.

    Attributes:
        at: where a value lies.
        ticks: places with their labels.
        title: what the values are.
    """

    at: Callable[[float], float]
    ticks: Sequence[tuple[float, str]]
    title: str

    @property
    def crowded(self) -> set[float]:
        """Places whose labels are in the way of others where letters are large."""
        kept = _thinned(self.ticks, _LARGE)
        return {place for place, _ in self.ticks} - {place for place, _ in kept}


@dataclass(frozen=True)
class Look:
    """How a line is drawn. Watermarks differ in colour and shape, keys in dashes and filling.

    Attributes:
        colour: number of a colour in the style sheet; -1 for what has no watermark.
        shape: number of a symbol.
        dash: number of a kind of line.
        hollow: whether symbols are outlines.
    """

    colour: int
    shape: int
    dash: int = 0
    hollow: bool = False


def looks(summary: pd.DataFrame) -> dict[tuple[str, str], Look]:
    """A look for each watermark and key: the same on the whole page. Many keys need more than one colour."""
    watermarks = [name for name in dict.fromkeys(summary["watermark"]) if name != "none"]
    keys = [name for name in dict.fromkeys(summary["key"]) if name]
    found = {}
    for watermark, key in dict.fromkeys(zip(summary["watermark"], summary["key"], strict=True)):
        j = keys.index(key) if key else 0
        if watermark == "none":
            found[watermark, key] = Look(-1, _SHAPES - 1, j % _DASHES)
        else:
            i = watermarks.index(watermark) + j // _DASHES * len(watermarks)
            found[watermark, key] = Look(i % _COLOURS, i % (_SHAPES - 1), j % _DASHES, j % 2 == 1)
    return found


def records(table: pd.DataFrame, by: str | None = None) -> list[dict[str, Any]]:
    """The rows of a table, sorted by a column if one is named."""
    rows = table if by is None else table.sort_values(by)
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def label(watermark: str, key: str) -> str:
    """What a line is called."""
    return "no watermark" if watermark == "none" else f"{watermark}, {key}" if key else watermark


def triggers_of(key: str) -> str:
    """By which triggers a key is judged."""
    return "trained triggers" if is_by_heart(key) else "new triggers"


def spelled(value: float, digits: int) -> str:
    """For people: rounded, with a true minus sign, and none at zero; empty for NaN."""
    rounded = round(value, digits) + 0.0  # of -0.0 this makes 0.0
    return "" if math.isnan(value) else f"{rounded:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def percent_axis(title: str, low: float = 0.0, high: float = 100.0) -> Axis:
    """Upwards, in per cent: from ``low`` to ``high``, both moved outwards to the next round number."""
    step = next((step for step in (1, 2, 5, 10) if math.ceil(high / step) - math.floor(low / step) <= 5), 25)
    bottom, top = math.floor(low / step) * step, math.ceil(high / step) * step
    if bottom == top:
        bottom -= step

    def at(value: float) -> float:
        return _rounded(BOTTOM - (min(max(value, bottom), top) - bottom) / (top - bottom) * (BOTTOM - TOP))

    return Axis(at, [(at(value), f"{value}") for value in range(bottom, top + 1, step)], title)


def strength_axis(strengths: Iterable[float], log: bool, title: str) -> Axis:
    """To the right, by strength. On a logarithmic scale NaN, the untouched model, lies before all others."""
    known = sorted({value for value in strengths if math.isfinite(value) and (value > 0 or not log)})
    start = LEFT + (_SLOT if log else _MARGIN)
    low, high = (_scaled(known[0], log), _scaled(known[-1], log)) if known else (0.0, 0.0)
    unit = 1.0 if math.isfinite(high - low) else 0.5  # the difference of two numbers may be larger than any number

    def at(value: float) -> float:
        if math.isnan(value):
            return float(LEFT + _MARGIN)
        share = (_scaled(value, log) * unit - low * unit) / (high * unit - low * unit) if high > low else 0.5
        return _rounded(start + share * (RIGHT - _MARGIN - start))

    places = [(at(value), f"{value:g}") for value in known]
    if log:
        places.insert(0, (at(math.nan), "none"))
    return Axis(at, _thinned(places), title)


def loss_axis(losses: Iterable[float], title: str) -> Axis:
    """To the right, in percentage points: even up to one, where good attacks differ; logarithmic beyond."""
    values = [*losses, 0.0, 1.0]
    low, high = _symlog(min(values)), _symlog(max(values))

    def at(value: float) -> float:
        return _rounded(LEFT + 10 + (_symlog(value) - low) / (high - low) * (RIGHT - LEFT - 20))

    ticks = [(at(tick), f"{tick}") for tick in _LOSSES if min(values) <= tick <= max(values)]
    return Axis(at, _thinned(ticks), title)


def _scaled(value: float, log: bool) -> float:
    return math.log10(value) if log else value


def _symlog(value: float) -> float:
    return value if abs(value) <= 1 else math.copysign(1 + math.log10(abs(value)), value)


def _thinned(ticks: Sequence[tuple[float, str]], letter: float = _LETTER) -> list[tuple[float, str]]:
    """Without labels that would overlap; the last one stays, and the first if both have room."""

    def apart(a: tuple[float, str], b: tuple[float, str]) -> bool:
        return b[0] - a[0] >= (len(a[1]) + len(b[1])) / 2 * letter + 6

    kept = list(ticks[-1:])
    for tick in reversed(ticks[:-1]):
        if apart(tick, kept[-1]) and (tick == ticks[0] or apart(ticks[0], tick)):
            kept.append(tick)
    return kept[::-1]


def _rounded(value: float) -> float:
    return round(value, 1)
