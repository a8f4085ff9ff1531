from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.helpers import few, heavy, random_source, some_images, tiny_data, tiny_module, tiny_trainer
from wmlightning.callbacks.accuracy import Accuracies, GroupAccuracy
from wmlightning.data.batches import ImageSet
from wmlightning.data.datamodule import WatermarkData
from wmlightning.data.loading import Loading

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 5)), max_size=40)


def _tensors(rows: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    columns = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)
    return columns[:, 0], columns[:, 1], columns[:, 2]


def _counted(rows: list[tuple[int, int, int]]) -> tuple[list[int], list[int]]:
    hits, counts = [0] * 6, [0] * 6
    for predicted, label, group in rows:
        counts[group] += 1
        hits[group] += predicted == label
    return hits, counts


@few
@given(batches=st.lists(ROWS, min_size=1, max_size=4))
def test_hits_and_counts_by_group_are_those_counted_one_by_one(batches: list[list[tuple[int, int, int]]]) -> None:
    metric = GroupAccuracy(6)
    for rows in batches:
        metric.update(*_tensors(rows))
    hits, counts = metric.compute()
    assert (hits.tolist(), counts.tolist()) == _counted([row for rows in batches for row in rows])
    assert hits.dtype == counts.dtype == torch.int64


@few
@given(rows=ROWS, other=ROWS)
def test_a_metric_forgets_on_reset_and_shares_nothing_with_others(rows: list[Any], other: list[Any]) -> None:
    one, two = GroupAccuracy(6), GroupAccuracy(6)
    one.update(*_tensors(rows))
    two.update(*_tensors(other))
    assert two.compute()[1].tolist() == _counted(other)[1]
    one.reset()
    one.update(*_tensors(other))
    assert [part.tolist() for part in one.compute()] == list(_counted(other))


def test_sums_over_processes_are_sums_of_counts() -> None:
    metric = GroupAccuracy(3)
    assert all(reduce is not None for reduce in metric._reductions.values())
    gathered = torch.tensor([[1, 0, 2], [5, 1, 0]])
    for reduce in metric._reductions.values():
        assert reduce(gathered).tolist() == [6, 1, 2]  # type: ignore[operator,misc]


class _Reader(nn.Module):
    """Answers the number that the first pixel holds: what it predicts can be written into images."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        answers = (images[:, 0, 0, 0] * 255).round().long()
        return torch.nn.functional.one_hot(answers, 256).float()[:, :4] + 0 * self.weight


def _answering(answers: list[int], labels: list[int], groups: list[int]) -> ImageSet:
    images = torch.zeros(len(answers), 1, 12, 12, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor(answers, dtype=torch.uint8)
    return ImageSet(images, *(torch.tensor(values, dtype=torch.int64) for values in (labels, groups)))


def _evaluate(data: WatermarkData, sources: list[int], n_groups: int = 6) -> tuple[dict[str, float], dict[str, float]]:
    """What is logged in an epoch of training, and in a test."""
    trainer = tiny_trainer(callbacks=[Accuracies(sources, n_groups)])
    module = tiny_module(_Reader(), lr=0.0)
    trainer.fit(module, datamodule=data)
    fitted = {name: float(value) for name, value in trainer.callback_metrics.items()}
    trainer.test(module, datamodule=data, verbose=False)
    return fitted, {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}


ANSWERS = st.lists(st.integers(0, 3), min_size=1, max_size=12)


@heavy
@given(val=ANSWERS, clean=ANSWERS, trigger=ANSWERS, new=ANSWERS, decoys=st.lists(ANSWERS, min_size=1, max_size=3))
def test_every_number_counts_its_own_images_and_no_others(
    val: list[int], clean: list[int], trigger: list[int], new: list[int], decoys: list[list[int]]
) -> None:
    source = random_source(n_train=40, n_test=20)
    for split in ("train", "test"):
        source.images(split, torch.arange(1))  # type: ignore[arg-type]
        images, labels = source.read(split)  # type: ignore[arg-type]
        answers = torch.tensor(val if split == "train" else clean)
        images[:, 0, 0, 0] = answers[torch.arange(len(labels)) % len(answers)].to(torch.uint8)
    data = tiny_data(source, loading=Loading(eval_batch_size=5))
    shown = [answer for one in decoys for answer in one]
    strangers = [number for number, one in enumerate(decoys) for _ in one]
    watched = {
        "trigger": _answering(trigger, [1] * len(trigger), [0] * len(trigger)),
        "trigger_new": _answering(new, [2] * len(new), [0] * len(new)),
        "decoy": _answering(shown, [3] * len(shown), strangers),
    }
    data.watched = {"val": {"trigger": watched["trigger"]}, "test": watched}
    fitted, tested = _evaluate(data, [1, 2])

    def share(right: list[bool]) -> float:
        return sum(right) / len(right)

    def answered(split: Any, index: Tensor) -> list[tuple[int, int]]:
        pixels = source.images(split, index)[:, 0, 0, 0].tolist()
        return list(zip(pixels, source.labels(split)[index].tolist(), strict=True))

    held_out = answered("train", data.roles.val)
    whole = answered("test", torch.arange(20))
    expected = {
        "test/clean_acc": share([answer == label for answer, label in whole]),
        "test/source_acc": share([answer == label for answer, label in whole if label in (1, 2)]),
        "test/trigger_acc": share([answer == 1 for answer in trigger]),
        "test/trigger_new_acc": share([answer == 2 for answer in new]),
        "test/decoy_acc": share([answer == 3 for answer in shown]),
        "test/decoy_acc_max": max(share([answer == 3 for answer in one]) for one in decoys),
    }
    assert set(tested) == set(expected)
    for name, value in expected.items():
        assert math.isclose(tested[name], value, abs_tol=1e-6), name
    assert {name for name in fitted if name.startswith("val/")} == {"val/clean_acc", "val/trigger_acc"}
    assert math.isclose(fitted["val/clean_acc"], share([a == label for a, label in held_out]), abs_tol=1e-6)
    assert math.isclose(fitted["val/trigger_acc"], expected["test/trigger_acc"], abs_tol=1e-6)
    assert all(math.isfinite(value) for value in [*fitted.values(), *tested.values()])


def test_a_loader_that_is_all_wrong_does_not_move_the_others() -> None:
    data = tiny_data(random_source())
    right, wrong = _answering([1] * 5, [1] * 5, [0] * 5), _answering([2] * 5, [1] * 5, [0] * 5)
    data.watched = {"val": {"trigger": wrong}, "test": {"trigger": right, "trigger_new": wrong, "decoy": wrong}}
    _, tested = _evaluate(data, [0])
    assert tested["test/trigger_acc"] == 1
    assert tested["test/trigger_new_acc"] == tested["test/decoy_acc"] == tested["test/decoy_acc_max"] == 0


def test_strangers_without_images_are_not_counted() -> None:
    data = tiny_data(random_source())
    decoys = _answering([1, 0, 0], [1, 1, 1], [1, 4, 4])  # no image of strangers 0, 2, 3 and 5
    data.watched = {"val": {}, "test": {"decoy": decoys}}
    fitted, tested = _evaluate(data, [0])
    assert tested["test/decoy_acc_max"] == 1
    assert math.isclose(tested["test/decoy_acc"], 1 / 3, abs_tol=1e-6)
    assert "val/trigger_acc" not in fitted


def test_a_set_without_images_has_no_number_and_stops_nothing() -> None:
    # Decoys are shown on images where the truth is no hit: of one new trigger there may be none.
    data = tiny_data(random_source())
    data.watched = {"val": {}, "test": {"trigger": _answering([1], [1], [0]), "decoy": _answering([], [], [])}}
    _, tested = _evaluate(data, [0])
    assert tested["test/trigger_acc"] == 1
    assert all(math.isfinite(value) for value in tested.values())


def test_without_a_watermark_there_are_clean_numbers_alone() -> None:
    data = tiny_data(random_source())
    data.watched = {"val": {}, "test": {}}
    data.merged = some_images(0, (1, 12, 12), 0)
    _, tested = _evaluate(data, [0])
    assert set(tested) == {"test/clean_acc", "test/source_acc"}
