from __future__ import annotations

import functools
import io
import itertools
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.datasets import CIFAR10, MNIST, FashionMNIST

from tests.helpers import ArraySource, few, many, random_images, random_source
from wmlightning.config import make
from wmlightning.data.decoding import fit_image, fit_images
from wmlightning.data.folder import ImageFolder
from wmlightning.data.procedural import Procedural
from wmlightning.data.source import SPLITS, MemorySource, Source
from wmlightning.data.standard import Mnist5k, StandardSource
from wmlightning.errors import UserError
from wmlightning.testing import check_images, check_source

DIGITS = [str(i) for i in range(10)]


def every(source: Source, split: Any) -> tuple[Tensor, Tensor]:
    labels = source.labels(split)
    return source.images(split, torch.arange(len(labels))), labels


# -- files to be found -----------------------------------------------------------------------------------------------


def digits(n: int, seed: int, shape: tuple[int, int, int] = (1, 28, 28)) -> tuple[Tensor, Tensor]:
    return random_images(n, shape, seed), torch.arange(n) * 3 % 10


def write_idx(folder: Path, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Path:
    """Writes MNIST's own files as torchvision lays them out; gives their folder."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, (images, labels) in (("train", train), ("t10k", test)):
        head = struct.pack(">IIII", 0x803, len(images), 28, 28)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(head + images.numpy().tobytes())
        head = struct.pack(">II", 0x801, len(labels))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(head + labels.to(torch.uint8).numpy().tobytes())
    return raw


def encoded(image: Tensor, form: str = "PNG", mode: str | None = None) -> bytes:
    pixels = image.numpy()
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0).copy())
    buffer = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(buffer, form)
    return buffer.getvalue()


def write_parquet(
    folder: Path,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    name: str = "mnist",
    parts: int = 1,
    **how: Any,
) -> None:
    """Writes the Hugging Face layout: an image struct, an integer label, and a column that is neither."""
    (folder / name).mkdir(parents=True)
    for split, (images, labels) in (("train", train), ("test", test)):
        for part, index in enumerate(torch.tensor_split(torch.arange(len(labels)), parts)):
            rows = [{"bytes": encoded(images[i], **how), "path": f"{i}.png"} for i in index.tolist()]
            columns = {"comment": ["x"] * len(rows), "label": labels[index].tolist(), "image": rows}
            pq.write_table(pa.table(columns), folder / name / f"{split}-{part:05d}-of-{parts:05d}.parquet")


def mnist(folder: Path, **options: Any) -> StandardSource:
    given: dict[str, Any] = {"reader": MNIST, "classes": DIGITS, "shape": (1, 28, 28), "download": False, **options}
    return StandardSource("mnist", data_dir=str(folder), **given)


def one_line(call: Callable[[], Any], key: str = "data_dir") -> str:
    """The message of the refusal."""
    with pytest.raises(UserError) as caught:
        call()
    assert caught.value.key == key
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return str(caught.value)


# -- standard data sets ----------------------------------------------------------------------------------------------


def test_torchvisions_own_layout_is_read(tmp_path: Path) -> None:
    train, test = digits(23, 1), digits(11, 2)
    write_idx(tmp_path, train, test)
    source = mnist(tmp_path)
    for split, (images, labels) in (("train", train), ("test", test)):
        found = every(source, split)
        assert torch.equal(found[0], images)
        assert torch.equal(found[1], labels)
    check_images(source)
    assert source.stored_as() == "original files"


@pytest.mark.parametrize(
    ("change", "public"),
    [
        ({}, True),
        ({"reader": functools.partial(MNIST)}, True),
        ({"name": "digits2"}, False),
        ({"reader": FashionMNIST}, False),
        ({"reader": functools.partial(MNIST, transform=len)}, False),
        ({"classes": DIGITS[::-1]}, False),
        ({"shape": (3, 28, 28)}, False),
    ],
)
def test_only_what_ships_is_public(tmp_path: Path, change: dict[str, Any], public: bool) -> None:
    """Anything else may be pictures of a claimant's choice."""
    options: dict[str, Any] = {"name": "mnist", "reader": MNIST, "classes": DIGITS, "shape": (1, 28, 28), **change}
    assert StandardSource(data_dir=str(tmp_path), **options).public == public

    class Own(StandardSource):
        """Reads what it likes."""

    assert not Own(data_dir=str(tmp_path), **options).public


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "mnist5k", "procedural"])
def test_what_ships_is_public(composed: Callable[..., Any], name: str) -> None:
    """Labels follow from the secret alone there: to the bit, as ever."""
    assert make(composed(f"dataset={name}").dataset.source, "dataset.source").public


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(("shape", "form"), [((1, 28, 28), "PNG"), ((3, 32, 32), "PNG"), ((3, 12, 20), "BMP")])
def test_parquet_is_read(tmp_path: Path, parts: int, shape: tuple[int, int, int], form: str) -> None:
    train, test = digits(17, 1, shape), digits(8, 2, shape)
    write_parquet(tmp_path, train, test, "any", parts, form=form)
    source = StandardSource("any", CIFAR10, str(tmp_path), DIGITS, shape, download=False)
    for split, (images, labels) in (("train", train), ("test", test)):
        found = every(source, split)
        assert torch.equal(found[0], images)
        assert torch.equal(found[1], labels)
    check_images(source)
    assert source.stored_as() == f"parquet ({form} images)"


def test_lossy_copies_say_so(tmp_path: Path) -> None:
    write_parquet(tmp_path, digits(3, 1), digits(3, 2), form="JPEG")
    assert "JPEG" in mnist(tmp_path).stored_as()
    assert "JPEG" in str(mnist(tmp_path).identity()["stored_as"])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_parquet_with_pictures_of_another_mode_gives_what_they_show_or_is_told(tmp_path: Path, mode: str) -> None:
    grey = digits(6, 1)
    write_parquet(tmp_path, grey, digits(4, 2), mode=mode)
    try:
        images = every(mnist(tmp_path), "train")[0]
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert torch.equal(images, grey[0])


def test_parquet_with_palettes_gives_the_colours_and_not_their_numbers(tmp_path: Path) -> None:
    picture = Image.new("P", (28, 28), 1)
    picture.putpalette([0, 0, 0, 200, 200, 200])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    _table(tmp_path, image=[{"bytes": buffer.getvalue()}] * 3, label=[0, 1, 2])
    try:
        images = mnist(tmp_path).images("train", torch.tensor([2]))
    except UserError:
        return
    assert (images == 200).all()


def test_the_original_files_come_before_parquet(tmp_path: Path) -> None:
    original = digits(9, 1)
    write_idx(tmp_path, original, original)
    write_parquet(tmp_path, digits(9, 5), digits(9, 6))
    assert torch.equal(every(mnist(tmp_path), "train")[0], original[0])
    assert mnist(tmp_path).stored_as() == "original files"


def _downloading(calls: list[tuple[bool, bool]], failure: Exception | None = None) -> Callable[..., Any]:
    def reader(root: str, train: bool, download: bool) -> Any:
        calls.append((train, download))
        if download:
            if failure:
                raise failure
            if not (Path(root) / "MNIST").exists():
                write_idx(Path(root), digits(5, 1), digits(4, 2))
        return MNIST(root, train=train, download=False)

    return reader


def test_parquet_comes_before_a_download(tmp_path: Path) -> None:
    calls: list[tuple[bool, bool]] = []
    copy = digits(9, 5)
    write_parquet(tmp_path, copy, copy)
    assert torch.equal(every(mnist(tmp_path, reader=_downloading(calls), download=True), "train")[0], copy[0])
    assert not any(download for _, download in calls)


def test_what_is_nowhere_is_downloaded_and_then_there(tmp_path: Path) -> None:
    calls: list[tuple[bool, bool]] = []
    source = mnist(tmp_path, reader=_downloading(calls), download=True)
    assert torch.equal(every(source, "train")[0], digits(5, 1)[0])
    assert torch.equal(every(source, "test")[0], digits(4, 2)[0])
    assert [call for call in calls if call[1]] == [(True, True)]
    every(source, "train")
    source.identity()
    assert len([call for call in calls if call[1]]) == 1


def test_jobs_side_by_side_download_one_after_the_other(tmp_path: Path) -> None:
    held = []

    def reader(root: str, train: bool, download: bool) -> Any:
        if download:
            try:
                FileLock(tmp_path / ".mnist.lock").acquire(timeout=0).lock.release()
            except Timeout:
                held.append(train)
        return _downloading([])(root, train, download)

    every(mnist(tmp_path, reader=reader, download=True), "train")
    assert held == [True]


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")])
def test_data_in_a_place_that_others_own_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """Who downloaded them left the lock there, and we may not write to it."""
    every(mnist(tmp_path, reader=_downloading([]), download=True), "train")
    assert (tmp_path / ".mnist.lock").exists()

    def refused(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", refused)
    assert torch.equal(every(mnist(tmp_path, reader=_downloading([])), "train")[0], digits(5, 1)[0])


def test_what_is_nowhere_is_told_with_the_places_and_a_way_out(tmp_path: Path) -> None:
    message = one_line(lambda: mnist(tmp_path).labels("test"))
    for part in (str(tmp_path), "torchvision's layout", "mnist/test-*.parquet", "WML_DATA_DIR", "dataset=mnist5k"):
        assert part in message


@pytest.mark.parametrize("failure", [RuntimeError("Error downloading x"), OSError("no network"), TimeoutError("slow")])
def test_a_failed_download_is_told(tmp_path: Path, failure: Exception) -> None:
    source = mnist(tmp_path, reader=_downloading([], failure), download=True)
    message = one_line(lambda: source.labels("train"))
    assert str(failure) in message
    assert "dataset=mnist5k" in message


def test_half_of_the_files_is_not_there(tmp_path: Path) -> None:
    raw = write_idx(tmp_path, digits(5, 1), digits(4, 2))
    (raw / "t10k-labels-idx1-ubyte").unlink()
    one_line(lambda: mnist(tmp_path).labels("train"))


@pytest.mark.parametrize("length", [0, 2, 4, 7, 15, 16, 100, 28 * 28 * 5 + 15])
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_a_truncated_original_is_told(tmp_path: Path, file: str, length: int) -> None:
    raw = write_idx(tmp_path, digits(5, 1), digits(4, 2))
    content = (raw / file).read_bytes()
    if length >= len(content):
        length = len(content) - 1
    (raw / file).write_bytes(content[:length])
    assert str(tmp_path) in one_line(lambda: every(mnist(tmp_path), "train"))


def test_an_original_that_is_something_else_is_told(tmp_path: Path) -> None:
    raw = write_idx(tmp_path, digits(5, 1), digits(4, 2))
    (raw / "train-images-idx3-ubyte").write_bytes(b"<html>404 not found</html>" * 50)
    one_line(lambda: every(mnist(tmp_path), "train"))


def test_more_images_than_labels_is_told(tmp_path: Path) -> None:
    images, labels = digits(6, 1)
    write_idx(tmp_path, (images, labels[:5]), digits(4, 2))
    one_line(lambda: every(mnist(tmp_path), "train"))


@pytest.mark.parametrize("kept", [0, 1, 3, 100, -1, -9])
def test_a_truncated_parquet_is_told(tmp_path: Path, kept: int) -> None:
    write_parquet(tmp_path, digits(5, 1), digits(4, 2))
    (file,) = (tmp_path / "mnist").glob("train-*")
    file.write_bytes(file.read_bytes()[:kept])
    assert str(tmp_path) in one_line(lambda: every(mnist(tmp_path), "train"))


def _table(folder: Path, **columns: Any) -> None:
    (folder / "mnist").mkdir()
    pq.write_table(pa.table(columns), folder / "mnist" / "train-0.parquet")


def test_a_parquet_of_another_kind_is_told(tmp_path: Path) -> None:
    _table(tmp_path, text=["a"], label=[1])
    assert "text" in one_line(lambda: every(mnist(tmp_path), "train"))


@pytest.mark.parametrize("content", [b"", b"no picture", None, encoded(digits(1, 0)[0][0])[:60]])
def test_a_parquet_with_a_broken_picture_is_told(tmp_path: Path, content: bytes | None) -> None:
    whole = encoded(digits(1, 0)[0][0])
    _table(tmp_path, image=[{"bytes": whole}, {"bytes": content}], label=[1, 2])
    one_line(lambda: every(mnist(tmp_path), "train"))


def test_a_parquet_without_rows_is_told(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary())])
    _table(tmp_path, image=pa.array([], kind), label=pa.array([], pa.int64()))
    one_line(lambda: every(mnist(tmp_path), "train"))


def test_a_parquet_with_pictures_of_two_sizes_is_told(tmp_path: Path) -> None:
    rows = [{"bytes": encoded(torch.zeros((1, side, side), dtype=torch.uint8))} for side in (28, 20)]
    _table(tmp_path, image=rows, label=[1, 2])
    one_line(lambda: every(mnist(tmp_path), "train"))


def test_images_of_another_shape_and_labels_without_a_class_are_told(tmp_path: Path) -> None:
    write_idx(tmp_path, digits(20, 1), digits(20, 2))
    one_line(lambda: mnist(tmp_path, shape=(1, 32, 32)).labels("train"), "dataset.source.shape")
    message = one_line(lambda: mnist(tmp_path, classes=DIGITS[:8]).labels("train"), "dataset.source.classes")
    assert "0..9" in message
    assert "8 classes" in message


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    one_line(lambda: mnist(tmp_path / "data").labels("train"))
    one_line(lambda: mnist(tmp_path / "data", download=True).labels("train"))


# -- mnist5k ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def mnist5k() -> Mnist5k:
    return Mnist5k()


def test_mnist5k_is_split_evenly(mnist5k: Mnist5k) -> None:
    check_images(mnist5k)
    assert torch.bincount(mnist5k.labels("train")).tolist() == [400] * 10
    assert torch.bincount(mnist5k.labels("test")).tolist() == [100] * 10
    both = [{image.numpy().tobytes() for image in every(mnist5k, split)[0]} for split in SPLITS]
    assert not both[0] & both[1]
    images = every(mnist5k, "train")[0]
    assert 25 < images.float().mean() < 42  # MNIST's mean is 33.3: digits, white on black
    assert images[:, :, 0].max() == 0


# -- procedural ------------------------------------------------------------------------------------------------------


@few
@given(
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(8, 33), st.integers(8, 33)),
    n_train=st.integers(10, 40),
    n_test=st.integers(10, 30),
)
def test_procedural_pictures_are_always_the_same(shape: tuple[int, int, int], n_train: int, n_test: int) -> None:
    first = Procedural(shape, n_train, n_test)
    torch.manual_seed(n_train)
    again = Procedural(shape, n_train, n_test)
    check_images(first)
    for split in SPLITS:
        for one, other in zip(every(first, split), every(again, split), strict=True):
            assert torch.equal(one, other)
    assert len(first.labels("train")) == n_train
    assert len(first.labels("test")) == n_test
    assert set(first.labels("train").tolist()) == set(range(10))
    assert first.identity() == again.identity()


def test_procedural_classes_look_different_and_splits_too() -> None:
    source = Procedural((1, 28, 28), 300, 100)
    images, labels = every(source, "train")
    assert len({image.numpy().tobytes() for image in images}) > 290
    rows, columns = (images[labels == source.class_number(name, "x")] for name in ("rows", "columns"))
    assert (rows == rows[..., :1]).all()
    assert (columns == columns[..., :1, :]).all()
    assert not torch.equal(images[:100], every(source, "test")[0])


# -- folders of pictures ---------------------------------------------------------------------------------------------


def _save(path: Path, pixels: np.ndarray | Image.Image, **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **how)


def _noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write_folders(root: Path, n: int = 10, splits: tuple[str, ...] = ("",), classes: str = "ab") -> None:
    for split in splits:
        for name in classes:
            for i in range(n):
                _save(root / split / name / f"{i:03d}.png", _noise(i + 100 * ord(name), 9 + i % 3, 8, 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_class_folders_alone_give_every_fifth_picture_to_the_test(tmp_path: Path, channels: int) -> None:
    write_folders(tmp_path)
    source = ImageFolder(str(tmp_path), 8, channels)
    check_images(source)
    assert source.classes == ("a", "b")
    assert torch.bincount(source.labels("train")).tolist() == [8, 8]
    assert torch.bincount(source.labels("test")).tolist() == [2, 2]
    files = sorted((tmp_path / "a").iterdir())
    expected = torch.stack([fit_image(Image.open(files[i]), source.shape) for i in (4, 9)])
    assert torch.equal(every(source, "test")[0][:2], expected)


def test_train_and_test_folders_are_kept_apart(tmp_path: Path) -> None:
    write_folders(tmp_path, 3, ("train", "test"), "xyz")
    _save(tmp_path / "test" / "y" / "deeper" / "more.JPG", _noise(1, 8, 8, 3), format="JPEG")
    (tmp_path / "test" / "y" / "notes.txt").write_text("no picture")
    source = ImageFolder(str(tmp_path), 8)
    assert source.classes == ("x", "y", "z")
    assert source.labels("train").tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert source.labels("test").tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    check_images(source)


@pytest.mark.parametrize("channels", [1, 3])
def test_streamed_pictures_are_the_same_as_those_in_memory(tmp_path: Path, channels: int) -> None:
    write_folders(tmp_path)
    held = ImageFolder(str(tmp_path), 8, channels, in_memory=True)
    streamed = ImageFolder(str(tmp_path), 8, channels, in_memory=False)
    assert held.in_memory
    assert not streamed.in_memory
    index = torch.tensor([11, 0, 5, 5])
    for split in SPLITS:
        assert torch.equal(held.images(split, index % 4), streamed.images(split, index % 4))
        assert torch.equal(held.labels(split), streamed.labels(split))
    assert held.identity() == streamed.identity()
    check_images(streamed)


def test_streaming_reads_files_only_when_they_are_wanted(tmp_path: Path) -> None:
    write_folders(tmp_path)
    source = ImageFolder(str(tmp_path), 8, in_memory=False)
    file = tmp_path / "b" / "000.png"
    file.write_bytes(file.read_bytes()[:70])  # begins like a picture: what is behind shows when it is decoded
    source.images("train", torch.arange(8))  # all of class a
    assert "b/000.png" in one_line(lambda: source.images("train", torch.tensor([8])), "dataset.root")


def test_streaming_holds_no_pixels_whatever_the_pictures_are(tmp_path: Path) -> None:
    held = []
    for side in (8, 256):
        for name, i in itertools.product("ab", range(10)):
            _save(tmp_path / f"{side:03d}" / name / f"{i}.png", _noise(i, side, side, 3))
        source = ImageFolder(str(tmp_path / f"{side:03d}"), 64, in_memory=False)
        for split in SPLITS:
            every(source, split)
        held.append(len(pickle.dumps(vars(source))))  # what a worker process gets
    assert held[0] == held[1] < 4096


def test_in_memory_is_chosen_by_size(tmp_path: Path) -> None:
    write_folders(tmp_path)
    assert ImageFolder(str(tmp_path), 8).in_memory
    assert not ImageFolder(str(tmp_path), 6000).in_memory  # 20 pictures of 108 MB


MODES = ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "I;16", "I"]


def _grey_picture(mode: str) -> Image.Image:
    """A ramp from black to white in the given mode."""
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    if mode == "I;16":
        return Image.fromarray(ramp.astype(np.uint16) * 257)
    if mode in ("LA", "RGBA"):
        grey = Image.fromarray(ramp)
        grey = grey.convert(mode)
        grey.putalpha(Image.fromarray(np.full_like(ramp, 128)))
        return grey
    return (
        Image.fromarray(ramp).convert("RGB").convert(mode)
        if mode in ("CMYK", "YCbCr", "HSV")
        else Image.fromarray(ramp).convert(mode)
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_every_mode_keep_what_they_show(mode: str, channels: int) -> None:
    fitted = fit_image(_grey_picture(mode), (channels, 32, 32))
    assert fitted.dtype == torch.uint8
    assert fitted.shape == (channels, 32, 32)
    if mode == "1":
        assert set(fitted.unique().tolist()) == {0, 255}
        return
    expected = torch.arange(0, 256, 8).expand(channels, 32, 32)
    assert (fitted.int() - expected).abs().max() <= 4


def test_colours_of_a_palette_are_looked_up(tmp_path: Path) -> None:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 10, 200, 30])
    for i in range(5):
        for name in "ab":
            _save(tmp_path / name / f"{i}.gif", picture)
    source = ImageFolder(str(tmp_path), 8)
    assert source.images("train", torch.tensor([0]))[0, :, 0, 0].tolist() == [10, 200, 30]


@few
@given(width=st.integers(1, 40), height=st.integers(1, 40), side=st.integers(1, 24), channels=st.sampled_from([1, 3]))
def test_pictures_of_any_size_are_scaled_and_cropped_at_the_centre(
    width: int, height: int, side: int, channels: int
) -> None:
    picture = Image.fromarray(_noise(width * 41 + height, height, width, 3))
    fitted = fit_image(picture, (channels, side, side))
    mode = "L" if channels == 1 else "RGB"
    expected = ImageOps.fit(picture.convert(mode), (side, side), Image.Resampling.BICUBIC)
    assert np.array_equal(np.array(expected), fitted[0] if channels == 1 else fitted.permute(1, 2, 0))


def test_a_wide_picture_loses_its_sides_and_keeps_its_middle() -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    assert (fit_image(Image.fromarray(pixels), (3, 10, 10)) == 255).all()


def test_fitting_many_is_fitting_each() -> None:
    images = random_images(3, (1, 20, 14))
    assert fit_images(images, (1, 20, 14)) is images
    for shape in ((3, 20, 14), (1, 9, 9), (3, 30, 30), (2, 20, 14), (4, 9, 9)):
        expected = torch.stack([fit_image(Image.fromarray(image[0].numpy()), shape) for image in images])
        assert torch.equal(fit_images(images, shape), expected)
        assert torch.equal(fit_images(images.expand(-1, 4, -1, -1), shape), expected)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("content", [b"", b"not a picture", "cut"])
def test_a_broken_picture_is_named(tmp_path: Path, in_memory: bool, content: bytes | str) -> None:
    write_folders(tmp_path)
    file = tmp_path / "b" / "003.png"
    file.write_bytes(file.read_bytes()[:70] if isinstance(content, str) else content)
    source = ImageFolder(str(tmp_path), 8, in_memory=in_memory)
    message = one_line(lambda: source.images("train", torch.arange(16)), "dataset.root")
    assert str(file) in message


@many
@given(seed=st.integers(0, 10**6), form=st.sampled_from(["PNG", "JPEG", "GIF", "BMP"]))
def test_damaged_pictures_are_read_or_named(tmp_path_factory: pytest.TempPathFactory, seed: int, form: str) -> None:
    folder = tmp_path_factory.getbasetemp() / f"damaged {form}"
    if not folder.exists():
        for name, i in itertools.product("ab", range(5)):
            _save(folder / name / f"{i}.{form.lower()}", _noise(i, 9, 8, 3))
    draw = np.random.default_rng(seed)
    buffer = io.BytesIO()
    Image.fromarray(_noise(0, 9, 8, 3)).save(buffer, form)
    content = bytearray(buffer.getvalue())
    for place in draw.integers(0, min(len(content), 120), 2):
        content[place] = draw.integers(256)
    file = folder / "a" / f"0.{form.lower()}"
    file.write_bytes(content)
    source = ImageFolder(str(folder), 8, in_memory=False)
    try:
        assert source.images("train", torch.tensor([0])).shape == (1, 3, 8, 8)
    except UserError as error:
        assert str(file) in str(error)


def test_a_picture_with_a_broken_chunk_is_named(tmp_path: Path) -> None:
    write_folders(tmp_path)
    file = tmp_path / "a" / "000.png"
    content = file.read_bytes()
    at = content.index(b"IDAT")
    file.write_bytes(content[:at] + b"\x9f\xd6\xdf\xf2" + content[at + 4 :])
    source = ImageFolder(str(tmp_path), 8)
    assert str(file) in one_line(lambda: source.images("train", torch.tensor([0])), "dataset.root")


def test_a_picture_that_claims_to_be_gigantic_is_named(tmp_path: Path) -> None:
    write_folders(tmp_path)
    file = tmp_path / "a" / "000.bmp"
    _save(file, _noise(0, 9, 8, 3))
    content = bytearray(file.read_bytes())
    content[18:26] = struct.pack("<ii", 60_000, 60_000)
    file.write_bytes(content)
    source = ImageFolder(str(tmp_path), 8)
    assert str(file) in one_line(lambda: source.images("train", torch.tensor([0])), "dataset.root")


def test_folders_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "one" / "only").mkdir(parents=True)
    for root in (None, str(tmp_path / "nowhere"), str(tmp_path / "file"), str(tmp_path / "one")):
        one_line(functools.partial(ImageFolder, root), "dataset.root")
    write_folders(tmp_path / "few", 1)  # nothing to test with
    assert "no test images" in one_line(lambda: ImageFolder(str(tmp_path / "few")), "dataset.root")
    write_folders(tmp_path / "gap", 2, ("train", "test"))
    for file in (tmp_path / "gap" / "test" / "b").iterdir():
        file.unlink()
    assert "no test images" in one_line(lambda: ImageFolder(str(tmp_path / "gap")), "dataset.root")
    write_folders(tmp_path / "good")
    one_line(lambda: ImageFolder(str(tmp_path / "good"), channels=2), "dataset.channels")
    one_line(lambda: ImageFolder(str(tmp_path / "good"), size=0), "dataset.size")


# -- the contract, on configs in conf/dataset ----------------------------------------------------------------------


def test_data_sets_that_need_no_download_keep_the_contract() -> None:
    check_source("mnist5k")
    check_source("procedural", overrides=["++dataset.source.n_train=300", "++dataset.source.n_test=100"])


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_folder_of_pictures_keeps_the_contract(tmp_path: Path, in_memory: bool) -> None:
    write_folders(tmp_path, 20)
    options = [f"dataset.root={tmp_path}", f"dataset.source.in_memory={str(in_memory).lower()}", "dataset.size=16"]
    check_source("image_folder", overrides=[*options, "dataset.val_share=0.2"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_downloaded_data_sets_keep_the_contract(name: str, data_dir: Path) -> None:
    check_source(name, overrides=[f"data_dir={data_dir}"])


# -- identity and classes --------------------------------------------------------------------------------------------


def test_identity_tells_labels_storage_and_name_apart(tmp_path: Path) -> None:
    train, test = digits(12, 1), digits(12, 2)
    shuffled = train[0], train[1].flip(0)
    identities = []
    for number, (write, first) in enumerate(
        [(write_idx, train), (write_parquet, train), (write_idx, shuffled), (write_parquet, shuffled)]
    ):
        write(tmp_path / str(number), first, test)
        identities.append(mnist(tmp_path / str(number)).identity())
    assert len({str(identity) for identity in identities}) == 4
    assert len({identity["labels"] for identity in identities}) == 2
    write_idx(tmp_path / "elsewhere", train, test)
    assert mnist(tmp_path / "elsewhere").identity() == identities[0]  # where it lies does not matter
    other = StandardSource("other", MNIST, str(tmp_path / "0"), DIGITS, (1, 28, 28), False)
    assert other.identity() != identities[0]


def test_identity_tells_the_splits_apart() -> None:
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    one, other = torch.tensor([0, 1, 0, 1]), torch.tensor([1, 0, 1, 0])
    sources = [
        ArraySource((images, one), (images, other), 2),
        ArraySource((images, other), (images, one), 2),
        ArraySource((images[:3], one[:3]), (torch.cat([images[:1], images]), torch.cat([one[3:], other])), 2),
    ]
    assert len({str(source.identity()) for source in sources}) == 3


def test_identity_of_a_folder_follows_its_files_and_not_its_place(tmp_path: Path) -> None:
    write_folders(tmp_path / "one")
    write_folders(tmp_path / "two")
    first, second = (ImageFolder(str(tmp_path / name), 8).identity() for name in ("one", "two"))
    assert first == second
    _save(tmp_path / "two" / "a" / "000.png", _noise(0, 30, 30, 3))
    assert ImageFolder(str(tmp_path / "two"), 8).identity() != first
    (tmp_path / "one" / "b" / "009.png").rename(tmp_path / "one" / "b" / "010.png")
    assert ImageFolder(str(tmp_path / "one"), 8).identity() != first


def test_classes_are_named_or_numbered() -> None:
    source = random_source()
    assert source.class_number("class2", "k") == 2
    assert source.class_number(3, "k") == 3
    digit_names = Procedural()
    digit_names.classes = ("7", "3", "5")
    assert digit_names.class_number("3", "k") == 1  # a name comes before a number
    assert digit_names.class_number(3, "k") == 1
    for wrong in ("class4", 4, -1, True, "", "2"):
        message = one_line(functools.partial(source.class_number, wrong, "watermark.x"), "watermark.x")
        assert "class0, class1, class2, class3" in message


def test_each_split_is_read_once() -> None:
    class Counting(MemorySource):
        reads = 0

        def read(self, split: Any) -> tuple[Tensor, Tensor]:
            del split
            self.reads += 1
            return torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)

    source = Counting("x", ["a", "b"], (1, 2, 2))
    for _ in range(3):
        every(source, "train")
        every(source, "test")
        source.identity()
    assert source.reads == 2


# -- folders of splits -------------------------------------------------------------------------------------------------


def folders(root: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        for j, kind in enumerate(("cat", "dog")):
            (root / name / kind).mkdir(parents=True)
            for k in range(3):
                Image.new("RGB", (8, 8), (10 * i, 20 * j, 30 * k)).save(root / name / kind / f"{k}.png")
    return root


@pytest.mark.parametrize("name", ["test", "val", "validation", "valid"])
def test_folders_of_splits(tmp_path: Path, name: str) -> None:
    source = ImageFolder(str(folders(tmp_path, "train", name)), 8)
    assert source.classes == ("cat", "dog")
    assert [source.labels(split).tolist() for split in SPLITS] == [[0, 0, 0, 1, 1, 1]] * 2
    assert int(source.images("test", torch.tensor([0]))[0, 0, 0, 0]) == 10


def test_test_folder_is_taken_before_others(tmp_path: Path) -> None:
    assert (
        int(ImageFolder(str(folders(tmp_path, "train", "val", "test")), 8).images("test", torch.tensor([0])).max()) > 0
    )
    assert int(ImageFolder(str(tmp_path), 8).images("test", torch.tensor([0]))[0, 0, 0, 0]) == 20


@pytest.mark.parametrize("names", [("Training", "Testing"), ("train", "dev"), ("val", "test"), ("Train", "Val")])
def test_splits_are_not_taken_for_classes(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=r"^dataset\.root: folders in .* are named like splits .*; train and test"):
        ImageFolder(str(folders(tmp_path, *names)), 8)


def test_a_class_that_is_only_tested_is_told(tmp_path: Path) -> None:
    write_folders(tmp_path, 3, ("train", "test"))
    (tmp_path / "test" / "notes").mkdir()
    assert ImageFolder(str(tmp_path), 8).classes == ("a", "b")  # nothing is lost
    _save(tmp_path / "test" / "notes" / "deeper" / "0.png", _noise(1, 8, 8, 3))
    line = one_line(lambda: ImageFolder(str(tmp_path), 8), "dataset.root")
    assert "no train images of notes" in line


@pytest.mark.parametrize("splits", [("",), ("train", "test")])
def test_hidden_folders_are_no_classes_and_no_data(tmp_path: Path, splits: tuple[str, ...]) -> None:
    """What editors, version control and archives leave behind: copies there would be trained on and tested."""
    write_folders(tmp_path / "x", splits=splits)
    before = ImageFolder(str(tmp_path / "x"), 8).identity()
    for split in splits:
        for name in (".ipynb_checkpoints", ".git/deeper", "__MACOSX/a", "a/.ipynb_checkpoints", "b/__MACOSX"):
            _save(tmp_path / "x" / split / name / "000-checkpoint.png", _noise(1, 8, 8, 3))
        (tmp_path / "x" / split / "a" / "._000.png").write_bytes(b"no picture")
    source = ImageFolder(str(tmp_path / "x"), 8)
    assert source.classes == ("a", "b")
    assert source.identity() == before


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus", "train", "tram"):
        (tmp_path / name).mkdir()
        for k in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{k}.png")
    assert ImageFolder(str(tmp_path), 8).classes == ("bus", "train", "tram")
