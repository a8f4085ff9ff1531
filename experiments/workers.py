"""Work side by side, one thread each: the same numbers however many there are, and whichever is first."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import torch

from wmlightning.apart import end_with_parent


def pool(jobs: int | None = None) -> ProcessPoolExecutor:
    """Processes that end when the one that started them does, however that ends.

    Args:
        jobs: how many; ``None``: one for each core.
    """
    n = jobs or os.cpu_count()
    return ProcessPoolExecutor(n, multiprocessing.get_context("spawn"), _begin, (os.getpid(),))


def _begin(parent: int) -> None:
    end_with_parent(parent)
    torch.set_num_threads(1)
