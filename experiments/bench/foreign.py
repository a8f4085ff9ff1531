"""What embedding costs a Lightning project that is not ours: ``python experiments/bench/foreign.py``.

The same project is trained without and with the callback, in two processes that take turns every ten steps, so that
both meet the same machine. The medians of the turns are compared. Triggers are images too: their own share of the time
is what so many more images take, and *beyond it* is what the callback costs on top. What is done once (keys read and
checked, inputs of the triggers made) and after each epoch (trigger accuracy) is told apart. The images are random:
speed does not depend on what they show.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
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

BATCH, STEPS, WARM = 64, 10, 2
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
        lambda: torchvision.models.resnet18(num_classes=10), 64, Pictures, 0.5
    ),
}


class Turns(L.Callback):
    """Trains for a turn, tells how long it took, and waits for the next."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.once: float | None = None
        self.after: list[float] = []

    def wait(self, told: float | None) -> None:
        """Tells and waits."""
        self.pipe.send(told)
        self.pipe.recv()
        self.started = time.perf_counter()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Ends a turn. The batch is already here."""
        seconds = time.perf_counter() - self.started
        if self.once is None:
            self.once = seconds
        if batch_idx % STEPS == 0:
            self.wait(seconds if batch_idx else None)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Notes when the last batch is done."""
        self.ended = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes what the callback before this one did meanwhile."""
        self.after.append(time.perf_counter() - self.ended)


def _train(pipe: Connection, name: str, n: int, epochs: int, key: Path | None) -> None:
    """A side, in a process of its own."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    case = CASES[name]
    loader = DataLoader(case.data(n, case.side, transforms.Compose(_finish)), BATCH, shuffle=True, drop_last=True)
    torch.manual_seed(0)
    turns = Turns(pipe)
    marking = [wmlightning.Watermark(key, transforms.Compose(_finish))] if key is not None else []
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[*marking, turns], enable_model_summary=False, **quiet
    )
    turns.wait(None)
    trainer.fit(Module(case.net()), loader)
    pipe.send({"once": turns.once, "after": statistics.median(turns.after)})


class Side:
    """The parent's end of a process."""

    def __init__(self, name: str, n: int, epochs: int, key: Path | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        context.Process(target=_train, args=(theirs, name, n, epochs, key), daemon=True).start()
        self.pipe.recv()

    def turn(self) -> Any:
        """Seconds of a turn; ``None`` where an epoch begins; at the end the seconds of what is told apart."""
        self.pipe.send("go")
        return self.pipe.recv()


def compare(name: str, n: int, epochs: int, n_triggers: int) -> None:
    """Measures a case and prints it."""
    side, data = CASES[name].side, CASES[name].data
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "owner.key"
        wmlightning.make_key(key, Pictures(n, side), Pictures(n // 2, side), 10, n_triggers=n_triggers)
        plain, marked = Side(name, n, epochs, None), Side(name, n, epochs, key)
        pairs: list[tuple[Any, Any]] = []
        while not pairs or not isinstance(pairs[-1][0], dict):
            first, second = (plain, marked) if len(pairs) % 2 else (marked, plain)
            found = {first: first.turn(), second: second.turn()}
            pairs.append((found[plain], found[marked]))
    apart, timed = pairs[-1], [pair for pair in pairs[:-1] if None not in pair][WARM:]
    more = n_triggers / (n // BATCH * BATCH)
    usual = statistics.median(a for a, _ in timed)
    low, middle, high = statistics.quantiles([b / a / (1 + more) - 1 for a, b in timed], n=4)
    print(f"\n{name} ({data.__name__}): {100 * more:.1f} % more images, {len(timed)} turns of {STEPS} steps each")
    print(
        f"  {STEPS * BATCH / usual:.0f} images/s without; time beyond the triggers' own share {100 * middle:+.1f} %"
        f" (half of the turns: {100 * low:+.1f} to {100 * high:+.1f})"
    )
    once, after = (apart[1][kind] - apart[0][kind] for kind in ("once", "after"))
    epoch = usual * n / BATCH / STEPS
    print(f"  once, before the first step: {once:.1f} s; after each epoch: {100 * after / epoch:.1f} % of its time")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=12800, help="images of an epoch")
    parser.add_argument("--triggers", type=float, default=0.03, help="relative to the images")
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, float32, batch {BATCH}")
    for name, case in CASES.items():
        n = round(options.images * case.share)
        compare(name, n, options.epochs, round(n * options.triggers))


if __name__ == "__main__":
    main()
