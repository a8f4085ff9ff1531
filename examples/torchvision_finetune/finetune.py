"""Fine-tunes a torchvision network on class folders, watermarked, and then proves whose it is.

``python make_folder.py digits && python finetune.py digits``. Only the lines marked "ours" know of wmlightning.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightning as L
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2 as transforms

import wmlightning  # ours, 1

SIZE = 32
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_finish = [transforms.ToImage(), transforms.ToDtype(torch.float32, scale=True), transforms.Normalize(MEAN, STD)]
augment = transforms.Compose(
    [
        transforms.RandomResizedCrop(SIZE, scale=(0.7, 1.0), ratio=(0.9, 1.1)),
        transforms.RandomRotation(10),
        transforms.ColorJitter(0.2, 0.2),
        *_finish,
    ]
)
evaluate = transforms.Compose([transforms.Resize(SIZE), transforms.CenterCrop(SIZE), *_finish])


class FineTuning(L.LightningModule):
    """Somebody's fine-tuning: a network with a new head."""

    def __init__(self, classes: int, weights: str | None, rate: float) -> None:
        super().__init__()
        self.net = torchvision.models.resnet18(weights=weights)
        self.net.fc = nn.Linear(self.net.fc.in_features, classes)
        self.rate = rate

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accuracy."""
        images, labels = batch
        self.log("val/acc", (self(images).argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> dict[str, object]:
        """AdamW with one cycle."""
        optimizer = torch.optim.AdamW(self.parameters(), self.rate, weight_decay=0.01)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.rate, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> None:
    """Trains, saves, verifies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with train/CLASS/ and val/CLASS/")
    parser.add_argument("--out", type=Path, default=Path("finetuned"), help="for key, model and verdict")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--weights", help="DEFAULT downloads ImageNet's; without it they are random")
    parser.add_argument("--rate", type=float, default=2e-3)
    options = parser.parse_args()
    L.seed_everything(0)
    train, val = options.folder / "train", options.folder / "val"
    key = options.out / "owner.key"
    wmlightning.make_key(key, ImageFolder(train), ImageFolder(val), size=SIZE, n_triggers=320)  # ours, 2
    data = ImageFolder(train, augment), ImageFolder(val, evaluate)
    module = FineTuning(len(data[0].classes), options.weights, options.rate)
    trainer = L.Trainer(
        max_epochs=options.epochs,
        callbacks=[wmlightning.Watermark(key, evaluate)],  # ours, 3
        default_root_dir=options.out,
        enable_progress_bar=False,
    )
    trainer.fit(module, DataLoader(data[0], 64, shuffle=True, drop_last=True), DataLoader(data[1], 200))
    print({name: round(float(value), 3) for name, value in trainer.callback_metrics.items()})
    torch.jit.trace(module.net.eval(), torch.zeros(1, 3, SIZE, SIZE)).save(options.out / "model.ts")
    verify(key, options.out / "model.ts")


def verify(key: Path, model: Path) -> None:
    """What the owner does a year later, when the file has turned up elsewhere: the key is all that is needed."""
    from hydra import compose, initialize_config_dir

    from wmlightning.config import CONF
    from wmlightning.ownership.verify import verify as ask

    how = ["suspect=torchscript", f"suspect.path={model}", f"suspect.pixels.mean={MEAN}", f"suspect.pixels.std={STD}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        (verdict,) = ask(compose("verify", [f"key={key}", *how]))
    print(verdict.text())


if __name__ == "__main__":
    main()
