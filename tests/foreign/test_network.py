"""What happens to images within the training step happens to triggers too: it is said, and not said wrongly."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.foreign.projects import CLASSES, Module, evaluation, loader, to_input
from tests.helpers import tiny_trainer
from wmlightning import Watermark
from wmlightning.ownership.key import Key

TOLD = "training_step changes images"


def told(path: Path, module: Module, watermark: Any = None, **options: Any) -> list[str]:
    """Warnings about the training step."""
    trainer = tiny_trainer(callbacks=[Watermark(path, to_input, **(watermark or {}))], **options)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        trainer.fit(module, loader(), evaluation())
    assert not any(layer._forward_pre_hooks for layer in module.modules()), "nothing is left behind"
    return [str(warning.message) for warning in found if TOLD in str(warning.message)]


class Step(Module):
    """Does something with its images."""

    def step(self, images: Tensor) -> Tensor:
        return images

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step((self.step(batch[0]), batch[1]), batch_idx)


class Augments(Step):
    def step(self, images: Tensor) -> Tensor:
        return images.flip(-1)


class Normalises(Step):
    def step(self, images: Tensor) -> Tensor:
        return (images - 0.1) / 0.5


class Mixes(Step):
    def step(self, images: Tensor) -> Tensor:
        return 0.7 * images + 0.3 * images.roll(1, 0)


class Resizes(Step):
    def step(self, images: Tensor) -> Tensor:
        return nn.functional.pad(images, (0, 1))

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, len(CLASSES)))


class Layer(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flip(-1) if self.training else images


class ByLayer(Step):
    """As kornia does it: a layer without weights, outside the network."""

    def __init__(self) -> None:
        super().__init__()
        self.augment = Layer()

    def step(self, images: Tensor) -> Tensor:
        return self.augment(images)


@pytest.mark.parametrize("module", [Augments, Normalises, Mixes, Resizes, ByLayer])
def test_changed_images_are_told(path: Path, key: Key, module: type[Step]) -> None:
    (line,) = told(path, module(), max_epochs=2)
    assert "on_after_batch_transfer" in line and "to_input=" in line and "predict=" in line and "\n" not in line


class Conv(Step):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 3)),
            nn.BatchNorm2d(8),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, len(CLASSES)),
        )


class ChannelsLast(Conv):
    def step(self, images: Tensor) -> Tensor:
        return images.to(memory_format=torch.channels_last)


class Casts(Conv):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.bfloat16().float())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


class Inside(Conv):
    """The network normalises."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net((images - 0.1) / 0.5)


class Twice(Conv):
    """First something else, then the images, shuffled and in pieces."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        order = torch.randperm(len(images))
        views = self(images.flip(-1)), *(self(part) for part in images[order].split(5))
        return nn.functional.cross_entropy(torch.cat(views), torch.cat([labels, labels[order]]))


class Elsewhere(Conv):
    """Training goes past what evaluation uses."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(360, len(CLASSES))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.other(batch[0].flatten(1)), batch[1])


class Manual(Conv):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        for _ in range(2):
            loss = super().training_step(batch, batch_idx)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss


@pytest.mark.parametrize("module", [Step, Conv, ChannelsLast, Casts, Inside, Twice, Elsewhere, Manual])
def test_images_that_come_as_they_are_sent(path: Path, key: Key, module: type[Step]) -> None:
    assert not told(path, module())


@pytest.mark.parametrize(
    "options", [{"precision": "bf16-mixed"}, {"precision": "bf16-true"}, {"accumulate_grad_batches": 3}], ids=str
)
def test_precision_and_accumulation_change_nothing(path: Path, key: Key, options: Any) -> None:
    assert not told(path, Conv(), **options)
    assert told(path, Augments(), **options)


@pytest.mark.slow  # torch.compile takes its time to be loaded
def test_compiled_networks_are_left_alone(path: Path, key: Key) -> None:
    module = Augments()
    module.net = torch.compile(module.net, backend="eager")  # type: ignore[assignment]
    assert not told(path, module)


def test_a_way_of_asking_that_does_the_same(path: Path, key: Key) -> None:
    module = Normalises()
    assert not told(path, module, {"predict": lambda module, images: module(module.step(images))})


def test_no_checks(path: Path, key: Key) -> None:
    assert not told(path, Augments(), {"check_inputs": False})


class Sometimes(Step):
    """Flips some images."""

    def step(self, images: Tensor) -> Tensor:
        return torch.where((torch.rand(len(images)) < 0.3)[:, None, None, None], images.flip(-1), images)


def test_what_few_triggers_meet_is_told_once(path: Path, key: Key) -> None:
    """With one trigger in a batch a single step shows nothing, most of the time."""
    assert len(told(path, Sometimes(), {"per_batch": 1}, max_epochs=4)) == 1
