"""``force=true``: work is done anew, and a model is never lost for a mistake."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from wmlightning.files import anew, settle
from wmlightning.models.classifier import Classifier

Main = Callable[..., Any]
Ends = Callable[[int, BaseException], AbstractContextManager[object]]


def test_force_trains_again(main: Main, small: list[str], runs: Path) -> None:
    assert main(*small).code == 0
    (file,) = runs.glob("*/card.json")
    weights = file.with_name("model.safetensors")
    first = weights.read_bytes()
    stamp = file.stat().st_mtime_ns
    (file.parent / "left_over.txt").write_text("from an older run")
    assert main(*small).code == 0
    assert file.stat().st_mtime_ns == stamp
    assert main(*small, "force=true").code == 0
    assert file.stat().st_mtime_ns > stamp
    assert weights.read_bytes() == first, "the same command gives the same weights"
    assert not (file.parent / "left_over.txt").exists()
    assert len(list(runs.iterdir())) == 1


@pytest.fixture
def trained(main: Main, small: list[str], runs: Path) -> Path:
    """A finished run."""
    assert main(*small, "trainer.max_epochs=3").code == 0
    (file,) = runs.glob("*/card.json")
    return file.parent


@pytest.fixture
def ends_in(monkeypatch: pytest.MonkeyPatch) -> Ends:
    """Within it, trainings end in an epoch, by an exception. The config and so the run are the same."""
    real = Classifier.training_step

    @contextmanager
    def ends(epoch: int, how: BaseException) -> Iterator[None]:
        def step(self: Classifier, *args: Any) -> Any:
            if self.current_epoch == epoch:
                raise how
            return real(self, *args)

        with monkeypatch.context() as patched:
            patched.setattr(Classifier, "training_step", step)
            yield

    return ends


def whole(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        (["logger=wandb", "logger.wandb.project=a/b"], "logger.wandb"),
        (["logger=wandb", "logger.wandb.name=5"], "logger.wandb"),
        (["logger=csv", "logger.csv.save_dir=/proc/nowhere"], "logger.csv.save_dir"),
        (["logger=csv", "logger.csv.name=/proc/nowhere"], "logger"),
        (["logger=tensorboard", "logger.tensorboard.save_dir=/proc/nowhere"], "logger.tensorboard.save_dir"),
    ],
)
def test_a_logger_that_cannot_begin_costs_no_model(
    main: Main, small: list[str], trained: Path, typed: list[str], named: str
) -> None:
    before = whole(trained)
    done = main(*small, "trainer.max_epochs=3", "force=true", *typed)
    assert done.code == 1, str(done)
    assert done.errors[-1].startswith(f"error: {named}: "), str(done)
    assert "Traceback" not in done.out + done.err
    assert whole(trained) == before


@pytest.mark.parametrize(("how", "code"), [(KeyboardInterrupt(), 130), (RuntimeError("on purpose"), 1)])
def test_a_training_that_comes_to_nothing_costs_no_model(
    main: Main, small: list[str], trained: Path, ends_in: Ends, how: BaseException, code: int
) -> None:
    before = whole(trained)
    with ends_in(0, how):
        assert main(*small, "trainer.max_epochs=3", "force=true").code == code
    assert whole(trained) == before


def test_a_forced_training_goes_on_without_force(main: Main, small: list[str], trained: Path, ends_in: Ends) -> None:
    weights = (trained / "model.safetensors").read_bytes()
    (trained / "left_over.txt").write_text("from before")
    with ends_in(2, KeyboardInterrupt()):
        done = main(*small, "trainer.max_epochs=3", "force=true")
    assert done.code == 130, str(done)
    assert "the same command, without force=true, goes on" in done.err
    assert not (trained / "card.json").exists(), "what is half done is no finished run"
    with ends_in(1, RuntimeError("it began anew")):
        assert main(*small, "trainer.max_epochs=3").code == 0
    assert (trained / "model.safetensors").read_bytes() == weights
    assert not list(trained.glob("left_over.txt")) + list(trained.glob(".before*"))


def test_an_attack_that_fails_costs_no_earlier_one(
    main: Main, small: list[str], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = [*small, "trainer.max_epochs=3", "attack=prune", "force=true"]
    assert main(*typed).code == 0
    before = whole(trained)
    with monkeypatch.context() as patched:
        patched.setattr("wmlightning.attacks.execution._row", lambda *_: 1 / 0)
        assert main(*typed).code == 1
    assert whole(trained) == before


class Killed(BaseException):
    """Nothing of this process happens any more."""


@pytest.fixture
def dies_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Kills what works on files at its nth step, as ``kill -9`` would: nothing is tidied up."""
    steps = [1 << 30]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            steps[0] -= 1
            if steps[0] < 0:
                raise Killed
            return real(*args, **options)

        return step

    for name in ("rename", "unlink", "mkdir", "rmdir"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))

    def after(n: int) -> None:
        steps[0] = n

    yield after
    steps[0] = 1 << 30


@pytest.mark.parametrize("fails", [True, False])
def test_killed_anywhere_one_of_both_is_there_whole(
    tmp_path: Path, dies_after: Callable[[int], None], fails: bool
) -> None:
    for n in range(40):
        folder = tmp_path / str(n)
        (folder / "logs").mkdir(parents=True)
        for name in ("card", "weights", "logs/a"):
            (folder / name).write_text("old")
        dies_after(n)
        killed = False
        try:
            with anew(folder):
                (folder / "logs").mkdir()
                for name in ("logs/a", "weights", "more", "card"):
                    (folder / name).write_text("new")
                    if fails and name == "weights":
                        raise RuntimeError
        except Killed:
            killed = True
        except RuntimeError:
            pass
        dies_after(1 << 30)
        done = (folder / "card").exists() and (folder / "card").read_text() == "new"
        settle(folder, done=done)
        old = {"card": b"old", "weights": b"old", "logs/a": b"old"}
        new = {"card": b"new", "weights": b"new", "logs/a": b"new", "more": b"new"}
        assert whole(folder) == (new if done else old), n
        assert done is not fails or killed
        if not killed:
            return
    pytest.fail("it never got through")
