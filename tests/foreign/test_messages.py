"""What the callbacks refuse, as the page on troubleshooting lists it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from torchvision.transforms import v2

from tests.conftest import REPO
from tests.foreign.projects import Module, Shaken, evaluation, loader, owners_key, to_input
from tests.helpers import tiny_trainer
from wmlightning import AccuracyGuard, Watermark
from wmlightning.errors import UserError

_SECTION = re.compile(r"^## A project of your own$(.*?)^## ", re.MULTILINE | re.DOTALL)


def rows() -> list[str]:
    """Messages on the page; ``...`` stands for anything."""
    found = _SECTION.search((REPO / "docs" / "troubleshooting.md").read_text())
    assert found
    return re.findall(r"^\| `(.*?)` \| ", found[1], re.MULTILINE)


class More(Shaken):
    """Items with further entries, or other labels."""

    def __init__(self, *more: Any, shift: int = 0) -> None:
        super().__init__(96, transform=to_input)
        self.more, self.shift = more, shift

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return image, label + self.shift, *self.more


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(More())


class Endless(Module):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Mute(Module):
    def forward(self, images: Tensor, words: Any) -> Tensor:  # type: ignore[override]
        del words
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


class Wide(Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.net(images)] * 2, 1)


class Noisy(Module):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] + torch.randn(()), batch[1]


class Iterates(Module):
    def training_step(self, dataloader_iter: Any) -> Tensor:  # type: ignore[override]
        batch, batch_idx, _ = next(dataloader_iter)
        return super().training_step(batch, batch_idx)


class Told(Module):
    """Accuracies as a test wants them: before training, and in it."""

    def __init__(self, before: float, later: float) -> None:
        super().__init__()
        self.accuracies = before, later

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        training = self.trainer.state.fn == "fit" and not self.trainer.sanity_checking
        self.log("val/acc", self.accuracies[training])


def trained(
    train: Any = None,
    module: Any = None,
    val: Any = None,
    *,
    guard: AccuracyGuard | None = None,
    options: dict[str, Any] | None = None,
    **watermark: Any,
) -> Callable[[Path], None]:
    """A training in which something is wrong."""

    def run(path: Path) -> None:
        callbacks: list[Any] = [guard] if guard else [Watermark(path, **{"to_input": to_input, **watermark})]
        trainer = tiny_trainer(callbacks=callbacks, **(options or {}))
        trainer.fit(module or Module(), loader() if train is None else train, [evaluation()] if val is None else val)

    return run


def going_on(path: Path) -> None:
    """From a checkpoint of the middle of an epoch, saved without the guard."""
    saving = ModelCheckpoint(path.parent, "middle", every_n_train_steps=3)
    tiny_trainer(max_steps=3, callbacks=[saving], enable_checkpointing=True).fit(Module(), loader(), evaluation())
    trainer = tiny_trainer(callbacks=[AccuracyGuard(0.1, "val/acc")])
    trainer.fit(Module(), loader(), evaluation(), ckpt_path=path.parent / "middle.ckpt", weights_only=True)


SHAKEN = v2.Compose([to_input, lambda image: image + torch.randn(())])
MISTAKES: dict[str, Callable[[Path], None]] = {
    "no road": trained(to_input=None, val=[]),
    "half a road": trained(to_input=None, val=[DataLoader(Shaken(40, transform=to_input), 20)]),
    "no picture": trained(to_input=v2.Compose([lambda tensor: tensor.float(), v2.Normalize([0.5], [0.3])])),
    "random": trained(to_input=SHAKEN),
    "a batch": trained(to_input=lambda picture: to_input(picture)[None]),
    "size": trained(to_input=lambda picture: to_input(picture)[:, :, :10]),
    "scale": trained(to_input=lambda picture: to_input(picture) * 255),
    "random hook": trained(module=Noisy()),
    "unfit": trained(DataLoader(More(0.5), 12), fill={2: [1, 2]}),
    "images": trained(DataLoader(More(torch.zeros(3, 10, 12)), 12)),
    "labels": trained(DataLoader(More(7), 12)),
    "classes": trained(DataLoader(More(shift=2), 12)),
    "fill": trained(DataLoader(More(0.5), 12)),
    "not called": trained(module=Mute()),
    "too many": trained(module=Wide()),
    "stream": trained(DataLoader(Stream(), 12), module=Endless()),
    "goes round": trained(module=Iterates()),
    "metric": trained(guard=AccuracyGuard(0.1, "val/accuracy")),
    "per cent": trained(guard=AccuracyGuard(0.1, "val/acc"), module=Told(93.0, 93.0)),
    "middle": going_on,
    "no validation": trained(guard=AccuracyGuard(0.1, "val/acc"), options={"limit_val_batches": 0}),
    "fell": trained(guard=AccuracyGuard(0.1, "val/acc"), module=Told(0.9, 0.5)),
    "too short": trained(guard=AccuracyGuard(0.1, "val/acc"), options={"check_val_every_n_epoch": 2}),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each mistake ends in."""
    path = tmp_path_factory.mktemp("messages") / "owner.key"
    owners_key(path)
    found = {}
    for name, mistake in MISTAKES.items():
        with pytest.raises(UserError) as caught:
            mistake(path)
        found[name] = str(caught.value)
    return found


def matching(message: str) -> list[str]:
    pattern = {row: ".*".join(re.escape(part) for part in row.split("...")) for row in rows()}
    return [row for row in pattern if re.fullmatch(pattern[row], message)]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_message_is_on_the_page(told: dict[str, str], mistake: str) -> None:
    assert "\n" not in told[mistake]
    assert len(matching(told[mistake])) == 1, told[mistake]


def test_nothing_else_is_on_the_page(told: dict[str, str]) -> None:
    assert {row for message in told.values() for row in matching(message)} == set(rows())
