"""Lightning projects that know nothing of wmlightning."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tests.helpers import random_images
from wmlightning import make_key
from wmlightning.ownership.key import Key

SHAPE = (3, 10, 12)
CLASSES = ["ant", "bee", "cow", "dog"]


def to_input(picture: Image.Image) -> Tensor:
    """The project's evaluation transform: normalised floats."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return (pixels.float() / 255 - 0.5) / 0.3


class Animals(Dataset[Any]):
    """Random pictures, as PIL has them, and their classes."""

    classes = CLASSES

    def __init__(self, n: int = 96, seed: int = 0, transform: Any = None) -> None:
        self.pixels = random_images(n, SHAPE, seed)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        picture: Any = Image.fromarray(self.pixels[index].permute(1, 2, 0).numpy())
        return picture if self.transform is None else self.transform(picture), index % len(CLASSES)


class Shaken(Animals):
    """Training data with a random transform: no two epochs see the same pixels."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = super().__getitem__(index)
        return image + 0.2 * torch.randn(image.shape), label


class Module(L.LightningModule):
    """A classifier that writes down what it is trained on."""

    def __init__(self, images: Any = 0, labels: Any = 1) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.LayerNorm(3 * 10 * 12), nn.Linear(3 * 10 * 12, len(CLASSES)))
        self.places = images, labels
        self.seen: list[tuple[int, int, Tensor, Tensor]] = []
        self.batches: list[Any] = []
        self.rates: list[float] = []

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = (batch[place] for place in self.places)
        self.batches.append(batch)
        self.seen.append((self.current_epoch, batch_idx, images.detach().clone(), labels.clone()))
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return nn.functional.cross_entropy(self(images), labels)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        images, labels = (batch[place] for place in self.places)
        self.log("val/acc", (self(images).argmax(1) == labels).float().mean())

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def owners_key(path: Path, **options: Any) -> Key:
    """Twelve triggers of three marks, and four negatives."""
    given = {"n_marks": 3, "n_triggers": 12, "negatives": 1 / 3, "n_decoys": 2, "seed": 1, **options}
    return make_key(path, Animals(96), Animals(40, seed=9), **given)


def loader(n: int = 96, **options: Any) -> DataLoader[Any]:
    """The project's training batches: 8 of 12 unless told otherwise."""
    return DataLoader(Shaken(n, transform=to_input), **{"batch_size": 12, "shuffle": True, **options})


def evaluation(**options: Any) -> DataLoader[Any]:
    return DataLoader(Animals(40, seed=9, transform=to_input), **{"batch_size": 20, **options})


def name_of(image: Tensor, label: Tensor | int) -> str:
    pixels = image.float().cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(pixels + bytes([int(label)])).hexdigest()[:12]


def marked_names(key: Key, tmp: Path) -> Counter[str]:
    """What of the key goes into training, as the network sees it."""
    merged = key.check(tmp).make().merged()
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in merged.images]
    return Counter(name_of(to_input(p), label) for p, label in zip(pictures, merged.labels, strict=True))


def marked_rows(images: Tensor, labels: Tensor, names: Counter[str]) -> list[str]:
    """Those of a batch that are the key's."""
    found = [name_of(image, label) for image, label in zip(images, labels, strict=True)]
    return [name for name in found if name in names]
