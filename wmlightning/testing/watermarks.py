"""The contract of a watermark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from wmlightning.data.batches import ImageSet
from wmlightning.data.source import SPLITS, Source
from wmlightning.errors import UserError
from wmlightning.job import Job, prepare
from wmlightning.secret import Secret
from wmlightning.testing.bench import Compose, claim, composing, digest, small_task
from wmlightning.testing.sources import looked_at
from wmlightning.watermarks.base import Mark, MarkingWatermark, Owner, PictureWatermark
from wmlightning.watermarks.triggers import TriggerMaker, Triggers

#: The kinds of key that every watermark is tried with.
KEYS = {
    "one mark": (),
    "three marks": ("watermark.n_marks=3",),
    "random labels": ("watermark.label=random", "watermark.negatives=0"),
}
_STRANGERS = 5
_OWNERS: tuple[tuple[Owner, int, int], ...] = (("key", 0, 0), ("key", 0, 1), ("negative", 0, 0), ("decoy", 1, 0))


def check_watermark(
    name: str, config_dir: str | Path | None = None, overrides: Sequence[str] = (), fresh_process: bool = True
) -> list[str]:
    """Holds a watermark to its contract, with each kind of key, on a small task.

    Triggers must follow from the secret and the images alone: the same bytes from the same secret in whatever process,
    others from another; strangers' marks (negatives, decoys) must be no marks of the key's; and making them must
    leave everything else as it was.

    Args:
        name: as typed after ``watermark=``.
        config_dir: folder of its config, as typed after ``--config-dir``.
        overrides: what else would be typed: ``watermark.size=3``, ``dataset=mnist5k``.
        fresh_process: make the triggers in another process too, which takes as long as importing torch.

    Returns:
        The kinds of key that it was tried with. One that its ``check`` refuses is left out, but not the one mark.

    Raises:
        AssertionError: saying which promise is broken.
        UserError: if it cannot be made, or refuses a single mark.
    """
    tried = []
    with composing(config_dir) as compose:
        for kind, options in KEYS.items():
            try:
                job = _job(compose, name, (*options, *overrides))
            except UserError as error:
                if not options or not error.key.startswith("watermark."):
                    raise
                continue
            _check_leaf(f"{name}, {kind}", job)
            _check_triggers(f"{name}, {kind}", job)
            _check_secrets(f"{name}, {kind}", job, _job(compose, name, (*options, *overrides, "seed=1")))
            tried.append(kind)
    if fresh_process:
        check_elsewhere([name], config_dir, overrides)
    return tried


def check_marks(watermark: MarkingWatermark, images: Tensor, mark: Mark, batch: str = "trained") -> Tensor:
    """What :meth:`~wmlightning.watermarks.base.MarkingWatermark.apply` owes for any images.

    Args:
        watermark: any.
        images: uint8 ``(n, c, h, w)``; none is a number too.
        mark: whose.
        batch: name of this set of images.

    Returns:
        The marked images.

    Raises:
        AssertionError: saying which promise is broken.
    """
    name, before = type(watermark).__name__, images.clone()
    marked = watermark.apply(images, mark, batch)
    claim(isinstance(marked, Tensor) and marked.dtype == torch.uint8, f"{name}.apply does not give a uint8 tensor")
    wanted = tuple(images.shape)
    claim(tuple(marked.shape) == wanted, f"{name}.apply turns {wanted} into {tuple(marked.shape)}")
    claim(torch.equal(images, before), f"{name}.apply wrote to the images that it was given")
    shared = bool(images.numel()) and marked.untyped_storage().data_ptr() == images.untyped_storage().data_ptr()
    claim(not shared, f"{name}.apply gives back the memory of the images that it was given")
    torch.rand(3)
    again = watermark.apply(images, _copied(mark), batch)
    claim(torch.equal(again, marked), f"{name}.apply gives other bytes for the same secret: draw from mark.stream()")
    return marked


def check_pictures(
    watermark: PictureWatermark, n: int, mark: Mark, n_marks: int, new: bool, shape: tuple[int, int, int]
) -> Tensor:
    """What :meth:`~wmlightning.watermarks.base.PictureWatermark.draw` owes for any mark. Arguments are its own.

    Returns:
        The pictures.

    Raises:
        AssertionError: saying which promise is broken.
    """
    name = type(watermark).__name__
    drawn = watermark.draw(n, mark, n_marks, new, shape)
    claim(isinstance(drawn, Tensor) and drawn.dtype == torch.uint8, f"{name}.draw does not give a uint8 tensor")
    fits = drawn.ndim == 4 and tuple(drawn.shape[1:]) == shape and len(drawn) <= n
    claim(fits, f"{name}.draw gives {tuple(drawn.shape)} where {n} of {shape} were wanted")
    torch.rand(3)
    again = watermark.draw(n, _copied(mark), n_marks, new, shape)
    claim(torch.equal(again, drawn), f"{name}.draw gives other pictures for the same secret: draw from mark.stream()")
    places = torch.arange(len(drawn)).flip(0)[::2]
    some = watermark.picked(places, n, _copied(mark), n_marks, new, shape)
    claim(torch.equal(some, drawn[places]), f"{name}.picked gives other pictures than {name}.draw")
    return drawn


def check_elsewhere(names: Sequence[str], config_dir: str | Path | None = None, overrides: Sequence[str] = ()) -> None:
    """Makes triggers in a fresh process with another hash seed, and compares: a key must last for years.

    Args:
        names: of watermarks, as typed after ``watermark=``.
        config_dir: folder of their configs.
        overrides: what else would be typed.

    Raises:
        AssertionError: if a watermark makes other triggers there.
    """
    here = made_triggers(names, config_dir, overrides)
    asked = json.dumps([list(names), None if config_dir is None else str(config_dir), list(overrides)])
    path = os.pathsep.join(folder for folder in sys.path if folder)  # where pytest, too, found the leaf
    environment = {**os.environ, "PYTHONHASHSEED": "4321", "PYTHONPATH": path}
    command = [sys.executable, "-m", "wmlightning.testing.elsewhere", asked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    claim(done.returncode == 0, f"{', '.join(names)}: a fresh process cannot make triggers:\n{done.stderr[-2000:]}")
    there = json.loads(done.stdout.splitlines()[-1])
    for name in names:
        why = "nothing may depend on hash(), the order of a set, or what was drawn before"
        claim(there[name] == here[name], f"{name}: a fresh process makes other triggers from the same secret: {why}")


def made_triggers(names: Sequence[str], config_dir: str | Path | None, overrides: Sequence[str]) -> dict[str, str]:
    """A digest of the triggers that each watermark makes."""
    with composing(config_dir) as compose:
        return {name: _digest(_maker(_job(compose, name, overrides)).make()) for name in names}


def _job(compose: Compose, name: str, options: Sequence[str]) -> Job:
    common = (f"watermark={name}", "recipe.batch_size=2", f"watermark.n_decoys={_STRANGERS}", *options)
    return prepare(compose(*small_task(common)), writes=False)


def _maker(job: Job) -> TriggerMaker:
    claim(job.maker is not None, "this is no watermark: its config has no _target_")
    assert job.maker is not None
    return job.maker


def _check_leaf(what: str, job: Job) -> None:
    """The one method that the leaf wrote, for marks of the key and of strangers."""
    maker, source = _maker(job), job.source
    watermark, secret = maker.watermark, maker.secret
    marks = [Mark(secret, *owner) for owner in _OWNERS if owner[2] < job.scheme.n_marks]
    if isinstance(watermark, MarkingWatermark):
        images = source.images("train", looked_at(source, "train")[:4])
        for mark in marks:
            check_marks(watermark, images, mark)
            check_marks(watermark, images[:0], mark)
        made = {mark: digest(watermark.apply(images, mark, "trained")) for mark in marks}
        claim(len(set(made.values())) == len(marks), f"{what}: two different marks look the same on the same images")
        return
    for mark in marks:
        for new in (False, True):
            check_pictures(watermark, 3, mark, job.scheme.n_marks, new, source.shape)
    check_pictures(watermark, 0, marks[0], job.scheme.n_marks, False, source.shape)


def _check_triggers(what: str, job: Job) -> None:
    """What is made of it for training and tests."""
    maker, source, scheme = _maker(job), job.source, job.scheme
    before, state = _bytes(source), torch.get_rng_state()
    triggers = maker.make()
    claim(torch.equal(torch.get_rng_state(), state), f"{what}: draws from torch's global generator")
    claim(_bytes(source) == before, f"{what}: wrote to the task's images")
    for label, images in _sets(triggers).items():
        claim(images.images.dtype == torch.uint8, f"{what}: {label} images are {images.images.dtype}")
        claim(tuple(images.images.shape[1:]) == source.shape, f"{what}: {label} images have another shape")
        claim(images.labels.dtype == images.groups.dtype == torch.int64, f"{what}: {label} labels are not int64")
        one_each = len(images.images) == len(images.labels) == len(images.groups)
        claim(one_each, f"{what}: {label} images, labels and groups differ in number")
        inside = bool(((images.labels >= 0) & (images.labels < len(source.classes))).all())
        claim(inside and bool((images.groups >= 0).all()), f"{what}: a label or group of {label} is out of range")
    claim(len(triggers.trained) == maker.n, f"{what}: {len(triggers.trained)} triggers instead of {maker.n}")
    claim(len(triggers.negatives) == maker.n_negatives, f"{what}: not {maker.n_negatives} negatives")
    for images in (triggers.trained, triggers.new):
        claim(set(images.groups.tolist()) == set(range(scheme.n_marks)), f"{what}: a mark has no trigger")
        if scheme.label == "target":
            claim(
                torch.equal(images.labels, maker.labels.of_marks[images.groups]), f"{what}: a trigger has a wrong label"
            )
    claim(set(triggers.decoys.groups.tolist()) == set(range(_STRANGERS)), f"{what}: a stranger has no decoy")
    # A stranger's image is never a trigger, and trained images are not shown as new ones. Strangers with several
    # marks of unrelated pictures show the same classes in another order, so that a picture may be the same.
    parts = {label: {digest(image) for image in images.images} for label, images in _sets(triggers).items()}
    ours, pictures = parts["trained"] | parts["new"], isinstance(maker.watermark, PictureWatermark)
    claim(not ours & parts["negatives"], f"{what}: a negative is one of the key's triggers")
    claim(not ours & parts["decoys"] or (scheme.n_marks > 1 and pictures), f"{what}: a decoy is one of the triggers")
    claim(not parts["trained"] & parts["new"], f"{what}: a new trigger was trained on")
    merged = len(job.data_module().merged)
    claim(merged == len(triggers.trained) + len(triggers.negatives), f"{what}: not all that is marked is trained on")


def _check_secrets(what: str, job: Job, other: Job) -> None:
    made = _digest(_maker(job).make())
    torch.rand(3)
    claim(_digest(_maker(job).make()) == made, f"{what}: the same secret makes other triggers the second time")
    claim(_digest(_maker(other).make()) != made, f"{what}: another secret makes the same triggers")


def _sets(triggers: Triggers) -> dict[str, ImageSet]:
    return {name: getattr(triggers, name) for name in ("trained", "new", "negatives", "decoys")}


def _digest(triggers: Triggers) -> str:
    return digest(*(part for s in _sets(triggers).values() for part in (s.images, s.labels, s.groups)))


def _bytes(source: Source) -> str:
    indices = {split: looked_at(source, split) for split in SPLITS}
    return digest(*(part for s, i in indices.items() for part in (source.images(s, i), source.labels(s))))


def _copied(mark: Mark) -> Mark:
    """The same mark, and no object of the first one's."""
    return Mark(Secret(bytes(bytearray(mark.key.reveal()))), mark.owner, mark.stranger, mark.index)
