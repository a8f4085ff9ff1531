"""What makes another model has another fingerprint; what only watches has not."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import job_of

SWA = "lightning.pytorch.callbacks.StochasticWeightAveraging"


def fingerprint(runs: Path, *typed: str) -> str:
    return job_of(runs, *typed).fingerprint


def test_the_default_is_what_it_was(runs: Path) -> None:
    """Finished runs of the studies are found by it."""
    assert fingerprint(runs) == "87f7699f0fed"


@pytest.mark.parametrize(
    "typed",
    [
        ["callbacks=none"],
        ["~callbacks.gallery"],
        ["callbacks.gallery.to_logger=true"],
        ["callbacks.gallery.path=elsewhere.png"],
        ["logger=none"],
        ["trainer.log_every_n_steps=3"],
        ["trainer.num_sanity_val_steps=1"],
        ["trainer.enable_progress_bar=false"],
        ["recipe.num_workers=0"],
    ],
)
def test_what_only_watches_makes_no_other_model(runs: Path, typed: list[str]) -> None:
    assert fingerprint(runs, *typed) == fingerprint(runs)


def test_callbacks_may_make_another_model(runs: Path) -> None:
    one = [f"+callbacks.stop._target_={SWA}", "+callbacks.stop.swa_lrs=0.01"]
    found = [
        fingerprint(runs),
        fingerprint(runs, *one),
        fingerprint(runs, *one[:1], "+callbacks.stop.swa_lrs=0.02"),
        fingerprint(runs, *one, "+callbacks.more._target_=lightning.pytorch.callbacks.LearningRateMonitor"),
        fingerprint(runs, "callbacks.gallery._target_=mine.Gallery"),
    ]
    assert len(set(found)) == len(found)


def test_where_runs_lie_is_no_part_of_it(runs: Path, tmp_path: Path) -> None:
    typed = ["+callbacks.mine._target_=mine.Mine", "+callbacks.mine.path='${auto.run_dir}/mine.txt'"]
    assert fingerprint(runs, *typed) == fingerprint(tmp_path / "others", *typed)


def test_another_trainer_may_make_another_model(runs: Path) -> None:
    assert fingerprint(runs, "trainer._target_=mine.Trainer") != fingerprint(runs)


def test_a_logo_is_what_it_shows_wherever_it_lies(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = []
    for folder, colour in (("one", "white"), ("one", "red"), ("two", "red")):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGBA", (10, 10), colour).save(tmp_path / folder / "logo.png")
        job = job_of(runs, "watermark=content", f"watermark.logo={folder}/logo.png")
        found.append(job.fingerprint)
        assert job.cfg.watermark.logo == str(tmp_path / folder / "logo.png"), "found from any folder"
    assert found[0] != found[1] == found[2]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["watermark.negatives=4"], ["watermark.negatives=4.0"]),
        (["watermark.negatives=1"], []),
        (["watermark.negatives=0"], ["watermark.negatives=0.0"]),
        (["watermark.strength=1"], ["watermark.strength=1.0"]),
        (["watermark=content", "watermark.opacity=1"], ["watermark=content"]),
    ],
)
def test_a_number_is_the_same_however_it_is_spelled(runs: Path, one: list[str], other: list[str]) -> None:
    assert fingerprint(runs, *one) == fingerprint(runs, *other)
