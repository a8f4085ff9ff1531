from __future__ import annotations

import io
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from tests.helpers import (
    job_of,
    random_images,
    random_source,
    some_images,
    tiny_data,
    tiny_module,
    tiny_net,
    tiny_trainer,
)
from wmlightning.callbacks.gallery import TriggerGallery, sheet
from wmlightning.data.batches import ImageSet
from wmlightning.data.datamodule import WatermarkData


class FakeWandb(WandbLogger):
    """Takes what a W&B logger is given, and sends it nowhere."""

    def __init__(self) -> None:
        self.pictures: list[tuple[str, list[Any]]] = []
        self.other: list[Any] = []

    name = version = save_dir = root_dir = log_dir = None  # type: ignore[assignment]
    experiment = None  # type: ignore[assignment]

    def log_image(self, key: str, images: list[Any], *args: Any, **kwargs: Any) -> None:
        self.pictures.append((key, images))

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        self.other.append(metrics)

    log_hyperparams = log_metrics  # type: ignore[assignment]

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None: ...

    def finalize(self, status: str) -> None: ...

    def save(self) -> None: ...


class FakeTensorBoard(TensorBoardLogger):
    """Keeps pictures instead of writing them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.pictures: list[tuple[str, Any, str]] = []

    @property
    def experiment(self) -> Any:
        return self

    def add_image(self, tag: str, image: Any, dataformats: str) -> None:
        self.pictures.append((tag, image, dataformats))

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("add_", "flush", "close")):
            return lambda *_, **__: None
        raise AttributeError(name)


def _fit(gallery: TriggerGallery, data: WatermarkData | None = None, **options: Any) -> None:
    data = data or tiny_data(random_source())
    module = tiny_module(tiny_net(1, 12, 4))
    tiny_trainer(callbacks=[gallery], limit_val_batches=0, limit_train_batches=1, **options).fit(
        module, datamodule=data
    )


def _opened(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


def test_the_sheet_is_written_before_training_and_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "triggers.png"
    _fit(TriggerGallery(str(path)))
    pixels = _opened(path.read_bytes())
    assert pixels.shape[0] > 100
    assert pixels.std() > 5  # not an empty page
    assert [file.name for file in tmp_path.iterdir()] == ["triggers.png"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "it shows what the key holds"


def test_nothing_goes_to_a_logger_unless_the_user_asks(tmp_path: Path) -> None:
    wandb, board = FakeWandb(), FakeTensorBoard(tmp_path)
    _fit(TriggerGallery(str(tmp_path / "a.png")), logger=[wandb, board])
    assert (tmp_path / "a.png").exists()
    assert wandb.pictures == []
    assert board.pictures == []
    assert not any("trigger" in str(key) for entry in wandb.other for key in entry)


def test_the_shipped_config_keeps_triggers_from_loggers(tmp_path: Path) -> None:
    cfg = job_of(tmp_path).cfg
    assert cfg.callbacks.gallery.to_logger is False
    assert job_of(tmp_path, "callbacks.gallery.to_logger=true").cfg.callbacks.gallery.to_logger is True


def test_on_request_the_very_sheet_is_handed_over_to_loggers_that_take_pictures(tmp_path: Path) -> None:
    wandb, board, other = FakeWandb(), FakeTensorBoard(tmp_path), CSVLogger(str(tmp_path / "csv"))
    path = tmp_path / "a.png"
    _fit(TriggerGallery(str(path), to_logger=True), logger=[wandb, board, other])
    written = _opened(path.read_bytes())
    ((key, (picture,)),) = wandb.pictures
    assert key == "triggers"
    assert np.array_equal(np.asarray(picture), written)
    ((tag, pixels, order),) = board.pictures
    assert (tag, order) == ("triggers", "HWC")
    assert np.array_equal(pixels, written)


def test_nothing_is_written_without_triggers_or_in_a_dry_run(tmp_path: Path) -> None:
    data = tiny_data(random_source())
    data.watched = {"val": {}, "test": {}}
    _fit(TriggerGallery(str(tmp_path / "a.png")), data)
    gallery = TriggerGallery(str(tmp_path / "b.png"))
    module = tiny_module(tiny_net(1, 12, 4))
    tiny_trainer(callbacks=[gallery], fast_dev_run=True).fit(module, datamodule=tiny_data(random_source()))
    assert not list(tmp_path.iterdir())


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.pytorch.Trainer.is_global_zero", property(lambda _: False))
    _fit(TriggerGallery(str(tmp_path / "a.png")))
    assert not list(tmp_path.iterdir())


CLASSES = ("zero", "one", "two")


def _set(n: int, c: int, label: int = 1, value: int = 255) -> ImageSet:
    return some_images(n, (c, 9, 9), label, value=value)


@pytest.mark.parametrize("c", [1, 2, 3, 4])
@pytest.mark.parametrize(("n", "n_decoys"), [(1, None), (1, 100), (20, 0), (20, 2), (5, 100)])
@pytest.mark.parametrize("with_originals", [False, True])
def test_sheets_of_any_number_of_images_can_be_drawn(
    c: int, n: int, with_originals: bool, n_decoys: int | None
) -> None:
    originals = random_images(n, (c, 9, 9)) if with_originals else None
    strangers = None if n_decoys is None else _set(n_decoys, c)
    pixels = _opened(sheet(_set(n, c), originals, strangers, CLASSES, columns=4))
    rows = 1 + with_originals + bool(n_decoys)
    columns = min(n, 4)
    # A column takes 1.15 and a row 1.45 inches of 110 dots.
    assert pixels.shape[1] == pytest.approx((1.15 * columns + 0.8) * 110, abs=2)
    assert pixels.shape[0] == pytest.approx(1.45 * rows * 110, abs=2)


def _shows(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((pixels == np.array(colour)).all(2).sum())


def test_the_sheet_shows_clean_trigger_and_decoy() -> None:
    colours = {"clean": (250, 10, 20), "trigger": (15, 240, 30), "decoy": (25, 35, 230)}
    made = {
        name: torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).expand(6, 3, 9, 9)
        for name, colour in colours.items()
    }
    labels = torch.ones(6, dtype=torch.int64)
    triggers, decoys = (ImageSet(made[name], labels, labels) for name in ("trigger", "decoy"))
    pixels = _opened(sheet(triggers, made["clean"], decoys, CLASSES, columns=3))
    rows = {name: np.nonzero((pixels == np.array(colour)).all(2))[0].mean() for name, colour in colours.items()}
    assert rows["clean"] < rows["trigger"] < rows["decoy"]  # each below the one it is to be compared with
    counts = [_shows(pixels, colour) for colour in colours.values()]
    assert min(counts) > 3 * 1000
    alone = _opened(sheet(triggers, None, None, CLASSES, columns=3))
    assert _shows(alone, colours["trigger"]) > 3 * 1000
    assert _shows(alone, colours["clean"]) == _shows(alone, colours["decoy"]) == 0


@pytest.mark.parametrize("name", ["$\\frac$", "a_$^$_b"])
def test_names_of_classes_are_no_formulas(name: str) -> None:
    assert _opened(sheet(_set(2, 1), None, None, ("zero", name), columns=2)).std() > 5
