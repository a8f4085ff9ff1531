"""Where attacks compute: after a training in two processes in one of them, and on the GPU that the user named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from wmlightning.attacks.execution import _device as device_of
from wmlightning.job import prepare


def test_unmarked_model_is_trained_by_the_process_that_is_left(
    train: Callable[..., Any], composed: Callable[..., Any], small: list[str], tmp_path: Path
) -> None:
    typed = [*small[:3], *small[4:], "logger=none", "callbacks=none"]
    short = ("attack=inversion", "attack.inversion.steps=2", "attack.inversion.restarts=1")
    done = train(*typed, "trainer=ddp", *short, runs=tmp_path / "runs", cwd=tmp_path)
    assert done.code == 0, str(done)
    (card,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/attacks/*/card.json"))
    assert card["findings"]["twin"] is not None
    (twin,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*-none-*/card.json"))
    alone = prepare(composed(*typed, "trainer=cpu", "watermark=none"))
    assert twin["fingerprint"] == alone.fingerprint, "the model that watermark=none trains"
    assert twin["metrics"]["test/clean_acc"] >= 0


@pytest.mark.parametrize(
    ("device", "devices", "wanted"),
    [
        ("cuda", [1], "cuda:1"),
        ("cuda", [2, 0], "cuda:2"),
        ("cuda", 2, "cuda"),
        ("cuda", "auto", "cuda"),
        ("cpu", 1, "cpu"),
    ],
)
def test_attacks_compute_where_the_user_says(device: str, devices: Any, wanted: str) -> None:
    """On a finished model no trainer chooses the GPU."""
    job: Any = SimpleNamespace(device=device, cfg=OmegaConf.create({"trainer": {"devices": devices}}))
    assert device_of(job) == torch.device(wanted)
