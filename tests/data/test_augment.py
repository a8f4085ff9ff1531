from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers import few, random_images
from wmlightning.data.augment import ShiftFlip


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _variants(image: Tensor, shift: int, flip: bool) -> dict[tuple[int, int, bool], Tensor]:
    """Every crop of the padded image, mirrored or not, made one by one with slices."""
    c, h, w = image.shape
    padded = torch.zeros((c, h + 2 * shift, w + 2 * shift), dtype=torch.uint8)
    padded[:, shift : shift + h, shift : shift + w] = image
    found = {}
    for y in range(2 * shift + 1):
        for x in range(2 * shift + 1):
            crop = padded[:, y : y + h, x : x + w]
            found[x, y, False] = crop
            if flip:
                found[x, y, True] = crop.flip(2)
    return found


@few
@given(
    n=st.integers(1, 6),
    c=st.sampled_from([1, 3]),
    h=st.integers(4, 9),
    w=st.integers(4, 9),
    shift=st.integers(0, 3),
    flip=st.booleans(),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
def test_results_are_shifts_and_mirror_images_and_kept_ones_stay(
    n: int, c: int, h: int, w: int, shift: int, flip: bool, seed: int, data: st.DataObject
) -> None:
    images = random_images(n, (c, h, w), seed % 1000)
    keep = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    before = images.clone()
    results = ShiftFlip(shift, flip)(images, keep, _draw(seed))
    assert torch.equal(images, before)
    assert results.dtype == torch.uint8
    assert results.shape == images.shape
    for image, result, kept in zip(images, results, keep.tolist(), strict=True):
        if kept:
            assert torch.equal(result, image)
        else:
            assert any(torch.equal(result, variant) for variant in _variants(image, shift, flip).values())
    again = ShiftFlip(shift, flip)(images, keep, _draw(seed))
    assert torch.equal(results, again)


@pytest.mark.parametrize("flip", [False, True])
def test_every_shift_and_mirroring_comes_equally_often_and_independently(flip: bool) -> None:
    image = random_images(1, (1, 5, 5))[0]
    n = 3000
    results = ShiftFlip(1, flip)(image.expand(n, -1, -1, -1), torch.zeros(n, dtype=torch.bool), _draw(0))
    names = {tuple(variant.flatten().tolist()): name for name, variant in _variants(image, 1, flip).items()}
    counts = dict.fromkeys(names.values(), 0)
    for result in results:
        counts[names[tuple(result.flatten().tolist())]] += 1
    assert len(counts) == (18 if flip else 9)
    expected = n / len(counts)
    assert all(abs(count - expected) < 6 * expected**0.5 for count in counts.values()), counts


def test_other_generators_give_other_results_and_nothing_else_is_drawn_from() -> None:
    images = random_images(40, (3, 8, 8))
    keep = torch.zeros(40, dtype=torch.bool)
    state = torch.get_rng_state()
    one, other = (ShiftFlip(2, True)(images, keep, _draw(seed)) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_keeping_one_image_does_not_change_what_the_others_get() -> None:
    # Watermarks with and without augmented triggers see the same clean images.
    images = random_images(20, (1, 6, 6))
    keep = torch.zeros(20, dtype=torch.bool)
    all_moved = ShiftFlip(2, True)(images, keep, _draw(3))
    keep[::4] = True
    some_kept = ShiftFlip(2, True)(images, keep, _draw(3))
    assert torch.equal(some_kept[~keep], all_moved[~keep])
    assert torch.equal(some_kept[keep], images[keep])


def test_without_shift_and_flip_nothing_changes() -> None:
    images = random_images(5, (3, 7, 6))
    assert torch.equal(ShiftFlip()(images, torch.zeros(5, dtype=torch.bool), _draw(0)), images)


def test_channels_last_images_are_augmented_alike() -> None:
    images = random_images(5, (3, 7, 6))
    keep = torch.zeros(5, dtype=torch.bool)
    plain = ShiftFlip(2, True)(images, keep, _draw(0))
    other = ShiftFlip(2, True)(images.contiguous(memory_format=torch.channels_last), keep, _draw(0))
    assert torch.equal(plain, other)
