"""Peak memory of an epoch over a folder of 50,000 pictures, streamed and in memory.

Draws the pictures (half JPEG, half PNG) into a temporary folder, trains one epoch in a process of its own with
``in_memory=false`` and with ``true``, and reads the memory of the process and its workers while they work: the sum of
their proportional shares (PSS), so that what workers share with their parent counts once. Linux only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from wmlightning.data.folder import ImageFolder

REPO = Path(__file__).resolve().parents[2]
MIB = 2**20


def draw(root: Path, n: int, side: int) -> None:
    """Blocks of colour, shifted: pictures that compress like photographs rather than like noise."""
    random = np.random.default_rng(0)
    blocks = [random.integers(0, 256, (8, 8, 3)).repeat(side // 8, 0).repeat(side // 8, 1) for _ in range(50)]
    for i in range(n):
        folder = root / f"class{i % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.roll(blocks[i % 50], i % side, axis=1).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:06d}.{'jpg' if i % 2 else 'png'}")


def tree(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it ended meanwhile
            found += [p for child in task.read_text().split() for p in tree(int(child))]
    return found


def share(pid: int) -> int:
    """A process's proportional share of memory, in bytes; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def peak(root: Path, side: int, in_memory: str, workers: int) -> tuple[int, int, float]:
    """Trains an epoch; gives the peak in bytes, the most processes seen, and the seconds."""
    with tempfile.TemporaryDirectory() as runs:
        options = ["dataset=image_folder", f"dataset.root={root}", f"dataset.size={side}", f"runs_dir={runs}"]
        options += [f"dataset.source.in_memory={in_memory}", f"recipe.num_workers={workers}", "trainer.max_epochs=1"]
        options += ["dataset.source_class=class0", "dataset.target_class=class1", "trainer=cpu", "logger=none"]
        net = ["model=small_cnn", "model.width=4", "model.hidden=8"]  # the network's own memory is not the point
        began, most, processes = time.monotonic(), 0, 0
        command = [sys.executable, str(REPO / "train.py"), *options, *net]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None:
                alive = tree(process.pid)
                most, processes = max(most, sum(map(share, alive))), max(processes, len(alive))
                time.sleep(0.2)
            if process.returncode:
                sys.exit(process.stderr.read() if process.stderr else "the training failed")
    return most, processes, time.monotonic() - began


def main() -> None:
    """Draws, trains, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=50_000)
    parser.add_argument("--side", type=int, default=64, help="height and width in pixels, a multiple of 8")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the pictures here instead of drawing them anew each time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.folder or Path(temporary) / "many"
        few = Path(temporary) / "few"
        if not root.exists():
            draw(root, options.pictures, options.side)
        draw(few, 500, options.side)
        began = time.process_time()
        source = ImageFolder(str(root), options.side, in_memory=False)
        listed = time.process_time()
        n = sum(len(source.labels(split)) for split in ("train", "test"))
        checked = time.process_time()
        decoded = n * 3 * options.side**2
        print(f"{n} pictures of {options.side}x{options.side}, decoded {decoded / MIB:.0f} MiB")
        print(f"listing {listed - began:.1f} s, headers {checked - listed:.1f} s of processor time")
        for in_memory in ("false", "true"):
            base, _, _ = peak(few, options.side, in_memory, options.workers)
            found, processes, seconds = peak(root, options.side, in_memory, options.workers)
            more = f"{(found - base) / MIB:+.0f} MiB = {(found - base) / decoded:.2f} x decoded"
            peaks = f"500 pictures {base / MIB:.0f} MiB, all {found / MIB:.0f} MiB ({more})"
            print(f"in_memory={in_memory}: {peaks} in {processes} processes, {seconds:.0f} s")


if __name__ == "__main__":
    main()
