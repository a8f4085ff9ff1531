"""The page: gathers what a folder of runs holds, and renders it."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from wmlightning import __version__
from wmlightning.errors import UserError
from wmlightning.report import albums, drawing
from wmlightning.report.curves import MEASURED, Chart, charts
from wmlightning.report.drawing import Look, looks, spelled
from wmlightning.report.models import Model, is_jpeg, models
from wmlightning.report.overview import SPARK_HEIGHT, SPARK_WIDTH, Glance, Result, glances, results
from wmlightning.report.pareto import Plot, plots
from wmlightning.report.verdicts import Ruling, rulings
from wmlightning.results.card import FILE, VERDICT
from wmlightning.results.front import ACCEPTABLE_LOSS
from wmlightning.results.privacy import public
from wmlightning.results.table import aggregate, read_all, select

#: Columns of the table that hold words of cards; ``folder`` is where they lie, and stays.
_WORDS = ("dataset", "watermark", "key", "model", "attack", "settings", "strength_name")


@dataclass(frozen=True)
class Report:
    """Everything on the page.

    Attributes:
        name: of the folder of runs.
        with_secrets: whether triggers are shown.
        only: conditions that results had to meet.
        looks: of each watermark and key.
        datasets: with how their images are stored, as far as the cards tell.
        places: of models on the page, from 1, by their fingerprints.
        warnings: one line for each file that could not be used.
    """

    name: str
    with_secrets: bool
    only: Sequence[str]
    results: Sequence[Result]
    models: Sequence[Model]
    glances: Sequence[Glance]
    charts: Sequence[Chart]
    plots: Sequence[Plot]
    inversions: albums.Albums
    galleries: albums.Albums
    rulings: Sequence[Ruling]
    looks: Mapping[tuple[str, str], Look]
    datasets: Mapping[str, Sequence[str]]
    places: Mapping[str, int]
    warnings: Sequence[str]

    def number_of(self, result: Result) -> int:
        """The place of a result's model on the page, from 1."""
        return self.places.get(result.victim, 0)

    def is_jpeg_of(self, result: Result) -> bool:
        """Whether this very model saw compressed copies."""
        place = self.number_of(result)
        return place > 0 and is_jpeg(self.models[place - 1].stored_as)

    def is_jpeg(self, dataset: str) -> bool:
        """Whether any model of the data set saw compressed copies."""
        return any(map(is_jpeg, self.datasets.get(dataset, [])))

    @property
    def n_attacks(self) -> int:
        """Attacks among the results."""
        return sum(result.attack != "none" for result in self.results)

    def summary(self) -> str:
        """For the terminal."""
        parts = [(len(self.models), "model"), (self.n_attacks, "attack"), (len(self.rulings), "verdict")]
        return ", ".join(f"{n} {what}{'s' if n != 1 else ''}" for n, what in parts)


def gather(runs: Path, only: Sequence[str], with_secrets: bool, complain: Callable[[str], None]) -> Report:
    """Reads everything below a folder of runs.

    Args:
        runs: the folder.
        only: conditions on results, as :func:`~wmlightning.results.table.select` takes them. Verdicts know no data set
            and are always there.
        with_secrets: show triggers, and what was recovered of them.
        complain: gets one line for each file that cannot be used.

    Raises:
        UserError: if there is nothing to show.
    """
    warnings: list[str] = []

    def note(line: str) -> None:
        line = public(line.replace(str(runs.resolve()), "").replace(str(runs), ""), 1000)
        warnings.append(line)
        complain(line)

    every = read_all(runs, note)
    verdicts = rulings(runs, with_secrets, note)
    if every.empty and not verdicts:
        raise UserError(
            "runs_dir", f"no usable {FILE} or {VERDICT} below {runs}", "name a folder that holds finished runs"
        )
    frame = select(every, only)
    if frame.empty and not every.empty:
        wrong = f"no row of {len(every)} has {' and '.join(only)}"
        raise UserError("only", wrong, "python -m wmlightning.results writes the values there are to results.csv")
    frame = frame.assign(**{name: frame[name].map(public).astype(object) for name in _WORDS})
    found = results(frame)
    known = looks(frame)
    works, cards = models(runs, found, with_secrets, note)
    stored = {model.works[0].result.victim: model.stored_as for model in works}
    datasets: dict[str, list[str]] = {}
    for result in found:
        kinds = datasets.setdefault(result.dataset, [])
        kinds += [kind for kind in [stored.get(result.victim, "")] if kind and kind not in kinds]
    summary = aggregate(frame)
    return Report(
        name=public(runs.resolve().name),
        with_secrets=with_secrets,
        only=[public(condition) for condition in only],
        results=found,
        models=works,
        glances=glances(found, known),
        charts=charts(summary, known),
        plots=plots(aggregate(frame, every_epoch=True), known),
        inversions=albums.inversions(runs, found, cards, with_secrets, note),
        galleries=albums.galleries(runs, found, note) if with_secrets else albums.Albums([], 0),
        rulings=verdicts,
        looks=known,
        datasets=datasets,
        places={model.works[0].result.victim: number for number, model in enumerate(works, 1)},
        warnings=warnings,
    )


def render(report: Report) -> str:
    """The page as HTML: no other file is needed, and none is allowed by its own security policy."""
    pages = Environment(
        loader=PackageLoader("wmlightning.report", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update(number=spelled, p=_p, look=_look, plural=_plural)
    pages.tests["known"] = lambda value: value is not None and not math.isnan(value)
    style, script = (_file(name) for name in ("style.css", "script.js"))
    return pages.get_template("report.html").render(
        r=report,
        d=drawing,
        measured=MEASURED,
        spark=(SPARK_WIDTH, SPARK_HEIGHT),
        acceptable=f"{100 * ACCEPTABLE_LOSS:g}",
        telling=f"{albums.TELLING:g}",
        is_jpeg=is_jpeg,
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _file(name: str) -> str:
    return (files("wmlightning.report") / "pages" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _p(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}" if value >= 1e-300 else "below 1e-300"


def _plural(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _look(look: Look) -> str:
    """Classes of the style sheet."""
    colour = f"c{look.colour}" if look.colour >= 0 else "cn"
    return f"{colour} k{look.dash}{' hollow' if look.hollow else ''}"
