"""The result of asking a suspect: decision, numbers and the assumption they rest on, for people and for scripts."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image

from wmlightning.data.batches import ImageSet
from wmlightning.data.decoding import visible
from wmlightning.files import json_bytes, write_bytes
from wmlightning.ownership.recorded import Recorded
from wmlightning.ownership.statistics.power import Estimate
from wmlightning.results.card import VERDICT, VERDICT_SCHEMA

_SAMPLE = 8
#: What a claimed key is told apart by, of what results are.
ABOUT = ("dataset", "watermark", "key")
Decision = Literal["owned", "not shown", "cannot tell"]
EXIT_CODES: dict[Decision, int] = {"owned": 0, "not shown": 1, "cannot tell": 2}


@dataclass(frozen=True)
class Verdict:
    """What came out of asking one suspect.

    Attributes:
        decision: ``owned`` if the p-value is at most ``alpha``; ``cannot tell`` if no answer could have decided.
        reason: one sentence on why.
        suspect: its name.
        commitment: SHA-256 of the key.
        committed: when the commitment was made, by its owner's word, if one was given.
        test: the statistical test.
        assumption: what its validity rests on.
        alpha: level of the test.
        p_value: how likely an innocent suspect gives as many matches; of the sequential test, anytime-valid.
        stamped: when it existed at the latest, and which authority vouches for that.
        p_adjusted: the same after correction for several suspects and looks.
        e_value: evidence of the sequential test, or ``None``.
        about: which key it is, in words that every table uses: ``dataset``, ``watermark``, ``key``.
        queries: images that were sent, decoys included.
        triggers: triggers among them.
        matches: triggers that got the label that the key expects.
        missing: triggers without a usable answer.
        interval: 95 % Clopper-Pearson interval of the share of matches.
        estimate: how many queries were expected to decide, before the first one.
        stopped: why no more was asked.
        details: how the p-value came about.
        null_models: how models that were made without the key fared in the same test.
        identity: what was asked: by what it holds if it is a file, else by its name; empty if it is gone.
        notes: what else a reader must know.
        sample: triggers with their answers, only if asked for.
    """

    decision: Decision
    reason: str
    suspect: str
    commitment: str
    committed: str | None
    test: str
    assumption: str
    alpha: float
    p_value: float
    e_value: float | None
    queries: int
    triggers: int
    matches: int
    missing: int
    interval: tuple[float, float]
    estimate: str
    stopped: str
    details: str = ""
    stamped: str | None = None
    p_adjusted: float | None = None
    null_models: str | None = None
    identity: str = ""
    notes: list[str] = field(default_factory=list)
    sample: list[dict[str, Any]] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 for ``owned``, 1 for ``not shown``, 2 for ``cannot tell``."""
        return EXIT_CODES[self.decision]

    @property
    def key(self) -> str:
        """The key that is claimed, in words."""
        return ", ".join(self.about.get(name, "") for name in ABOUT if self.about.get(name))

    def text(self) -> str:
        """For a terminal."""
        low, high = (f"{100 * bound:.0f}" for bound in self.interval)
        share = (
            f" ({100 * self.matches / self.triggers:.0f} %, 95 % interval {low} to {high} %)" if self.triggers else ""
        )
        lines = [
            f"{self.decision.upper()}: {self.suspect}",
            f"  {self.reason}",
            f"  test: {self.test}; {_p(self.p_value)} at alpha = {self.alpha:g}" + _more(self.details),
            f"  {self.matches} of {self.triggers} triggers matched{share}; {self.missing} without an answer",
            f"  {self.queries} queries: {self.stopped}; before the first, {self.estimate}",
            *([f"  assumption: {self.assumption}"] if self.assumption else []),
            *([f"  key: {self.key}"] if self.about else []),
            f"  commitment: {self.commitment}" + (f", made {self.committed}" if self.committed else ""),
        ]
        if self.stamped is not None:
            lines.append(f"  time stamp: {self.stamped}")
        if self.p_adjusted is not None:
            lines.insert(3, f"  after correction for several suspects and looks: {_p(self.p_adjusted)}")
        if self.null_models is not None:
            lines.append(f"  cross-check: {self.null_models}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def write(self, folder: Path) -> Verdict:
        """Writes ``verdict.json``, ``verdict.txt`` and ``report.html``, private if they show triggers.

        Unless this cannot tell, and a verdict on the same suspect is there.

        Returns:
            This one, with a note if another stands.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if (other := self._outdone_by(folder / VERDICT)) is not None:
            return replace(self, notes=[*self.notes, f"The verdict that was reached before stands: {other}."])
        told = json_bytes({"kind": "verify", "schema": VERDICT_SCHEMA, **asdict(self)})
        texts = (("report.html", self.html().encode()), ("verdict.txt", (self.text() + "\n").encode()), (VERDICT, told))
        for name, content in texts:
            write_bytes(folder / name, content, private=bool(self.sample))
        return self

    def _outdone_by(self, path: Path) -> str | None:
        """What was decided before, if nothing is now: a suspect that is gone takes no verdict with it."""
        if self.decision != "cannot tell":
            return None
        try:
            other = json.loads(path.read_text())
            same = all(other[name] == getattr(self, name) for name in ("suspect", "commitment"))
            same = same and self.identity in ("", other["identity"])
            decided = EXIT_CODES[other["decision"]] < self.exit_code
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None  # none, or none of ours
        return str(other["decision"]) if same and decided else None

    def html(self) -> str:
        """One page of evidence: complete in itself, with nothing secret unless a sample was asked for."""
        pages = Environment(
            loader=PackageLoader("wmlightning.ownership", "pages"),
            autoescape=select_autoescape(default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        pages.filters["p"] = _p
        return pages.get_template("report.html").render(v=self)


def estimated(estimate: Estimate, alpha: float, survival: float) -> str:
    """A power estimate, as a sentence."""
    alive = f"{100 * survival:g} % of the triggers still work"
    if estimate.triggers is None:
        return f"not enough for alpha = {alpha:g} if {alive}: {estimate.reason}"
    about = f"about {estimate.spent:.0f} queries decide at alpha = {alpha:g}"
    return f"{about} if at least {alive} (power {100 * estimate.power:.0f} % with {estimate.triggers} triggers)"


def trigger_sample(triggers: ImageSet, asked: Recorded) -> list[dict[str, Any]]:
    """The first triggers that were asked about, with expected labels and answers: secret."""
    rows: list[dict[str, Any]] = []
    for image, label in zip(triggers.images, triggers.labels, strict=True):
        answer = asked.answer(image)
        if answer is None or len(rows) == _SAMPLE:
            continue
        buffer = io.BytesIO()
        Image.fromarray(visible(image).permute(1, 2, 0).squeeze(-1).numpy()).save(buffer, format="png")
        png = base64.b64encode(buffer.getvalue()).decode()
        rows.append({"png": png, "expected": int(label), "answer": "none" if answer.label is None else answer.label})
    return rows


def _more(details: str) -> str:
    return f"; {details}" if details else ""


def _p(value: float) -> str:
    return f"p = {value:.3g}" if value >= 1e-300 else "p < 1e-300"
