"""Settings of the process: fewer page faults, no search for drivers; left alone where somebody else has chosen."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import REPO

_FAULTS = """
import resource, sys, torch
from contextlib import suppress
from hydra import compose, initialize_config_dir
from wmlightning.errors import UserError
from wmlightning.models.networks import SmallCNN
from wmlightning.ownership.serve import run as serve
from wmlightning.ownership.verify import verify
from wmlightning.pipeline import run as train
if sys.argv[1] != "none":
    run, *mistake = {
        "train": (train, "victim=/nowhere", "attack=prune", "logger=none"),
        "verify": (verify, "key=/nowhere", "suspect.path=/nowhere"),
        "serve": (serve, "run=/nowhere"),
    }[sys.argv[1]]
    with initialize_config_dir(sys.argv[2], version_base="1.3"):
        cfg = compose(sys.argv[1], mistake)
    with suppress(UserError):
        run(cfg)
net = SmallCNN(1, 28, 10)
images, labels = torch.rand(128, 1, 28, 28), torch.arange(128) % 10
def learn(steps):
    for _ in range(steps):
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
learn(10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
learn(10)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _run(script: str, *arguments: str, **variables: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(
        command, env={**clean, **variables}, capture_output=True, text=True, check=True
    ).stdout.strip()


def _is_glibc() -> bool:
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (ValueError, OSError):
        return False


@pytest.mark.skipif(not _is_glibc(), reason="settings of glibc")
def test_each_command_has_freed_memory_used_again_without_page_faults() -> None:
    # Left alone, glibc raises the size from which it maps blocks as it goes, and now and then its heap happens to end
    # in a block that is in use, so that nothing is handed back at all. Told the size, it maps each large block anew.
    mapped_anew = int(_run(_FAULTS, "none", str(REPO / "conf"), MALLOC_MMAP_THRESHOLD_="131072"))
    for command in ("train", "verify", "serve"):
        assert int(_run(_FAULTS, command, str(REPO / "conf"))) < mapped_anew / 10


def test_a_users_own_setting_is_left_alone() -> None:
    script = "from wmlightning.process import keep_freed_memory; print(keep_freed_memory())"
    assert _run(script, MALLOC_ARENA_MAX="2") == "False"


_ASKS = """
import ctypes, sys, torch, lightning
from wmlightning.process import stop_asking_for_gpus
if sys.argv[1] == "stop":
    assert stop_asking_for_gpus() != torch.cuda.is_available()
weights = torch.nn.Parameter(torch.zeros(3))
weights.grad = torch.ones(3)
optimizer = torch.optim.Adam([weights])
opened = []
load = ctypes.CDLL.__init__
def watched(self, name, *arguments, **options):
    opened.append(name)
    load(self, name, *arguments, **options)
ctypes.CDLL.__init__ = watched
for _ in range(10):
    optimizer.step()
print(len(opened))
"""


@pytest.mark.skipif(not hasattr(torch._C, "_cuda_getDeviceCount"), reason="torch without CUDA asks nobody")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_steps_do_not_look_for_a_driver() -> None:
    asked, stopped = (int(_run(_ASKS, how)) for how in ("leave", "stop"))
    assert asked >= 10  # if not, torch or Lightning has mended it: the setting can go
    assert stopped == 0
