"""One card to rows of the tidy table."""

from __future__ import annotations

import json
import math
from typing import Any

from wmlightning.results.fields import Fields, UnexpectedError, cleaned, spelled
from wmlightning.results.privacy import WITHHELD, public_config

Row = dict[str, Any]

#: Metrics that cards give under ``test/`` (the whole test split) and ``attack/`` (the half that no thief had).
ACCURACIES = ("clean_acc", "source_acc", "trigger_acc", "trigger_new_acc", "decoy_acc", "decoy_acc_max")

#: Everything that the card of a training measures.
MEASURED = (
    *("train/loss", "train/clean_acc", "val/clean_acc", "val/trigger_acc"),
    *(f"test/{name}" for name in ACCURACIES),
)

#: Every column of the tidy table, in its order, with its type.
COLUMNS = {
    **dict.fromkeys(("dataset", "watermark", "key", "model"), "text"),
    "seed": "whole",
    **dict.fromkeys(("victim", "attack", "attack_type", "attack_fingerprint", "settings"), "text"),
    **dict.fromkeys(("strength_name", "strength_scale"), "text"),
    "strength": "real",
    "epochs": "whole",
    **dict.fromkeys(("final", "is_victim"), "flag"),
    **dict.fromkeys(ACCURACIES, "real"),
    **dict.fromkeys(("clean_lost", "victim_clean_acc", "victim_trigger_new_acc"), "real"),
    **dict.fromkeys(("score", "p_value", "twin_score", "twin_p_value", "seconds"), "real"),
    **dict.fromkeys(("images", "queries"), "whole"),
    "train_seconds": "real",
    **dict.fromkeys(("precision", "device", "group", "name", "folder"), "text"),
}

_LONGEST_TARGET = 1000
_BY_HEART = "random labels"
_EMPTY: Row = {
    name: {"text": "", "real": math.nan, "whole": None, "flag": False}[kind] for name, kind in COLUMNS.items()
}


def rows_of(content: Any, folder: str) -> list[Row]:
    """The rows that a card gives: one each for trainings, detections, claims, surrogates and their victims.

    Args:
        content: the card as read.
        folder: where it was, for the last column.

    Returns:
        Rows with :data:`COLUMNS`, and with ``marks``, the watermark's options as far as they are no secret, and
        ``hidden``, the values of the others, to be compared and never shown. Those of an attack also with its
        ``options``: what its user chose, its ``way`` and ``versions``. Nothing for another kind of card.

    Raises:
        UnexpectedError: if a field that the table needs is not as it should be.
    """
    card = Fields(content)
    kind = card.text("kind")
    if kind == "train":
        return [_train_row(card) | {"folder": folder}]
    if kind == "attack":
        return [row | {"folder": folder} for row in _attack_rows(card)]
    return []


def is_by_heart(key: str) -> bool:
    """Whether a model learns a key's triggers one by one: of new ones it knows nothing, before any attack as after."""
    return _BY_HEART in key.split(", ")


def judged_by(key: str) -> str:
    """The metric of an attack that tells whether a key still works."""
    return "attack/trigger_acc" if is_by_heart(key) else "attack/trigger_new_acc"


def key_name(watermark: Fields) -> str:
    """What sets a key apart from others of its watermark, in a word or two."""
    n_marks = watermark.whole("n_marks", 1) or 1
    negatives = watermark.real("negatives")
    with_negatives = negatives > 0  # not for NaN: a watermark that knows no negatives has none
    if n_marks == 1:
        name = "negatives" if with_negatives else "paper"
    else:
        name = f"{n_marks} marks" if with_negatives else f"{n_marks} marks, no negatives"
    name += f", {_BY_HEART}" if watermark.text("label", "target") == "random" else ""
    return name + (", fresh noise" if watermark.scalars().get("fresh") == "True" else "")


def _last_part(config: Fields, default: str) -> str:
    target = config.text("_target_", "", longest=_LONGEST_TARGET)  # cut off, its last part would be another
    return cleaned(target.rsplit(".", 1)[-1].lower()) or default


def names_of(config: Fields) -> dict[str, str]:
    """What a model is told apart by, in a word or two each: ``dataset``, ``watermark``, ``key`` and ``model``."""
    watermark = config.part("watermark")
    name = _last_part(watermark, "none")
    return {
        "dataset": config.part("dataset").text("name"),
        "watermark": name,
        "key": _key(config, "" if name == "none" else key_name(watermark)),
        "model": _last_part(config.part("model"), ""),
    }


def _key(config: Fields, key: str) -> str:
    """What begins from a trained model is another thing than what is trained from scratch, in every table."""
    return ", ".join(filter(None, (key, "into a trained model" if config.has("start") else "")))


def _common(card: Fields) -> Row:
    """What a card says of the model and the machine, whatever was done."""
    seed = card.whole("seed")
    if seed is None:
        raise UnexpectedError("seed is missing")
    return {
        **_EMPTY,
        **names_of(card.part("config")),
        **_marks(card.part("config")),
        "seed": seed,
        "precision": card.text("precision", ""),
        "device": card.text("device", ""),
        "group": card.text("group", ""),
        "name": card.text("name", ""),
    }


def _marks(config: Fields) -> dict[str, dict[str, str]]:
    marks = Fields(public_config(config.content(), with_secrets=False)).part("watermark")
    values = config.part("watermark").content()
    hidden = {cleaned(name): _compared(values[name]) for name, shown in marks.content().items() if shown == WITHHELD}
    return {"marks": marks.scalars(), "hidden": hidden}


def _compared(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, sort_keys=True)


def _accuracies(metrics: Fields, prefix: str) -> Row:
    return {name: metrics.share(f"{prefix}/{name}") for name in ACCURACIES}


def _train_row(card: Fields) -> Row:
    return {
        **_common(card),
        **_accuracies(card.part("metrics"), "test"),
        "victim": card.text("fingerprint"),
        "attack": "none",
        "epochs": card.whole("epochs"),
        "final": True,
        "train_seconds": card.part("seconds").real("train", 0),
    }


def _attack_rows(card: Fields) -> list[Row]:
    victim = card.part("victim")
    judged = _accuracies(victim.part("metrics"), "attack")
    attack = card.text("attack")
    if attack in ("", "none"):  # the name that rows of trainings go by
        raise UnexpectedError("attack is no name of an attack")
    kind = card.choice("type", "removal", "detection", "claim")
    common = {
        **_common(card),
        "victim": victim.text("fingerprint"),
        "attack": attack,
        "attack_type": kind,
        "attack_fingerprint": card.text("fingerprint"),
        "options": options_of(card.part("config"), attack),
        **_identity(card.content().get("identity")),
        "victim_clean_acc": judged["clean_acc"],
        "victim_trigger_new_acc": judged["trigger_new_acc"],
    }
    itself = {**common, **judged, "clean_lost": 0.0, "final": True, "is_victim": True}
    if kind in ("detection", "claim"):
        return [itself | _findings(card.part("findings")) | {"seconds": card.part("seconds").real("attack", 0)}]
    strength = card.part("strength")
    scale = strength.choice("scale", "linear", "log")
    about = {"strength_name": strength.text("name", ""), "strength_scale": scale}
    untouched = {"strength": 0.0 if scale == "linear" else math.nan, "epochs": 0, "seconds": 0.0}
    untouched |= {"images": 0, "queries": 0}
    surrogates = [common | about | _surrogate(point, judged["clean_acc"]) for point in card.parts("curve")]
    return [itself | about | untouched, *surrogates]


def options_of(config: Fields, attack: str) -> dict[str, str]:
    """What the user chose for an attack and its thief; no lists, which are mostly strengths."""
    chosen = config.part("attack").part(attack).scalars()
    thief = config.part("attacker").scalars("attacker.")
    return {**chosen, **{name: value for name, value in thief.items() if name != "attacker.seed"}}


def _identity(identity: Any) -> Row:
    """The ``versions`` of what carried an attack out, in what ``way``, whatever the versions, and the ``thief``."""
    if not isinstance(identity, dict):  # of somebody else's program: nothing is known to be older than it
        return {"versions": {}, "way": "", "thief": ""}
    versions = {name: value for name, value in identity.items() if type(value) is int}
    rest = {name: value for name, value in identity.items() if name not in versions}
    thief = json.dumps(identity.get("attacker"), sort_keys=True)
    return {"versions": versions, "way": json.dumps(rest, sort_keys=True), "thief": thief}


def _findings(findings: Fields) -> Row:
    twin = findings.part("twin")
    return {
        "score": findings.real("score"),
        "p_value": findings.share("p_value"),
        "twin_score": twin.real("score"),
        "twin_p_value": twin.share("p_value"),
    }


def _surrogate(point: Fields, clean_before: float) -> Row:
    strength = point.real("strength")
    if math.isnan(strength):  # would pass for the victim on a logarithmic scale
        raise UnexpectedError(f"{point.where}.strength is missing")
    accuracies = _accuracies(point.part("metrics"), "attack")
    return {
        **accuracies,
        # The same strength of two seeds is one group in a table, whatever rounding got it there.
        "strength": float(f"{strength:.9g}"),
        "epochs": point.whole("epochs"),
        "settings": spelled(point.part("settings").scalars()),
        "final": point.flag("final"),
        "clean_lost": clean_before - accuracies["clean_acc"],
        "seconds": point.real("seconds", 0),
        "images": point.whole("images"),
        "queries": point.whole("queries"),
    }
