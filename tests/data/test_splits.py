from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers import few, job_of
from wmlightning.data.splits import Roles, assign_roles
from wmlightning.errors import UserError

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=120).map(torch.tensor)
SHARES = st.sampled_from([0.0, 0.03, 0.1, 0.25, 0.5, 0.9])


def _parts(roles: Roles) -> list[tuple[Tensor, Tensor]]:
    return [(roles.train, roles.val), (roles.judge, roles.attacker)]


@few
@given(train=LABELS, test=LABELS, seed=st.integers(0, 2**62), share=SHARES)
def test_roles_share_out_every_image_once(train: Tensor, test: Tensor, seed: int, share: float) -> None:
    roles = assign_roles(train, test, seed, share)
    for (one, other), labels in zip(_parts(roles), (train, test), strict=True):
        assert one.dtype == other.dtype == torch.int64
        assert sorted(one.tolist() + other.tolist()) == list(range(len(labels)))
        assert one.tolist() == sorted(one.tolist())
        assert other.tolist() == sorted(other.tolist())


@few
@given(train=LABELS, test=LABELS, seed=st.integers(0, 2**62), share=SHARES)
def test_every_class_is_shared_out_alike(train: Tensor, test: Tensor, seed: int, share: float) -> None:
    roles = assign_roles(train, test, seed, share)
    for label in range(5):
        n = int((train == label).sum())
        assert abs(int((train[roles.val] == label).sum()) - n * share) <= 0.5 + 1e-9
        n = int((test == label).sum())
        assert abs(int((test[roles.attacker] == label).sum()) - n / 2) <= 0.5


@few
@given(train=LABELS, test=LABELS, seed=st.integers(0, 2**62), share=SHARES)
def test_roles_follow_from_labels_and_seed(train: Tensor, test: Tensor, seed: int, share: float) -> None:
    first = assign_roles(train, test, seed, share)
    with torch.random.fork_rng():
        torch.manual_seed(seed % 1000)
        torch.rand(3)
        state = torch.get_rng_state()
        again = assign_roles(train.clone(), test.clone(), seed, share)
        assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(vars(first).values(), vars(again).values(), strict=True):
        assert torch.equal(one, other)


def test_another_seed_changes_both_splits() -> None:
    labels = torch.arange(200) % 5
    roles = [assign_roles(labels, labels, seed, 0.3) for seed in range(6)]
    for part in ("train", "val", "attacker", "judge"):
        assert len({tuple(getattr(role, part).tolist()) for role in roles}) == 6


def test_both_splits_are_drawn_apart() -> None:
    labels = torch.zeros(100, dtype=torch.int64)
    roles = assign_roles(labels, labels, 0, 0.5)
    assert not torch.equal(roles.train, roles.judge)
    # One split alone decides its own roles: other test images do not move the training ones.
    other = assign_roles(labels, labels[:31], 0, 0.5)
    assert torch.equal(roles.train, other.train)


def test_no_image_is_favoured() -> None:
    labels = torch.arange(40) % 2
    held_out = torch.zeros(40)
    attacked = torch.zeros(40)
    for seed in range(300):
        roles = assign_roles(labels, labels, seed, 0.25)
        held_out[roles.val] += 1
        attacked[roles.attacker] += 1
    assert ((held_out - 75).abs() < 6 * (300 * 0.25 * 0.75) ** 0.5).all()
    assert ((attacked - 150).abs() < 6 * (300 * 0.25) ** 0.5).all()


@pytest.mark.parametrize("share", [0.001, 0.1, 0.9])
@pytest.mark.parametrize("n", [40, 1500])
def test_a_job_has_images_to_validate_on_and_to_train_every_class_on_or_is_refused(
    share: float, n: int, tmp_path: Path
) -> None:
    # An accuracy over no image is no number.
    small = [f"dataset.source.n_train={n}", "dataset.source.n_test=600", "watermark=none", "recipe.batch_size=2"]
    try:
        job = job_of(tmp_path, *small, f"dataset.val_share={share}")
    except UserError as error:
        assert error.key in ("dataset.val_share", "recipe.batch_size")
        return
    assert len(job.roles.val) > 0
    labels = job.source.labels("train")
    assert set(labels[job.roles.train].tolist()) == set(range(10))
