"""The contract of a data source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from wmlightning.config import make, option_names
from wmlightning.data.source import SPLITS, Source, Split
from wmlightning.job import prepare
from wmlightning.testing.bench import claim, composing, plain, small_task

#: Images of a split that are looked at: a large data set need not be read as a whole.
_LOOKED_AT = 256


def check_source(name: str, config_dir: str | Path | None = None, overrides: Sequence[str] = ()) -> None:
    """Holds a data set to the contract of :class:`~wmlightning.data.source.Source`, and puts a watermark on it.

    Args:
        name: as typed after ``dataset=``.
        config_dir: folder of its config, as typed after ``--config-dir``.
        overrides: what else would be typed: ``dataset.source.root=FOLDER``.

    Raises:
        AssertionError: saying which promise is broken.
        UserError: if it cannot be made.
    """
    with composing(config_dir) as compose:
        few = ("recipe.batch_size=2", "watermark=noise", "watermark.n_triggers=2", "watermark.n_new=1")
        cfg = compose(*small_task([f"dataset={name}", *few, *overrides]))
        source = make(cfg.dataset.source, "dataset.source")
        claim(isinstance(source, Source), f"dataset.source._target_ makes a {type(source).__name__}, no Source")
        check_images(source)
        again = make(cfg.dataset.source, "dataset.source")
        claim(again.identity() == source.identity(), f"{name}: the same config has another identity() when made again")
        for split in SPLITS:
            index = looked_at(source, split)
            same = torch.equal(again.images(split, index), source.images(split, index))
            claim(same, f"{name}: the same config gives other {split} images when made again")
        other = cfg.dataset.get("unrelated")
        there = not isinstance(other, str) or other in option_names("dataset")
        claim(there, f"dataset.unrelated: {other!r} is no data set; watermark=unrelated takes its pictures from there")
        job = prepare(cfg, writes=False)
        batch = next(iter(job.data_module().train_dataloader()))
        claim(tuple(batch.images.shape[1:]) == source.shape, f"{name}: batches have another shape than the source")


def check_images(source: Source) -> None:
    """What every source owes: bytes and labels of the promised kind, whichever are asked for, again and again.

    Raises:
        AssertionError: saying which promise is broken.
    """
    name = source.name
    claim(len(source.classes) >= 2, f"{name}: {len(source.classes)} classes")
    claim(len(set(source.classes)) == len(source.classes), f"{name}: two classes have one name")
    identity = source.identity()
    claim(plain(identity), f"{name}: identity() does not survive JSON")
    claim(source.identity() == identity, f"{name}: identity() changes from call to call")
    for split in SPLITS:
        what = f"{name}, {split}"
        labels = source.labels(split)
        claim(labels.dtype == torch.int64 and labels.ndim == 1, f"{what}: labels are not int64 (n,)")
        claim(len(labels) > 0, f"{what}: no images")
        inside = bool(((labels >= 0) & (labels < len(source.classes))).all())
        claim(inside, f"{what}: a label is none of 0..{len(source.classes) - 1}")
        index = looked_at(source, split)
        given = index.clone()
        images = source.images(split, index)
        claim(torch.equal(index, given), f"{what}: images() wrote to the index it was given")
        claim(images.dtype == torch.uint8, f"{what}: images are {images.dtype}, not uint8")
        wanted = (len(index), *source.shape)
        claim(tuple(images.shape) == wanted, f"{what}: images are {tuple(images.shape)}, not {wanted}")
        odd = torch.tensor([len(index) - 1, 0, 0])  # out of order, and one of them twice
        claim(torch.equal(source.images(split, index[odd]), images[odd]), f"{what}: images() does not follow its index")
        none = source.images(split, index[:0])
        claim(tuple(none.shape) == (0, *source.shape), f"{what}: no index gives {tuple(none.shape)}")
        kept = images.clone()
        images.bitwise_not_()  # whoever asked may write to what they got
        claim(
            torch.equal(source.images(split, index), kept), f"{what}: images() lends its own memory, or is not steady"
        )
        claim(torch.equal(source.labels(split), labels), f"{what}: labels change from call to call")


def looked_at(source: Source, split: Split) -> Tensor:
    """Numbers of images that the checks look at: all, or some from everywhere."""
    n = len(source.labels(split))
    return torch.linspace(0, n - 1, min(n, _LOOKED_AT)).round().long()
