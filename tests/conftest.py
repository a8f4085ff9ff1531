"""Fixtures shared by the end-to-end tests: the command in a process of its own, or in this one."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

REPO = Path(__file__).resolve().parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:  # read when torch is imported: processes side by side share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines that tell of a mistake."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Where real data lie; a test that asks for it is skipped where there are none."""
    folder = Path(os.environ.get("WML_DATA_DIR") or REPO.parent / "shared" / "data").resolve()
    missing = [name for name in ("MNIST", "FashionMNIST", "cifar10") if not (folder / name).is_dir()]
    if missing:
        pytest.skip(f"no {', '.join(missing)} in {folder}: set WML_DATA_DIR")
    return folder


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Overrides for a training that takes a second."""
    return [
        "dataset=procedural",
        "++dataset.source.n_train=600",
        "++dataset.source.n_test=200",
        "trainer=cpu",
        "trainer.precision=32-true",
        "trainer.max_epochs=1",
    ]


def environment(runs: Path, **more: str) -> dict[str, str]:
    """This process's environment without settings that would change what a command does."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "WML_", "HYDRA_"))}
    fonts = {"MPLCONFIGDIR": matplotlib.get_cachedir()}  # a fresh HOME would list all fonts again
    return {**kept, **fonts, "OMP_NUM_THREADS": "1", "WML_RUNS_DIR": str(runs), **more}


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``python train.py ARGUMENTS`` (or another program) in a process group of its own, and returns at once."""
    started: list[subprocess.Popen[str]] = []

    def go(*arguments: str, runs: Path, cwd: Path, program: tuple[str, ...] = (), **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*(program or (sys.executable, str(REPO / "train.py"))), *arguments],
            cwd=cwd,
            env=environment(runs, **env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield go
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def train(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., Outcome]:
    """Runs a command as ``start`` does and waits for its end."""

    def go(*arguments: str, timeout: float = 300, **options: object) -> Outcome:
        process = start(*arguments, **options)
        out, err = process.communicate(timeout=timeout)
        return Outcome(process.returncode, out, err)

    return go


@pytest.fixture(autouse=True)
def any_kernels() -> Iterator[None]:
    """Lightning leaves on what a training asked of torch; networks of others' then fail on GPUs."""
    yield
    import torch  # late: see above

    torch.use_deterministic_algorithms(False)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder for runs that does not exist yet."""
    return tmp_path / "runs"


@pytest.fixture
def in_process(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """A command inside this process: everything but the six seconds that a process needs to import torch."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "WML_", "HYDRA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WML_RUNS_DIR", str(runs))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def go(command: Callable[[], None], *arguments: str) -> Outcome:
        capfd.readouterr()
        # Hydra would hang its log handlers onto this process for good.
        quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none"]
        monkeypatch.setattr(sys, "argv", ["command", *arguments, *quiet])
        importlib.invalidate_caches()  # modules that the test wrote just now: the clock of a file system may be coarse
        code = 0
        try:
            command()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return go


@pytest.fixture
def main(in_process: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """``python train.py``, see ``in_process``."""
    from wmlightning.cli import train as command

    return lambda *arguments: in_process(command, *arguments)


@pytest.fixture
def verify(in_process: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """``python verify.py``, see ``in_process``."""
    from wmlightning.cli import verify as command

    return lambda *arguments: in_process(command, *arguments)


@pytest.fixture
def composed(runs: Path) -> Iterator[Callable[..., DictConfig]]:
    """Composes the config as ``train.py`` would, with nothing of it run."""
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        yield lambda *overrides: compose("train", [f"runs_dir={runs}", *overrides])
