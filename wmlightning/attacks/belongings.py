"""The images that a thief has: the attacker's half of the test split, or other data without any image of the task."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from wmlightning.config import dataset_config, make, plain
from wmlightning.data.decoding import fit_images
from wmlightning.data.source import SPLITS, Source
from wmlightning.errors import UserError
from wmlightning.job import Job
from wmlightning.seeds import generator, role_seed

_ELSE = "other data, or attacker.data=null: the attacker's half of the test split"


def other_source(cfg: DictConfig, shape: tuple[int, int, int]) -> Source | None:
    """The data that ``attacker.data`` names; ``None``: the attacker's half of the test split. Reads no image.

    Args:
        cfg: composed from ``conf/train.yaml``.
        shape: ``(c, h, w)`` of the task's images; pictures of any size are read in this one.

    Raises:
        UserError: for a mistake in ``attacker.data`` or ``attacker.root``.
    """
    data, root = cfg.attacker.data, cfg.attacker.root
    own = OmegaConf.is_dict(data)  # a config with a _target_
    node = data if own else None if data is None else _named(str(data), cfg, shape)
    if root is not None and (own or node is None or "root" not in node):
        wrong = f"attacker.data={'{...}' if own else data} takes no folder"
        raise UserError("attacker.root", wrong, "attacker.data=image_folder or parquet, or no attacker.root")
    if node is None:
        return None
    try:
        source = make(node, "attacker.data")
    except UserError as error:  # told under the key of a task's data
        key, wrong, right = error.args
        told = "attacker.root" if key == "dataset.root" else "attacker.data"
        raise UserError(told, wrong, right.replace("dataset.root", "attacker.root")) from error
    if not isinstance(source, Source):
        raise UserError(
            "attacker.data", f"{node.get('_target_')} is no source of images", "a class derived from Source"
        )
    return source


def _named(name: str, cfg: DictConfig, shape: tuple[int, int, int]) -> DictConfig:
    """The config of a data set's source, by name: its interpolations are resolved in its own options."""
    source = dataset_config(name, "attacker.data")
    options: Any = source._get_parent()
    if cfg.attacker.root is not None and "root" in tuple(options):  # even without a value
        c, h, w = shape
        options.update(root=str(cfg.attacker.root), size=max(h, w), channels=3 if c == 3 else 1)
    elif OmegaConf.is_missing(options, "root"):
        raise UserError("attacker.root", f"{name} needs a folder", "attacker.root=FOLDER")
    place = cfg.copy()
    OmegaConf.set_struct(place, False)
    place.dataset = options
    try:
        whole: DictConfig = OmegaConf.create(plain(place.dataset.source))
    except UserError as error:
        raise UserError("attacker.data", f"{name} is not whole: {error.args[1]}", error.args[2]) from error
    return whole


@dataclass(frozen=True)
class OtherImages:
    """Images of other data that a thief has.

    Attributes:
        source: the data.
        index: which images of its training split.
        shared: how many were left out since they are the owner's.
    """

    source: Source
    index: Tensor
    shared: int

    @classmethod
    def of(cls, source: Source, job: Job) -> OtherImages:
        """What a thief with these data has, but for images of the task and of the owner's triggers.

        Data under another name may hold the same images (``mnist5k`` is a part of ``mnist``), so that pixels are
        compared. A task that is not in memory is not read for that.

        Raises:
            UserError: if nothing is left.
        """
        if source.identity() == job.source.identity():
            raise UserError("attacker.data", f"{source.name} is the task's own data", _ELSE)
        index = chosen(torch.arange(len(source.labels("train"))), job.cfg)
        if not job.source.in_memory:
            return cls(source, index, 0)
        taken = set(_owners(job))
        own: list[bool] = []
        for part in torch.split(index, 1000):
            images = fit_images(source.images("train", part), job.source.shape)
            own += [digest not in taken for digest in _digests(images)]
        kept = index[torch.tensor(own, dtype=torch.bool)]
        shared = len(index) - len(kept)
        told = f"{shared} of {len(index)} images of {source.name} are the task's or the owner's triggers"
        if len(kept) < 2:
            raise UserError("attacker.data", told, _ELSE)
        if shared:
            warnings.warn(f"attacker.data: {told}: the thief does without them", stacklevel=2)
        return cls(source, kept, shared)

    def identity(self) -> dict[str, str | int]:
        """What tells these images from others'."""
        return {**self.source.identity(), **({"shared": self.shared} if self.shared else {})}


def chosen(index: Tensor, cfg: DictConfig) -> Tensor:
    """At most ``attacker.n`` of the images at ``index``, in its order."""
    if cfg.attacker.n is None:
        return index
    order = torch.randperm(len(index), generator=generator(role_seed(cfg.attacker.seed, "attack"), "thief/images"))
    return index[order[: cfg.attacker.n]].sort().values


def _owners(job: Job) -> Iterator[bytes]:
    """Digests of the task's images, and of pictures of other data that are triggers."""
    for split in SPLITS:
        for index in torch.split(torch.arange(len(job.source.labels(split))), 1000):
            yield from _digests(job.source.images(split, index))
    if job.maker is not None and job.maker.watermark.sources():
        made = job.maker.make()
        for images in (made.trained, made.new, made.negatives, made.decoys):
            yield from _digests(images.images)


def _digests(images: Tensor) -> Iterator[bytes]:
    return (hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images.numpy())
