"""Whether a recovered image shows the secret: its p-value holds for every kind of mark."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import ArraySource, maker_of, random_images, random_source
from wmlightning.attacks.base import Recovered
from wmlightning.attacks.exposure import Marks, expose
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
