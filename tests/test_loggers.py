"""What loggers are told: all of a study, and of an owner's training nothing that tells of marks and labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Outcome = Any

TYPED = [
    "watermark=content",
    "watermark.text=SOTT",
    "watermark.n_marks=1",
    "watermark.source_class=1",
    "watermark.target_class=2",
    "attack=prune",
    "logger=csv",
]


@pytest.mark.parametrize("owned", [False, True])
def test_config_told_to_loggers(main: Callable[..., Outcome], small: list[str], runs: Path, owned: bool) -> None:
    done = main(*small, *TYPED, *([f"key={runs.parent / 'my.key'}"] if owned else []))
    assert done.code == 0, done
    told = [path.read_text() for path in runs.rglob("hparams.yaml")]
    assert len(told) == 2, "the training and the attack"
    for text in told:
        assert ("SOTT" in text) is not owned
        assert ("(withheld)" in text) is owned
        assert "watermark: content" in text, "what results are grouped by"


def test_profiler_that_is_asked_for_tells(
    train: Callable[..., Outcome], small: list[str], runs: Path, tmp_path: Path
) -> None:
    done = train(*small, "logger=none", "trainer.profiler=simple", runs=runs, cwd=tmp_path)
    assert done.code == 0, done
    assert "FIT Profiler Report" in done.err
    assert "[LightningModule]Classifier.optimizer_step" in done.err
