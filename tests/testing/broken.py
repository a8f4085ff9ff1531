"""Leaves that each break one promise."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wmlightning.attacks.base import DetectionAttack, Recovered, RemovalAttack, Stolen, Surrogate
from wmlightning.data.procedural import Procedural
from wmlightning.data.source import Source, Split
from wmlightning.errors import UserError
from wmlightning.ownership.suspects.base import Answer, Batch, Shape, Spend, Suspect, missing
from wmlightning.ownership.suspects.local import LocalSuspect
from wmlightning.watermarks.base import Mark, MarkingWatermark, PictureWatermark
from wmlightning.watermarks.noise import Noise

Images3 = tuple[int, int, int]

# -- watermarks ------------------------------------------------------------------------------------------------------


class Whole(Noise):
    """Breaks none."""


class OnlyOne(Noise):
    """Breaks none, and knows one mark with one label."""

    def check(self, shape: Images3, n_marks: int, negatives: bool) -> None:
        del shape, negatives
        if n_marks > 1:
            raise UserError("watermark.n_marks", f"{n_marks} marks", "one")


class GlobalNumbers(MarkingWatermark):
    def apply(self, images: Tensor, mark: Mark, batch: str) -> Tensor:
        del mark, batch
        return images ^ torch.randint(0, 256, images.shape[1:], dtype=torch.uint8)


class DrawsAside(Noise):
    def apply(self, images: Tensor, mark: Mark, batch: str) -> Tensor:
        torch.rand(1)
        return super().apply(images, mark, batch)


class Counts(Noise):
    def __init__(self) -> None:
        super().__init__()
        self.calls = itertools.count()

    def apply(self, images: Tensor, mark: Mark, batch: str) -> Tensor:
        return super().apply(images, mark, batch) ^ (next(self.calls) % 2)


class WritesToImages(Noise):
    def apply(self, images: Tensor, mark: Mark, batch: str) -> Tensor:
        return images.copy_(super().apply(images, mark, batch))


class GivesBackImages(MarkingWatermark):
    def apply(self, images: Tensor, mark: Mark, batch: str) -> Tensor:
        del mark, batch
        return images


class Floats(Noise):
    def apply(self, images: Tensor, mark: Mark, batch: str) -> Tensor:
        return super().apply(images, mark, batch) / 255


class Crops(Noise):
    def apply(self, images: Tensor, mark: Mark, batch: str) -> Tensor:
        return super().apply(images, mark, batch)[..., 1:]


class SameForAll(MarkingWatermark):
    def apply(self, images: Tensor, mark: Mark, batch: str) -> Tensor:
        del mark, batch
        return 255 - images


class HashSeed(Noise):
    def apply(self, images: Tensor, mark: Mark, batch: str) -> Tensor:
        return super().apply(images, mark, batch) ^ (hash("spam") % 251)


class Pictures(PictureWatermark):
    def draw(self, n: int, mark: Mark, n_marks: int, new: bool, shape: Images3) -> Tensor:
        del n_marks
        draws = mark.stream(f"pictures/{new}").integers(n * shape[0] * shape[1] * shape[2], 256)
        return torch.from_numpy(draws).to(torch.uint8).view(n, *shape)


class TooMany(Pictures):
    def draw(self, n: int, mark: Mark, n_marks: int, new: bool, shape: Images3) -> Tensor:
        return super().draw(n + 1, mark, n_marks, new, shape)


class OldOnesAgain(Pictures):
    def draw(self, n: int, mark: Mark, n_marks: int, new: bool, shape: Images3) -> Tensor:
        return super().draw(n, mark, n_marks, False, shape)


# -- attacks ---------------------------------------------------------------------------------------------------------


class Gentle(RemovalAttack):
    """Breaks none."""

    strength_name = "share taken off"
    strengths = (0.1, 0.2)

    def run(self, stolen: Stolen) -> Iterator[Surrogate]:
        for strength in self.strengths:
            network = stolen.copy()
            self.change(network, strength)
            yield Surrogate(network, strength)

    def change(self, network: nn.Module, strength: float) -> None:
        for parameter in network.parameters():
            parameter.data.mul_(1 - strength)


class Falling(Gentle):
    strengths = (0.2, 0.1)


class NoNumber(Gentle):
    strengths = (0.1, float("inf"))


class NoName(Gentle):
    strength_name = RemovalAttack.strength_name


class Twice(Gentle):
    strengths = (0.1, 0.1)


class Clock(Gentle):
    calls = itertools.count()

    def change(self, network: nn.Module, strength: float) -> None:
        super().change(network, strength + 1e-3 * next(self.calls))


class PythonsRandom(Gentle):
    def change(self, network: nn.Module, strength: float) -> None:
        super().change(network, strength + 1e-3 * random.SystemRandom().random())


class Boasts(Gentle):
    def run(self, stolen: Stolen) -> Iterator[Surrogate]:
        for surrogate in super().run(stolen):
            yield Surrogate(surrogate.network, surrogate.strength, epochs=1, n_images=10**6)


class TellsNoImages(Gentle):
    def run(self, stolen: Stolen) -> Iterator[Surrogate]:
        for surrogate in super().run(stolen):
            yield Surrogate(surrogate.network, surrogate.strength, epochs=1)


class Hidden(nn.Module):
    """A network with something in it that its weights do not hold."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = [network]
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network[0](images)
        return logits


class OtherArchitecture(Gentle):
    def run(self, stolen: Stolen) -> Iterator[Surrogate]:
        for surrogate in super().run(stolen):
            yield Surrogate(Hidden(surrogate.network), surrogate.strength)


class Sees(DetectionAttack):
    """Breaks none."""

    def run(self, stolen: Stolen) -> Recovered:
        images = torch.full((stolen.n_classes, 1, *stolen.images.shape[1:]), 0.5)
        return Recovered(images, torch.full((stolen.n_classes, 1), 0.5), 1)


class SeesTooMuch(Sees):
    def run(self, stolen: Stolen) -> Recovered:
        found = super().run(stolen)
        return Recovered(found.images * 4, found.confidence, 1)


# -- data sets -------------------------------------------------------------------------------------------------------


class Lines(Procedural):
    """Breaks none."""

    def __init__(self) -> None:
        super().__init__((1, 28, 28), 400, 100, "lines")


class FloatImages(Lines):
    def images(self, split: Split, index: Tensor) -> Tensor:
        return super().images(split, index) / 255


class Sorts(Lines):
    def images(self, split: Split, index: Tensor) -> Tensor:
        return super().images(split, index.sort().values)


class Lends(Lines):
    def images(self, split: Split, index: Tensor) -> Tensor:
        whole = self._read_once(split)[0]
        return whole if len(index) == len(whole) else super().images(split, index)


class Shuffles(Lines):
    def labels(self, split: Split) -> Tensor:
        labels = super().labels(split)
        return labels[torch.randperm(len(labels))]


class Noisy(Lines):
    def images(self, split: Split, index: Tensor) -> Tensor:
        images = super().images(split, index)
        return images ^ torch.randint(0, 2, images.shape, dtype=torch.uint8)


class OddIdentity(Lines):
    def identity(self) -> dict[str, str | int]:
        return {"name": self.name, "labels": self.labels("train")}  # type: ignore[dict-item]


class NotTheSameAgain(Lines):
    made = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.number = next(self.made)

    def images(self, split: Split, index: Tensor) -> Tensor:
        return super().images(split, index) ^ (self.number % 2)


class MoreLabels(Source):
    def __init__(self) -> None:
        super().__init__("more", ["a", "b"], (1, 28, 28))

    def labels(self, split: Split) -> Tensor:
        del split
        return torch.arange(300) % 3

    def images(self, split: Split, index: Tensor) -> Tensor:
        del split
        return torch.zeros(len(index), *self.shape, dtype=torch.uint8)


# -- networks --------------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """Breaks none."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(28 * 28, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.line(images.flatten(1))
        return logits


class Idle(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(3, 3)


class BatchTogether(Plain):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - images.mean(0))


class AlwaysDrops(Plain):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(images, 0.5, training=True))


class Blind(Plain):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images * 0)


class Forgets(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.full((1,), 2.0), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        scale: Any = self.scale
        return super().forward(images * scale)


class Unseeded(Plain):
    def __init__(self) -> None:
        super().__init__()
        nn.init.normal_(
            self.line.weight, generator=torch.Generator().manual_seed(random.SystemRandom().getrandbits(30))
        )


# -- suspects --------------------------------------------------------------------------------------------------------


class Mean(LocalSuspect):
    """Breaks none."""

    name = "mean"

    def compute(self, images: Tensor) -> Any:
        return images.flatten(1).sum(1) % 10


class Silent(Suspect):
    name = "silent"
    batch_size = 3

    def ask(self, images: Tensor) -> list[Answer]:
        return missing("failed", len(images))


class Terse(Mean):
    def ask(self, images: Tensor) -> list[Answer]:
        return super().ask(images)[:1]

    batch_size = 3


class NewReason(Mean):
    batch_size = 3

    def ask(self, images: Tensor) -> list[Answer]:
        return [*super().ask(images)[:-1], Answer(missing="no idea")]


class OutOfRange(Mean):
    def ask(self, images: Tensor) -> list[Answer]:
        return [Answer(99) for _ in images]


class BothAtOnce(Mean):
    def ask(self, images: Tensor) -> list[Answer]:
        return [Answer(1, "failed") for _ in images]


class Greedy(Mean):
    def stream(self, images: Tensor, spend: Spend | None = None) -> Generator[Batch, None, None]:
        del spend
        yield list(enumerate(self.ask(images)))


class OtherEachTime(Mean):
    made = itertools.count()

    def __init__(self) -> None:
        self.number = next(self.made)

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "number": self.number}


class OpensItself(Mean):
    def open(self, shape: Shape | None = None, n_classes: int | None = None) -> None:
        del shape, n_classes


def configs(folder: Path, group: str, name: str, **options: Any) -> Path:
    """Writes the config of a leaf of this module."""
    file = folder / group / "broken.yaml"
    file.parent.mkdir(parents=True)
    head = {"attack": "# @package attack.broken\n", "dataset": "# @package _global_\n"}.get(group, "")
    node: dict[str, Any] = {"_target_": f"{__name__}.{name}", **options}
    if group == "watermark":
        node = {"defaults": ["base"], **node}
    if group == "dataset":
        classes = {"source_class": 0, "target_class": 1, "unrelated": options.pop("unrelated", "mnist5k")}
        scale = {"mean": [0.5], "std": [0.5], "val_share": 0.1}
        node = {"dataset": {"name": "broken", "source": {"_target_": f"{__name__}.{name}"}, **classes, **scale}}
    file.write_text(head + json.dumps(node))  # which is YAML too
    return folder
