"""The unmarked model that a detection is compared with: nine watermarks of a sweep share it, and attack it once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from wmlightning.attacks.base import DetectionAttack, Recovered, Stolen
from wmlightning.attacks.judge import digest
from wmlightning.files import write_bytes
from wmlightning.results.card import fingerprint


@dataclass(frozen=True)
class Twin:
    """The model before it was marked, or as it would be without the watermark.

    Attributes:
        network: with its weights: floats in [0, 1] to logits.
        folder: of its run, where what an attack recovered from it is kept; ``None``: nothing is kept.
    """

    network: nn.Module
    folder: Path | None


def recover(
    attack: DetectionAttack, options: Mapping[str, Any], stolen: Stolen, folder: Path | None, force: bool
) -> Recovered:
    """What an attack recovers from the unmarked model, kept for the next watermark that asks.

    It is found again by everything that it follows from, so that it is the same as if the attack were carried out.

    Args:
        attack: the attack.
        options: of the attack.
        stolen: the unmarked network and what else the thief has.
        folder: where to look and to keep it; ``None``: carry out the attack.
        force: carry it out although it was done before.
    """
    if folder is None:
        return attack.run(stolen)
    path = folder / "recovered" / f"{_name(options, stolen)}.safetensors"
    found = None if force else _kept(path, stolen)
    if found is None:
        found = attack.run(stolen)
        parts = {"images": found.images, "confidence": found.confidence, "steps": torch.tensor(found.steps)}
        with suppress(PermissionError):  # a colleague's run in a shared store: nothing is lost but time
            path.parent.mkdir(exist_ok=True)
            write_bytes(path, save({name: part.contiguous() for name, part in parts.items()}))
    return found


def _name(options: Mapping[str, Any], stolen: Stolen) -> str:
    arithmetic = stolen.arithmetic
    return fingerprint(
        {
            "options": dict(options),
            "network": digest(stolen.network),
            "images": _bytes_of(stolen.images),
            "labels": None if stolen.labels is None else _bytes_of(stolen.labels),
            "seed": stolen.seed,
            "arithmetic": [str(arithmetic.device), str(arithmetic.autocast), arithmetic.channels_last],
            "threads": torch.get_num_threads(),  # sums in another order end in other bits
            "torch": torch.__version__,
        }
    )


def _bytes_of(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def _kept(path: Path, stolen: Stolen) -> Recovered | None:
    """What is there; nothing if it is not whole, as an interrupted copy of a store may leave it, or something else."""
    try:
        parts = load_file(path)
        images, confidence, steps = parts["images"], parts["confidence"], int(parts["steps"])
    except (OSError, SafetensorError, KeyError, RuntimeError):
        return None
    ours = images.ndim == 5 and (stolen.n_classes, *stolen.images.shape[1:]) == (images.shape[0], *images.shape[2:])
    fits = ours and images.is_floating_point() and confidence.shape == images.shape[:2]
    return Recovered(images, confidence, steps) if fits else None
