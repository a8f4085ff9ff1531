"""A small run on disk, trained once for the tests of suspects and services."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir

from tests.conftest import REPO
from wmlightning.job import prepare
from wmlightning.pipeline import train
from wmlightning.store import Run, load_run

TASK = (
    "dataset=procedural",
    "++dataset.source.n_train=600",
    "++dataset.source.n_test=200",
    "watermark.n_triggers=40",
    "watermark.n_decoys=3",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "logger=none",
    "callbacks=none",
)


@pytest.fixture(scope="session", autouse=True)
def _no_proxy() -> Iterator[None]:
    """Services on this machine are not asked through somebody else's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        yield


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run."""
    runs = tmp_path_factory.mktemp("stored")
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        job = prepare(compose("train", [f"runs_dir={runs}", f"data_dir={runs}", *TASK]))
    train(job, force=False)
    return load_run(job.folder)


@pytest.fixture(autouse=True)
def same_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verifiers' secrets are the same in each run: in orders that the system draws, some tests fail by chance."""
    drawn = itertools.count()
    source = SimpleNamespace(token_bytes=lambda n: hashlib.shake_256(str(next(drawn)).encode()).digest(n))
    monkeypatch.setattr("wmlightning.ownership.shares.secrets", source)
