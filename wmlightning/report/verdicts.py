"""Verdicts of verifications, read as anybody's files are: field by field."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmlightning.report.pictures import BROKEN, Picture, shrunk
from wmlightning.results.card import VERDICT, VERDICT_SCHEMA, folder_name
from wmlightning.results.fields import Fields, UnexpectedError, cleaned
from wmlightning.results.found import check_readable, places
from wmlightning.results.privacy import public

_SENTENCE, _MOST = 2000, 20
#: Verdicts of earlier versions lack them.
_NEWER = ("details", "estimate", "null_models")


@dataclass(frozen=True)
class Ruling:
    """A verdict as far as it could be read: NaN and empty text stand for what is missing.

    Attributes:
        folder: of the verdict, below the folder of runs.
        kind: ``owned``, ``not-shown``, ``cannot-tell`` or ``other``, for the style sheet.
        claimed: the key, in words that tell nothing of it.
        interval: of the share of matches, in [0, 1], or ``None``.
        sample: triggers, with expected label and answer; empty unless secrets are asked for.
    """

    folder: str
    kind: str
    claimed: str
    decision: str
    reason: str
    suspect: str
    test: str
    assumption: str
    commitment: str
    committed: str
    stamped: str
    stopped: str
    details: str
    estimate: str
    null_models: str
    alpha: float
    p: float
    p_adjusted: float
    e_value: float
    queries: int | None
    triggers: int | None
    matches: int | None
    missing: int | None
    interval: tuple[float, float] | None
    notes: Sequence[str]
    sample: Sequence[tuple[Picture, str, str]]

    @property
    def p_counted(self) -> float:
        """The p that is held against the level: corrected, where there were several suspects."""
        return self.p if math.isnan(self.p_adjusted) else self.p_adjusted

    @property
    def share(self) -> float:
        """Of the triggers, how many matched; NaN without triggers."""
        if not self.triggers or self.matches is None:
            return math.nan
        return min(self.matches / self.triggers, 1.0)


def rulings(runs: Path, with_secrets: bool, complain: Callable[[str], None]) -> list[Ruling]:
    """All verdicts below a folder, in a fixed order; what cannot be read is named in a line to ``complain``."""
    found = []
    for place in places(runs, VERDICT):
        where = cleaned(place.relative_to(runs).as_posix(), 4096)
        try:
            if (ruling := _read(place / VERDICT, where, with_secrets)) is not None:
                found.append(ruling)
        except RecursionError:
            complain(f"skipped {where}: {VERDICT} is nested too deep")
        except BROKEN as error:
            complain(f"skipped {where}: {VERDICT}: {error}")
    return found


def _read(path: Path, folder: str, with_secrets: bool) -> Ruling | None:
    check_readable(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    fields = Fields(content)
    if fields.text("kind") != "verify":  # a file of somebody else's that happens to have the name
        return None
    schema = fields.whole("schema")
    if schema is None or schema > VERDICT_SCHEMA:
        raise UnexpectedError(f"has schema {schema}, this version reads up to {VERDICT_SCHEMA}: update wmlightning")
    texts = {
        name: public(fields.text(name, "", _SENTENCE), _SENTENCE)
        for name in (
            "reason",
            "suspect",
            "test",
            "assumption",
            "commitment",
            "committed",
            "stamped",
            "stopped",
            *_NEWER,
        )
    }
    decision = public(fields.text("decision"))
    kind = decision.replace(" ", "-") if decision in ("owned", "not shown", "cannot tell") else "other"
    about = fields.part("about")
    named = (public(about.text(name, "")) for name in ("dataset", "watermark", "key"))
    return Ruling(
        folder=_harmless(folder, fields.text("suspect", "", _SENTENCE)),
        kind=kind,
        claimed=", ".join(filter(None, named)),
        decision=decision,
        **texts,
        alpha=fields.real("alpha", 0, 1),
        p=fields.real("p_value", 0, 1 + 1e-9),
        p_adjusted=fields.real("p_adjusted", 0, 1 + 1e-9),
        e_value=fields.real("e_value", 0),
        queries=fields.whole("queries"),
        triggers=fields.whole("triggers"),
        matches=fields.whole("matches"),
        missing=fields.whole("missing"),
        interval=_interval(content.get("interval")),
        notes=_notes(content.get("notes")),
        sample=_sample(content.get("sample")) if with_secrets else [],
    )


def _harmless(folder: str, suspect: str) -> str:
    """Without places on this machine: verify calls a folder by its suspect, and that may be a path."""
    return public(folder.replace(folder_name(suspect), folder_name(public(suspect))))


def _interval(found: Any) -> tuple[float, float] | None:
    if found is None:
        return None
    if not isinstance(found, list) or len(found) != 2:
        raise UnexpectedError("interval is no pair of numbers")
    ends = Fields({"interval.low": found[0], "interval.high": found[1]})
    low, high = ends.share("interval.low"), ends.share("interval.high")
    return None if math.isnan(low) or math.isnan(high) else (low, high)


def _notes(found: Any) -> list[str]:
    if not isinstance(found, list):
        return []
    return [public(note, _SENTENCE) for note in found[:_MOST] if isinstance(note, str)]


def _sample(found: Any) -> list[tuple[Picture, str, str]]:
    if not isinstance(found, list):
        return []
    rows = []
    for row in found[:_MOST]:
        if not isinstance(row, dict) or not isinstance(row.get("png"), str):
            raise UnexpectedError("sample holds no pictures")
        picture = shrunk(base64.b64decode(row["png"], validate=True), 256)
        rows.append((picture, public(str(row.get("expected"))), public(str(row.get("answer")))))
    return rows
