"""What a thief has: nothing of the owner's, nothing of the judge's, whatever data they bring."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from wmlightning.attacks.belongings import OtherImages
from wmlightning.data.procedural import Procedural
from wmlightning.data.source import Source, Split
from wmlightning.errors import UserError
from wmlightning.job import prepare

TASK = ("dataset=procedural", "++dataset.source.n_train=400", "++dataset.source.n_test=100", "trainer=cpu")


class Loot(Procedural):
    """Sixty images of nobody's, and ninety of the task's."""

    def __init__(self, of: Split = "train", others: int = 60, task: tuple[int, int] = (400, 100)) -> None:
        super().__init__((1, 28, 28), others + 90, 10, "loot")
        self.of, self.others, self.task = of, others, task

    def read(self, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = super().read(split)
        images = 255 - images
        if split == "train":
            images[self.others :] = Procedural((1, 28, 28), *self.task).images(self.of, torch.arange(90))
        return images, labels


def thiefs(composed: Callable[..., DictConfig], source: Source, *typed: str) -> OtherImages:
    return OtherImages.of(source, prepare(composed(*TASK, *typed)))


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_of_the_task_are_left_out(composed: Callable[..., DictConfig], split: Split) -> None:
    with pytest.warns(UserWarning, match=r"attacker\.data: 90 of 150 images of loot are the task's"):
        found = thiefs(composed, Loot(split))
    assert found.shared == 90
    assert found.index.tolist() == list(range(60))
    assert found.identity()["shared"] == 90, "another attack than the one with these images"


def test_a_thief_with_nothing_else_is_refused(composed: Callable[..., DictConfig]) -> None:
    with pytest.raises(UserError, match=r"^attacker\.data: 90 of 91 images of loot are .*; other data"):
        thiefs(composed, Loot(others=1))


def test_the_tasks_own_data_are_refused_though_nothing_is_compared(
    composed: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Procedural, "in_memory", False)
    with pytest.raises(UserError, match=r"^attacker\.data: procedural is the task's own data; "):
        thiefs(composed, Procedural((1, 28, 28), 400, 100))
    assert thiefs(composed, Loot()).shared == 0, "a streamed task is not read for that"


def test_pictures_that_are_triggers_are_left_out(composed: Callable[..., DictConfig]) -> None:
    """The owner's unrelated pictures may be of the very data that the thief brings."""
    typed = ("watermark=unrelated", "watermark.images=mnist5k", "watermark.n_triggers=30", "attacker.data=mnist5k")
    job = prepare(composed(*TASK, *typed))
    assert job.maker is not None
    (source,) = job.maker.watermark.sources()
    with pytest.warns(UserWarning, match="triggers"):
        found = OtherImages.of(source, job)
    assert found.shared >= 30
    left = {image.tobytes() for image in source.images("train", found.index).numpy()}
    made = job.maker.make()
    for images in (made.trained, made.new, made.negatives):
        assert not left & {image.tobytes() for image in images.images.numpy()}


def test_few_images_are_drawn_before_they_are_looked_at(composed: Callable[..., DictConfig]) -> None:
    seen: list[int] = []

    class Dear(Loot):
        def images(self, split: Split, index: torch.Tensor) -> torch.Tensor:
            seen.extend(index.tolist())
            return super().images(split, index)

    with pytest.warns(UserWarning, match="of 20 images"):
        found = thiefs(composed, Dear(), "attacker.n=20")
    assert len(seen) == 20
    assert set(found.index.tolist()) == {number for number in seen if number < 60}


@pytest.mark.parametrize("thief", ["mnist", "mnist5k"])
def test_the_owners_training_images_under_any_name(
    main: Callable[..., Any], data_dir: Path, runs: Path, thief: str
) -> None:
    typed = ("dataset=mnist", f"data_dir={data_dir}", "trainer=cpu", "attack=finetune")
    (line,) = main(*typed, f"attacker.data={thief}").errors
    assert line.startswith("error: attacker.data: ")
    assert not runs.exists()


def pictures(folder: Path) -> Path:
    draw = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / name / f"{number}.png")
    return folder


def test_a_folder_of_ones_own(main: Callable[..., Any], small: list[str], runs: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "own")
    short = ("attack=prune", "attack.prune.rates=[0.5]", "logger=none", "callbacks=none")
    done = main(*small, *short, "attacker.data=image_folder", f"attacker.root={folder}")
    assert done.code == 0, str(done)
    (card,) = runs.glob("*/attacks/prune-*/card.json")
    assert '"attacker": 16' in card.read_text(), "four of five, as grey as the task's"


def test_a_folder_that_is_not_there(main: Callable[..., Any], small: list[str], runs: Path) -> None:
    done = main(*small, "attack=prune", "attacker.data=image_folder", "attacker.root=nowhere")
    assert done.errors == ["error: attacker.root: nowhere is no folder; name a folder with one sub-folder a class"]
    assert not runs.exists()
