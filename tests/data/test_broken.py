"""Files that are no whole pictures: refused by name, or skipped, named and remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from wmlightning.data import folder as folder_module
from wmlightning.data.batches import EvalPlan
from wmlightning.data.decoding import fit_image
from wmlightning.data.folder import ImageFolder
from wmlightning.data.loading import Loading
from wmlightning.errors import UserError

SIDE = 16


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "wmlightning"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of 40 pictures, every fifth of them a test image; noise, so that half a file is half a picture."""
    root = tmp_path / "pictures"
    draw = np.random.default_rng(0)
    for name in ("apple", "pear"):
        (root / name).mkdir(parents=True)
        for i in range(40):
            pixels = draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02d}.png")
    return root


def spoil(root: Path) -> dict[str, str]:
    """One file of each kind of breakage; which of them a look at headers finds."""
    (root / "apple" / "00.png").write_bytes(b"")
    (root / "apple" / "04.png").write_text("a letter")
    (root / "pear" / "01.png").unlink()
    (root / "pear" / "01.png").symlink_to(root / "nowhere")
    whole = root / "pear" / "07.png"
    whole.write_bytes(whole.read_bytes()[:300])
    return {"apple/00.png": "empty", "apple/04.png": "header", "pear/01.png": "empty", "pear/07.png": "middle"}


def test_streamed_pictures_are_refused_by_their_headers(pictures: Path) -> None:
    found = spoil(pictures)
    source = ImageFolder(str(pictures), SIDE, in_memory=False)
    with pytest.raises(UserError, match="3 files are no readable images") as caught:
        source.labels("train")
    message = str(caught.value)
    assert all((str(pictures / name) in message) == (kind != "middle") for name, kind in found.items())
    assert "dataset.broken=skip" in message


def test_pictures_in_memory_are_refused_together(pictures: Path) -> None:
    for name, kind in spoil(pictures).items():
        if kind == "empty":
            (pictures / name).unlink()
    source = ImageFolder(str(pictures), SIDE, in_memory=True)
    with pytest.raises(UserError, match="2 files are no readable images") as caught:
        source.images("train", torch.arange(1))  # neither of them
    assert "apple/04.png" in str(caught.value)
    assert "pear/07.png" in str(caught.value)


def test_many_are_counted_and_a_few_named(pictures: Path) -> None:
    for file in (pictures / "pear").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"40 files are .* and 37 more;"):
        ImageFolder(str(pictures), SIDE).labels("train")


@pytest.mark.parametrize("in_memory", [True, False])
def test_skipped_files_are_named_and_the_others_stay_where_they_are(pictures: Path, in_memory: bool) -> None:
    whole = ImageFolder(str(pictures), SIDE, in_memory=in_memory)
    names = {split: list(whole._files[split]) for split in ("train", "test")}
    every = {split: whole.images(split, torch.arange(len(names[split]))) for split in names}  # type: ignore[arg-type]
    found = spoil(pictures)
    source = ImageFolder(str(pictures), SIDE, in_memory=in_memory, broken="skip")
    with pytest.warns(UserWarning, match=r"4 broken pictures in .* are skipped: .*apple/00\.png"):
        labels = source.labels("train")
    assert set(source.skipped) == set(found)
    for split in ("train", "test"):
        kept = [i for i, name in enumerate(names[split]) if name not in found]
        assert list(source._files[split]) == [names[split][i] for i in kept]
        assert torch.equal(source.images(split, torch.arange(len(kept))), every[split][kept])  # type: ignore[arg-type]
    assert labels.tolist() == [0] * 31 + [1] * 30


def test_what_is_skipped_is_part_of_the_identity(pictures: Path) -> None:
    assert ImageFolder(str(pictures), SIDE, broken="skip").identity() == ImageFolder(str(pictures), SIDE).identity()
    spoil(pictures)
    with pytest.warns(UserWarning):
        first = ImageFolder(str(pictures), SIDE, broken="skip").identity()
    (pictures / "pear" / "08.png").write_bytes(b"")
    with pytest.warns(UserWarning):
        second = ImageFolder(str(pictures), SIDE, broken="skip").identity()
    assert "without" in first
    assert first != second


def test_pictures_are_decoded_once_and_again_when_they_change(
    pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    real = folder_module._read
    monkeypatch.setattr(folder_module, "_read", lambda file, shape: (reads.append(file), real(file, shape))[1])

    def skipped() -> set[str]:
        reads.clear()
        source = ImageFolder(str(pictures), SIDE, in_memory=False, broken="skip")
        source.labels("test")
        return set(source.skipped)

    assert skipped() == set()
    assert len(reads) == 80
    assert skipped() == set()
    assert not reads, "the next run remembers"
    spoil(pictures)
    with pytest.warns(UserWarning):
        assert len(skipped()) == 4
    assert len(reads) == 80 - 2, "empty files are not opened"
    with pytest.warns(UserWarning):
        assert len(skipped()) == 4
    assert not reads
    for file in cache.iterdir():  # what somebody else wrote there is not believed
        file.write_text(json.dumps({**json.loads(file.read_text()), "broken": [10**6]}))
    with pytest.warns(UserWarning):
        assert len(skipped()) == 4
    for file in cache.iterdir():
        file.write_text("{")
    with pytest.warns(UserWarning):
        assert len(skipped()) == 4


@pytest.mark.parametrize("in_memory", [True, False])
def test_what_the_system_does_not_let_us_read_is_not_broken(
    pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    """No rights, a server that is gone, too many open files: told, and not remembered as the picture's fault."""

    def locked(file: Path, **_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(file))

    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "_read", locked)
        with pytest.raises(
            UserError, match=r"^dataset\.root: cannot read .*\.png \(Permission denied\); files that you may"
        ):
            ImageFolder(str(pictures), SIDE, in_memory=in_memory, broken="skip").labels("test")
    source = ImageFolder(str(pictures), SIDE, in_memory=in_memory, broken="skip")
    source.labels("test")
    assert not source.skipped


def test_a_class_that_has_nothing_left_is_told(pictures: Path) -> None:
    for file in (pictures / "pear").iterdir():
        file.write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(UserError, match=r"no train images in .*pear; every class"):
        ImageFolder(str(pictures), SIDE, broken="skip").labels("train")


def test_what_is_neither_is_refused(pictures: Path) -> None:
    with pytest.raises(UserError, match=r"^dataset\.broken: 'ignore' is unknown; refuse or skip$"):
        ImageFolder(str(pictures), SIDE, broken="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_worker_names_the_file_in_one_line(pictures: Path, workers: int) -> None:
    from wmlightning.data.batches import CleanImages

    source = ImageFolder(str(pictures), SIDE, in_memory=False)
    dataset = CleanImages(source, "train", torch.arange(len(source.labels("train"))))
    file = pictures / "pear" / "07.png"
    file.write_bytes(file.read_bytes()[:300])
    loader = Loading(num_workers=workers).loader(dataset, EvalPlan(len(dataset), 8), workers=True)
    with pytest.raises(UserError) as caught:
        list(loader)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


# -- the whole command -----------------------------------------------------------------------------------------------


def typed(pictures: Path) -> list[str]:
    small = ["recipe.batch_size=16", "trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=1"]
    net = ["model=small_cnn", "model.width=4", f"dataset.size={SIDE}", "dataset.val_share=0.1"]
    marks = ["watermark.n_triggers=2", "watermark.n_decoys=2", "logger=none", "callbacks=none"]
    return ["dataset=image_folder", f"dataset.root={pictures}", *small, *net, *marks]


def test_a_run_says_what_it_skipped(main: Callable[..., Any], runs: Path, pictures: Path) -> None:
    spoil(pictures)
    refused = main(*typed(pictures))
    assert refused.code == 1
    assert len(refused.errors) == 1, str(refused)
    assert not runs.exists()
    with pytest.warns(UserWarning, match="4 broken pictures"):
        done = main(*typed(pictures), "dataset.broken=skip")
    assert done.code == 0, str(done)
    (card,) = runs.glob("*/card.json")
    data = json.loads(card.read_text())["data"]
    assert data["skipped"] == {"count": 4, "files": ["apple/00.png", "pear/01.png", "pear/07.png", "apple/04.png"]}
    assert data["train"] + data["val"] + data["test"] == 76


def test_a_picture_that_breaks_in_a_streamed_training_ends_it_in_one_line(
    main: Callable[..., Any], runs: Path, pictures: Path
) -> None:
    file = pictures / "pear" / "07.png"
    file.write_bytes(file.read_bytes()[:300])
    done = main(*typed(pictures), "dataset.source.in_memory=false")
    assert done.code == 1
    assert len(done.errors) == 1, str(done)
    assert str(file) in done.errors[0]
    assert "Traceback" not in done.err
    assert not list(runs.glob("*/card.json"))


# -- as the camera held it -------------------------------------------------------------------------------------------


def photo(orientation: int | None, form: str = "PNG") -> Image.Image:
    """A picture with a bright upper left corner when it is turned as noted; stored as its note says."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[:4, :8] = 250
    upright = Image.fromarray(pixels)
    steps = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = upright.transpose(steps[orientation]) if orientation in steps else upright
    if orientation is not None:
        stored.getexif()[ExifTags.Base.Orientation] = orientation
    return stored


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_photographs_are_turned_as_the_camera_noted(tmp_path: Path, orientation: int | None, form: str) -> None:
    stored = photo(orientation)
    stored.save(tmp_path / "photo", form, exif=stored.getexif())
    with Image.open(tmp_path / "photo") as image:
        fitted = fit_image(image, (1, SIDE, SIDE)).int()
    assert (fitted[0, 1:3, 1:6] > 200).all()
    assert (fitted[0, 6:, 10:] < 50).all()


def test_spoiled_notes_do_not_spoil_the_picture(tmp_path: Path) -> None:
    photo(None).save(tmp_path / "photo.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    with Image.open(tmp_path / "photo.jpg") as image:
        assert fit_image(image, (3, SIDE, SIDE)).shape == (3, SIDE, SIDE)
