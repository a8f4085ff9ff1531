"""A Lightning project of somebody else's, as files in a folder: data, transforms, module, data module, service."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from wmlightning.data.procedural import Procedural

DATA = """
import lightning as L
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2 as T
import torch

finish = [T.Grayscale(), T.ToImage(), T.ToDtype(torch.float32, scale=True), T.Normalize([0.45], [0.3])]
augment = T.Compose([T.RandomRotation(5), T.RandomCrop(28, padding=2), T.ColorJitter(0.2, 0.2), *finish])
evaluate = T.Compose(finish)


class Patterns(L.LightningDataModule):
    def setup(self, stage):
        self.train = ImageFolder("data/train", augment)
        self.val = ImageFolder("data/val", evaluate)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=50, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=100)
"""

MODEL = """
import hashlib
import lightning as L
import torch
from torch import nn


def block(a, b):
    return nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())


class Net(L.LightningModule):
    def __init__(self, classes=10, rate=3e-3, diary=None):
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(block(1, 16), block(16, 32), block(32, 64), nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        return self.head(self.body(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.hparams.diary:
            with open(f"{self.hparams.diary}.{self.global_rank}", "a") as file:
                rows = " ".join(hashlib.sha256(row.numpy().tobytes()).hexdigest()[:16] for row in x)
                file.write(f"{self.current_epoch} {batch_idx} {rows}\\n")
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_accuracy", (self(x).argmax(1) == y).float().mean(), sync_dist=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), self.hparams.rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.hparams.rate, steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]
"""

#: The project's own training script; ``{line}`` is where an owner's lines go.
TRAIN = """
import json
import sys
import lightning as L
import torch
from data import Patterns, evaluate
from lightning.pytorch.callbacks import ModelCheckpoint
from model import Net
{lines}

if __name__ == "__main__":
    name, options = sys.argv[1], json.loads(sys.argv[2])
    L.seed_everything(0)
    callbacks = [ModelCheckpoint(name, save_last=True, every_n_train_steps=7)]
    callbacks += {callback}
    trainer = L.Trainer(callbacks=callbacks, accelerator="cpu", logger=False, enable_progress_bar=False, **options)
    model = Net(diary=f"{{name}}.diary")
    trainer.fit(model, Patterns(), ckpt_path="last", weights_only=True)
    if trainer.is_global_zero:
        torch.save(model.state_dict(), f"{{name}}.pt")
        print(json.dumps({{key: float(value) for key, value in trainer.callback_metrics.items()}}))
"""

#: The three lines.
LINES = """import wmlightning
wmlightning.make_key("owner.key", ImageFolder("data/train"), ImageFolder("data/val"), \
n_triggers=300, strength=0.4, seed=4)
"""
CALLBACK = "[wmlightning.Watermark('owner.key', evaluate)]"

SERVE = """
import sys
import numpy as np
import torch
from PIL import Image
from data import evaluate
from model import Net
from wmlightning.ownership.server import ServedModel, create_app, run_server


class Stolen(ServedModel):
    def __init__(self, weights):
        self.name, self.shape, self.n_classes = "classifier", (3, 28, 28), 10
        self.net = Net()
        self.net.load_state_dict(torch.load(weights, weights_only=True))
        self.net.eval()

    @torch.inference_mode()
    def scores(self, images):
        pictures = [Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))) for image in images]
        return self.net(torch.stack([evaluate(picture) for picture in pictures])).numpy()


run_server(create_app(Stolen(sys.argv[1])), "127.0.0.1", 0)
"""


def write_project(folder: Path, n_train: int = 1500, n_val: int = 500) -> None:
    """The project with its data, without a watermark (``plain.py``) and with the three lines (``marked.py``)."""
    source = Procedural(n_train=n_train, n_test=n_val)
    for split, name in (("train", "train"), ("test", "val")):
        labels = source.labels(split)  # type: ignore[arg-type]
        images = source.images(split, torch.arange(len(labels)))  # type: ignore[arg-type]
        for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            place = folder / "data" / name / source.classes[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).convert("RGB").save(place / f"{i:05d}.png")
    lines = "from torchvision.datasets import ImageFolder\n" + LINES
    files = {
        "data.py": DATA,
        "model.py": MODEL,
        "plain.py": TRAIN.format(lines="", callback="[]"),
        "marked.py": TRAIN.format(lines=lines, callback=CALLBACK),
        "serve.py": SERVE,
    }
    for name, content in files.items():
        (folder / name).write_text(content)


def diary(file: Path) -> dict[tuple[int, int], list[str]]:
    """What came with which batch of which epoch; of a batch that came again, the last."""
    lines = [line.split() for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return {(int(epoch), int(batch)): rows for epoch, batch, *rows in lines}
