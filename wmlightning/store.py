"""The run store seen from outside: finished runs, and weights from elsewhere. Neither can run code here."""

from __future__ import annotations

import copy
import os
import pickle  # for the name of an error: nothing is unpickled
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wmlightning.config import check_targets, from_elsewhere, make, path_of, placed, targets_of
from wmlightning.errors import UserError
from wmlightning.files import file_digest
from wmlightning.job import Job, Start, network_of, prepare
from wmlightning.ownership.key import read_key
from wmlightning.precision import device_type, resolve_precision
from wmlightning.results.card import read_card
from wmlightning.results.fields import cleaned
from wmlightning.secret import Secret
from wmlightning.trainer import SET_HERE
from wmlightning.watermarks.triggers import Triggers, no_triggers

WEIGHTS = "model.safetensors"

#: What a finished run's card says about its training; the rest of a config is the present command's.
_TASK = ("dataset", "watermark", "model", "recipe")

#: What torch raises for files that are no checkpoint, are cut off, or would run code.
_SPOILED = (
    pickle.UnpicklingError,
    SafetensorError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    zipfile.BadZipFile,
)


def load_weights(network: nn.Module, path: Path, key: str = "victim") -> None:
    """Loads weights into a network, whether they were saved from it, from the network inside, or by Lightning.

    Args:
        network: normalises inside, see :class:`wmlightning.models.networks.Normalized`.
        path: safetensors, or a state dict that torch saved (read with ``weights_only=True``).
        key: config key that named the file.

    Raises:
        UserError: if the file cannot be read or does not fit.
    """
    state = _read_state(path, key)
    wanted = network.state_dict()
    for prefix, inner in (("", ""), ("", "net."), ("net.", ""), ("module.", ""), ("model.", "net.")):
        renamed = {inner + name.removeprefix(prefix): value for name, value in state.items()}
        if inner:  # saved from the network inside, which knows nothing of mean and scale
            renamed |= {name: wanted[name] for name in ("mean", "scale") if name in wanted}
        fits = renamed.keys() == wanted.keys()
        if fits and all(renamed[name].shape == wanted[name].shape for name in wanted):
            network.load_state_dict(renamed)
            return
    missing = sorted(wanted.keys() - state.keys())
    what = f"{path} does not fit the network: "
    what += f"no {missing[0]}" if missing else "other shapes"
    raise UserError(key, what, "the model and dataset that it was trained with")


def _read_state(path: Path, key: str) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(key, f"there is no {path}", "a run's folder or a file of weights") from error
    except _SPOILED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        right = "safetensors or a state dict, whole, with nothing but tensors"
        raise UserError(key, f"cannot read {path} ({reason[:150]})", right) from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(key, f"{path} holds more or other than tensors by name", "a state dict")
    return {str(name): value for name, value in found.items()}


def find_start(value: Any) -> Start | None:
    """What ``start`` names: a finished run's folder, or a file of weights; nothing for ``None``.

    Raises:
        UserError: if it is neither.
    """
    if value is None:
        return None
    path = Path(str(value)).expanduser().absolute()
    if not path.is_dir():
        if not path.is_file():
            raise UserError("start", f"there is no {path}", "a finished run's folder or a file of weights")
        return Start(path, file_digest(path))
    card = read_card(path)
    if card is None or card.get("kind") != "train" or not (path / WEIGHTS).is_file():
        raise UserError("start", f"no finished run in {path}", f"a folder with card.json and {WEIGHTS}")
    return Start(path / WEIGHTS, file_digest(path / WEIGHTS), cleaned(str(card.get("name"))))


def read_run(folder: Path, key: str = "victim", trust: Sequence[str] = ()) -> dict[str, Any]:
    """The card of a finished training, checked so that building from it runs nothing but what we ship.

    Args:
        folder: of the run.
        key: config key that named it.
        trust: further ``_target_``s that may be built.

    Raises:
        UserError: if there is no finished run, or its config asks for more.
    """
    card = read_card(folder)
    if card is None or card.get("kind") != "train" or not (folder / WEIGHTS).is_file():
        raise UserError(key, f"no finished run in {folder}", f"a folder with card.json and {WEIGHTS}")
    config = card.get("config")
    if not isinstance(config, dict) or not all(isinstance(config.get(part), dict) for part in _TASK):
        raise UserError(key, f"the card in {folder} has no config", "a card that wmlightning wrote")
    if not isinstance(card.get("name"), str) or not isinstance(card.get("fingerprint"), str):
        raise UserError(key, f"the card in {folder} names no model", "a card that wmlightning wrote")
    check_targets({part: config.get(part) for part in (*_TASK, "trainer")}, key, trust)
    return card


def with_task_of(cfg: DictConfig, card: dict[str, Any]) -> DictConfig:
    """``cfg`` with the task, key and seed of a finished run; where data lie and how to compute stays as in ``cfg``."""
    cfg = cfg.copy()
    config = card["config"]
    OmegaConf.set_struct(cfg, False)
    for part in _TASK:
        cfg[part] = placed(config[part], str(cfg.data_dir))
    cfg.seed = config["seed"]
    cfg.guard.max_drop = None  # watches over trainings
    kept = {key: cfg.trainer[key] for key in ("accelerator", "devices", "strategy", "precision") if key in cfg.trainer}
    if kept.get("precision") == "auto":  # as it was trained, if that can be done here
        with suppress(UserError):
            kept["precision"] = resolve_precision(card["precision"], device_type(kept["accelerator"]))
    told = dict(config.get("trainer") or {})
    theirs = {k: v for k, v in told.items() if k not in SET_HERE and not isinstance(v, (dict, list))}
    cfg.trainer = OmegaConf.merge(cfg.trainer, theirs, kept)
    OmegaConf.set_struct(cfg, True)
    return cfg


def secret_of(card: dict[str, Any], key: Path | None) -> Secret | None:
    """The secret that a finished run was trained with; ``None`` for that of a study, which follows from the seed.

    Raises:
        UserError: if it was trained with another key than the one at ``key``, or that is missing.
    """
    identity = card.get("identity")
    asked = identity.get("key") if isinstance(identity, dict) else None
    if asked is None:
        return None
    secret = read_key(key).secret if key is not None else None
    if secret is None or secret.name() != asked:
        raise UserError("key", f"{card.get('name')} was trained with a key", "key=, and the one it was trained with")
    return secret


def check_data(card: dict[str, Any], job: Job, key: str) -> None:
    """Makes sure that a finished run is looked at with the data that it was trained on.

    With one picture more, splits and triggers are others, and the run's own would pass for forgotten.

    Args:
        card: of the run.
        job: settled for it here.
        key: config key that named the run.

    Raises:
        UserError: if they are others.
    """
    identity = card.get("identity")
    for part in ("data", "other_data"):
        was, now = (found.get(part) if isinstance(found, dict) else None for found in (identity, job.identity))
        if was is not None and was != now:
            wrong = f"it was trained on data {cleaned(str(was), 500)}, here are {now}"
            raise UserError(key, wrong, "the same data")


class Run:
    """A finished run, loaded. Made by :func:`load_run`.

    Attributes:
        folder: of the run.
        card: what it says about itself.
        network: the trained network in evaluation mode: float images in [0, 1] to logits.
    """

    def __init__(self, folder: Path, card: dict[str, Any], cfg: DictConfig, key: Path | None = None) -> None:
        self.folder = folder
        self._key = key
        self.card = card
        self._cfg = cfg
        source = make(cfg.dataset.source, "dataset.source")
        self.classes: tuple[str, ...] = source.classes
        layout = torch.channels_last if cfg.recipe.get("channels_last") else torch.contiguous_format
        self.network = network_of(cfg, source, cfg.seed).eval().to(memory_format=layout)  # adds up as in training
        load_weights(self.network, folder / WEIGHTS, "path")

    @cached_property
    def job(self) -> Job:
        """Data, roles and trigger maker, settled as for the training. Reads the data's labels."""
        secret = secret_of(self.card, self._key)
        with from_elsewhere("path"):
            job = prepare(self._cfg, writes=False, secret=secret)
        check_data(self.card, job, "path")
        return job

    @cached_property
    def triggers(self) -> Triggers:
        """Everything that was made from the run's secret. Reads the data."""
        return self.job.maker.make() if self.job.maker else no_triggers(self.job.source.shape)

    def attacks(self) -> dict[str, dict[str, Any]]:
        """Cards of the attacks on this run, by the name of their folder."""
        folders = sorted((self.folder / "attacks").glob("*")) if (self.folder / "attacks").is_dir() else []
        cards = {folder.name: read_card(folder) for folder in folders}
        return {name: card for name, card in cards.items() if card is not None}

    def surrogate(self, attack: str, number: int = -1) -> nn.Module:
        """The network that an attack made.

        Args:
            attack: name of the attack's folder, see :meth:`attacks`.
            number: row of the attack's curve.

        Raises:
            UserError: if there is no such attack, or its weights were not kept.
        """
        card = self.attacks().get(attack)
        if card is None or not card.get("curve"):
            raise UserError("attack", f"{self.folder} has no surrogates of {attack}", f"one of {list(self.attacks())}")
        name = card["curve"][number].get("weights")
        if not isinstance(name, str) or Path(name).name != name:
            raise UserError("attack", f"{attack} kept no weights", "judge.keep_surrogates=true when it is carried out")
        network = copy.deepcopy(self.network)
        load_weights(network, self.folder / "attacks" / attack / name, "attack")
        return network


def load_run(
    path: str | Path,
    data_dir: str | Path | None = None,
    trust: Sequence[str] = (),
    key: str | Path | None = None,
) -> Run:
    """Loads a finished run: network, config and triggers.

    The network needs nothing but the run's folder; the triggers are made anew from the secret and the data.

    Args:
        path: the run's folder.
        data_dir: where data lie on this machine; ``None``: ``WML_DATA_DIR``, else ``./data``.
        trust: dotted names of classes of your own that the card may name; all of ours may be named.
        key: the owner's key, if it was trained with one and the triggers are wanted.

    Raises:
        UserError: if there is no finished run, or its card asks for code that is neither ours nor trusted.
    """
    folder = path_of(path, "path").absolute()
    owner = None if key is None else path_of(key, "key")
    card = read_run(folder, "path", targets_of(trust, "trust"))
    place = str(path_of(data_dir if data_dir is not None else os.environ.get("WML_DATA_DIR") or "./data", "data_dir"))
    config = card["config"]
    settings = {
        **{part: placed(config[part], place) for part in _TASK},
        "seed": config.get("seed"),
        "trainer": {"accelerator": "cpu", "precision": "32-true", "max_epochs": 1},
        "data_dir": place,
        "runs_dir": str(folder.parent),
        "auto": {},
        "guard": {"max_drop": None},
        "force": False,
        "group": None,
        "tags": [],
    }
    with from_elsewhere("path"):
        return Run(folder, card, OmegaConf.create(settings), owner)
