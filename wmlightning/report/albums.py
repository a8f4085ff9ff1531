"""The pictures that trainings and attacks left beside their cards."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmlightning.report.overview import Result
from wmlightning.report.pictures import BROKEN, Picture, embedded
from wmlightning.results.card import GALLERY, PICTURE
from wmlightning.results.fields import Fields, UnexpectedError

#: A detection with a p-value up to this found something of the secret: its picture is not for everybody.
TELLING = 0.05

#: More pictures than this would make a page that no mail takes.
_MOST = 60


@dataclass(frozen=True)
class Shown:
    """A picture, or the line that stands for one which is withheld.

    Attributes:
        result: what left it.
        picture: ``None`` if it is withheld.
        null: of a detection, mean and largest score of strangers' marks.
    """

    result: Result
    picture: Picture | None
    null: tuple[float, float] | None = None


@dataclass(frozen=True)
class Album:
    """Pictures of one watermark and key on one task, seed by seed."""

    dataset: str
    label: str
    pictures: Sequence[Shown]


@dataclass(frozen=True)
class Albums:
    """All of a kind.

    Attributes:
        albums: with something to show.
        left_out: pictures for which there was no room.
    """

    albums: Sequence[Album]
    left_out: int


def inversions(
    runs: Path,
    results: Sequence[Result],
    cards: Mapping[str, Mapping[str, Any]],
    with_secrets: bool,
    complain: Callable[[str], None],
) -> Albums:
    """What detection attacks recovered.

    The pictures hold recovered images alone. But one that is more like the key's marks than nearly all strangers' marks
    are is a picture of the secret, if a faint one: it is withheld unless secrets are asked for. So is one that was
    never compared, or with so few strangers, or such as look so much alike, that no picture could have stood out.
    """
    nulls, harmless = {}, set[str]()
    for result in results:
        if result.detects and result.folder in cards and os.path.lexists(runs / result.folder / PICTURE):
            findings = Fields(cards[result.folder].get("findings") or {})
            nulls[result.folder] = _null(findings)
            if with_secrets or result.watermark == "none" or _tells_nothing(findings):
                harmless.add(result.folder)
    wanted = [result for result in results if result.folder in nulls]

    def show(result: Result) -> Shown | None:
        if result.folder not in harmless:
            return Shown(result, None, nulls[result.folder])
        picture = _read(runs / result.folder / PICTURE, result, complain)
        return Shown(result, picture, nulls[result.folder]) if picture else None

    return _albums(wanted, show)


def _tells_nothing(findings: Fields) -> bool:
    """Whether the comparison could have shown something of the secret, and did not."""
    try:
        least, *found = (findings.share(name) for name in ("p_least", "p_value", "ssim_p_value"))
    except UnexpectedError:
        return False
    return least <= TELLING and all(p > TELLING for p in found)


def galleries(runs: Path, results: Sequence[Result], complain: Callable[[str], None]) -> Albums:
    """The triggers of each training: for the owner's eyes alone."""

    def show(result: Result) -> Shown | None:
        picture = _read(runs / result.folder / GALLERY, result, complain)
        return Shown(result, picture) if picture else None

    trained = [result for result in results if result.attack == "none"]
    return _albums([result for result in trained if os.path.lexists(runs / result.folder / GALLERY)], show)


def _null(findings: Fields) -> tuple[float, float] | None:
    try:
        mean, largest = findings.real("null_mean", -1, 1), findings.real("null_max", -1, 1)
    except UnexpectedError:
        return None
    return (mean, largest) if mean == mean and largest == largest else None  # neither is NaN


def _read(path: Path, result: Result, complain: Callable[[str], None]) -> Picture | None:
    try:
        return embedded(path)
    except BROKEN as error:
        complain(f"no picture of {result.folder}: {path.name}: {error}")
        return None


def _albums(wanted: Sequence[Result], show: Callable[[Result], Shown | None]) -> Albums:
    """Fairly shared: as many seeds of each watermark and key as there is room for."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in wanted:
        title = result.label + (f" ({result.settings})" if result.settings else "")
        groups.setdefault((result.dataset, result.model, title), []).append(result)
    each = max(1, _MOST // max(1, len(groups)))
    albums, left_out = [], 0
    for number, ((dataset, _, title), members) in enumerate(groups.items()):
        kept = members[:each] if number < _MOST else []
        left_out += len(members) - len(kept)
        pictures = [one for one in map(show, kept) if one is not None]
        pictures.sort(key=lambda one: one.picture is None)  # the first is what one sees of an album
        if pictures:
            albums.append(Album(dataset, title, pictures))
    return Albums(albums, left_out)
