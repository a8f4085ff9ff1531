"""Training throughput against a bare PyTorch loop: ``make bench``.

The baseline is the shortest loop that trains the same network on the same images, held as one uint8 tensor: shuffled
indices, the same batched augmentation, autocast, backward, step; no logging, no validation, no checkpoint. It runs in
a process of its own, as PyTorch comes, and a second time beside our side with the settings that a run of ours makes:
freed memory is kept (`wmlightning/process.py`), and the optimizer is fused (`Optimisation.build`). Against both: our
LightningModule and DataModule with the accuracy callback, the resume point and the CSV logger on, without and with a
watermark; and the same two in a plain loop, which tells what of the difference is ours and what is the Trainer's.
Rounds take turns; a round is one epoch; medians of rounds are compared. Peak memory is that of a process of its own
for each side. The images are random: speed does not depend on what they show.

``--device cuda`` compares on a GPU, which holds all images on both sides; peak memory is the GPU's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from wmlightning.callbacks.accuracy import Accuracies
from wmlightning.callbacks.resume import ResumePoint
from wmlightning.data.augment import ShiftFlip
from wmlightning.data.datamodule import Batching, WatermarkData
from wmlightning.data.loading import Loading
from wmlightning.data.source import MemorySource, Split
from wmlightning.data.splits import assign_roles
from wmlightning.models.classifier import Classifier, Optimisation
from wmlightning.models.networks import Normalized, ResNet9, SmallCNN
from wmlightning.precision import resolve_precision
from wmlightning.process import keep_freed_memory, stop_asking_for_gpus
from wmlightning.secret import Secret
from wmlightning.trainer import calm_lightning
from wmlightning.unprofiled import Unprofiled
from wmlightning.watermarks.noise import Noise
from wmlightning.watermarks.scheme import Scheme, choose_labels
from wmlightning.watermarks.triggers import TriggerMaker, no_triggers


class RandomImages(MemorySource):
    """Random pixels: ``n`` to train, 1,000 to test."""

    def __init__(self, shape: tuple[int, int, int], n: int) -> None:
        super().__init__("random", [str(i) for i in range(10)], shape)
        self.sizes = {"train": n, "test": 1000}

    def read(self, split: Split) -> tuple[Tensor, Tensor]:
        """Draws a split."""
        draw = torch.Generator().manual_seed(len(split))
        n = self.sizes[split]
        images = torch.randint(0, 256, (n, *self.shape), generator=draw, dtype=torch.uint8)
        return images, torch.randint(0, 10, (n,), generator=draw)


@dataclass(frozen=True)
class Case:
    """A network and the images it is made for."""

    shape: tuple[int, int, int]
    make_net: Callable[[], nn.Module]
    augment: ShiftFlip
    optimizer: Callable[..., torch.optim.Optimizer]
    smoothing: float

    def net(self) -> nn.Module:
        """A fresh network that normalises inside."""
        torch.manual_seed(0)
        c = self.shape[0]
        return Normalized(self.make_net(), [0.5] * c, [0.25] * c)


CASES = {
    "MNIST SmallCNN": Case(
        (1, 28, 28),
        partial(SmallCNN, 1, 28, 10),
        ShiftFlip(2),
        partial(torch.optim.Adam, lr=1e-3),
        0.0,
    ),
    "CIFAR ResNet9": Case(
        (3, 32, 32),
        partial(ResNet9, 3, 10),
        ShiftFlip(4, flip=True),
        partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4),
        0.1,
    ),
}
BATCH = 128


class Bare:
    """The baseline."""

    def __init__(self, case: Case, source: RandomImages, precision: str, device: str, **ours: bool) -> None:
        self.device = torch.device(device)
        self.images, self.labels = (part.to(self.device) for part in source.read("train"))
        self.case = case
        self.net = case.net().to(self.device, memory_format=torch.channels_last)
        self.optimizer = case.optimizer(self.net.parameters(), **ours)
        self.bf16 = precision == "bf16-mixed"
        self.draw = torch.Generator(self.device).manual_seed(0)

    def epoch(self) -> float:
        """Trains one epoch; images a second."""
        started = time.perf_counter()
        self.net.train()
        keep = torch.zeros(BATCH, dtype=torch.bool, device=self.device)
        n = len(self.images) // BATCH
        order = torch.randperm(len(self.images), generator=self.draw, device=self.device)
        for index in order[: n * BATCH].view(n, BATCH):
            images = self.case.augment(self.images[index], keep, self.draw).float().div_(255)
            images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                loss = cross_entropy(self.net(images), self.labels[index], label_smoothing=self.case.smoothing)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        _wait(self.device)
        return n * BATCH / (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    """A GPU works on while the processor has gone ahead."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Runner(Protocol):
    """One side of a comparison."""

    def epoch(self) -> float:
        """Goes through all images once; images a second."""


class Elsewhere:
    """A baseline in a process of its own, which knows nothing of our settings.

    Args:
        make: of the baseline, by what can be pickled.
    """

    def __init__(self, make: Callable[[], Runner]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make), daemon=True)
        self.process.start()

    def epoch(self) -> float:
        """See :class:`Runner`."""
        self.pipe.send("epoch")
        speed: float = self.pipe.recv()
        return speed


def _serve(pipe: Connection, make: Callable[[], Runner]) -> None:
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)  # Lightning's, which a bare loop would not import
    bare = make()
    while pipe.recv():
        pipe.send(bare.epoch())


class Clock(L.Callback):
    """Times the epoch from its first hook to the end of training, checkpoint and logs included."""

    seconds = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts."""
        self.started = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops."""
        _wait(pl_module.device)
        self.seconds = time.perf_counter() - self.started


class WithoutTrainer:
    """wmlightning's data module and module in a plain loop, without Lightning's Trainer."""

    def __init__(self, case: Case, source: RandomImages, precision: str, device: str) -> None:
        ours = Ours(case, source, precision, device, watermark=False)
        self.device, self.n_images = torch.device(device), ours.n_images
        self.data, self.module = ours.data, ours.module.to(device)
        self.data.loading = Loading(device=self.device)
        self.optimizer = case.optimizer(self.module.optimisation.groups_of(self.module), fused=True)
        self.bf16 = precision == "bf16-mixed"

    def epoch(self) -> float:
        """Trains one epoch; images a second."""
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False
        self.data.trainer = None
        batches = self.data.train_dataloader()
        started = time.perf_counter()
        self.data.trainer = SimpleNamespace(training=True)  # type: ignore[assignment]
        self.module.train()
        self.module.on_train_epoch_start()
        for number, batch in enumerate(batches):
            batch = self.data.on_after_batch_transfer(batch.to(self.device), 0)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                loss = self.module.training_step(batch, number)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        torch.use_deterministic_algorithms(False)
        _wait(self.device)
        return self.n_images / (time.perf_counter() - started)


class Ours:
    """wmlightning, with or without a watermark."""

    def __init__(self, case: Case, source: RandomImages, precision: str, device: str, watermark: bool) -> None:
        roles = assign_roles(source.labels("train"), source.labels("test"), 0, 0.001)
        triggers, watched = no_triggers(source.shape), {}
        if watermark:
            scheme, secret = Scheme(n_triggers=0.01), Secret.from_seed(0)
            labels = choose_labels(scheme, secret, source, "1", "0", marks_task=True)
            triggers = TriggerMaker(Noise(), scheme, labels, secret, source, roles).make()
            watched = {"trigger": triggers.trained}
        self.data = WatermarkData(
            source,
            roles,
            triggers.merged(),
            {"val": watched, "test": watched},
            Batching(BATCH),
            case.augment,
        )
        optimisation = Optimisation(case.optimizer, None, case.smoothing)
        self.module = Classifier(case.net(), optimisation, channels_last=True)
        self.precision = precision
        self.device = device
        self.n_images = len(roles.train) + len(triggers.merged())

    def epoch(self) -> float:
        """Trains one epoch; images a second."""
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            trainer = L.Trainer(
                accelerator=self.device,
                max_epochs=1,
                precision=self.precision,  # type: ignore[arg-type]
                logger=CSVLogger(folder),
                callbacks=[Accuracies([1], 10), ResumePoint(Path(folder)), clock],
                enable_progress_bar=False,
                enable_model_summary=False,
                limit_val_batches=0,
                deterministic=True,
                use_distributed_sampler=False,
                profiler=Unprofiled(),
            )
            torch.utils.deterministic.fill_uninitialized_memory = False
            trainer.fit(self.module, datamodule=self.data)
            torch.use_deterministic_algorithms(False)
        return self.n_images / clock.seconds


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=12800, help="images of an epoch (four times as many for MNIST)")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--case", default="", help="MNIST or CIFAR alone")
    parser.add_argument("--memory-of", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    calm_lightning()
    precision = resolve_precision(options.precision, options.device)
    if options.memory_of:
        _print_memory(*options.memory_of, precision, options.device)
        return
    machine = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{machine}, {precision}, batch {BATCH}, {options.rounds} rounds each, images/s")
    for name, case in CASES.items():
        if not name.startswith(options.case):
            continue
        n = options.images * (4 if "MNIST" in name else 1)
        _compare(name, case, precision, options.device, options.rounds, n)
        _compare_memory(name, case, options.device)


def _compare(name: str, case: Case, precision: str, device: str, rounds: int, n: int) -> None:
    source = RandomImages(case.shape, n)
    keep_freed_memory()
    stop_asking_for_gpus()
    sides = {
        "bare loop": Elsewhere(partial(Bare, case, RandomImages(case.shape, n), precision, device)),
        "bare loop, our settings": Bare(case, source, precision, device, fused=True),
        "wmlightning without Trainer": WithoutTrainer(case, source, precision, device),
        "wmlightning, no watermark": Ours(case, source, precision, device, watermark=False),
        "wmlightning, noise watermark": Ours(case, source, precision, device, watermark=True),
    }
    speeds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(rounds + 1):
        for side, runner in sides.items():
            speed = runner.epoch()
            if turn:  # the first round warms up
                speeds[side].append(speed)
    bare, tuned = (speeds[side] for side in list(sides)[:2])
    sides["bare loop"].process.terminate()
    print(f"\n{name}")
    for side, values in speeds.items():
        ratios = [statistics.median(a / b for a, b in zip(values, base, strict=True)) for base in (bare, tuned)]
        print(f"  {side:34s} {statistics.median(values):8.0f}   ratio {ratios[0]:.3f}, to the second {ratios[1]:.3f}")
    plain, marked = (sides[side] for side in list(sides)[3:])
    steps = [[1000 * BATCH / speed for speed in speeds[side]] for side in list(sides)[1:4]]
    own, trainer = (_median_difference(*pair) for pair in (steps[:2], steps[1:]))
    print(
        f"  a step of {BATCH} images: second bare loop {statistics.median(steps[0]):.1f} ms, "
        f"what is ours {own:+.2f} ms, Lightning's Trainer {trainer:+.2f} ms"
    )
    images = marked.n_images / plain.n_images - 1
    pairs = zip(*(speeds[side] for side in list(sides)[3:]), strict=True)
    seconds = statistics.median((marked.n_images / b) / (plain.n_images / a) for a, b in pairs) - 1
    print(f"  watermarking: {100 * images:.1f} % more images, {100 * seconds:+.1f} % time")


def _median_difference(before: list[float], after: list[float]) -> float:
    return statistics.median(b - a for a, b in zip(before, after, strict=True))


def _compare_memory(name: str, case: Case, device: str) -> None:
    command = [sys.executable, __file__, "--device", device, "--memory-of", name]
    with ThreadPoolExecutor() as side_by_side:
        outs = side_by_side.map(partial(_output, command), ("nothing", "bare", "ours"))
    peaks = {side: int(out.split()[-1]) for side, out in zip(("nothing", "bare", "ours"), outs, strict=True)}
    n_bytes = 50_000 * case.shape[0] * case.shape[1] * case.shape[2] / 2**20
    bare, ours = ((peaks[side] - peaks["nothing"]) / 1024 for side in ("bare", "ours"))
    more = (ours - bare) / n_bytes
    print(
        f"  peak memory above the imports, 50,000 images ({n_bytes:.0f} MiB): bare {bare:.0f} MiB, ours {ours:.0f} MiB "
        f"= bare + {more:.2f} x the data"
    )


def _output(command: list[str], side: str) -> str:
    return subprocess.run([*command, side], capture_output=True, text=True, check=True).stdout


def _print_memory(name: str, side: str, precision: str, device: str) -> None:
    case = CASES[name]
    if side == "ours":
        keep_freed_memory()
    source = RandomImages(case.shape, 50_000)
    runner = {
        "nothing": lambda: None,
        "bare": lambda: Bare(case, source, precision, device).epoch(),
        "ours": lambda: Ours(case, source, precision, device, watermark=True).epoch(),
    }[side]
    runner()
    print(torch.cuda.max_memory_allocated() // 1024 if device == "cuda" else _peak_kib())


def _peak_kib() -> int:
    """Largest resident size of this process: ``ru_maxrss`` would start at the size of the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


if __name__ == "__main__":
    main()
