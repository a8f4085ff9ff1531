"""This process: its part in a distributed job, and settings with which training steps take less time."""

from __future__ import annotations

import ctypes
import os

import torch

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> bool:
    """Tells glibc to keep what each step frees for the next step.

    As it comes, glibc maps every large block anew and hands it back when it is freed, so that each training step on
    the processor touches fresh pages, which the kernel first has to clear. Another allocator, another system, or a
    user who set ``MALLOC_*`` variables is left alone. Numbers do not change.

    Returns:
        Whether the settings were made.
    """
    chosen_by_user = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if chosen_by_user or "LD_PRELOAD" in os.environ:
        return False
    try:
        os.confstr("CS_GNU_LIBC_VERSION")  # unknown where the C library is another one
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, ValueError):
        return False
    largest_mmap_threshold = 32 * 2**20  # more is refused
    set_all = [
        mallopt(_M_MMAP_THRESHOLD, largest_mmap_threshold),
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1),
        mallopt(_M_TOP_PAD, 2**26),
    ]
    return all(set_all)


def stop_asking_for_gpus() -> bool:
    """Has torch remember that there is no CUDA device where there is none.

    Adam and its kin ask for one in each step. Lightning has torch answer by looking for the driver's library anew each
    time, so that processes that are forked later may still use a GPU: a tenth to a quarter of a millisecond a step.

    Returns:
        Whether the setting was made.
    """
    if torch.cuda.is_available():
        return False
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    return True


def is_helper() -> bool:
    """Whether another process of the same distributed job writes, and this one only computes.

    On several machines ``LOCAL_RANK`` is 0 on each of them; torchrun tells the number among all processes too.
    """
    if (rank := os.environ.get("RANK")) is not None:
        return int(rank) > 0
    return any(int(os.environ.get(name) or 0) > 0 for name in ("LOCAL_RANK", "SLURM_PROCID", "NODE_RANK"))
