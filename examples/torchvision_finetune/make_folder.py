"""Writes pictures that are at hand as class folders: ``python make_folder.py digits``.

The 5,000 MNIST digits that ship with a dependency need no download; ``--data cifar10`` takes what lies in
``WML_DATA_DIR`` (else ``./data``).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from wmlightning.config import CONF
from wmlightning.data.source import Source


def main() -> None:
    """Writes ``FOLDER/train/CLASS/*.png`` and ``FOLDER/val/CLASS/*.png``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", default="mnist5k", help="a name in conf/dataset")
    parser.add_argument("--train", type=int, default=3000, help="training pictures")
    parser.add_argument("--val", type=int, default=800, help="validation pictures")
    options = parser.parse_args()
    config = OmegaConf.load(CONF / "dataset" / f"{options.data}.yaml")
    config.data_dir = os.environ.get("WML_DATA_DIR", "./data")
    source: Source = instantiate(config.dataset.source, _convert_="all")
    draw = torch.Generator().manual_seed(0)
    for split, name, n in (("train", "train", options.train), ("test", "val", options.val)):
        labels = source.labels(split)
        chosen = torch.randperm(len(labels), generator=draw)[:n]
        for number, image, label in zip(chosen.tolist(), source.images(split, chosen), labels[chosen], strict=True):
            folder = options.folder / name / source.classes[int(label)]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
            Image.fromarray(pixels).save(folder / f"{number:05d}.png")


if __name__ == "__main__":
    main()
