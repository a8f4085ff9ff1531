"""Grey of more than 8 bits: scaled where a file says what white is, and else refused by name."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from wmlightning.data.batches import CleanImages, EvalPlan
from wmlightning.data.decoding import fit_image
from wmlightning.data.folder import ImageFolder
from wmlightning.data.loading import Loading
from wmlightning.errors import UserError

RAMP = np.linspace(0, 65535, 5)
GREY = [0, 63, 127, 191, 255]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def saved(image: Image.Image, form: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return buffer.getvalue()


def row(values: Any, kind: str) -> Image.Image:
    return Image.fromarray(np.asarray(values).astype(kind)[None])


def tiff(values: bytes, bits: int, zero_is_white: bool = False, kind: int = 1, width: int = 5) -> bytes:
    """A row of grey as others write it: with 12 bits a pixel, say."""
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, int(not zero_is_white)), (273, 0), (277, 1)]
    tags += [(278, 1), (279, len(values)), (339, kind)]
    start = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4) + values


def twelve_bits() -> bytes:
    packed = "".join(f"{int(value) >> 4:012b}" for value in RAMP) + "0000"
    return tiff(int(packed, 2).to_bytes(8, "big"), 12)


SCALED = {
    "16.png": saved(row(RAMP, "uint16"), "PNG"),
    "16.tif": saved(row(RAMP, "uint16"), "TIFF"),
    "12.tif": twelve_bits(),
    "16.pgm": b"P5 5 1 65535\n" + RAMP.astype(">u2").tobytes(),
    "10.pgm": b"P5 5 1 1023\n" + (RAMP / 65535 * 1023).astype(">u2").tobytes(),
    "8 in 32.tif": saved(row(GREY, "int32"), "TIFF"),
}
REFUSED = {
    "32.tif": (saved(row(RAMP, "int32"), "TIFF"), "whole numbers from 0 to 65535 in more than 16 bits"),
    "signed.tif": (
        tiff(np.array([0, 1, 2, 3, -1], "<i2").tobytes(), 16, kind=2),
        "whole numbers from -1 to 3 in more than 16 bits",
    ),
    "unsigned.tif": (
        tiff(np.array([0, 1, 2, 3, 2**32 - 1], "<u4").tobytes(), 32),
        "whole numbers from -1 to 3 in more than 16 bits",
    ),
    "float.tif": (saved(row(RAMP / 65535, "float32"), "TIFF"), "floats"),
    "float 255.tif": (saved(row(GREY, "float32"), "TIFF"), "floats"),
    "white.tif": (tiff(RAMP.astype("<u2").tobytes(), 16, zero_is_white=True), "16 bits of which 0 is white"),
}
BY_HEADER = {"float.tif", "float 255.tif", "white.tif"}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SCALED)
def test_what_a_file_says_is_white_becomes_white(name: str, channels: int) -> None:
    with Image.open(io.BytesIO(SCALED[name])) as image:
        found = fit_image(image, (channels, 1, 5)).int()
    assert (found - torch.tensor(GREY)).abs().max() <= 1


def test_pngs_of_16_bits_are_scaled_however_pillow_names_them() -> None:
    image = row(RAMP, "int32")
    image.format = "PNG"  # Pillow before 11.3 opened them so
    assert fit_image(image, (1, 1, 5)).flatten().tolist() == GREY


def test_deep_pictures_are_turned_as_the_camera_noted() -> None:
    image = row(RAMP, "uint16")
    image.getexif()[ExifTags.Base.Orientation] = 3
    with Image.open(io.BytesIO(saved(image, "PNG", exif=image.getexif()))) as stored:
        assert fit_image(stored, (1, 1, 5)).flatten().tolist() == GREY[::-1]


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_say_what_is_white_is_no_picture(name: str) -> None:
    content, told = REFUSED[name]
    with Image.open(io.BytesIO(content)) as image, pytest.raises(ValueError, match=f"^{told}; .*8 bits.*16"):
        fit_image(image, (1, 1, 5))


def folder_with(root: Path, files: dict[str, bytes]) -> Path:
    """Two classes of ten small pictures, some of which are these."""
    for i in range(10):
        for name in ("apple", "pear"):
            (root / name).mkdir(parents=True, exist_ok=True)
            row(np.arange(5) * i, "uint8").save(root / name / f"{i}.png")
    for name, content in files.items():
        (root / "apple" / f"0 {name}").write_bytes(content)
    return root


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_names_the_file_and_what_is_accepted(tmp_path: Path, name: str, in_memory: bool) -> None:
    content, told = REFUSED[name]
    root = folder_with(tmp_path / "root", {name: content})
    source = ImageFolder(str(root), 5, 1, in_memory=in_memory)
    with pytest.raises(UserError, match=rf"^dataset\.root: a file is no readable image: .*0 {name} \({told}") as caught:
        if in_memory or name not in BY_HEADER:
            source.images("train", torch.arange(4))
        source.labels("train")
    assert "\n" not in str(caught.value)
    assert "dataset.broken=skip" in str(caught.value)


def test_a_folder_skips_and_counts_them(tmp_path: Path) -> None:
    root = folder_with(tmp_path / "root", {name: content for name, (content, _) in REFUSED.items()})
    source = ImageFolder(str(root), 5, 1, broken="skip")
    with pytest.warns(UserWarning, match=rf"{len(REFUSED)} broken pictures .*0 32\.tif \(whole numbers from 0 "):
        assert len(source.labels("train")) + len(source.labels("test")) == 20


def test_a_worker_names_the_file_and_what_is_accepted(tmp_path: Path) -> None:
    root = folder_with(tmp_path / "root", {"32.tif": REFUSED["32.tif"][0]})
    source = ImageFolder(str(root), 5, 1, in_memory=False)
    dataset = CleanImages(source, "train", torch.arange(len(source.labels("train"))))
    loader = Loading(num_workers=1).loader(dataset, EvalPlan(len(dataset), 8), workers=True)
    with pytest.raises(UserError, match=r"0 32\.tif \(whole numbers from 0 to 65535 in .*; ") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


# -- other modes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "GIF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_is_dropped_without_a_word(form: str, channels: int) -> None:
    colours = [(10, 200, 30), (90, 90, 90), (250, 0, 0), (0, 0, 250)]
    image = Image.new("P", (4, 1))
    image.putpalette([value for colour in colours for value in colour])
    for i in range(4):
        image.putpixel((i, 0), i)
    content = saved(image, form, transparency=bytes([0, 128, 255, 255]) if form == "PNG" else 1)
    with warnings.catch_warnings(), Image.open(io.BytesIO(content)) as stored:
        warnings.simplefilter("error")
        found = fit_image(stored, (channels, 1, 4))
    plain = Image.new("RGB", (4, 1))
    for i, colour in enumerate(colours):
        plain.putpixel((i, 0), colour)
    assert torch.equal(found, fit_image(plain, (channels, 1, 4)))


def test_of_an_animation_the_first_picture_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    content = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(content)) as stored:
        assert fit_image(stored, (3, 8, 8))[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "CMYK", "RGBA"])
def test_files_of_other_modes_show_what_was_drawn(mode: str) -> None:
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:, 8:] = 255
    drawn = Image.fromarray(pixels).convert("RGB").convert(mode)
    content = saved(drawn, "JPEG" if mode == "CMYK" else "PNG")
    with Image.open(io.BytesIO(content)) as stored:
        assert stored.mode == mode
        found = fit_image(stored, (3, 16, 16)).int()
    assert (found - torch.from_numpy(pixels).int()).abs().max() <= 6
