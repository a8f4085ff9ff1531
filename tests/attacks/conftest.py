"""A small victim that is watermarked for real: trained once for all tests of attacks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from tests.conftest import REPO
from wmlightning.job import prepare
from wmlightning.pipeline import train
from wmlightning.testing.attacks import VICTIM, Stage, staged
from wmlightning.testing.bench import QUIET, workplace

TASK = ("dataset=procedural", "++dataset.source.n_train=1500", "++dataset.source.n_test=400", *QUIET, *VICTIM)

#: Shorter than what is shipped, by attack; an attack that is not named here is run as it is shipped.
SHORT = {
    "finetune": ("attack.finetune.learning_rates=[0.001,0.1]", "attack.finetune.epochs=2"),
    "fineprune": ("attack.fineprune.rates=[0.3,0.9]", "attack.fineprune.epochs=1"),
    "overwrite": ("attack.overwrite.learning_rates=[0.001,0.1]", "attack.overwrite.epochs=2"),
    "keysearch": ("attack.keysearch.candidates=[1,50]",),
    "adversarial": ("attack.adversarial.steps=[0,5]",),
    "inversion": ("attack.inversion.steps=10", "attack.inversion.restarts=2"),
}
ATTACKS = sorted(path.stem for path in (REPO / "conf" / "attack").glob("*.yaml") if path.stem != "none")


@pytest.fixture(scope="session")
def composed_task() -> Callable[..., DictConfig]:
    runs = workplace()  # where the contract's victim is, which is this one

    def go(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
            return compose("train", [f"runs_dir={runs}", *TASK, *overrides])

    return go


@pytest.fixture(scope="session")
def victim_folder(composed_task: Callable[..., DictConfig]) -> Path:
    job = prepare(composed_task())
    train(job, force=False)
    return job.folder


def copy_of(victim: Path, runs: Path) -> Path:
    """The trained victim in another store, without what other tests did to it."""
    return Path(shutil.copytree(victim, runs / victim.name, ignore=shutil.ignore_patterns("attacks")))


@pytest.fixture
def stage(composed_task: Callable[..., DictConfig], victim_folder: Path) -> Stage:
    del victim_folder
    return staged(composed_task())


@pytest.fixture
def attack_config(composed_task: Callable[..., DictConfig]) -> Callable[..., DictConfig]:
    def go(name: str, *overrides: str) -> DictConfig:
        return composed_task(f"attack={name}", *SHORT.get(name, ()), *overrides)

    return go
