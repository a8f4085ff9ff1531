"""Whether a recovered image shows the secret: its p-value holds for every kind of mark."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from tests.helpers import ArraySource, maker_of, random_images, random_source
from wmlightning.attacks.base import Recovered
from wmlightning.attacks.exposure import Marks, expose, picture
from wmlightning.secret import Secret
from wmlightning.watermarks.base import MarkingWatermark, PictureWatermark
from wmlightning.watermarks.content import Content
from wmlightning.watermarks.noise import Noise
from wmlightning.watermarks.unrelated import Unrelated

SHAPE = (1, 12, 12)


def pictures(n_classes: int = 10, each: int = 6) -> ArraySource:
    """Other data: the pictures of a class are alike."""
    classes = random_images(n_classes, SHAPE, 7).repeat_interleave(each, 0)
    images = (classes.int() + random_images(len(classes), SHAPE, 8).int() // 8).clamp(0, 255).to(torch.uint8)
    labels = torch.arange(n_classes).repeat_interleave(each)
    return ArraySource((images, labels), (images, labels), n_classes)


WATERMARKS = {
    "noise": lambda: Noise(0.3),
    "content": lambda: Content(text=None, n_letters=1),
    "text": lambda: Content(text="A", n_letters=1),
    "unrelated": lambda: Unrelated(pictures()),
    "a class": lambda: Unrelated(pictures(), 3),
}


def recovered(n_classes: int, seed: int = 0) -> Recovered:
    """Images of a network that knows nothing of any key."""
    images = torch.rand(n_classes, 2, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return Recovered(images, torch.ones(n_classes, 2), 1)


@pytest.mark.parametrize(("name", "n_marks"), [*((name, 1) for name in WATERMARKS), ("unrelated", 3)])
def test_what_tells_nothing_of_the_secret_gives_a_valid_p_value(name: str, n_marks: int) -> None:
    """P(p <= a) <= a over keys, within three standard errors: the key and the strangers are drawn alike."""
    watermark: MarkingWatermark | PictureWatermark = WATERMARKS[name]()  # type: ignore[operator]
    source, keys, strangers = random_source(), 60, 19
    found = []
    for number in range(keys):
        secret = Secret.from_seed(number)
        maker, *_ = maker_of(watermark, source, secret, n_triggers=3, n_marks=n_marks, negatives=0.0)
        found.append(expose(recovered(4), Marks.of(maker, strangers))["p_value"])
    p = torch.tensor(found)
    for level in (0.05, 0.25, 0.5):
        assert (p <= level).float().mean() <= level + 3 * (level * (1 - level) / keys) ** 0.5, level


def test_strangers_may_have_the_class_of_the_owner() -> None:
    """They are keys like any other, not those whom a training would be tested with."""
    other = Unrelated(pictures())
    maker, *_ = maker_of(other, random_source(), n_triggers=3, n_marks=1, negatives=0.0)
    (key,), *strangers = Marks.of(maker, 60).changes
    near = [float((mark - key).abs().mean()) < 0.05 for (mark,) in strangers]
    assert 0 < sum(near) < 20


def test_the_same_key_is_compared_with_the_same_strangers() -> None:
    maker, *_ = maker_of(Noise(0.3), random_source(), n_triggers=3, n_marks=1, negatives=0.0)
    one, other = Marks.of(maker, 5), Marks.of(maker, 9)
    assert torch.equal(one.changes, other.changes[:6]), "and more of them change nothing of those"
    assert len(torch.unique(other.changes.flatten(1), dim=0)) == 10


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 9, 12), (1, 8, 8)])
def test_scores_are_correlation_and_the_structural_similarity_of_torchmetrics(shape: tuple[int, int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    images, triggers = torch.rand(4, 3, *shape, generator=draw), torch.rand(6, 2, *shape, generator=draw)
    images[0, 0], triggers[2, 0] = 0.5, 0.25
    changes = triggers - torch.rand(shape, generator=draw)
    labels = torch.tensor([2, -1])
    found = expose(Recovered(images, torch.ones(4, 3), 1), Marks(changes, triggers, labels))
    side = min(shape[1:])
    window = min(11, side - 1 + side % 2)
    scores, similar = [], []
    for key in range(6):
        best, alike = [], []
        for mark, shown in enumerate((images[2], images.flatten(0, 1))):
            pattern = changes[key, mark].flatten().double()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # constant images vary by nothing, which is well defined
                best.append(max(np.corrcoef(one.flatten().double(), pattern)[0, 1] for one in shown if one.std() > 0))
                alike.append(
                    structural_similarity_index_measure(
                        shown.double(),
                        triggers[key, mark].double().expand_as(shown).contiguous(),
                        gaussian_kernel=False,
                        kernel_size=window,
                        data_range=1.0,
                        reduction="none",
                    ).max()
                )
        scores.append(sum(best) / 2)
        similar.append(float(sum(alike)) / 2)
    assert found["score"] == pytest.approx(scores[0], abs=1e-9)
    assert found["ssim"] == pytest.approx(similar[0], abs=1e-9)
    assert found["null_max"] == pytest.approx(max(scores[1:]), abs=1e-9)
    assert found["ssim_null_mean"] == pytest.approx(sum(similar[1:]) / 5, abs=1e-9)
    assert found["p_value"] == sum(score >= scores[0] for score in scores) / 6


def test_strangers_with_the_same_mark_have_the_same_score_to_the_last_bit() -> None:
    """Ties count for the strangers: else one of ten classes of pictures would show a secret that is none."""
    draw = torch.Generator().manual_seed(0)
    mark = torch.rand(1, 1, 3, 32, 32, generator=draw)
    changes = mark.expand(100, 1, 3, 32, 32).clone()
    images = torch.rand(2, 8, 3, 32, 32, generator=draw)
    found = expose(Recovered(images, torch.ones(2, 8), 1), Marks(changes, changes, torch.tensor([1])))
    assert found["p_value"] == found["ssim_p_value"] == 1.0


@pytest.mark.parametrize("name", ["$\\frac$", "a_$^$_b"])
def test_names_of_classes_are_no_formulas(name: str) -> None:
    drawn = io.BytesIO()
    picture(recovered(2), None, ("cat", name)).savefig(drawn, format="png")
    assert drawn.tell()


@pytest.mark.parametrize("c", [2, 4])
def test_images_of_any_number_of_channels_are_drawn_in_grey(c: int) -> None:
    found = recovered(2)
    many = Recovered(found.images.expand(-1, -1, c, -1, -1), found.confidence, 1)
    grey, drawn = (picture(one, None, ("cat", "dog")).axes[0].images[0].get_array() for one in (found, many))
    assert np.allclose(np.asarray(drawn), np.asarray(grey))
