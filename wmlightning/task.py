"""What is to be marked and how: data source, scheme, watermark and labels, settled from a config and a secret."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from wmlightning.config import at_home, dataset_config, make, plain, setting
from wmlightning.data.source import Source
from wmlightning.data.splits import Roles, assign_roles
from wmlightning.errors import UserError
from wmlightning.secret import Secret
from wmlightning.watermarks.base import MarkingWatermark, PictureWatermark, Watermark, blaming_images
from wmlightning.watermarks.scheme import ANY, AUTO, SECRET, Labels, Scheme, choose_labels
from wmlightning.watermarks.triggers import TriggerMaker

#: Marks of an owner's key. Eight decide in about five queries, and still do when half of them are gone.
OWNERS_MARKS = 8
#: The largest share of the training split that may be held out.
MOST_HELD_OUT = 0.9
_MOST_BYTES = 8 * 2**30  # of marked images of one kind


@dataclass(frozen=True)
class Plan:
    """A watermark on a task, settled without reading data.

    Attributes:
        source: the task's data.
        scheme: the watermark's common options.
        watermark: how marks are put on images; ``None`` without one.
        labels: source classes and labels of marks.
        secret: what everything follows from.
        seed: the user's, from which roles follow.
        val_share: share of the training split that is held out.
    """

    source: Source
    scheme: Scheme
    watermark: MarkingWatermark | PictureWatermark | None
    labels: Labels
    secret: Secret
    seed: int
    val_share: float

    def roles(self) -> Roles:
        """Who may see which image. Reads the data's labels.

        Raises:
            UserError: if a role would be left without images.
        """
        labels, share = self.source.labels("train"), self.val_share
        roles = assign_roles(labels, self.source.labels("test"), self.seed, share)
        missing = len(torch.unique(labels)) - len(torch.unique(labels[roles.train]))
        if missing or not len(roles.val):
            wrong = f"{share} of each class leaves {len(roles.val)} images to validate on"
            wrong += f" and {missing} classes without one to train on" if missing else ""
            raise UserError("dataset.val_share", wrong, "another share, or more images")
        return roles

    def maker(self, roles: Roles) -> TriggerMaker | None:
        """Makes the triggers, once it is asked to; ``None`` without a watermark.

        Raises:
            UserError: if more triggers are asked for than there are images.
        """
        if self.watermark is None:
            return None
        return TriggerMaker(self.watermark, self.scheme, self.labels, self.secret, self.source, roles)


def settle(cfg: DictConfig, secret: Secret, source: Source | None = None) -> Plan:
    """Settles ``dataset`` and ``watermark`` of a config.

    Args:
        cfg: with ``seed``, ``dataset`` and ``watermark``; see :func:`own_copy`.
        secret: the owner's.
        source: the task's data; ``None``: what ``dataset.source`` names.

    Raises:
        UserError: for a mistake in either.
    """
    scheme = _scheme(cfg.watermark)
    if source is None:
        source = make(cfg.dataset.source, "dataset.source")
    if not isinstance(source, Source):
        wrong = f"{cfg.dataset.source._target_} is no source of images"
        raise UserError("dataset.source._target_", wrong, "a class derived from wmlightning.data.source.Source")
    if not isinstance(source.name, str):
        raise UserError("dataset.source.name", f"{source.name!r} is no name", "a word")
    watermark = _watermark(cfg)
    marks_task = isinstance(watermark, MarkingWatermark)
    own = (cfg.dataset.source_class, cfg.dataset.target_class)
    labels = choose_labels(scheme, secret, source, *own, marks_task=marks_task)
    if isinstance(watermark, Watermark):
        watermark.check(source.shape, scheme.n_marks, scheme.negatives > 0)
    held_out = setting(cfg.dataset.val_share, "dataset.val_share", float, 0, MOST_HELD_OUT)
    return Plan(source, scheme, watermark, labels, secret, cfg.seed, held_out)


def check_memory(plan: Plan, maker: TriggerMaker | None) -> None:
    """Refuses what would be held in memory and is nobody's intention: each stranger marks a few images at least.

    Raises:
        UserError: naming the option that asks for it.
    """
    if maker is None:
        return
    c, h, w = plan.source.shape
    for key, n in (("n_decoys", plan.scheme.n_decoys), ("n_triggers", maker.n), ("negatives", maker.n_negatives)):
        if n * c * h * w > _MOST_BYTES:
            wrong = f"{n} images would take {n * c * h * w / 2**30:.0f} GiB of memory"
            raise UserError(f"watermark.{key}", wrong, f"less than {_MOST_BYTES // 2**30} GiB")


def own_copy(cfg: DictConfig) -> DictConfig:
    """A copy in which the name of another data set is replaced by its config, and what is left open is settled."""
    cfg = at_home(cfg)
    settle_marks(cfg.watermark, owner=cfg.get("key") is not None)
    logo = cfg.watermark.get("logo")
    if isinstance(logo, str) and Path(logo).is_file():  # the card is read in other folders too
        cfg.watermark.logo = str(Path(logo).absolute())
    images = cfg.watermark.get("images")
    if isinstance(images, str):  # the name of another data set
        cfg.watermark.images = _named_data(images, cfg)
    return cfg


def _named_data(name: str, cfg: DictConfig) -> DictConfig:
    """The config of another data set, unless it takes from the task's what that does not have."""
    source = dataset_config(name, "watermark.images", cfg)
    try:
        plain(source)
    except UserError as error:
        if "root" not in tuple(source):
            raise
        raw = OmegaConf.to_container(source)
        assert isinstance(raw, dict)
        places = [f", {key!s}: {value}" for key, value in raw.items() if value == "${data_dir}"]  # every task has one
        advice = f"_target_: {source._target_}, root: FOLDER{''.join(places)}"
        right = f"'watermark.images={{{advice}}}'"
        raise UserError("watermark.images", f"{name} alone does not say in which folder", right) from error
    return source


def settle_marks(options: MutableMapping[Any, Any], owner: bool) -> None:
    """How many marks and triggers, where the options of a watermark say ``auto``.

    An owner gets several marks, each with its own label, unless something is asked for that takes a single one: a label
    for each trigger, or classes of one's own choice.

    Args:
        options: changed in place.
        owner: whether a key is made of them.
    """
    if options.get("n_marks") == AUTO:
        chosen = {options.get("source_class"), options.get("target_class")} - {AUTO, SECRET, ANY}
        several = owner and options.get("label") == "target" and not chosen
        options["n_marks"] = OWNERS_MARKS if several else 1
    if options.get("n_triggers") == AUTO:
        n_marks = options["n_marks"]
        options["n_triggers"] = 0.005 * n_marks if isinstance(n_marks, int) and n_marks > 1 else 0.01
        if options["n_triggers"] > 1:
            wrong = f"{n_marks} marks with one trigger for 200 images each"
            raise UserError("watermark.n_marks", wrong, "at most 200, or watermark.n_triggers of your own")


def _scheme(node: DictConfig) -> Scheme:
    names = {field.name for field in fields(Scheme)}
    return Scheme(**{key: value for key, value in plain(node).items() if key in names})


def _watermark(cfg: DictConfig) -> MarkingWatermark | PictureWatermark | None:
    node = cfg.watermark
    if "_target_" not in node:  # conf/watermark/base.yaml, which the others build on
        raise UserError("watermark", "it names no watermark", "one with a _target_, or watermark=none")
    if node.get("_target_") is None:
        return None
    if not node.n_triggers:
        raise UserError("watermark.n_triggers", "0 triggers", "watermark=none, or a number or share of triggers")
    common = {field.name for field in fields(Scheme)}
    own = OmegaConf.masked_copy(node, [key for key in node if key not in common])
    own._set_parent(cfg)  # its interpolations are relative to the whole
    with blaming_images():
        watermark = make(own, "watermark")
    if not isinstance(watermark, (MarkingWatermark, PictureWatermark)):
        right = "a class derived from MarkingWatermark or PictureWatermark"
        raise UserError("watermark._target_", f"{node._target_} is no watermark", right)
    return watermark
