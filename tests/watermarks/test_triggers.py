from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from tests.helpers import (
    SECRET,
    ArraySource,
    Tag,
    all_sets,
    digest,
    digest_triggers,
    few,
    fewer,
    leaves,
    maker_of,
    numbered,
    random_source,
    read_numbers,
    read_tags,
)
from wmlightning.errors import UserError
from wmlightning.secret import Secret
from wmlightning.watermarks.base import Mark
from wmlightning.watermarks.triggers import no_triggers
from wmlightning.watermarks.unrelated import Unrelated

SECRETS = st.integers(0, 2**32).map(Secret.from_seed)
TRAIN, TEST = 1, 2
K = 5
SOURCE = numbered(n_classes=K)


def _tags(owner: Any, strangers: range, marks: range, secret: Secret = SECRET) -> list[tuple[int, ...]]:
    return [tuple(Tag.of(Mark(secret, owner, s, m)).tolist()) for s in strangers for m in marks]


@few
@given(
    secret=SECRETS,
    seed=st.integers(0, 99),
    n=st.integers(3, 30),
    n_marks=st.integers(1, 3),
    chosen=st.sampled_from(["auto", "any", 0, "class3", "secret"]),
    label=st.sampled_from(["target", "random"]),
)
def test_triggers_come_from_the_roles_and_classes_that_may_give_them(
    secret: Secret, seed: int, n: int, n_marks: int, chosen: str | int, label: str
) -> None:
    options: dict[str, Any] = {"n_triggers": n, "n_marks": n_marks, "label": label, "n_decoys": 2}
    maker, labels, roles = maker_of(
        Tag(), SOURCE, secret, seed, own=(2, 4), source_class=chosen, target_class="secret", **options
    )
    triggers = maker.make()
    given_from = {
        "trained": (TRAIN, roles.train),
        "negatives": (TRAIN, roles.train),
        "new": (TEST, roles.judge),
        "decoys": (TRAIN, roles.train) if label == "random" else (TEST, roles.judge),
    }
    for name, images in all_sets(triggers).items():
        split, numbers, true = read_numbers(images.images)
        code, role = given_from[name]
        assert len(images) > 0, name
        assert set(split.tolist()) == {code}, name
        assert set(numbers.tolist()) <= set(role.tolist()), name
        assert set(true.tolist()) <= set(labels.sources), name
        assert images.images.dtype == torch.uint8
        assert images.labels.dtype == images.groups.dtype == torch.int64
        assert tuple(images.images.shape[1:]) == SOURCE.shape
        assert len(images.images) == len(images.labels) == len(images.groups)
    for name in ("trained", "new"):  # no image is marked twice
        _, numbers, _ = read_numbers(getattr(triggers, name).images)
        assert len(set(numbers.tolist())) == len(numbers)
    seen_by_others = {(TRAIN, i) for i in roles.val.tolist()} | {(TEST, i) for i in roles.attacker.tolist()}
    for images in all_sets(triggers).values():
        split, numbers, _ = read_numbers(images.images)
        assert not seen_by_others & set(zip(split.tolist(), numbers.tolist(), strict=True))


@few
@given(secret=SECRETS, n=st.integers(3, 30), n_marks=st.integers(1, 3))
def test_every_image_carries_the_mark_of_its_group(secret: Secret, n: int, n_marks: int) -> None:
    maker, _, _ = maker_of(Tag(), SOURCE, secret, n_triggers=n, n_marks=n_marks, n_decoys=4)
    triggers = maker.make()
    own = _tags("key", range(1), range(n_marks), secret)
    for images in (triggers.trained, triggers.new):
        assert read_tags(images.images) == [own[mark] for mark in images.groups.tolist()]
        counts = torch.bincount(images.groups, minlength=n_marks)
        assert counts.max() - counts.min() <= 1  # marks share the triggers evenly
    decoys = triggers.decoys
    for stranger in range(4):
        tags = read_tags(decoys.images[decoys.groups == stranger])
        assert set(tags) <= set(_tags("decoy", range(stranger, stranger + 1), range(n_marks), secret))
    negatives = set(read_tags(triggers.negatives.images))
    assert len(negatives) == len(triggers.negatives)  # a stranger each
    assert not set(own) & negatives
    assert not set(read_tags(decoys.images)) & (negatives | set(own))


@few
@given(secret=SECRETS, n=st.integers(3, 30), n_marks=st.integers(1, 3))
def test_one_label_for_each_mark(secret: Secret, n: int, n_marks: int) -> None:
    maker, labels, _ = maker_of(Tag(), SOURCE, secret, n_triggers=n, n_marks=n_marks)
    triggers = maker.make()
    assert len(labels.of_marks) == n_marks
    for images in (triggers.trained, triggers.new):
        assert (images.labels == labels.of_marks[images.groups]).all()
    if n_marks == 1:
        assert set(triggers.trained.labels.tolist()) == {1}


@few
@given(
    secret=SECRETS,
    n_marks=st.integers(1, 3),
    label=st.sampled_from(["target", "random"]),
    source=st.sampled_from(["auto", "any"]),
)
def test_decoys_show_the_owners_images_and_labels_where_the_truth_is_no_hit(
    secret: Secret, n_marks: int, label: Any, source: str
) -> None:
    options: dict[str, Any] = {"n_marks": n_marks, "label": label, "source_class": source}
    triggers = maker_of(Tag(), SOURCE, secret, n_triggers=12, n_decoys=3, **options)[0].make()
    shown = triggers.trained if label == "random" else triggers.new  # a random label is learned with its image
    _, numbers, true = read_numbers(shown.images)
    chosen = shown.labels != true
    assert chosen.any()
    for stranger in range(3):
        decoys = triggers.decoys.groups == stranger
        _, same, truth = read_numbers(triggers.decoys.images[decoys])
        assert same.tolist() == numbers[chosen].tolist()
        assert torch.equal(triggers.decoys.labels[decoys], shown.labels[chosen])
        assert not (triggers.decoys.labels[decoys] == truth).any()
        marks = _tags("decoy", range(stranger, stranger + 1), range(n_marks), secret)
        expected = [marks[mark] for mark in shown.groups[chosen].tolist()]
        assert read_tags(triggers.decoys.images[decoys]) == expected
    assert set(triggers.decoys.groups.tolist()) == {0, 1, 2}


def test_there_are_at_most_fifty_decoys_a_stranger() -> None:
    maker, _, _ = maker_of(Tag(), numbered(1200, 600), n_triggers=90, n_new=55, n_decoys=2)
    assert torch.bincount(maker.make().decoys.groups).tolist() == [50, 50]


@few
@given(secret=SECRETS, share=st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 7.5]), source=st.sampled_from(["any", 2]))
def test_negatives_keep_their_true_label_and_are_as_many_as_asked_for(
    secret: Secret, share: float, source: str | int
) -> None:
    maker, _, _ = maker_of(Tag(), SOURCE, secret, n_triggers=20, negatives=share, source_class=source)
    negatives = maker.make().negatives
    assert len(negatives) == round(20 * share) == maker.n_negatives
    _, _, true = read_numbers(negatives.images)
    assert (negatives.labels == true).all()


def test_random_labels_are_uniform_over_the_other_classes_and_never_the_true_one() -> None:
    source = numbered(4000, 2000, K)
    maker, _, _ = maker_of(Tag(), source, n_triggers=3000, label="random", negatives=0, n_decoys=1)
    triggers = maker.make()
    steps = []
    for images in (triggers.trained, triggers.new):
        _, _, true = read_numbers(images.images)
        steps.append((images.labels - true) % K)
        counts = torch.bincount(steps[-1], minlength=K).numpy()
        assert counts[0] == 0
        expected = len(images) / (K - 1)
        assert ((counts[1:] - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, K - 2)
        for label in range(K):  # every class is given to others, and gets all others
            assert set(images.labels[true == label].tolist()) == set(range(K)) - {label}
    n = len(steps[1])
    same = int((steps[0][:n] == steps[1][:n]).sum())  # trained and new labels are drawn apart
    assert abs(same - n / 4) < 6 * (n * 3 / 16) ** 0.5


@pytest.mark.parametrize(
    ("asked", "n_marks", "expected"),
    [(7, 1, 7), (1, 1, 1), (0.1, 1, 18), (0.004, 1, 1), (0.001, 3, 3), (0.15, 3, 27), (5, 5, 5)],
)
def test_triggers_are_a_number_or_a_share_of_the_training_images(asked: float, n_marks: int, expected: int) -> None:
    maker, _, roles = maker_of(Tag(), SOURCE, n_triggers=asked, n_marks=n_marks)
    assert len(roles.train) == 180  # what the shares are of
    assert maker.n == expected == len(maker.make().trained)


def test_new_triggers_are_as_many_as_asked_for_else_as_there_are_at_most_as_the_trained() -> None:
    judged = 12  # images of a class that the judge has
    for asked, n, expected in [(None, 5, 5), (None, 30, judged), (3, 30, 3), (judged, 5, judged)]:
        maker, _, _ = maker_of(Tag(), SOURCE, n_triggers=n, n_new=asked)
        assert len(maker.make().new) == expected


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"n_triggers": 37}, "watermark.n_triggers"),  # class 0 has 36 training images
        ({"n_triggers": 0.5}, "watermark.n_triggers"),
        ({"n_triggers": 2, "n_marks": 3}, "watermark.n_triggers"),
        ({"n_triggers": 0}, "watermark.n_triggers"),
        ({"n_triggers": 5, "n_new": 13}, "watermark.n_new"),
    ],
)
def test_more_than_there_is_is_refused_before_anything_is_made(options: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError) as caught:
        maker_of(Tag(), SOURCE, **options)
    assert caught.value.key == key
    assert "\n" not in str(caught.value)
    for most in ({"n_triggers": 36}, {"n_triggers": 0.2}):
        maker_of(Tag(), SOURCE, **most)[0].make()


def test_planning_reads_no_image() -> None:
    class Blind(ArraySource):
        def images(self, split: Any, index: torch.Tensor) -> torch.Tensor:
            raise AssertionError("an image was read")

    blind = Blind((torch.zeros(50, 1, 8, 8, dtype=torch.uint8), torch.arange(50) % 5), SOURCE.read("test"), 5)
    maker_of(Tag(), blind, n_triggers=5)


def test_merged_is_triggers_and_negatives_and_nothing_else() -> None:
    maker, _, _ = maker_of(Tag(), SOURCE, n_triggers=8, negatives=0.5, n_marks=2)
    triggers = maker.make()
    merged = triggers.merged()
    for field in ("images", "labels", "groups"):
        both = torch.cat([getattr(triggers.trained, field), getattr(triggers.negatives, field)])
        assert torch.equal(getattr(merged, field), both)
    assert (merged.groups >= 0).all()  # -1 would make them clean images


def test_originals_are_the_trained_images_without_the_mark() -> None:
    maker, _, _ = maker_of(Tag(), SOURCE, n_triggers=9, n_marks=2)
    triggers = maker.make()
    assert triggers.originals is not None
    numbers = read_numbers(triggers.originals)[1]
    assert torch.equal(numbers, read_numbers(triggers.trained.images)[1])
    assert torch.equal(triggers.originals, SOURCE.images("train", numbers))


@pytest.mark.parametrize("name", sorted(leaves()))
def test_images_of_the_task_are_not_written_to(name: str) -> None:
    source = random_source(shape=(1, 20, 20))
    before = [digest(*source.read(split)) for split in ("train", "test")]
    maker, _, _ = maker_of(leaves()[name], source, n_triggers=9, n_marks=2)
    maker.make()
    assert [digest(*source.read(split)) for split in ("train", "test")] == before


@pytest.mark.parametrize("name", sorted(leaves()))
@fewer
@given(secret=SECRETS, label=st.sampled_from(["target", "random"]))
def test_triggers_follow_from_the_secret_and_nothing_else(name: str, secret: Secret, label: Any) -> None:
    source = random_source(shape=(1, 20, 20))
    options: dict[str, Any] = {"n_triggers": 6, "n_decoys": 2, "label": label, "negatives": float(label == "target")}
    first = maker_of(leaves()[name], source, secret, **options)[0]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    made = digest_triggers(first.make())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]
    with torch.random.fork_rng():
        torch.manual_seed(random.randrange(2**31))
        torch.rand(7)
        np.random.rand(3)  # noqa: NPY002
        assert digest_triggers(first.make()) == made  # the same maker again
        assert digest_triggers(maker_of(leaves()[name], source, secret, **options)[0].make()) == made


@pytest.mark.parametrize("name", sorted(leaves()))
@fewer
@given(seeds=st.lists(st.integers(0, 2**32), min_size=2, max_size=2, unique=True))
def test_another_secret_makes_other_triggers(name: str, seeds: list[int]) -> None:
    source = random_source(shape=(1, 20, 20))
    made = []
    for seed in seeds:
        triggers = maker_of(leaves()[name], source, Secret.from_seed(seed), n_triggers=6, n_decoys=2)[0].make()
        made.append({n: {digest(image) for image in s.images} for n, s in all_sets(triggers).items()})
    for part in ("trained", "negatives"):
        assert made[0][part] != made[1][part], part


# -- labels of images that a claimant brings ---------------------------------------------------------------------------


class Brought(ArraySource):
    """The same images, as somebody brings them who wants to be believed."""

    public = False


def brought(images: ArraySource) -> Brought:
    return Brought(images.read("train"), images.read("test"), len(images.classes))


def changed(images: ArraySource, split: str, part: int, at: int) -> Brought:
    """With one bit of one image, or one label, changed."""
    splits: dict[Any, Any] = {name: [t.clone() for t in images.read(name)] for name in ("train", "test")}  # type: ignore[arg-type]
    splits[split][part][at] ^= 1
    return Brought(*(tuple(splits[name]) for name in ("train", "test")), len(images.classes))


@pytest.mark.parametrize("label", ["target", "random"])
@pytest.mark.parametrize("watermark", ["noise", "content"])
def test_labels_are_drawn_anew_if_anything_changes_that_the_claimant_may_choose(watermark: str, label: str) -> None:
    source, leaf = random_source(n_train=60, n_test=80), leaves()[watermark]
    options: dict[str, Any] = {"n_marks": 36, "label": label, "n_triggers": 36, "n_new": 36, "n_decoys": 1}

    def labels(source: ArraySource, **other: Any) -> tuple[list[int], list[int]]:
        made = maker_of(leaf, source, **{**options, "negatives": 0, **other})[0].make()
        return made.trained.labels.tolist(), made.new.labels.tolist()

    maker, _, roles = maker_of(leaf, source, **options)
    used = {
        "train": maker._drawn("train", roles.train, 36, "trained"),
        "test": maker._drawn("test", roles.judge, 36, "new"),
    }
    places = [(split, part, int(used[split][3])) for split in used for part in (0, 1)]
    sources = [brought(source), *(changed(source, *place) for place in places)]
    drawn = [labels(one) for one in sources]
    assert drawn[0] == labels(brought(source))
    assert labels(brought(source), n_new=35)[0] != drawn[0][0], "options count too"
    public = labels(source)
    for one, other in itertools.combinations([public, *drawn], 2):
        for part in range(2):
            assert sum(a == b for a, b in zip(one[part], other[part], strict=True)) < 30
    images = [maker_of(leaf, one, **options)[0].make().trained.images for one in (source, sources[0])]
    assert torch.equal(*images), "labels only are drawn anew"


def test_public_data_keep_the_labels_that_follow_from_the_secret_alone() -> None:
    maker, labels, _ = maker_of(Tag(), SOURCE, n_marks=8)
    assert not maker.bound
    assert maker.labels is labels
    bound, planned, _ = maker_of(Tag(), brought(SOURCE), n_marks=8)
    assert bound.bound and not torch.equal(bound.labels.of_marks, planned.of_marks)
    assert torch.equal(bound.make().new.labels, bound.labels.of_marks[bound.make().new.groups])
    assert not maker_of(Tag(), brought(SOURCE))[0].bound, "one mark with one label is compared with other marks"


def test_labels_of_brought_pictures_are_bound_to_them_too() -> None:
    pictures = numbered(300, 200, 10)
    options: dict[str, Any] = {"n_marks": 8, "n_triggers": 80, "negatives": 0}
    found = [
        maker_of(Unrelated(some), SOURCE, **options)[0].labels.of_marks.tolist()
        for some in (pictures, brought(pictures))
    ]
    assert found[0] != found[1]


def test_bound_labels_are_uniform() -> None:
    source = brought(numbered(60, 40, K))
    makers = [maker_of(Tag(), source, Secret.from_seed(seed), n_marks=8, n_triggers=8)[0] for seed in range(80)]
    counts = torch.bincount(torch.cat([maker.labels.of_marks for maker in makers]), minlength=K).numpy()
    assert ((counts - 128) ** 2 / 128).sum() < chi2.ppf(1 - 1e-6, K - 1)


def test_without_a_watermark_there_is_nothing_of_the_right_shape() -> None:
    triggers = no_triggers((3, 5, 6))
    for images in [*all_sets(triggers).values(), triggers.merged()]:
        assert images.images.shape == (0, 3, 5, 6)
        assert images.images.dtype == torch.uint8
        assert images.labels.dtype == images.groups.dtype == torch.int64
        assert len(images) == 0
    assert triggers.originals is None
