"""The key: one file with all that an owner keeps secret and needs to prove ownership.

The file is ``WMLKEY1`` and a newline, the SHA-256 of that and of the rest, and the rest: safetensors with the triggers
(uint8, as they were trained on) and, in its metadata, secret and config as canonical JSON. With a passphrase the rest
is encrypted. No part of it is a pickle, and nothing in it is code: a config may name only what our own configs name.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from wmlightning.config import check_targets, from_elsewhere, placed, plain
from wmlightning.data.batches import ImageSet
from wmlightning.data.held import HeldSource
from wmlightning.data.source import SPLITS
from wmlightning.errors import UserError
from wmlightning.files import check_writable, write_bytes
from wmlightning.job import Job
from wmlightning.ownership import pending
from wmlightning.ownership.sealing import opened, sealed
from wmlightning.secret import Secret
from wmlightning.task import Plan, check_memory, settle
from wmlightning.watermarks.triggers import TriggerMaker, Triggers
from wmlightning.watermarks.unrelated import refuse_own_data, refuse_own_images

_LARGEST = 2**31
_PATIENCE = 120.0  # seconds that a process waits for another to draw the secret
_SETS = ("trained", "new")
_PARTS = ("seed", "dataset", "watermark")
_FIELDS = ("images", "labels", "groups")


@dataclass(frozen=True, repr=False)
class Key:
    """An owner's key.

    Attributes:
        secret: what everything follows from.
        config: ``seed`` (of the roles), ``dataset``, ``watermark``, and ``data``, the identity of the data.
        trained: triggers that the model was trained on; groups are marks.
        new: triggers with the same marks that no training saw.
        held: the images that triggers are made of, in keys for projects that are not ours; ``None``: they are found
            where the config says.
    """

    secret: Secret
    config: dict[str, Any]
    trained: ImageSet
    new: ImageSet
    held: HeldSource | None = None

    def canonical(self) -> bytes:
        """What the commitment is made of: the same bytes for the same key, on every platform."""
        digests = {name: _digest(tensor) for name, tensor in self.tensors().items()}
        content = {"key": 1, "secret": self.secret.reveal().hex(), "config": self.config, "triggers": digests}
        return _json(content)

    def commitment(self) -> str:
        """SHA-256 of the key. Published early it proves that the key existed; it reveals nothing of the secret."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def plan(self, data_dir: str | Path, trust: Sequence[str] = ()) -> Plan:
        """What the key marks and how, on the data of this machine.

        Raises:
            UserError: if the config asks for code that is not ours.
        """
        check_targets(self.config, "key", trust)
        with from_elsewhere("key"):
            return self._settled(data_dir)

    def _settled(self, data_dir: str | Path) -> Plan:
        parts = placed({name: self.config[name] for name in _PARTS}, str(data_dir))
        return settle(OmegaConf.create({**parts, "data_dir": str(data_dir), "auto": {}}), self.secret, self.held)

    def check(self, data_dir: str | Path, trust: Sequence[str] = ()) -> TriggerMaker:
        """Makes all triggers anew from the secret and the data, and compares.

        Returns:
            What made them.

        Raises:
            UserError: if the data are others, if a trigger or label does not follow from the secret, or if pictures
                that are to be unrelated are the task's own: these are known without a mark.
        """
        plan = self.plan(data_dir, trust)
        if (here := plan.source.identity()) != self.config["data"]:
            raise UserError("key", f"it was made on data {self.config['data']}, here are {here}", "the same data")
        with from_elsewhere("key"):
            maker = plan.maker(plan.roles() if self.held is None else self.held.roles())
        if maker is None:
            raise UserError("key", "its config has no watermark", "a key that wmlightning made")
        check_memory(plan, maker)
        refuse_own_data(plan.watermark, plan.source)
        refuse_own_images(self.follows_from(maker), plan.source)
        return maker

    def follows_from(self, maker: TriggerMaker) -> Triggers:
        """Makes sure that the triggers are those that ``maker`` makes.

        Returns:
            All that it makes.

        Raises:
            UserError: if a trigger or label is another.
        """
        made = maker.make()
        for name, ours, theirs in (("trained", made.trained, self.trained), ("new", made.new, self.new)):
            if not all(torch.equal(getattr(ours, part), getattr(theirs, part)) for part in _FIELDS):
                raise UserError("key", f"its {name} triggers do not follow from its secret", "an unaltered key")
        return made

    def tensors(self) -> dict[str, Tensor]:
        """Its triggers by name, and the images that it holds."""
        sets = {"trained": self.trained, "new": self.new}
        triggers = {f"{name}.{part}": getattr(sets[name], part) for name in _SETS for part in _FIELDS}
        return triggers if self.held is None else {**triggers, **self.held.tensors()}


def make_key(job: Job) -> Key:
    """The key of a settled job. Reads the data.

    Raises:
        UserError: if the job has no watermark.
    """
    if job.maker is None:
        raise UserError("key", "there is no key without a watermark", "watermark=noise, or no key")
    made = job.maker.make()
    return Key(job.maker.secret, _config_of(job), made.trained, made.new)


@contextmanager
def secret_for(path: Path, waits: bool = False) -> Iterator[Secret]:
    """The secret of the key at ``path``, or a new one from the system's generator if there is none yet.

    A new one is settled at once, for every process that asks for the same key; see
    :mod:`wmlightning.ownership.pending`. If no key comes of it, whoever drew it leaves nothing behind.

    Args:
        path: of the key.
        waits: whether another process of the same job draws it, and this one only reads.

    Raises:
        UserError: if there is no readable key, none could be written, or none came from the process that was to draw.
    """
    if path.exists():
        yield read_key(path).secret
    elif waits:
        yield _awaited(path)
    else:
        check_writable(path.parent, "key", needed_bytes=2**20)
        new = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        with pending.alone_at(path):
            found = _settled(path)
            secret = found or pending.draw(path)
        try:
            yield secret
        finally:
            if found is None:
                pending.forget(path, new)


def _settled(path: Path) -> Secret | None:
    found = pending.read(path)  # first: it goes when the key is there
    return read_key(path).secret if found is None and path.exists() else found


def _awaited(path: Path) -> Secret:
    end = time.monotonic() + _PATIENCE
    while (secret := _settled(path)) is None:
        if time.monotonic() > end:
            wrong = f"for {_PATIENCE:g} seconds the job's first process has left neither {path} nor a secret for it"
            raise UserError("key", wrong, "a folder that all processes of the job see")
        time.sleep(0.1)
    return secret


def keep_key(job: Job, path: Path) -> Key:
    """Writes the job's key, or makes sure that the one that is there is the job's.

    Raises:
        UserError: if a key for other options or of another secret is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with pending.alone_at(path):
        if not path.exists():
            key = make_key(job)
            write_key(key, path)
        else:
            key = read_key(path)
            _check_same(key, job, path)
        pending.made(path)
    return key


def _check_same(key: Key, job: Job, path: Path) -> None:
    ours = _config_of(job)
    if key.config != ours:
        differing = [name for name in ours if ours[name] != key.config.get(name)]
        raise UserError("key", f"{path} was made for another {' and '.join(differing)}", "its own, or another file")
    if job.maker is None or key.secret.reveal() != job.maker.secret.reveal():
        wrong = f"{path} was made meanwhile, of another secret than this run began with"
        raise UserError("key", wrong, "the same command again, which takes it")


def write_key(key: Key, path: Path) -> None:
    """Writes a key, readable by its owner alone; encrypted if there is a passphrase in the environment."""
    metadata = {"wmlightning": _json({"secret": key.secret.reveal().hex(), "config": key.config}).decode()}
    body = save({name: tensor.contiguous() for name, tensor in key.tensors().items()}, metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, sealed(body), private=True)


def read_key(path: Path) -> Key:
    """Reads a key.

    Raises:
        UserError: if there is none, it is damaged, or the passphrase is missing or wrong.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError("key", f"{path} is larger than any key", "a key that wmlightning made")
        content = path.read_bytes()
    except OSError as error:
        raise UserError("key", f"cannot read {path} ({error.strerror})", "the file that training wrote") from error
    body = opened(content, path)
    try:
        return _parse(body)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError("key", f"{path} is no key ({type(error).__name__})", "the file that training wrote") from error


def _parse(body: bytes) -> Key:
    tensors = load(body)
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    content = json.loads(header["__metadata__"]["wmlightning"])
    config = content["config"]
    _json(config)  # no number in it is none: the commitment could not be made
    if set(config) != {*_PARTS, "data"} or type(config["seed"]) is not int:
        raise ValueError("config")
    sets: dict[str, ImageSet] = {}
    for name in _SETS:
        images, labels, groups = (tensors[f"{name}.{part}"] for part in _FIELDS)
        if images.dtype != torch.uint8 or images.ndim != 4 or not labels.dtype == groups.dtype == torch.int64:
            raise ValueError("triggers")
        if labels.shape != (len(images),) or groups.shape != (len(images),):
            raise ValueError("labels")
        sets[name] = ImageSet(images, labels, groups)
    return Key(Secret(bytes.fromhex(content["secret"])), config, sets["trained"], sets["new"], _held(config, tensors))


def _held(config: dict[str, Any], tensors: Mapping[str, Tensor]) -> HeldSource | None:
    if not any(name.startswith("held.") for name in tensors):
        return None
    task = config["dataset"]["source"]
    splits = {split: (tensors[f"held.{split}.images"], tensors[f"held.{split}.labels"]) for split in SPLITS}
    if any(labels.dtype != torch.int64 or labels.shape != images.shape[:1] for images, labels in splits.values()):
        raise ValueError("held images")
    return HeldSource(task["name"], task["classes"], task["shape"], splits)


def _config_of(job: Job) -> dict[str, Any]:
    cfg = plain(job.cfg)
    config = {name: placed(cfg[name], "") for name in _PARTS}  # where data lie is each machine's own matter
    return {**json.loads(_json(config)), "data": job.source.identity()}


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True).encode()


def _digest(tensor: Tensor) -> list[Any]:
    values = tensor.contiguous().numpy()
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), hashlib.sha256(little.tobytes()).hexdigest()]
