"""What embedding costs a Lightning project that is not ours: ``python experiments/bench/foreign.py``.

The same project is trained without and with the callback, in turns; a round is two epochs of each. Epochs are timed
from their first hook to the end of their last batch: the second alone is the steady state, the first also makes the
triggers' inputs and checks them. Triggers are images too: their own share of the time is what so many more images
take, and *beyond it* is what the callback costs on top. Evaluating triggers after an epoch is told apart. The images
are random: speed does not depend on what they show. On a machine that other work shares, ``--cpu-seconds`` with one
thread (``OMP_NUM_THREADS=1``) compares the work done instead of the time it took.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2 as transforms

import wmlightning
from wmlightning.models.networks import ResNet9

BATCH = 64
_finish = [transforms.ToImage(), transforms.ToDtype(torch.float32, scale=True), transforms.Normalize([0.5], [0.25])]


class Pictures(Dataset[Any]):
    """Random pictures with a transform for each, as torchvision's data sets have them."""

    def __init__(self, n: int, side: int, transform: Any = None) -> None:
        draw = torch.Generator().manual_seed(n)
        self.pixels = torch.randint(0, 256, (n, side, side, 3), generator=draw, dtype=torch.uint8).numpy()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        picture: Any = Image.fromarray(self.pixels[index])
        return picture if self.transform is None else self.transform(picture), index % 10


class Ready(Pictures):
    """The same as tensors that are ready: nothing hides what a callback costs."""

    def __init__(self, n: int, side: int, transform: Any = None) -> None:
        super().__init__(n, side, transform)
        self.inputs = (torch.from_numpy(np.ascontiguousarray(self.pixels.transpose(0, 3, 1, 2))) / 255 - 0.5) / 0.25

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.inputs[index], index % 10


class Module(L.LightningModule):
    """A plain classifier."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross entropy."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD."""
        return torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)


@dataclass(frozen=True)
class Case:
    """A network, the pictures it takes and how they are loaded."""

    net: Callable[[], nn.Module]
    side: int
    data: type[Pictures]
    share: float = 1.0  # of the images of an epoch that were asked for


CASES = {
    "ResNet9 of width 16, 32x32, tensors that are ready": Case(lambda: ResNet9(3, 10), 32, Ready),
    "torchvision resnet18, 64x64, PIL transforms": Case(
        lambda: torchvision.models.resnet18(num_classes=10), 64, Pictures, 0.25
    ),
}


class Clock(L.Callback):
    """Times epochs and what comes after their last batch."""

    def __init__(self, n_batches: int, now: Callable[[], float]) -> None:
        self.last = n_batches - 1
        self.now = now
        self.epochs: list[float] = []
        self.after: list[float] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts."""
        self.started = self.now()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stops."""
        if batch_idx == self.last:
            self.ended = self.now()
            self.epochs.append(self.ended - self.started)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes what the callback before this one did meanwhile."""
        self.after.append(self.now() - self.ended)


def seconds(case: Case, n: int, key: Path | None, now: Callable[[], float]) -> tuple[float, float, float]:
    """Seconds of the first and the second epoch, and of what came after the second."""
    loader = DataLoader(case.data(n, case.side, transforms.Compose(_finish)), BATCH, shuffle=True, drop_last=True)
    clock = Clock(n // BATCH, now)
    torch.manual_seed(0)
    marking = [wmlightning.Watermark(key, transforms.Compose(_finish))] if key is not None else []
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, callbacks=[*marking, clock], enable_model_summary=False, **quiet
    )
    trainer.fit(Module(case.net()), loader)
    return clock.epochs[0], clock.epochs[1], clock.after[1]


def compare(name: str, case: Case, n: int, rounds: int, n_triggers: int, now: Callable[[], float]) -> None:
    """Measures a case and prints it."""
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "owner.key"
        wmlightning.make_key(key, Pictures(n, case.side), Pictures(n // 2, case.side), 10, n_triggers=n_triggers)
        found = [(seconds(case, n, None, now), seconds(case, n, key, now)) for _ in range(rounds + 1)][
            1:
        ]  # the first warms up
    images = n // BATCH * BATCH
    more = n_triggers / images
    print(f"\n{name}: {images} images and {n_triggers} triggers an epoch, {100 * more:.1f} % more images")
    for epoch, what in ((1, "second epoch"), (0, "first epoch")):
        plain, marked = (statistics.median(side[epoch] for side in sides) for sides in zip(*found, strict=True))
        beyond = [marked[epoch] / plain[epoch] / (1 + more) - 1 for plain, marked in found]
        print(
            f"  {what:13s} {images / plain:6.0f} images/s without, {(images + n_triggers) / marked:6.0f} with;"
            f" time {100 * (marked / plain - 1):+.1f} %, beyond the triggers' own share {_told(beyond)}"
        )
    after = statistics.median(marked[2] / plain[1] for plain, marked in found)
    print(f"  trigger accuracy after each epoch: {100 * after:.1f} % of the time of an epoch without")


def _told(shares: list[float]) -> str:
    low, high = min(shares), max(shares)
    return f"{100 * statistics.median(shares):+.1f} % ({100 * low:+.1f} to {100 * high:+.1f})"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=12800, help="images of an epoch")
    parser.add_argument("--triggers", type=float, default=0.03, help="relative to the images")
    parser.add_argument("--cpu-seconds", action="store_true", help="of this process, instead of the clock's")
    options = parser.parse_args()
    now = time.process_time if options.cpu_seconds else time.perf_counter
    kind = "processor's" if options.cpu_seconds else "clock's"
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    print(f"{torch.get_num_threads()} threads, float32, batch {BATCH}, the {kind} seconds")
    print(f"{options.rounds} rounds: medians (least to most)")
    for name, case in CASES.items():
        n = round(options.images * case.share)
        compare(name, case, n, options.rounds, round(n * options.triggers), now)


if __name__ == "__main__":
    main()
