"""The result of asking a suspect: decision, numbers and the assumption they rest on, for people and for scripts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from wmlightning.files import write_bytes, write_json

SCHEMA = 1
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
        committed: when the commitment was made, if one was given.
        test: the statistical test.
        assumption: what its validity rests on.
        alpha: level of the test.
        p_value: how likely an innocent suspect gives as many matches; of the sequential test, anytime-valid.
        p_adjusted: the same after correction for several suspects.
        e_value: evidence of the sequential test, or ``None``.
        queries: images that were sent, decoys included.
        triggers: triggers among them.
        matches: triggers that got the label that the key expects.
        missing: triggers without a usable answer.
        interval: 95 % Clopper-Pearson interval of the share of matches.
        expected_queries: what the power estimate said before the first query.
        stopped: why no more was asked.
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
    expected_queries: int | None
    stopped: str
    p_adjusted: float | None = None
    notes: list[str] = field(default_factory=list)
    sample: list[dict[str, Any]] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 for ``owned``, 1 for ``not shown``, 2 for ``cannot tell``."""
        return EXIT_CODES[self.decision]

    def text(self) -> str:
        """For a terminal."""
        low, high = (f"{100 * bound:.0f}" for bound in self.interval)
        share = (
            f" ({100 * self.matches / self.triggers:.0f} %, 95 % interval {low} to {high} %)" if self.triggers else ""
        )
        lines = [
            f"{self.decision.upper()}: {self.suspect}",
            f"  {self.reason}",
            f"  test: {self.test}; {_p(self.p_value)} at alpha = {self.alpha:g}",
            f"  {self.matches} of {self.triggers} triggers matched{share}; {self.missing} without an answer",
            f"  {self.queries} queries; {self.stopped}",
            f"  assumption: {self.assumption}",
            f"  commitment: {self.commitment}" + (f", made {self.committed}" if self.committed else ""),
        ]
        if self.p_adjusted is not None:
            lines.insert(3, f"  after correction for several suspects: {_p(self.p_adjusted)}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def write(self, folder: Path) -> None:
        """Writes ``verdict.json``, ``verdict.txt`` and ``report.html``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / "report.html", self.html().encode())
        write_bytes(folder / "verdict.txt", (self.text() + "\n").encode())
        write_json(folder / "verdict.json", {"kind": "verify", "schema": SCHEMA, **asdict(self)})

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


def _p(value: float) -> str:
    return f"p = {value:.3g}" if value >= 1e-300 else "p < 1e-300"
