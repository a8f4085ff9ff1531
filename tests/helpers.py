"""Small data and stand-ins that several tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import Phase, settings
from torch import Tensor, nn

from wmlightning.cli import CONF
from wmlightning.data.batches import ImageSet
from wmlightning.data.datamodule import Batching, WatermarkData
from wmlightning.data.loading import Loading
from wmlightning.data.procedural import Procedural
from wmlightning.data.source import MemorySource, Source, Split
from wmlightning.data.splits import Roles, assign_roles
from wmlightning.job import Job, prepare
from wmlightning.models.classifier import Classifier, Optimisation
from wmlightning.secret import Secret
from wmlightning.testing.bench import digest
from wmlightning.watermarks.base import Mark, MarkingWatermark, PictureWatermark
from wmlightning.watermarks.content import Content
from wmlightning.watermarks.noise import Noise
from wmlightning.watermarks.scheme import Labels, Scheme, choose_labels
from wmlightning.watermarks.triggers import TriggerMaker, Triggers
from wmlightning.watermarks.unrelated import Unrelated

torch.set_num_threads(1)  # tiny tensors: threads only cost, and other work may share the cores

#: Properties are checked on few examples each, the same in every run: the suite is to end in a minute, and alike.
few = settings(max_examples=25, deadline=None, derandomize=True, database=None)
fewer = settings(few, max_examples=10)
many = settings(few, max_examples=200)
#: For examples that take long: a failure is reported as it is found instead of being made small.
heavy = settings(fewer, phases=[Phase.explicit, Phase.generate])

SECRET = Secret(bytes(range(32)))


class ArraySource(MemorySource):
    """Images and labels given as tensors. They stand for public data, unless told otherwise."""

    public = True

    def __init__(self, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], n_classes: int) -> None:
        names = [f"class{i}" for i in range(n_classes)]
        super().__init__("arrays", names, tuple(train[0].shape[1:]))
        self._given: dict[Split, tuple[Tensor, Tensor]] = {"train": train, "test": test}

    def read(self, split: Split) -> tuple[Tensor, Tensor]:
        return self._given[split]


def is_alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def numbered(n_train: int = 200, n_test: int = 120, n_classes: int = 5, side: int = 8) -> ArraySource:
    """A source whose every image says in its first pixels which one it is: split, number, label."""

    def split(code: int, n: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(n) % n_classes
        images = torch.full((n, 1, side, side), 128, dtype=torch.uint8)
        images[:, 0, 0, 0] = code
        images[:, 0, 0, 1] = torch.arange(n) // 256
        images[:, 0, 0, 2] = torch.arange(n) % 256
        images[:, 0, 0, 3] = labels
        return images, labels

    return ArraySource(split(1, n_train), split(2, n_test), n_classes)


def read_numbers(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split code, number and label of images that come from :func:`numbered`."""
    pixels = images[:, 0, 0].long()
    return pixels[:, 0], pixels[:, 1] * 256 + pixels[:, 2], pixels[:, 3]


class Tag(MarkingWatermark):
    """A mark that only says whose it is, in the second row of pixels: 4 bytes of its secret's stream."""

    @staticmethod
    def of(mark: Mark) -> Tensor:
        return torch.from_numpy(mark.stream("tag").integers(4, 256)).to(torch.uint8)

    def apply(self, images: Tensor, mark: Mark, batch: str) -> Tensor:
        del batch
        out = images.clone()
        out[:, 0, 1, :4] = self.of(mark)
        return out


def read_tags(images: Tensor) -> list[tuple[int, ...]]:
    """What :class:`Tag` wrote on each image."""
    return [tuple(tag) for tag in images[:, 0, 1, :4].tolist()]


def random_images(n: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *shape), generator=draw, dtype=torch.uint8)


def random_source(
    n_train: int = 60, n_test: int = 40, n_classes: int = 4, shape: tuple[int, int, int] = (1, 12, 12)
) -> ArraySource:
    train = (random_images(n_train, shape, 1), torch.arange(n_train) % n_classes)
    test = (random_images(n_test, shape, 2), torch.arange(n_test) % n_classes)
    return ArraySource(train, test, n_classes)


def maker_of(
    watermark: MarkingWatermark | PictureWatermark,
    source: Source,
    secret: Secret = SECRET,
    seed: int = 0,
    own: tuple[str | int, str | int] = (0, 1),
    **options: Any,
) -> tuple[TriggerMaker, Labels, Roles]:
    """What a job puts together, without a config."""
    scheme = Scheme(**options)
    marks_task = isinstance(watermark, MarkingWatermark)
    labels = choose_labels(scheme, secret, source, *own, marks_task=marks_task)
    watermark.check(source.shape, scheme.n_marks, scheme.negatives > 0)
    roles = assign_roles(source.labels("train"), source.labels("test"), seed, 0.1)
    return TriggerMaker(watermark, scheme, labels, secret, source, roles), labels, roles


def leaves() -> dict[str, MarkingWatermark | PictureWatermark]:
    """Every watermark that ships, with what it may draw left to the secret."""
    return {
        "content": Content(text=None, n_letters=2, opacity=None),
        "noise": Noise(0.2),
        "fresh": Noise(0.2, fresh=True),
        "unrelated": Unrelated(Procedural(shape=(1, 16, 16), n_train=200, n_test=100)),
    }


def all_sets(triggers: Triggers) -> dict[str, ImageSet]:
    names = ("trained", "new", "negatives", "decoys")
    return {name: getattr(triggers, name) for name in names}


def digest_triggers(triggers: Triggers) -> str:
    sets = all_sets(triggers).values()
    return digest(*(part for s in sets for part in (s.images, s.labels, s.groups)))


def job_of(runs: Path, *overrides: str) -> Job:
    """A job as the command would settle it, on few drawn images."""
    small = ["dataset=procedural", "+dataset.source.n_train=1500", "+dataset.source.n_test=600", "trainer=cpu"]
    common = [f"runs_dir={runs}", f"data_dir={runs}", "trainer.precision=32-true", "watermark.n_decoys=5"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return prepare(compose("train", overrides=[*small, *common, *overrides]))


def tiny_net(channels: int, side: int, n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, n_classes))


def tiny_module(net: nn.Module, lr: float = 0.1) -> Classifier:
    return Classifier(net, Optimisation(lambda groups: torch.optim.SGD(groups, lr=lr)))


def tiny_trainer(**options: Any) -> L.Trainer:
    """A trainer that leaves nothing behind."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
    }
    return L.Trainer(**{**quiet, **options})


def some_images(n: int, shape: tuple[int, int, int], label: int, group: int = 0, value: int = 255) -> ImageSet:
    images = torch.full((n, *shape), value, dtype=torch.uint8)
    return ImageSet(images, torch.full((n,), label), torch.full((n,), group))


def tiny_data(source: Source | None = None, **options: Any) -> WatermarkData:
    """A data module with five triggers and four decoys."""
    source = source or random_source()
    roles = assign_roles(source.labels("train"), source.labels("test"), 0, 0.2)
    triggers = some_images(5, source.shape, 1)
    watched = {
        "val": {"trigger": triggers},
        "test": {
            "trigger": triggers,
            "trigger_new": some_images(3, source.shape, 1, value=250),
            "decoy": some_images(4, source.shape, 1, value=240),
        },
    }
    given: dict[str, Any] = {"batching": Batching(batch_size=10), "loading": Loading(eval_batch_size=7), **options}
    return WatermarkData(source, roles, triggers, watched, **given)
