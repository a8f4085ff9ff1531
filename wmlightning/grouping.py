"""What a logger's panels group runs by: one label for those that tables average, others for those they keep apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wmlightning.config import dataset_config, leaf, leaf_with, plain, searching, shipped_targets
from wmlightning.errors import UserError
from wmlightning.results.fields import Fields, cleaned
from wmlightning.results.privacy import WITHHELD, public
from wmlightning.results.rows import options_of
from wmlightning.task import settle_marks

#: Options of a watermark that the name of its key tells.
_NAMED = ("n_marks", "label", "fresh")


def label_of(names: Mapping[str, str], config: Mapping[str, Any] | None = None, attack: str | None = None) -> str:
    """The label of a run: the same whatever its seed.

    A run does not know the others, so that all options are told that are not the usual ones of the watermark's or the
    attack's own config. Runs of an owner that differ only in options that are withheld have one label: whatever is
    computed from such options could be found by trying values.

    Args:
        names: of :func:`~wmlightning.results.rows.names_of`; ``model`` may be missing.
        config: as loggers are told it: what is withheld there is not in the label either.
        attack: its name, if the run is one.
    """
    config = dict(config or {})
    task = " ".join(filter(None, (names["dataset"], names.get("model"))))
    label = f"{task}: " + _listed(names["watermark"], names["key"], *_spelled(_marks(config)))
    return f"{label}; {_listed(attack, *_spelled(_attack(config, attack)))}" if attack else label


def _listed(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _spelled(values: Mapping[str, str]) -> list[str]:
    return [f"{name}={public(value)}" for name, value in values.items()]


def _marks(config: dict[str, Any]) -> dict[str, str]:
    """Options of the watermark that are not the usual ones."""
    marks = config.get("watermark")
    target = marks.get("_target_") if isinstance(marks, dict) else None
    if not isinstance(marks, dict) or not isinstance(target, str):
        return {}  # options of a watermark that is not there make no other model
    usual = _usual_marks(config, marks, target)
    if target not in shipped_targets():
        usual.pop("_target_", None)  # others may have a class of the same name
    chosen = _chosen(_written(marks), _written(usual))
    return {name: value for name, value in chosen.items() if name not in _NAMED and (name, value) != ("negatives", "0")}


def _usual_marks(config: dict[str, Any], marks: dict[str, Any], target: str) -> dict[str, Any]:
    usual = leaf("watermark", leaf_with("watermark", target) or "base").get("watermark", {})
    usual = {**_resolved(config, "watermark", usual), "n_marks": marks.get("n_marks")}
    try:
        settle_marks(usual, owner=False)
        if isinstance(images := usual.get("images"), str):
            with searching():
                usual["images"] = OmegaConf.to_container(dataset_config(images, "watermark.images"))
    except UserError:  # then they are told
        pass
    return usual


def _attack(config: dict[str, Any], attack: str | None) -> dict[str, str]:
    """Options of an attack and its thief that are not the usual ones."""
    if not attack:
        return {}
    usual = _resolved(config, "attack", leaf("attack", attack).get("attack", {}))
    nothing = {"attacker": dict.fromkeys(("data", "root", "n"))}
    return _chosen(options_of(Fields(config), attack), options_of(Fields({"attack": usual, **nothing}), attack))


def _resolved(config: dict[str, Any], key: str, usual: dict[str, Any]) -> dict[str, Any]:
    """A part as it would be in a config, if nothing was chosen for it."""
    try:
        found: dict[str, Any] = plain(OmegaConf.create({**config, key: usual})[key])
    except (UserError, OmegaConfBaseException):
        return usual
    return found


def _written(options: dict[str, Any]) -> dict[str, str]:
    """Options as text, lists too: no list of a watermark's holds strengths."""
    lists = {name: cleaned(str(value)) for name, value in options.items() if isinstance(value, list)}
    return {**Fields(options).scalars(), **lists}


def _chosen(options: dict[str, str], usual: dict[str, str]) -> dict[str, str]:
    """Those that are not as usual; not where data lie on this machine."""
    return {
        name: value
        for name, value in sorted(options.items())
        if usual.get(name) != value and value != WITHHELD and name.rsplit(".", 1)[-1] != "data_dir"
    }
