"""Each model with what was done to it, by which config and on which machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from wmlightning.errors import UserError
from wmlightning.report.overview import Result
from wmlightning.results.card import read_card
from wmlightning.results.fields import Fields
from wmlightning.results.privacy import outline, public, public_config

_LINES = 400
#: What of an attack's config is its own.
_OF_ATTACKS = ("attack", "attacker", "judge")


@dataclass(frozen=True)
class Work:
    """A training or an attack with the details of its card."""

    result: Result
    config: str
    environment: str


@dataclass
class Model:
    """A model with all that was done to it: the training first, if its card is there."""

    title: str
    stored_as: str
    works: list[Work] = field(default_factory=list)


def models(
    runs: Path, results: Sequence[Result], with_secrets: bool, complain: Callable[[str], None]
) -> tuple[list[Model], dict[str, dict[str, Any]]]:
    """Reads the details of each result once more from its card.

    Returns:
        The models, and the cards by their folders.
    """
    found: dict[str, Model] = {}
    cards: dict[str, dict[str, Any]] = {}
    for result in results:
        try:
            card = read_card(runs / result.folder) or {}
            model = found.get(result.victim) or _model(card, result)
            model.works.append(_work(card, result, not model.works, with_secrets))
            found[result.victim] = model  # last: a model has at least one work
            cards[result.folder] = card
        except (UserError, OSError, ValueError, RecursionError) as error:
            complain(f"no details of {result.folder}: {error}")
    return list(found.values()), cards


def _model(card: dict[str, Any], result: Result) -> Model:
    name = Fields(card).text("name", "") if result.attack == "none" else Fields(card).part("victim").text("name", "")
    stored_as = Fields(card).part("data").text("stored_as", "")
    return Model(public(name) or result.victim, public(stored_as))


def _work(card: dict[str, Any], result: Result, whole: bool, with_secrets: bool) -> Work:
    config = public_config(card.get("config"), with_secrets)
    if not whole and isinstance(config, dict):  # the rest is the victim's, and stands there
        config = {name: config[name] for name in _OF_ATTACKS if name in config}
    about = {name: card.get(name) for name in ("device", "precision", "threads", "seconds", "data") if name in card}
    surroundings = card.get("environment")
    return Work(result, _text(config), _text({**about, **(surroundings if isinstance(surroundings, dict) else {})}))


def _text(content: Any) -> str:
    lines = list(islice(outline(content), _LINES + 1))
    return "\n".join([*lines[:_LINES], "..."] if len(lines) > _LINES else lines)


def is_jpeg(stored_as: str) -> bool:
    """Whether a data set's images are compressed copies, on which accuracy is lower than on the originals."""
    return "jpeg" in stored_as.lower() or "jpg" in stored_as.lower()
