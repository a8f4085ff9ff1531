"""A network of ours: a finished run, or weights of the same architecture from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wmlightning.attacks.base import Arithmetic
from wmlightning.config import path_of, setting, targets_of
from wmlightning.errors import UserError
from wmlightning.ownership.suspects.base import Shape
from wmlightning.ownership.suspects.local import LocalSuspect, file_identity
from wmlightning.precision import device_type
from wmlightning.results.card import read_card
from wmlightning.store import WEIGHTS, Run, load_run, load_weights


class Network(LocalSuspect):
    """A network that wmlightning can build.

    Args:
        path: a finished run's folder, or a file of weights: a surrogate of an attack, a checkpoint of somebody's.
        like: the run whose architecture the weights belong to; ``None``: the one whose folder the file is in.
        device: where to compute: ``cpu``, ``gpu`` or ``auto``.
        batch_size: images computed at once.
        trust: see :func:`wmlightning.load_run`.
    """

    def __init__(
        self,
        path: str,
        like: str | None = None,
        device: str = "cpu",
        batch_size: int = 500,
        trust: tuple[str, ...] | list[str] = (),
    ) -> None:
        self.path = path_of(path, "suspect.path")
        self.name = str(path)
        self.like = path_of(like, "suspect.like") if like is not None else None
        self.device = device
        self.batch_size = setting(batch_size, "suspect.batch_size", int, 1)
        self.trust = targets_of(trust, "suspect.trust")
        self._network: nn.Module | None = None
        self._arithmetic = Arithmetic(torch.device("cpu"))

    def connect(self, shape: Shape | None) -> None:
        """Builds the network and loads its weights. Whatever they come from, no code of theirs is run."""
        del shape
        folder = self.path if self.path.is_dir() else self.like or _run_around(self.path)
        run = _load(folder, "suspect.path" if folder == self.path else "suspect.like", self.trust)
        if folder != self.path:
            load_weights(run.network, self.path, "suspect.path")
        self._arithmetic = arithmetic_of(run, self.device, "suspect.device")
        self._network = run.network.to(self._arithmetic.device)
        self.shape, self.n_classes = run_shape(run), len(run.classes)

    def identity(self) -> dict[str, Any]:
        """See :meth:`Suspect.identity`. The same weights are the same suspect."""
        return file_identity("network", self.path / WEIGHTS if self.path.is_dir() else self.path)

    def compute(self, images: Tensor) -> Tensor:
        """Logits."""
        assert self._network is not None, "open() comes first"
        with torch.inference_mode(), self._arithmetic.scope():
            logits: Tensor = self._network(self._arithmetic.floats(images))
            return logits


def run_shape(run: Run) -> Shape:
    """Shape of the images that a run's network takes."""
    auto = run._cfg.auto
    return int(auto.channels), int(auto.height), int(auto.width)


def arithmetic_of(run: Run, device: str, key: str) -> Arithmetic:
    """How to compute a run's network: in float32, laid out as in training.

    Raises:
        UserError: naming ``key``, if there is no such device.
    """
    try:
        where = device_type(device)
    except UserError as error:
        raise UserError(key, str(error.args[1]), "cpu") from error
    weight = next((p for p in run.network.parameters() if p.dim() == 4), None)
    channels_last = weight is not None and weight.is_contiguous(memory_format=torch.channels_last)
    return Arithmetic(torch.device(where), channels_last=channels_last)


def _run_around(file: Path) -> Path:
    """The run whose folder a file is in, at any depth."""
    for folder in file.absolute().parents:
        if (card := read_card(folder)) is not None and card.get("kind") == "train":
            return folder
    if not file.is_file():
        raise UserError("suspect.path", f"there is no {file}", "a run's folder or a file of weights")
    raise UserError("suspect.like", f"{file} is weights alone", "like=RUN, a finished run of the same architecture")


def _load(folder: Path, key: str, trust: tuple[str, ...]) -> Run:
    try:
        return load_run(folder, trust=trust)
    except UserError as error:
        raise UserError(key, *map(str, error.args[1:])) from error
