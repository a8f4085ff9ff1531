"""What loggers get of a verification: the verdict's numbers, one W&B run and one row for each suspect, no secret."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from tests.conftest import REPO
from tests.helpers import some_images
from tests.ownership.conftest import TASK
from tests.wandb_files import Logged, runs_below
from wmlightning.errors import UserError
from wmlightning.job import prepare
from wmlightning.loggers import log_verdict, wandb_logger
from wmlightning.ownership.key import keep_key
from wmlightning.ownership.verdict import Verdict, trigger_sample
from wmlightning.ownership.verify import verify
from wmlightning.secret import Secret

SUSPECTS = ("first", "second")
ABOUT = {"dataset": "procedural", "watermark": "noise", "key": "4 marks, no negatives"}
NUMBERS = ("p_value", "p_adjusted", "e_value", "queries", "triggers", "matches", "missing", "alpha")


class Constant(torch.nn.Module):
    """Says the same of every image: innocent."""

    def __init__(self, label: int, n_classes: int) -> None:
        super().__init__()
        self.register_buffer("logits", torch.eye(n_classes)[label])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(images.shape[0], -1) + 0 * images.mean()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key of several marks, and two files of innocent models."""
    folder = tmp_path_factory.mktemp("hidden-place")
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        options = ("watermark.n_marks=4", "watermark.n_triggers=80", "watermark.negatives=0")
        job = prepare(compose("train", [f"runs_dir={folder}", *TASK, *options]), secret=Secret(b"7" * 32))
    keep_key(job, folder / "hidden-owner.key")
    for label, name in enumerate(SUSPECTS):
        traced = torch.jit.trace(Constant(label, len(job.source.classes)), torch.zeros(2, *job.source.shape))
        torch.jit.save(traced, str(folder / f"{name}.pt"))
    return folder


def config(place: Path, out: str, *overrides: str) -> DictConfig:
    paths = ", ".join(f"{{path: {place / name}.pt}}" for name in SUSPECTS)
    key = place / f"key-for-{out}" / "hidden-owner.key"  # where nobody has been asked yet
    key.parent.mkdir(exist_ok=True)
    key.write_bytes((place / "hidden-owner.key").read_bytes())
    typed = [f"key={key}", "suspect=torchscript", f"suspects=[{paths}]", f"out={place / out}"]
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        return compose("verify", [*typed, "queries=12", *overrides])


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a W&B account, and a command line with a token in it."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["verify.py", "suspect.headers.Authorization=hunter2"])


@pytest.fixture(scope="module")
def logged(place: Path) -> tuple[list[Verdict], Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setattr(sys, "argv", ["verify.py", "suspect.headers.Authorization=hunter2"])
        verdicts = verify(config(place, "out", "logger=many", "group=dispute", "tags=[court]"))
        wandb.teardown()  # until then its files may not be whole
    return verdicts, place / "out"


def folder_of(out: Path, name: str) -> Path:
    (folder,) = out.glob(f"*{name}-pt")
    return folder


def test_all_loggers_get_the_numbers_of_each_suspect(logged: tuple[list[Verdict], Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    verdicts, out = logged
    for name, verdict in zip(SUSPECTS, verdicts, strict=True):
        folder = folder_of(out, name)
        told = json.loads((folder / "verdict.json").read_text())
        expected = {f"verify/{key}": told[key] for key in NUMBERS if told[key] is not None}
        assert expected["verify/p_value"] == verdict.p_value
        assert expected["verify/queries"] > 0
        assert told["missing"] == 0
        with (folder / "logs" / "metrics.csv").open() as file:
            (row,) = csv.DictReader(file)
        assert {key: float(row[key]) for key in expected} == pytest.approx(expected)
        events = EventAccumulator(str(folder / "tensorboard")).Reload()
        assert {key: events.Scalars(key)[0].value for key in expected} == pytest.approx(expected)


def test_each_suspect_is_a_wandb_run_with_a_row_of_its_own(logged: tuple[list[Verdict], Path]) -> None:
    verdicts, out = logged
    for name, verdict in zip(SUSPECTS, verdicts, strict=True):
        (run,) = runs_below(folder_of(out, name))
        assert (run.job_type, run.group, run.tags) == ("verify", "dispute", ["court"])
        assert run.name.endswith(f"/{name}.pt")
        assert run.summary["verify/decision"] == verdict.decision
        assert run.summary["verify/test"] == verdict.test
        assert run.summary["verify/p_adjusted"] == pytest.approx(verdict.p_adjusted)
        assert run.config["commitment"] == verdict.commitment
        table = run.table("verify/verdicts")
        (row,) = table["data"]
        shown = dict(zip(table["columns"], row, strict=True))
        assert shown["suspect"] == run.name
        assert [shown[key] for key in ("dataset", "watermark", "key")] == [*ABOUT.values()]
        assert {key: run.config["about"][key] for key in ABOUT} == ABOUT == verdict.about
        for key in ("decision", "test", *NUMBERS):
            value = getattr(verdict, key)
            assert shown[key] == (pytest.approx(value) if isinstance(value, float) else value), key


def uploaded(run: Logged, folder: Path) -> bytes:
    logs = [path.read_bytes() for name in ("logs", "tensorboard") for path in (folder / name).rglob("*.*")]
    return b"\n".join([run.uploaded(), *logs])


def test_nothing_secret_is_logged(logged: tuple[list[Verdict], Path], place: Path) -> None:
    _, out = logged
    for name in SUSPECTS:
        folder = folder_of(out, name)
        (run,) = runs_below(folder)
        content = uploaded(run, folder)
        assert f"{name}.pt".encode() in content, "it is the right file"
        for secret in (b"hidden-owner", b"hidden-place", str(place).encode(), b"hunter2", b"\x89PNG", b"7" * 32):
            assert secret not in content, secret


def test_asked_again_it_logs_again_without_a_word(place: Path) -> None:
    options = (f"suspects=[{{path: {place / 'first'}.pt}}]", "logger=csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        rows = []
        for _ in range(2):
            (verdict,) = verify(config(place, "again", *options))
            with (place / "again" / "logs" / "metrics.csv").open() as file:
                rows.append(list(csv.DictReader(file)))
    assert rows[0] == rows[1]
    assert float(rows[0][0]["verify/p_value"]) == verdict.p_value
    assert "verify/p_adjusted" not in rows[0][0], "one suspect needs no correction"


def test_the_same_verdict_is_not_told_twice_and_another_is(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    options = (f"suspects=[{{path: {place / 'second'}.pt}}]", "logger=wandb")
    for _ in range(2):
        (verdict,) = verify(config(place, "once", *options))
        wandb.teardown()
        assert len(runs_below(place / "once")) == 1
    logger = wandb_logger("offline", save_dir=str(place / "once"), project="wmlightning")
    log_verdict([logger], {**asdict(verdict), "queries": 13}, place / "once")
    wandb.teardown()
    assert len(runs_below(place / "once")) == 2


def test_by_default_nothing_is_logged(place: Path) -> None:
    verify(config(place, "quiet"))
    for name in SUSPECTS:
        assert not {"logs", "wandb", "tensorboard"} & {p.name for p in folder_of(place / "quiet", name).iterdir()}


def test_a_mistake_in_the_logger_is_told_before_anything_is_asked(place: Path) -> None:
    with pytest.raises(UserError, match=r"^logger\.wandb\.mode: 'sideways' is no mode"):
        verify(config(place, "never", "logger=wandb", "logger.wandb.mode=sideways"))
    assert not (place / "never").exists()


def test_wandb_that_cannot_be_reached_is_told_before_anything_is_asked(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 3)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"^logger\.wandb\.mode: online, but cannot log in .*; .* or mode=offline"):
        verify(config(place, "unreachable", "logger=wandb"))
    assert not (place / "unreachable").exists()
    assert not list((place / "key-for-unreachable").glob("*.spent.json"))


def test_a_logger_that_fails_costs_no_verdict(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise wandb.errors.CommError("the server is away")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match=r"^logger\.wandb: the verdict is written, .*the server is away"):
        verify(config(place, "away", "logger=wandb"))
    for name in SUSPECTS:
        assert json.loads((folder_of(place / "away", name) / "verdict.json").read_text())["decision"]


@pytest.mark.parametrize("c", [1, 2, 3, 5])
def test_triggers_of_any_number_of_channels_are_shown(c: int) -> None:
    asked: Any = SimpleNamespace(answer=lambda _: SimpleNamespace(label=1))
    (row,) = trigger_sample(some_images(1, (c, 9, 9), 1, value=200), asked)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(row["png"]))))
    assert shown.shape[:2] == (9, 9) and (shown == 200).all()
