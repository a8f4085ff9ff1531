from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from tests.helpers import ArraySource, few, random_source
from wmlightning.errors import UserError
from wmlightning.secret import Secret
from wmlightning.watermarks.scheme import Labels, Scheme, choose_labels

SOURCE = random_source(n_classes=4)
SEEDS = st.integers(0, 2**32)


def _choose(seed: int = 0, source: ArraySource = SOURCE, marks_task: bool = True, **options: Any) -> Labels:
    return choose_labels(Scheme(**options), Secret.from_seed(seed), source, "class1", "class0", marks_task=marks_task)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("n_triggers", -1),
        ("n_triggers", 0.0),
        ("n_triggers", 1.01),
        ("n_triggers", float("nan")),
        ("n_triggers", "many"),
        ("n_triggers", True),
        ("n_new", 0),
        ("n_new", -3),
        ("n_marks", 0),
        ("label", "targets"),
        ("negatives", -0.1),
        ("mix", "shuffle"),
        ("per_batch", 0),
        ("n_decoys", 0),
        ("n_new", 1.5),
        ("n_marks", 2.5),
        ("n_marks", "two"),
        ("negatives", "x"),
        ("negatives", None),
        ("negatives", float("inf")),
        ("negatives", float("nan")),
        ("per_batch", 2.5),
        ("n_decoys", 1.5),
    ],
)
def test_wrong_options_are_refused_in_one_line_that_names_them(option: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        Scheme(**{option: value})  # type: ignore[arg-type]
    assert caught.value.key == f"watermark.{option}"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"n_marks": 2}, {"label": "random"}])
def test_several_labels_are_the_keys_and_not_the_users(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"watermark\.target_class"):
        Scheme(**options, target_class="class2")
    for target in ("auto", "secret"):
        assert Scheme(**options, target_class=target).several_labels
    assert not Scheme(target_class="class2").several_labels


def test_one_mark_has_the_data_sets_own_classes() -> None:
    labels = _choose()
    assert labels.sources == labels.measured == (1,)
    assert labels.of_marks.tolist() == [0]


def test_classes_are_named_or_numbered() -> None:
    labels = _choose(source_class="class3", target_class=2)
    assert labels.sources == labels.measured == (3,)
    assert labels.of_marks.tolist() == [2]


def test_any_source_class_means_all_and_the_cost_is_measured_on_the_data_sets_own() -> None:
    labels = _choose(source_class="any")
    assert labels.sources == (0, 1, 2, 3)
    assert labels.measured == (1,)


@pytest.mark.parametrize("options", [{"n_marks": 3}, {"label": "random"}])
def test_several_labels_mark_images_of_any_class_unless_told(options: dict[str, Any]) -> None:
    assert _choose(**options).sources == (0, 1, 2, 3)
    assert _choose(**options, source_class="class2").sources == (2,)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"source_class": "class9"}, "watermark.source_class"),
        ({"source_class": 4}, "watermark.source_class"),
        ({"source_class": -1}, "watermark.source_class"),
        ({"target_class": "nothing"}, "watermark.target_class"),
        ({"target_class": "class1"}, "watermark.target_class"),
        ({"source_class": "class0"}, "watermark.source_class"),
        ({"source_class": "class2", "target_class": 2}, "watermark.target_class"),
    ],
)
def test_classes_that_do_not_exist_or_are_equal_are_refused(options: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError) as caught:
        _choose(**options)
    assert caught.value.key == key
    assert "\n" not in str(caught.value)


@few
@given(seed=SEEDS, source=st.sampled_from(["secret", "auto", "any", "class2"]))
def test_a_secret_target_is_never_the_source(seed: int, source: str) -> None:
    labels = _choose(seed, source_class=source, target_class="secret")
    (target,) = labels.of_marks.tolist()
    assert 0 <= target < 4
    assert target not in labels.sources or source == "any"


@few
@given(seed=SEEDS, target=st.sampled_from(["auto", "class0", "class3", 2]))
def test_a_secret_source_is_never_the_target(seed: int, target: str | int) -> None:
    labels = _choose(seed, source_class="secret", target_class=target)
    assert len(labels.sources) == 1
    assert labels.sources[0] != int(labels.of_marks[0])


def test_secret_classes_depend_on_the_secret_and_take_all_values() -> None:
    drawn = [_choose(seed, source_class="secret", target_class="secret") for seed in range(80)]
    assert {labels.sources[0] for labels in drawn} == {0, 1, 2, 3}
    assert {int(labels.of_marks[0]) for labels in drawn} == {0, 1, 2, 3}
    again = [_choose(seed, source_class="secret", target_class="secret") for seed in range(80)]
    assert [d.sources for d in drawn] == [a.sources for a in again]


def _marks(n_keys: int, **options: Any) -> np.ndarray:
    return np.stack([_choose(seed, n_marks=8, **options).of_marks.numpy() for seed in range(n_keys)])


@pytest.mark.parametrize(
    ("options", "possible"),
    [
        ({}, [0, 1, 2, 3]),
        ({"source_class": "class2"}, [0, 1, 3]),
        ({"source_class": "class2", "marks_task": False}, [0, 1, 2, 3]),
    ],
)
def test_labels_of_marks_are_uniform_over_the_classes_that_they_may_have(
    options: dict[str, Any], possible: list[int]
) -> None:
    # With one source class its own label would be no sign of the mark; pictures of other data have no own label.
    labels = _marks(250, **options)
    counts = np.bincount(labels.ravel(), minlength=4)
    expected = labels.size / len(possible)
    assert [c for c in range(4) if counts[c]] == possible
    assert ((counts[possible] - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, len(possible) - 1)


def test_labels_of_marks_are_independent_of_each_other() -> None:
    labels = _marks(400)
    for one, other in [(0, 1), (1, 2), (0, 7)]:
        table = np.zeros((4, 4))
        np.add.at(table, (labels[:, one], labels[:, other]), 1)
        expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
        assert ((table - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, 9)
    assert len({tuple(row) for row in labels.tolist()}) > 390  # and another secret has others
