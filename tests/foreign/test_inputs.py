"""How a trigger becomes an input: right, or refused before a batch is trained on."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from tests.foreign.projects import CLASSES, Animals, Module, evaluation, loader, owners_key, to_input
from tests.helpers import random_images, tiny_trainer
from wmlightning import Watermark
from wmlightning.embed.inputs import Inputs, find_to_input, picture
from wmlightning.errors import UserError
from wmlightning.ownership.key import Key


@pytest.fixture(scope="module")
def key(path: Path) -> Key:
    return owners_key(path, n_triggers=48)


def fitted(path: Path, road: Any, train: Any = None, val: Any = None) -> Module:
    module = Module()
    trainer = tiny_trainer(callbacks=[Watermark(path, road)], limit_val_batches=1 if val is not None else 0)
    trainer.fit(module, loader() if train is None else train, val)
    return module


def flip(picture: Image.Image) -> Tensor:
    image = to_input(picture)
    return image.flip(-1) if torch.rand(()) < 0.5 else image


def sized(picture: Image.Image) -> Tensor:
    return v2.functional.resize(to_input(picture), [10, 10])


def unit(picture: Image.Image) -> Tensor:
    return to_input(picture) * 0.3 + 0.5


@pytest.mark.parametrize(
    ("road", "told"),
    [
        (flip, "it makes something else of the same picture each time"),
        (unit, r"it makes pixels around 0\.5.*, the project trains on around -?0\.0"),
        (lambda p: unit(p) * 255, "it makes pixels around 12.*, the project trains on"),
        (lambda p: (unit(p) * 255).to(torch.uint8), "it makes uint8 3x10x12, the project trains on float32 3x10x12"),
        (sized, "it makes float32 3x10x10, the project trains on float32 3x10x12"),
        (lambda p: to_input(p) + torch.tensor([0, 0, 4.0]).view(3, 1, 1), "it makes pixels around 4"),
        (lambda p: to_input(p.convert("L")), r"it takes no PIL picture \(RuntimeError"),
        (lambda p: p.size[7], r"it takes no PIL picture \(IndexError: tuple index out of range\)"),
        (lambda p: p, "it makes Image of a picture"),
        (lambda p: to_input(p)[None], r"it makes \(1, 3, 10, 12\) of a picture"),
    ],
)
def test_wrong_roads_are_refused(path: Path, key: Key, road: Any, told: str) -> None:
    with pytest.raises(UserError, match=rf"^to_input: {told}.*; Watermark\(..., to_input=f\), f the project's"):
        fitted(path, road)


def test_arrays_are_tensors_too(path: Path, key: Key) -> None:
    assert fitted(path, lambda p: to_input(p).numpy()).seen


def test_bright_training_batches_are_no_mistake(path: Path, key: Key) -> None:
    """A road is judged by what must differ, not by how a few pictures happen to look."""

    class Bright(Animals):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return image * 0.7 + 0.3, label

    assert fitted(path, to_input, DataLoader(Bright(transform=to_input), 12)).seen


def test_classes_one_after_the_other(path: Path, key: Key) -> None:
    """The first images of a stream may all be of one class, and of its colours: the user says that it is right."""

    class Night(Animals):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return image * 0.3 - 1.2, label

    data = DataLoader(Night(transform=to_input), 12)
    with pytest.raises(UserError, match=r"^to_input: it makes pixels .*; check_inputs=False if all is as it should be"):
        fitted(path, to_input, data)
    module = Module()
    tiny_trainer(callbacks=[Watermark(path, to_input, check_inputs=False)]).fit(module, data)
    assert len(module.seen) == 8


def test_a_large_first_batch_is_judged_before_a_step(path: Path, key: Key) -> None:
    module = Module()
    with pytest.raises(UserError, match=r"^to_input: it makes pixels around"):
        tiny_trainer(callbacks=[Watermark(path, unit)]).fit(module, loader(batch_size=64))
    assert not module.seen


class Small(Animals):
    """Trained on at another size than evaluated."""

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return image[:, :8, :8], label


class AnySize(Module):
    def forward(self, images: Tensor) -> Tensor:
        self.sizes = {*getattr(self, "sizes", ()), tuple(images.shape[2:])}
        return self.net(v2.functional.resize(images, [10, 12]))


def small(p: Image.Image) -> Tensor:
    return to_input(p)[:, :8, :8]


def test_training_at_another_size(path: Path, key: Key) -> None:
    data = DataLoader(Small(transform=to_input), 12)
    with pytest.raises(UserError, match=r"^to_input: .* 3x10x12, .* 3x8x8; .*; if it trains at .* train_input= makes"):
        tiny_trainer(callbacks=[Watermark(path, to_input)]).fit(AnySize(), data, evaluation())
    module, trainer = AnySize(), tiny_trainer(callbacks=[Watermark(path, train_input=small)])
    trainer.fit(module, data, evaluation())
    assert {images.shape for _, _, images, _ in module.seen} == {(20, 3, 8, 8)}
    module.sizes = set()
    trainer.validate(module, evaluation(), verbose=False)
    assert module.sizes == {(10, 12)}, "accuracies are of triggers as they are verified"


def test_random_road_of_training(path: Path, key: Key) -> None:
    data = DataLoader(Small(transform=to_input), 12)
    road = v2.Compose([to_input, v2.RandomCrop(8)])
    with pytest.raises(UserError, match=r"^train_input: it makes something else of the same picture each time"):
        tiny_trainer(callbacks=[Watermark(path, to_input, train_input=road)]).fit(AnySize(), data, evaluation())


# -- the project's own evaluation transform --------------------------------------------------------------------------


def test_transform_of_the_evaluation_data_is_taken_over(path: Path, key: Key) -> None:
    ours, named = fitted(path, None, val=evaluation()), fitted(path, to_input, val=evaluation())
    assert [len(labels) for *_, labels in ours.seen] == [len(labels) for *_, labels in named.seen]
    train = torch.cat([images[12:] for _, _, images, _ in ours.seen])
    assert torch.equal(train, torch.cat([images[12:] for _, _, images, _ in named.seen]))
    assert len(train) == 48 + 16


def test_without_evaluation_data_it_must_be_named(path: Path, key: Key) -> None:
    with pytest.raises(UserError, match=r"^to_input: the project's evaluation data have no transform"):
        fitted(path, None)


def test_test_data_alone_will_do(path: Path, key: Key) -> None:
    trainer = tiny_trainer(callbacks=[Watermark(path)])
    (found,) = trainer.test(Module(), evaluation(), verbose=False)
    assert set(found) >= {"test/trigger_acc", "test/trigger_new_acc", "test/decoy_acc"}


@pytest.mark.parametrize("where", ["plain", "subset", "subset of a subset", "list", "dict"])
def test_found_wherever_it_is(where: str) -> None:
    data: Any = Animals(40, transform=to_input)
    if where.startswith("subset"):
        data = Subset(data, [7, 3, 5])
    if where == "subset of a subset":
        data = Subset(data, [1])
    found: Any = DataLoader(data, 4)
    found = {"list": [[found], None], "dict": {"a": found}}.get(where, [None, found])
    assert find_to_input(found) is to_input


def test_image_folders_have_one(tmp_path: Path) -> None:
    for i, name in enumerate(CLASSES):
        (tmp_path / name).mkdir()
        picture(random_images(1, (3, 20, 17), i)[0]).save(tmp_path / name / "1.png")
    road = v2.Compose([v2.Resize(12), v2.CenterCrop(8), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    assert find_to_input(DataLoader(ImageFolder(tmp_path, road), 2)) is road
    with pytest.raises(UserError, match=r"^to_input: ImageFolder.transform is not all .* or is random"):
        find_to_input(DataLoader(ImageFolder(tmp_path, v2.Compose([road, v2.GaussianNoise()])), 2))


class More(Animals):
    """Does something after its transform."""

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return image if self.transform is None else image * 2, label


class Tensors(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return torch.rand(3, 10, 12), 0

    def __len__(self) -> int:
        return 9


class Own(Tensors):
    def __init__(self) -> None:
        self.transform = lambda image: image


class Broken(Animals):
    def __getitem__(self, index: int) -> Any:
        return self.transform.steps, 0


class Gone(Animals):
    def __getitem__(self, index: int) -> Any:
        raise FileNotFoundError("0001.png")


@pytest.mark.parametrize(
    "data",
    [More(9, transform=to_input), Own(), Broken(9, transform=to_input), Gone(9, transform=to_input)],
    ids=lambda data: type(data).__name__,
)
def test_half_a_road_is_not_guessed_at(data: Any) -> None:
    with pytest.raises(UserError, match=r"^to_input: \w+.transform is not all .*; Watermark\(..., to_input=f\)"):
        find_to_input(DataLoader(data, 3))


@pytest.mark.parametrize(
    "loaders", [None, [None, None], DataLoader(Tensors(), 3), [Tensors()], DataLoader(Animals(9), 3)]
)
def test_nothing_to_take_over(loaders: Any) -> None:
    with pytest.raises(UserError, match=r"^to_input: the project's evaluation data have no transform"):
        find_to_input(loaders)


def test_each_input_is_made_once_if_there_is_room() -> None:
    made: list[bytes] = []

    def road(p: Image.Image) -> Tensor:
        buffer = io.BytesIO()
        p.save(buffer, "png")
        made.append(buffer.getvalue())
        return to_input(p)

    images = random_images(6, (3, 10, 12))
    inputs = Inputs(images, road, 2**20)
    for index in ([0, 3], [3, 0, 5], [5]):
        found = inputs.at(torch.tensor(index))
        assert torch.equal(found, torch.stack([to_input(picture(images[i])) for i in index]))
    assert len(made) == 3
    small = Inputs(images, road, 2 * 3 * 10 * 12 * 4)
    for _ in range(2):
        small.at(torch.arange(4))
    assert len(made) == 3 + 4 + 2, "two are kept, two are made anew"


def test_grey_and_coloured_pictures() -> None:
    for shape, mode in (((1, 4, 5), "L"), ((3, 4, 5), "RGB")):
        image = random_images(1, shape)[0]
        made = picture(image)
        assert (made.mode, made.size) == (mode, (5, 4))
        assert torch.equal(v2.functional.pil_to_tensor(made), image)


def test_training_at_several_sizes_is_told(path: Path, key: Key) -> None:
    class Sizes(Animals):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return (image if index < 24 else image[:, :, :10]), label

    class AnySize(Module):
        def forward(self, images: Tensor) -> Tensor:
            return self.net(v2.functional.resize(images, [10, 12]))

    with pytest.raises(UserError, match=r"^to_input: it makes float32 3x10x12, the project trains on float32 3x10x10"):
        tiny_trainer(callbacks=[Watermark(path, to_input)]).fit(AnySize(), DataLoader(Sizes(transform=to_input), 12))


@pytest.mark.parametrize("found", [False, True])
def test_what_is_rarely_random_is_noticed(path: Path, key: Key, found: bool) -> None:
    """A transform that leaves most pictures alone."""

    def rare(p: Image.Image) -> Tensor:
        return to_input(p) + (torch.randn(()) if p.getpixel((0, 0))[0] < 64 else 0)  # type: ignore[index, operator]

    val = DataLoader(Animals(96, transform=rare), 20)
    with pytest.raises(UserError, match=r"^to_input: .*(each time|or is random)"):
        fitted(path, None if found else rare, val=val)
