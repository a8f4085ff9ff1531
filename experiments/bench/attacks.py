"""What the store saves and what judging costs: the second half of ``make bench``.

*Sweep*: nine jobs (three watermarks, three attacks) through one store, against the same nine jobs in nine stores, where
each has to train its own model. Both are one multirun of ``train.py`` on ``dataset=mnist5k``; wall time of the command.

*Judging*: the loop that measures surrogates against the shortest loop that counts right answers on the same images held
as tensors. Rounds take turns in one process; medians are compared. And the share of an attack's time that judging
takes, from the cards of the sweep.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from throughput import CASES, RandomImages

from wmlightning.attacks.base import Arithmetic
from wmlightning.attacks.judge import Judge
from wmlightning.data.batches import ImageSet
from wmlightning.data.loading import Loading
from wmlightning.precision import resolve_precision
from wmlightning.process import keep_freed_memory

REPO = Path(__file__).resolve().parents[2]
SWEEP = ("watermark=content,unrelated,noise", "attack=prune,finetune,fineprune")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    keep_freed_memory()
    for name in CASES:
        _judging(name, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        _sweeps(Path(folder))


def _sweeps(folder: Path) -> None:
    one = _sweep(folder / "store", str(folder / "store"))
    nine = _sweep(folder / "stores", f"{folder / 'stores'}/${{hydra:job.num}}")
    trained = [len(list((folder / name).rglob("model.safetensors"))) for name in ("store", "stores")]
    print(f"\n9 jobs, {' '.join(SWEEP)}, mnist5k")
    print(f"  each job trains its own model   {nine:6.0f} s   {trained[1]} trainings")
    print(f"  through one store               {one:6.0f} s   {trained[0]} trainings   {nine / one:.2f} times as fast")
    shares: dict[str, list[float]] = {}
    for path in (folder / "store").rglob("attacks/*/card.json"):
        card = json.loads(path.read_text())
        spent = card["seconds"]["attack"] + card["seconds"]["judge"]
        shares.setdefault(card["attack"], []).append(card["seconds"]["judge"] / spent)
    told = ", ".join(f"{name} {100 * statistics.median(values):.0f} %" for name, values in sorted(shares.items()))
    print(f"  judging takes of the attack's time: {told}")


def _sweep(folder: Path, runs_dir: str) -> float:
    command = [sys.executable, str(REPO / "train.py"), "-m", *SWEEP, f"runs_dir={runs_dir}", "logger=none"]
    command.append(f"hydra.sweep.dir={folder}/multirun")  # runs_dir may name the job, which the sweep's folder cannot
    folder.mkdir()
    started = time.perf_counter()
    environment = {**os.environ, "WML_RUNS_DIR": str(folder)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


def _judging(name: str, rounds: int) -> None:
    case, source = CASES[name], RandomImages(CASES[name].shape, 100)
    source.sizes["test"] = 5000
    precision = resolve_precision("auto", "cpu")
    arithmetic = Arithmetic(torch.device("cpu"), torch.bfloat16 if precision == "bf16-mixed" else None, True)
    network = case.net().to(memory_format=torch.channels_last).eval()
    images, labels = source.read("test")
    marked = ImageSet(images[:2000], labels[:2000], labels[:2000])
    judge = Judge(source, torch.arange(5000), {"trigger": marked}, [1], 10, arithmetic, Loading())
    sets = [(images, labels), (images[:2000], labels[:2000])]
    ours, bare = [], []
    for turn in range(rounds + 1):
        seconds = (_timed(lambda: judge.measure(network)), _timed(lambda: _bare(network, sets, arithmetic)))
        if turn:
            ours.append(seconds[0])
            bare.append(seconds[1])
    ratio = statistics.median(b / a for a, b in zip(ours, bare, strict=True))
    print(f"judging {judge.n_images} images, {name}: {judge.n_images / statistics.median(ours):.0f} images/s, ", end="")
    print(f"ratio to a bare loop {ratio:.3f}")


def _timed(work: object) -> float:
    started = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - started


@torch.no_grad()
def _bare(network: torch.nn.Module, sets: list[tuple[torch.Tensor, torch.Tensor]], arithmetic: Arithmetic) -> float:
    right = 0
    for images, labels in sets:
        for part, wanted in zip(images.split(500), labels.split(500), strict=True):
            floats = part.float().div_(255).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=arithmetic.autocast is not None):
                right += int((network(floats).argmax(1) == wanted).sum())
    return right / sum(len(labels) for _, labels in sets)


if __name__ == "__main__":
    main()
