"""Which device and which arithmetic a training gets."""

from __future__ import annotations

from typing import Any

import torch

from wmlightning.errors import UserError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def device_type(accelerator: str) -> str:
    """``cuda``, ``mps`` or ``cpu`` for a Trainer's ``accelerator``.

    Raises:
        UserError: if it is not there.
    """
    if not isinstance(accelerator, str):
        raise UserError("trainer.accelerator", f"{accelerator!r} is unknown", "auto, cpu, gpu, cuda or mps")
    if accelerator in ("auto", "gpu"):
        if torch.cuda.is_available():
            return "cuda"
        if torch.backends.mps.is_available():
            return "mps"
        if accelerator == "auto":
            return "cpu"
        raise UserError("trainer.accelerator", "this machine has no GPU that torch can use", "trainer=cpu")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator not in there:
        raise UserError("trainer.accelerator", f"{accelerator!r} is unknown", "auto, cpu, gpu, cuda or mps")
    if not there[accelerator]:
        raise UserError("trainer.accelerator", f"this machine has no {accelerator} device", "trainer=cpu")
    return accelerator


def check_devices(devices: Any, device: str) -> None:
    """Refuses more GPUs than there are.

    Args:
        devices: ``trainer.devices``: how many, or a list of their numbers.
        device: see :func:`device_type`.

    Raises:
        UserError: if one is not there.
    """
    if device != "cuda":
        return
    n = torch.cuda.device_count()
    last = max((i for i in devices if isinstance(i, int)), default=0) + 1 if isinstance(devices, list) else devices
    if isinstance(last, int) and last > n:
        right = f"at most {n}" if isinstance(devices, int) else f"numbers of 0 to {n - 1}"
        raise UserError("trainer.devices", f"{devices} of {n} GPU{'s' if n > 1 else ''}", right)


def has_bf16(device: str) -> bool:
    """Whether the device computes in bfloat16 itself, faster than in float32, instead of emulating it."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "cpu":
        tests = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return any(test() for test in tests if test is not None)  # the oldest releases that we take do not tell
    return False


def resolve_precision(wanted: str | int, device: str) -> str:
    """Turns ``auto`` into a choice and refuses what the device lacks.

    Args:
        wanted: ``auto`` or a precision of Lightning's.
        device: see :func:`device_type`.

    Raises:
        UserError: for an unknown precision, or one that the device lacks.
    """
    text = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}.get(str(wanted), str(wanted))
    if text == "auto":
        if has_bf16(device):
            return "bf16-mixed"
        return "16-mixed" if device == "cuda" else "32-true"
    if text not in PRECISIONS:
        raise UserError("trainer.precision", f"{text!r} is unknown", f"auto, {', '.join(PRECISIONS)}")
    if text == "16-mixed" and device == "cpu":
        raise UserError("trainer.precision", "16-mixed needs a GPU, this device is cpu", "auto, 32-true or bf16-mixed")
    if text == "bf16-mixed" and device == "cuda" and not has_bf16(device):
        raise UserError("trainer.precision", "this GPU has no bf16", "auto, 32-true or 16-mixed")
    return text
