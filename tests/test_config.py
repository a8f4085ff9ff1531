"""One contract over every file in conf/: found by listing the folders, so that a new file is held to it by itself."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class, get_method
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from wmlightning.config import dataset_config, make, plain
from wmlightning.data.standard import StandardSource
from wmlightning.errors import UserError
from wmlightning.job import Job, prepare
from wmlightning.task import own_copy
from wmlightning.watermarks.scheme import Scheme

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPO = Path(__file__).resolve().parents[1]
CONF = REPO / "conf"
GROUPS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and folder.name != "suspect"  # whom verify.py asks: tests/ownership
}
OPTIONS = [(group, option) for group, options in GROUPS.items() for option in options]

Compose = Callable[..., DictConfig]


def options(group: str, *but: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("option", [option for option in GROUPS[group] if option not in but])


def test_groups_that_users_expect() -> None:
    expected = "dataset model watermark recipe trainer logger callbacks experiment debug hparams_search paths hydra"
    assert set(expected.split()) <= set(GROUPS)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(composed: Compose, group: str, option: str) -> None:
    cfg = composed(f"{group}={option}")
    assert {"dataset", "watermark", "model", "recipe", "trainer", "seed", "auto"} <= set(cfg)


# -- data sets and watermarks ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fruit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fruit")
    for name in ("apple", "pear"):
        (folder / name).mkdir()
        for i in range(100):
            Image.new("RGB", (40, 30), (i, 80, len(name) * 40)).save(folder / name / f"{i}.png")
    return folder


def _as_parquet(fruit: Path, to: Path) -> Path:
    folder = to / "parquet fruit"
    folder.mkdir(exist_ok=True)
    files = sorted(fruit.glob("*/*.png"))
    rows = [{"image": {"bytes": f.read_bytes(), "path": f.name}, "label": int(f.parent.name == "pear")} for f in files]
    for split, chosen in (("train", rows[::2] + rows[1::4]), ("test", rows[3::4])):
        pq.write_table(pa.Table.from_pylist(chosen), folder / f"{split}-0.parquet")
    return folder


@pytest.fixture
def data_at_hand(fruit: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Small stand-ins for data that would have to be there; further overrides by data set."""

    def read(self: StandardSource, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(600 if split == "train" else 200) % len(self.classes)
        draw = np.random.default_rng([len(split), *self.name.encode()])
        noise = draw.integers(0, 256, (len(labels), *self.shape), dtype=np.uint8)
        return torch.from_numpy(noise), labels

    monkeypatch.setattr(StandardSource, "read", read)
    monkeypatch.setattr(StandardSource, "stored_as", lambda self: "stand-in")
    return {
        "image_folder": [f"dataset.root={fruit}"],
        "parquet": [f"dataset.root={_as_parquet(fruit, fruit.parent)}", f"data_dir={fruit.parent}"],
        "procedural": ["++dataset.source.n_train=600", "++dataset.source.n_test=200"],
    }


@pytest.mark.parametrize("watermark", [option for option in GROUPS["watermark"] if option != "base"])
@pytest.mark.parametrize("dataset", GROUPS["dataset"])
def test_every_watermark_works_on_every_dataset(
    composed: Compose, runs: Path, data_at_hand: dict[str, list[str]], dataset: str, watermark: str
) -> None:
    few = [] if watermark == "none" else ["watermark.n_triggers=8", "watermark.n_decoys=2"]
    job = prepare(composed(f"dataset={dataset}", f"watermark={watermark}", *few, *data_at_hand.get(dataset, [])))
    assert job.source.name == dataset == job.cfg.dataset.name
    assert {int(label) for label in job.source.labels("train").unique()} == set(range(len(job.source.classes)))
    data = job.data_module()
    if watermark == "none":
        assert job.maker is None
        assert data.loader_names("test") == ["clean"]
        assert len(data.merged) == 0
    else:
        assert data.loader_names("test") == ["clean", "trigger", "trigger_new", "decoy"]
        assert all(len(images) for images in data.watched["test"].values())
        assert len(data.merged) > len(data.watched["test"]["trigger"]) == 8
    data.trainer = None
    batch = next(iter(data.train_dataloader()))
    assert tuple(batch.images.shape[1:]) == job.source.shape
    assert not runs.exists(), "settling a job writes nothing"


@options("dataset")
def test_dataset_names_another_one_for_unrelated_pictures(composed: Compose, option: str) -> None:
    cfg = composed(f"dataset={option}")
    assert cfg.dataset.unrelated in GROUPS["dataset"]
    assert cfg.dataset.unrelated != option, "its own images are not unrelated"


def test_data_sets_are_found_by_name_where_hydra_was_not_started() -> None:
    """As in a notebook, where the config was composed a cell before."""
    assert not GlobalHydra.instance().is_initialized()
    assert dataset_config("mnist5k", "watermark.images")._target_ == "wmlightning.data.standard.Mnist5k"


def test_watermark_base_is_the_scheme() -> None:
    base = plain(OmegaConf.load(CONF / "watermark" / "base.yaml"))
    scheme = {field.name: field.default for field in fields(Scheme)}
    assert MISSING not in scheme.values()
    assert base == {**scheme, "n_marks": "auto", "n_triggers": "auto"}


@pytest.mark.parametrize(
    ("typed", "n_marks", "n_triggers"),
    [
        ((), 1, 0.01),
        (("key=owner.key",), 8, 0.04),
        (("key=owner.key", "watermark.n_marks=3"), 3, 0.015),
        (("key=owner.key", "watermark.n_triggers=50"), 8, 50),
        (("key=owner.key", "watermark.label=random"), 1, 0.01),
        (("key=owner.key", "watermark.target_class=2"), 1, 0.01),
        (("watermark.n_marks=8",), 8, 0.04),
    ],
)
def test_an_owner_gets_several_marks(
    composed: Compose, typed: tuple[str, ...], n_marks: int, n_triggers: float
) -> None:
    """What proves ownership in a few queries is the default with a key; a study's is the paper's single mark."""
    settled = own_copy(composed("dataset=procedural", *typed)).watermark
    assert (settled.n_marks, settled.n_triggers) == (n_marks, n_triggers)


@options("watermark", "base", "none")
def test_watermark_shows_all_its_options(composed: Compose, option: str) -> None:
    node = composed(f"watermark={option}").watermark
    own = {str(key) for key in node} - {field.name for field in fields(Scheme)} - {"_target_"}
    assert own == set(inspect.signature(get_class(node._target_)).parameters)


# -- models and recipes ----------------------------------------------------------------------------------------------


@options("model")
def test_model(composed: Compose, data_at_hand: dict[str, list[str]], option: str) -> None:
    colour = "dataset.source.shape=[3,32,32]"
    job = prepare(composed(f"model={option}", "dataset=procedural", colour, *data_at_hand["procedural"]))
    logits = job.net(torch.rand(4, 3, 32, 32))
    assert logits.shape == (4, 10)
    logits.sum().backward()
    assert all(p.grad is not None for p in job.net.parameters()), "a weight that no image reaches"


@options("model")
def test_model_keys_are_its_arguments(composed: Compose, option: str) -> None:
    node = composed(f"model={option}").model
    target = node._target_
    parameters = inspect.signature(get_method(target)).parameters
    unknown = {str(key) for key in node} - set(parameters) - {"_target_"}
    assert not unknown or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


@options("recipe", "base")
def test_recipe(composed: Compose, data_at_hand: dict[str, list[str]], option: str) -> None:
    cfg = composed(f"recipe={option}", "dataset=procedural", "guard.max_drop=null", *data_at_hand["procedural"])
    job = prepare(cfg)
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = job.optimisation.optimizer([weight])
    if job.optimisation.schedule:
        schedule = job.optimisation.schedule(optimizer, total_steps=50)
        rates = []
        for _ in range(50):
            rates.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step() if len(rates) < 50 else None
        assert max(rates) == pytest.approx(job.cfg.recipe.optimizer.lr, rel=0.05)
        assert rates[-1] < max(rates) / 100
    if job.cfg.recipe.augment:
        images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
        keep = torch.arange(6) < 3
        augmented = make(job.cfg.recipe.augment, "recipe.augment")(images, keep, torch.Generator().manual_seed(0))
        assert augmented.shape == images.shape
        assert torch.equal(augmented[keep], images[keep])
        assert not torch.equal(augmented[~keep], images[~keep])


@options("dataset")
def test_embedding_has_the_batches_and_augmentation_of_the_data_set(composed: Compose, option: str) -> None:
    own, embed = composed(f"dataset={option}").recipe, composed(f"dataset={option}", "recipe=embed").recipe
    assert embed.augment == own.augment
    assert embed.batch_size == own.batch_size
    assert embed.optimizer != own.optimizer
    assert embed.schedule is None


def test_recipe_base_wants_an_optimizer(composed: Compose) -> None:
    with pytest.raises(UserError, match=r"^recipe\.optimizer: .*;"):
        prepare(composed("recipe=base", "dataset=procedural"))


# -- trainers, loggers, callbacks and the rest -----------------------------------------------------------------------


def settled(composed: Compose, data_at_hand: dict[str, list[str]], *overrides: str) -> Job:
    return prepare(composed("dataset=procedural", *data_at_hand["procedural"], *overrides))


@options("trainer")
def test_trainer(composed: Compose, data_at_hand: dict[str, list[str]], runs: Path, option: str) -> None:
    there = torch.cuda.is_available() or torch.backends.mps.is_available()
    if option == "gpu" and not there:
        with pytest.raises(UserError, match=r"^trainer\.accelerator: this machine has no GPU.*; trainer=cpu$"):
            settled(composed, data_at_hand, f"trainer={option}")
        return
    job = settled(composed, data_at_hand, f"trainer={option}")
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        trainer = make(job.cfg.trainer, "trainer", precision=job.precision, logger=False, enable_checkpointing=False)
    finally:
        torch.use_deterministic_algorithms(deterministic)
    assert isinstance(trainer, L.Trainer)
    assert trainer.world_size == (2 if option == "ddp" else 1)
    assert trainer.max_epochs == job.cfg.trainer.max_epochs >= 1


@options("logger")
def test_logger(
    composed: Compose, data_at_hand: dict[str, list[str]], runs: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    job = settled(composed, data_at_hand, f"logger={option}")
    loggers = [make(node, f"logger.{key}") for key, node in job.cfg.logger.items()]
    assert all(isinstance(logger, Logger) for logger in loggers)
    assert len(loggers) == {"none": 0, "many": 3}.get(option, 1)
    for logger in loggers:
        assert str(logger.save_dir).startswith(str(job.folder)), "logs lie in the run's folder"
    if "many" in option:
        assert {type(logger).__name__ for logger in loggers} == {"CSVLogger", "TensorBoardLogger", "WandbLogger"}


@options("callbacks")
def test_callbacks(composed: Compose, data_at_hand: dict[str, list[str]], option: str) -> None:
    job = settled(composed, data_at_hand, f"callbacks={option}")
    made = [make(node, f"callbacks.{key}") for key, node in job.cfg.callbacks.items()]
    assert all(isinstance(callback, L.Callback) for callback in made)
    assert (option == "none") == (not made)


@pytest.mark.parametrize(
    ("group", "option"), [pair for pair in OPTIONS if pair[0] in ("experiment", "debug", "hparams_search")]
)
def test_presets(composed: Compose, data_at_hand: dict[str, list[str]], group: str, option: str) -> None:
    """Settled on the small data set; what the user types wins over what a preset chooses."""
    job = settled(composed, data_at_hand, f"{group}={option}")
    assert job.source.name == "procedural"
    assert job.maker is not None


@options("experiment")
def test_experiment_as_written(composed: Compose, data_at_hand: dict[str, list[str]], option: str) -> None:
    cfg = composed(f"experiment={option}")
    job = prepare(composed(f"experiment={option}", *data_at_hand.get(cfg.dataset.name, [])))
    assert job.cfg.tags, "an experiment can be found by its tags"


@options("hparams_search")
def test_search_varies_keys_that_exist(composed: Compose, option: str) -> None:
    node = OmegaConf.load(CONF / "hparams_search" / f"{option}.yaml")
    cfg = composed()
    for key in node.hydra.sweeper.params:
        assert OmegaConf.select(cfg, key) is not None, f"{key} is no key of the config"
    assert node.optimized_metric in {"val/clean_acc", "val/trigger_acc"}


# -- nothing unused, nothing left out --------------------------------------------------------------------------------


def unread(cfg: DictConfig, part: str) -> list[str]:
    """Keys that neither the program nor another config reads. What a ``_target_`` takes is the target's matter."""
    code = "\n".join(file.read_text() for file in (REPO / "wmlightning").rglob("*.py"))
    configs = "\n".join(file.read_text() for file in CONF.rglob("*.yaml"))
    found = []
    for key in (str(key) for key in (cfg[part] if part else cfg)):
        path = f"{part}.{key}" if part else key
        in_code = rf'\b{part or "cfg"}\.{key}\b|"{key}"'
        if not re.search(in_code, code) and not re.search(rf"\${{{re.escape(path)}[.}}]", configs):
            found.append(path)
    return found


def test_no_key_without_use(composed: Compose) -> None:
    assert [*unread(composed(), ""), *unread(composed(), "recipe")] == []


@options("dataset")
def test_no_dataset_key_without_use(composed: Compose, option: str) -> None:
    assert unread(composed(f"dataset={option}"), "dataset") == []


def test_packages_are_the_folders() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    folders = {".".join(file.parent.relative_to(REPO).parts) for file in (REPO / "wmlightning").rglob("__init__.py")}
    assert set(project["tool"]["setuptools"]["packages"]) == {*folders, "wmlightning.conf"}
    assert not list(CONF.rglob("*.yml")), "the wheel takes *.yaml only"


# -- a leaf of the user's own ----------------------------------------------------------------------------------------

CORNER = """
from wmlightning.watermarks.base import MarkingWatermark


class Corner(MarkingWatermark):
    def __init__(self, size=3):
        self.size = size

    def apply(self, images, mark, batch):
        out = images.clone()
        out[:, :, : self.size, : self.size] = 55 + mark.stream("grey").integer(200)
        return out
"""

BLOBS = """
import torch

from wmlightning.data.source import MemorySource


class Blobs(MemorySource):
    def __init__(self, n, name="blobs"):
        super().__init__(name, ["left", "right", "both"], (1, 28, 28))
        self.n = n

    def read(self, split):
        labels = torch.arange(self.n) % 3
        images = torch.randint(0, 60, (self.n, 1, 28, 28), generator=torch.Generator().manual_seed(7))
        images[labels != 1, :, 8:20, 2:12] += 150
        images[labels != 0, :, 8:20, 16:26] += 150
        return images.to(torch.uint8), labels
"""


@pytest.fixture
def leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own folder with a watermark and a data set: one module and one yaml each."""
    modules, conf = tmp_path / "modules", tmp_path / "myconf"
    modules.mkdir()
    (conf / "watermark").mkdir(parents=True)
    (conf / "dataset").mkdir()
    (modules / "corner_mark.py").write_text(CORNER)
    (modules / "blob_data.py").write_text(BLOBS)
    (conf / "watermark" / "corner.yaml").write_text("defaults: [base]\n_target_: corner_mark.Corner\nsize: 5\n")
    lines = [
        "# @package _global_",
        "dataset:",
        "  name: blobs",
        "  source: {_target_: blob_data.Blobs, n: 300}",
        "  source_class: left",
        "  target_class: both",
        "  unrelated: procedural",
        "  mean: [0.3]",
        "  std: [0.3]",
        "  val_share: 0.1",
    ]
    (conf / "dataset" / "blobs.yaml").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(modules))
    return conf


def test_own_watermark_and_dataset(main: Callable[..., object], leaves: Path, runs: Path) -> None:
    short = ["trainer=cpu", "trainer.max_epochs=3", "recipe.batch_size=32"]
    done = main("--config-dir", str(leaves), "watermark=corner", "dataset=blobs", "watermark.n_triggers=20", *short)
    assert done.code == 0, str(done)
    (card,) = runs.glob("*/card.json")
    assert card.parent.name.startswith("blobs-corner-smallcnn-s0-")
    assert (card.parent / "triggers.png").is_file()
    assert "test/trigger_new_acc" in card.read_text()


@pytest.mark.parametrize("place", ["--config-dir={}", "hydra.searchpath=[file://{}]"])
def test_own_dataset_as_unrelated_pictures(
    main: Callable[..., object], leaves: Path, runs: Path, small: list[str], place: str
) -> None:
    """Its code lies beside its yaml."""
    (leaves / "beside.py").write_text(BLOBS)
    blobs = leaves / "dataset" / "blobs.yaml"
    blobs.write_text(blobs.read_text().replace("blob_data", "beside"))
    done = main(place.format(leaves), *small, "watermark=unrelated", "watermark.images=blobs")
    assert done.code == 0, str(done)
    (card,) = runs.glob("*/card.json")
    assert "beside.Blobs" in card.read_text()
