"""The key of a project that is not ours, made of its pictures."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from wmlightning.config import CONF, find_code, placed, plain
from wmlightning.data.broken import described
from wmlightning.data.held import HeldSource
from wmlightning.embed.pictures import Pictures, fitted, is_grey
from wmlightning.errors import UserError, listed
from wmlightning.files import named
from wmlightning.ownership.key import Key, read_key, write_key
from wmlightning.secret import Secret
from wmlightning.seeds import role_seed
from wmlightning.task import Plan, settle
from wmlightning.watermarks.base import MarkingWatermark

_UNSEEN = "pictures that no training sees, of the validation or test data"
_DOUBLES = 0.1  # share of training images among the unseen ones that may be chance
_SHOWN = 64  # images held beside pictures that have nothing to do with the task: to judge the scale of inputs by


def make_key(
    path: str | Path,
    images: Any,
    unseen: Any,
    classes: list[str] | int | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    fields: tuple[int | str, int | str] | None = None,
    broken: Literal["refuse", "skip"] = "refuse",
    watermark: str = "noise",
    unrelated: str = "mnist5k",
    n_marks: int = 8,
    n_triggers: int = 400,
    negatives: float | None = None,
    seed: int | None = None,
    config_dir: str | Path | None = None,
    **options: Any,
) -> Key:
    """Makes the key of a project and writes it, or takes the one that is there.

    The key holds the pictures that its triggers are made of, byte for byte: nothing else is needed to check it, to
    train with it (:class:`wmlightning.Watermark`) and to verify with it. It is secret.

    Args:
        path: of the key. If one of the same options is there it is taken, and no picture is read.
        images: the project's training data, without their transform; see :class:`wmlightning.embed.pictures.Pictures`.
        unseen: likewise, pictures that the training never sees. Triggers are made of them too, for verification: they
            show that the model learned the mark and not some images. Training pictures cannot stand in for them.
        classes: class names, or how many there are; ``None``: what the data tell.
        size: height and width, in pixels, of a picture as it is sent to the finished model; others are scaled and
            cropped. ``None``: the size that all pictures have.
        fields: where items have picture and class number, if that is in doubt: ``("img", "fine_label")``.
        broken: ``refuse`` or ``skip``: what to do with pictures that cannot be read. Only those are met that are looked
            at, until there are enough; a warning counts and names what was skipped.
        watermark: ``noise``, ``content``, ``unrelated``, or one of your own in ``config_dir``.
        unrelated: name of the data set that pictures of ``watermark="unrelated"`` come from.
        n_marks: marks in the key, each with its own label.
        n_triggers: trained triggers, all marks together.
        negatives: strangers' marks trained to keep the true label, relative to ``n_triggers``; ``None``: 1 for a key
            of one mark, which would else answer to any other, and 0 for several.
        seed: of a study, whose key follows from it; ``None``: a secret of the system's generator.
        config_dir: folder with your own ``watermark/NAME.yaml`` (and ``dataset/NAME.yaml``, for ``unrelated``), and the
            code that they name.
        **options: further options of the watermark, such as ``strength=0.3``; see
            :class:`wmlightning.watermarks.scheme.Scheme` and the watermark itself.

    Raises:
        UserError: for a mistake in the arguments, or if a key of other options is there.
    """
    path = Path(path).expanduser()
    if type(n_triggers) is not int or n_triggers < 1:
        raise UserError("n_triggers", f"{n_triggers!r} triggers", "a whole number")
    given = {"n_marks": n_marks, "n_triggers": n_triggers, "source_class": "any", **options}
    given["negatives"] = negatives if negatives is not None else float(n_marks == 1)
    folders = [CONF] if config_dir is None else [Path(config_dir).expanduser(), CONF]
    find_code(*folders[:-1])
    node = _watermark(watermark, given, unrelated, folders)
    train, new = Pictures(images, "images", fields, broken), Pictures(unseen, "unseen", fields, broken)
    names = _classes(classes, train)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):  # the processes of one training may all ask for it
        if path.exists():
            return _kept(path, node, names, size, seed)
        if images is unseen:
            raise UserError("unseen", "the same data as images", _UNSEEN)
        if n_shared := train.n_shared(new):
            raise UserError("unseen", f"{n_shared} of the {len(new)} pictures are training images", _UNSEEN)
        secret = _secret(seed) if seed is not None else Secret(secrets.token_bytes(32))
        key = _made(secret, node, names, (train, new), size)
        write_key(key, path)
    return key


def _secret(seed: int) -> Secret:
    return Secret.from_seed(role_seed(seed, "secret"))


def _made(secret: Secret, node: dict[str, Any], names: list[str], data: tuple[Pictures, Pictures], size: Any) -> Key:
    first = _first(data[0])
    h, w = (first.height, first.width) if size is None else _size(size)
    nothing = torch.empty((0, 3, h, w), dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
    _, _, plan = _settled(secret, node, names, nothing, nothing)
    marks_task = isinstance(plan.watermark, MarkingWatermark)
    n_train = node["n_triggers"] if marks_task else _SHOWN
    n_new = (node["n_new"] or n_train) if marks_task else _SHOWN
    chosen = _Chosen(secret, len(names), (3, h, w), size is not None, plan.labels.sources)
    chosen.grey = is_grey(first)
    held_train = chosen.of(data[0], n_train)
    if marks_task and len(held_train[0]) < n_train:
        wrong = f"{n_train} triggers, but there are {len(held_train[0])} images to make them of"
        raise UserError("n_triggers", wrong, f"at most {len(held_train[0])}")
    share = min(1.0, len(held_train[0]) / (len(data[0]) * chosen.share))
    held_new = chosen.of(data[1], n_new, avoid=_digests(held_train[0]), compared=share)
    if chosen.grey:
        held_train, held_new = ((images[:, :1].clone(), labels) for images, labels in (held_train, held_new))
    source, config, plan = _settled(secret, node, names, held_train, held_new)
    maker = plan.maker(source.roles())
    assert maker is not None, "_watermark names one"
    made = maker.make()
    made.check()
    stored = {name: placed(config[name], "") for name in ("seed", "dataset", "watermark")}
    stored = {**json.loads(json.dumps(stored)), "data": source.identity()}
    return Key(secret, stored, made.trained, made.new, source)


class _Chosen:
    """Chooses pictures: in an order that follows from the secret, the same for data of the same length.

    Whoever gives the same pictures twice gets the same choice twice, and is found out.
    """

    def __init__(
        self, secret: Secret, n_classes: int, shape: tuple[int, int, int], given: bool, sources: tuple[int, ...]
    ) -> None:
        self.secret = secret
        self.n_classes = n_classes
        self.shape = shape
        self.given = given
        self.sources = set(sources)
        self.grey = True  # as long as no picture that was looked at has colours
        self.share = 1.0  # of the pictures looked at last: those of the source classes

    def of(self, data: Pictures, n: int, avoid: set[str] | None = None, compared: float = 1.0) -> tuple[Tensor, Tensor]:
        """Images and labels of up to ``n`` pictures of the source classes.

        Args:
            data: to choose from.
            n: pictures.
            avoid: digests of training images: these are left out.
            compared: what share of the training images these are.
        """
        avoid = avoid or set()
        images: list[Tensor] = []
        labels: list[int] = []
        met = 0
        for image, label, grey in self._walk(data):
            if _digest(image) in avoid:
                met += 1
                continue
            images.append(image)
            labels.append(label)
            self.grey = self.grey and grey
            if len(images) == n:
                break
        _tell_skipped(data)
        looked_at = met + len(images)
        told = f"{met} of the {looked_at} pictures looked at are training images"
        # A single one among few that were compared may be chance; as many others are as unlikely as they are.
        if met > _DOUBLES * looked_at or (met > 1 and met / compared > _DOUBLES * looked_at):
            if compared < 1:
                told += f", of which 1 in {1 / compared:.0f} was compared"
            raise UserError(data.name, told, _UNSEEN)
        if met:
            warnings.warn(f"{data.name}: {told} and are left out: are these {_UNSEEN}?", stacklevel=4)
        if not images:
            raise UserError(data.name, "no picture of the classes that are marked", "some of each")
        return torch.stack(images), torch.tensor(labels)

    def _walk(self, data: Pictures) -> Iterator[tuple[Tensor, int, bool]]:
        n_seen = n_fit = 0
        for index in self.secret.stream("pictures held").sample(len(data), len(data)).tolist():
            found = data.at(index)
            if found is None:
                continue
            picture, label = found
            n_seen, n_fit = n_seen + 1, n_fit + (label in self.sources)
            self.share = n_fit / n_seen
            if not 0 <= label < self.n_classes:
                wrong = f"item {index} of {data.name} is of class {label}, but there are {self.n_classes} classes"
                raise UserError("classes", wrong, "all of them")
            if label in self.sources:
                yield fitted(picture, self.shape, self.given), label, is_grey(picture)


def _first(data: Pictures) -> Image.Image:
    for found in map(data.at, range(len(data))):
        if found is not None:
            return found[0]
    _tell_skipped(data)
    raise UserError(data.name, "no picture can be read", "pictures that are whole")


def _tell_skipped(data: Pictures) -> None:
    if data.skipped:
        told = f"{len(data.skipped)} broken pictures are skipped: {described(data.skipped)}"
        warnings.warn(f"{data.name}: {told}", stacklevel=5)


def _kept(path: Path, node: dict[str, Any], names: list[str], size: Any, seed: int | None) -> Key:
    key = read_key(path)
    task = key.config["dataset"]["source"]
    theirs = {"watermark": key.config["watermark"], "classes": task.get("classes")}
    ours = {"watermark": json.loads(json.dumps(placed(node, ""))), "classes": names}
    if size is not None:
        theirs["size"], ours["size"] = list(task.get("shape", [])[1:]), list(_size(size))
    if seed is not None:
        theirs["seed"], ours["seed"] = key.secret.reveal(), _secret(seed).reveal()
    differing = [name for name in ours if ours[name] != theirs[name]]
    if key.held is None or differing:
        what = " and ".join(differing) or "task"
        raise UserError("key", f"{path} was made for another {what}", "its own, or another file")
    return key


def _settled(
    secret: Secret, node: dict[str, Any], names: list[str], train: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]
) -> tuple[HeldSource, dict[str, Any], Plan]:
    """The task that held images make, with its config."""
    shape = list(train[0].shape[1:])
    source = HeldSource("project", names, shape, {"train": train, "test": new})
    task = {"name": "project", "source": {"name": "project", "classes": names, "shape": shape}}
    config = {"seed": 0, "dataset": {**task, "source_class": 0, "target_class": 1, "val_share": 0.0}, "watermark": node}
    return source, config, settle(OmegaConf.create({**config, "auto": {}}), secret, source)


def _watermark(name: str, options: dict[str, Any], unrelated: str, folders: list[Path]) -> dict[str, Any]:
    """The options of a watermark as its config has them, with the user's put in."""
    files = {word: file for word, file in _configs("watermark", folders).items() if word not in ("base", "none")}
    if name not in files:
        raise UserError("watermark", f"{name!r} is unknown", f"one of {listed(sorted(files))}")
    node = OmegaConf.merge(OmegaConf.load(CONF / "watermark" / "base.yaml"), OmegaConf.load(files[name]))
    assert isinstance(node, DictConfig)
    node.pop("defaults", None)
    if unknown := [option for option in options if option not in node]:
        raise UserError(unknown[0], f"{name} has no such option", f"one of {listed(sorted(map(str, node)), 30)}")
    node.update(options)
    if "images" in node:
        node["images"] = _other_data(unrelated, _configs("dataset", folders))
    found: dict[str, Any] = plain(node)
    return found


def _configs(group: str, folders: list[Path]) -> dict[str, Path]:
    """Files of a group's configs by name; those of the first folder win."""
    return {file.stem: file for folder in reversed(folders) for file in sorted((folder / group).glob("*.yaml"))}


def _other_data(name: str, files: Mapping[str, Path]) -> DictConfig:
    place = str(named(os.environ.get("WML_DATA_DIR") or "./data"))
    wholes = {word: OmegaConf.merge({"data_dir": place}, OmegaConf.load(file)) for word, file in files.items()}
    datasets = {word: whole.dataset for word, whole in wholes.items()}
    lacking = {word: [f"dataset.{at}" for at in d if OmegaConf.is_missing(d, at)] for word, d in datasets.items()}
    if lacking.get(name, [name]):
        wrong = f"{name} lacks {listed(lacking[name])}" if name in lacking else f"no data set is called {name!r}"
        ready = sorted(word for word, missing in lacking.items() if not missing)
        raise UserError("unrelated", wrong, f"one of {listed(ready)}, or a config of your own in config_dir")
    source: DictConfig = OmegaConf.create(plain(wholes[name])["dataset"]["source"])
    return source


def _classes(classes: list[str] | int | None, data: Pictures) -> list[str]:
    if isinstance(classes, int):
        classes = [str(number) for number in range(classes)]
    names = data.classes() if classes is None else [str(name) for name in classes]
    if names is None:
        raise UserError("classes", "the data do not tell their classes", "classes=10, or their names in order")
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError("classes", f"{listed(names)}", "two or more, all different")
    return names


def _size(size: Any) -> tuple[int, int]:
    both = (size, size) if isinstance(size, int) else size
    whole = isinstance(both, (tuple, list)) and len(both) == 2 and all(type(n) is int and n > 0 for n in both)
    if not whole:
        raise UserError("size", f"{size!r} is no size", "pixels, or (height, width)")
    return both[0], both[1]


def _digest(image: Tensor) -> str:
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


def _digests(images: Tensor) -> set[str]:
    return {_digest(image) for image in images}
