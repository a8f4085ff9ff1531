"""What determines a trained model: the content of its fingerprint."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig

from wmlightning.config import plain, unmarked_config, without
from wmlightning.data.source import Source
from wmlightning.files import file_digest
from wmlightning.watermarks.base import Watermark
from wmlightning.watermarks.scheme import Scheme

#: Raise it when the same config no longer gives the same weights.
_TRAINING_VERSION = 3

#: Keys that change where, how watched or how fast a model is trained, but not which model it is.
_NOT_IN_FINGERPRINT = {
    "dataset": ("name", "image", "label"),
    "recipe": ("num_workers", "eval_batch_size"),
    "trainer": (
        "accelerator",
        "devices",
        "num_nodes",
        "strategy",
        "precision",
        "num_sanity_val_steps",
        "enable_progress_bar",
        "enable_model_summary",
        "log_every_n_steps",
        "use_distributed_sampler",
        "profiler",
        "default_root_dir",
    ),
}
#: Where data lie, in which columns, and what is done about broken ones: what they are in the end is in the source's
#: identity.
_PLACES = ("data_dir", "root", "download", "broken", "image_column", "label_column")

#: Classes that are there without changing a weight. A callback may do anything to a training, unless it is ours.
_NEUTRAL = ("lightning.pytorch.Trainer", "wmlightning.callbacks.gallery.TriggerGallery")


def identity_of(cfg: DictConfig, source: Source, watermark: Watermark | None, precision: str) -> dict[str, Any]:
    """What determines the model that a config trains from random weights, in plain values.

    Args:
        cfg: settled.
        source: the task's data. Its labels are read.
        watermark: ``None`` without one.
        precision: the arithmetic chosen.
    """
    identity: dict[str, Any] = {"version": _TRAINING_VERSION, "seed": cfg.seed, "precision": precision}
    for part in ("dataset", "watermark", "model", "recipe", "trainer"):
        identity[part] = portable(without(plain(cfg[part]), *_NOT_IN_FINGERPRINT.get(part, ())))
    logo = identity["watermark"].get("logo")
    if isinstance(logo, str) and Path(logo).is_file():  # its content, wherever it lies
        identity["watermark"]["logo"] = {"sha256": file_digest(Path(logo))}
    if watermark is None:  # options of a watermark that is not there make no other model
        identity["watermark"] = plain(unmarked_config())
    else:
        identity["watermark"] = _spelled_alike(identity["watermark"], type(watermark))
    defaults = {name: argument.default for name, argument in inspect.signature(L.Trainer).parameters.items()}
    identity["trainer"] = {
        key: value
        for key, value in identity["trainer"].items()
        if (value not in _NEUTRAL if key == "_target_" else key not in defaults or value != defaults[key])
    }
    if callbacks := _callbacks(cfg):
        identity["callbacks"] = callbacks
    identity["data"] = source.identity()
    identity["other_data"] = [other.identity() for other in watermark.sources()] if watermark else []
    return identity


def _spelled_alike(options: dict[str, Any], kind: type[Watermark]) -> dict[str, Any]:
    """With real numbers in one spelling, for ``negatives=4`` is ``negatives=4.0``. ``n_triggers`` is another matter."""
    kinds = {field.name: field.type for field in fields(Scheme)}
    kinds |= {name: argument.annotation for name, argument in inspect.signature(kind).parameters.items()}
    reals = {name for name, told in kinds.items() if str(told) in ("float", "float | None", str(float))}
    numbers = {name: value for name, value in options.items() if name in reals and type(value) in (int, float)}
    return {**options, **{name: float(value) if value else 0 for name, value in numbers.items()}}


def _callbacks(cfg: DictConfig) -> list[Any]:
    """Callbacks in their order, since each sees what the one before it did. Where runs lie is not looked at."""
    cfg = cfg.copy()
    cfg.runs_dir = None
    cfg.auto.update(run_dir=None, name=None, group=None, tags=None)
    nodes = plain(cfg.get("callbacks") or {})
    return [portable(node) for node in nodes.values() if not (node and node.get("_target_") in _NEUTRAL)]


def portable(node: Any) -> Any:
    """A plain config for a fingerprint. Leaves out where data lie."""
    if isinstance(node, Mapping):
        return {key: portable(value) for key, value in node.items() if key not in _PLACES}
    return [portable(value) for value in node] if isinstance(node, list) else node
