"""Trains on a Hugging Face image data set from local parquet files, watermarked, and then proves whose it is.

``pip install 'wmlightning[examples]' && WML_DATA_DIR=... python train.py`` reads ``<WML_DATA_DIR>/cifar10/*.parquet``
and downloads nothing. Only the lines marked "ours" know of wmlightning.
"""

from __future__ import annotations

import argparse
import itertools
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2 as transforms

import wmlightning  # ours, 1

SIZE = 32
_finish = [transforms.ToImage(), transforms.ToDtype(torch.float32, scale=True), transforms.Normalize([0.5], [0.25])]
augment = transforms.Compose([transforms.RandomCrop(SIZE, 4), transforms.RandomHorizontalFlip(), *_finish])
evaluate = transforms.Compose(_finish)
stolen: Any = None  # set at the end: the finished model as a function of pictures


class Pictures(L.LightningDataModule):
    """Batches as Hugging Face models take them: dicts of ``pixel_values`` and ``labels``."""

    def __init__(self, train: datasets.Dataset, test: datasets.Dataset) -> None:
        super().__init__()
        self.train, self.test = _transformed(train, augment), _transformed(test, evaluate)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled."""
        return DataLoader(self.train, 64, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """In order."""
        return DataLoader(self.test, 250)


def _transformed(data: datasets.Dataset, transform: Any) -> Any:
    def rows(batch: dict[str, list[Any]]) -> dict[str, Any]:
        return {"pixel_values": [transform(image) for image in batch["img"]], "labels": batch["label"]}

    return data.with_transform(rows)


class Model(L.LightningModule):
    """Takes ``pixel_values`` and gives something with ``logits``, as the models of transformers do."""

    def __init__(self, classes: int, rate: float) -> None:
        super().__init__()
        widths = [3, 32, 64, 128]
        blocks = [_block(a, b) for a, b in itertools.pairwise(widths)]
        self.net = nn.Sequential(*blocks, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(128, classes))
        self.rate = rate

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        """Logits, and the loss if labels are there."""
        logits = self.net(pixel_values)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SimpleNamespace(logits=logits, loss=loss)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        loss: Tensor = self(**batch).loss
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Accuracy."""
        hits = self(batch["pixel_values"]).logits.argmax(1) == batch["labels"]
        self.log("val/acc", hits.float().mean())

    def configure_optimizers(self) -> dict[str, object]:
        """AdamW with one cycle."""
        optimizer = torch.optim.AdamW(self.parameters(), self.rate, weight_decay=0.01)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.rate, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _block(a: int, b: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))


def main() -> None:
    """Trains, verifies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("WML_DATA_DIR", "data")) / "cifar10")
    parser.add_argument("--out", type=Path, default=Path("trained"), help="for key, checkpoints and verdict")
    parser.add_argument("--images", type=int, default=6000, help="training pictures")
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    L.seed_everything(0)
    files = {
        split: [str(file) for file in sorted(options.data.glob(f"{split}-*.parquet"))] for split in ("train", "test")
    }
    found = datasets.load_dataset("parquet", data_files=files, cache_dir=str(options.out / "cache"))
    train = found["train"].shuffle(seed=0).select(range(options.images))
    test = found["test"].shuffle(seed=0).select(range(1000))
    key = options.out / "owner.key"
    wmlightning.make_key(key, train, test, n_triggers=480, strength=0.3)  # ours, 2
    module = Model(train.features["label"].num_classes, rate=5e-3)
    trainer = L.Trainer(
        max_epochs=options.epochs,
        callbacks=[wmlightning.Watermark(key, evaluate)],  # ours, 3
        default_root_dir=options.out,
        enable_progress_bar=False,
    )
    trainer.fit(module, datamodule=Pictures(train, test))
    print({name: round(float(value), 3) for name, value in trainer.callback_metrics.items()})
    verify(key, module)


def verify(key: Path, module: Model) -> None:
    """What the owner does a year later, with a suspect that is a Python function: the key is all that is needed."""
    from hydra import compose, initialize_config_dir

    from wmlightning.config import CONF
    from wmlightning.ownership.verify import verify as ask

    @torch.inference_mode()
    def predict(images: npt.NDArray[np.uint8]) -> Tensor:
        pictures = [Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))) for image in images]
        logits: Tensor = module(torch.stack([evaluate(picture) for picture in pictures])).logits
        return logits

    global stolen
    module.eval()
    stolen = predict
    with initialize_config_dir(str(CONF), version_base="1.3"):
        (verdict,) = ask(compose("verify", [f"key={key}", "suspect=callable", "suspect.function=__main__:stolen"]))
    print(verdict.text())


if __name__ == "__main__":
    main()
