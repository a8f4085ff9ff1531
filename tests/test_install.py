"""Setting up: what a clone contains, ``make setup``, and a wheel that stands on its own."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tarfile
import time
import venv
from pathlib import Path

import pytest

from tests.howto import write_samples

REPO = Path(__file__).resolve().parents[1]


def git_files() -> list[Path]:
    """What a clone will have: files under version control, and new ones that git does not ignore."""
    if not (REPO / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git repository")
    git = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(git, cwd=REPO, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.split("\0") if name and (REPO / name).exists()]


def test_a_clone_has_every_source_file() -> None:
    kept = set(git_files())
    folders = ("wmlightning", "conf", "tests", "experiments")
    ours = [
        path.relative_to(REPO)
        for folder in folders
        for path in (REPO / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".typed") and "__pycache__" not in path.parts
    ]
    assert len(ours) > 50
    assert [str(path) for path in ours if path not in kept] == []


def test_linter_sees_every_source_file() -> None:
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("no ruff")
    done = subprocess.run([ruff, "check", "--show-files", "."], cwd=REPO, capture_output=True, text=True, check=True)
    seen = {Path(line).resolve() for line in done.stdout.splitlines()}
    ours = [path.resolve() for folder in ("wmlightning", "tests") for path in (REPO / folder).rglob("*.py")]
    assert [str(path) for path in ours if path not in seen] == []


# -- make setup ------------------------------------------------------------------------------------------------------

#: Stands in for python: makes an environment that holds a copy of itself, and notes what it is asked to do.
FAKE = """#!/bin/sh
echo "$*" >> "{log}"
if [ "$1 $2" = "-m venv" ]; then
    [ -e "{log}.stop-venv" ] && mkdir -p "$3/bin" && exit 1
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
elif [ "$1 $2 $3" = "-m pip install" ]; then
    [ -e "{log}.slow" ] && echo > "{log}.installing" && sleep 60
    [ ! -e "{log}.fail" ] || exit 1
fi
exit 0
"""


class Clone:
    """A folder with the Makefile and nothing to install."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.python = folder / "fakepython"
        shutil.copy(REPO / "Makefile", folder)
        shutil.copy(REPO / "pyproject.toml", folder)
        self.python.write_text(FAKE.format(log=self.log))
        self.python.chmod(self.python.stat().st_mode | stat.S_IXUSR)

    @property
    def command(self) -> list[str]:
        return ["make", "-C", str(self.folder), "setup", f"PYTHON={self.python}"]

    def setup(self) -> tuple[int, list[str]]:
        """Exit code of ``make setup``, and what it made: environments and installations."""
        self.log.write_text("")
        env = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        code = subprocess.run(self.command, env=env, capture_output=True, timeout=60, check=False).returncode
        calls = self.log.read_text().splitlines()
        return code, ["venv" if "-m venv" in c else "install" for c in calls if "-m venv" in c or "pip install" in c]

    def flag(self, name: str) -> Path:
        return self.folder / f"log.{name}"


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    if shutil.which("make") is None:
        pytest.skip("no make")
    return Clone(tmp_path)


def test_setup_does_nothing_when_up_to_date(clone: Clone) -> None:
    assert clone.setup() == (0, ["venv", "install"])
    assert clone.setup() == (0, [])


def test_setup_installs_again_after_a_change(clone: Clone) -> None:
    clone.setup()
    later = time.time() + 10
    os.utime(clone.folder / "pyproject.toml", (later, later))
    assert clone.setup()[1] == ["install"], "the environment itself is good"


def test_setup_after_a_failed_installation(clone: Clone) -> None:
    clone.flag("fail").touch()
    assert clone.setup()[0] != 0
    assert clone.setup()[0] != 0, "failing twice is not success"
    clone.flag("fail").unlink()
    (clone.folder / ".venv" / "half-a-package").touch()
    assert clone.setup() == (0, ["venv", "install"])
    assert not (clone.folder / ".venv" / "half-a-package").exists(), "made anew"
    assert clone.setup() == (0, [])


def test_setup_after_a_kill(clone: Clone) -> None:
    clone.flag("slow").touch()
    process = subprocess.Popen(
        clone.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 30
    while not clone.flag("installing").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    clone.flag("slow").unlink()
    (clone.folder / ".venv" / "half-a-package").touch()
    assert clone.setup() == (0, ["venv", "install"])
    assert not (clone.folder / ".venv" / "half-a-package").exists(), "made anew"


def test_setup_after_a_stop_while_the_environment_was_made(clone: Clone) -> None:
    clone.flag("stop-venv").touch()
    assert clone.setup()[0] != 0
    clone.flag("stop-venv").unlink()
    assert clone.setup() == (0, ["venv", "install"])


# -- a wheel ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_wheel_from_a_clone(tmp_path: Path) -> None:
    """Built from what a clone has, installed in an environment that lends the dependencies but not this checkout."""
    source, home, empty, dist = (tmp_path / name for name in ("source", "env", "empty", "dist"))
    for file in git_files():
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / file, source / file)
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    here = Path(sysconfig.get_paths()["purelib"])
    there = home / "lib" / here.parent.name / "site-packages"
    # Files named .pth in a folder that is itself named in one are not read: the editable checkout is not lent.
    (there / "lent.pth").write_text(f"{here}\n")
    empty.mkdir()
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "WML_", "VIRTUAL"))}

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=empty, env=env, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    run(
        sys.executable, "-m", "build", "--quiet", "--no-isolation", "--outdir", dist, source
    )  # the wheel from the archive
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(dist.iterdir()))
    (wheel,) = dist.glob("*.whl")
    (archive,) = dist.glob("*.tar.gz")
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--ignore-installed"]
    run(python, "-m", "pip", "install", *quiet, wheel)
    with tarfile.open(archive) as content:
        assert not [name for name in content.getnames() if "/tests/" in name]
    where = Path(run(python, "-c", "import wmlightning; print(wmlightning.__file__)").strip()).parent
    assert where == there / "wmlightning"
    assert (where / "py.typed").is_file()
    packed = {path.relative_to(where / "conf") for path in (where / "conf").rglob("*.yaml")}
    assert packed == {path.relative_to(REPO / "conf") for path in (REPO / "conf").rglob("*.yaml")}
    shutil.rmtree(source)
    command = home / "bin" / "wmlightning-train"
    assert "text: TEST" in run(command, "--cfg", "job", "watermark=content")
    for name in ("verify", "serve"):
        assert "Hydra" in run(home / "bin" / f"wmlightning-{name}", "--help")
    assert "commit" in run(python, "-m", "wmlightning.ownership", "--help")
    mine = write_samples(tmp_path / "mine", "watermark")
    small = ["dataset=procedural", "trainer.max_epochs=1", "++dataset.source.n_train=600", "trainer=cpu"]
    run(command, f"--config-dir={mine}", "watermark=patch", *small)
    (card,) = empty.glob("runs/*/card.json")
    run(python, "-c", f"import wmlightning as w; w.load_run({str(card.parent)!r}, trust=['patch.Patch']).network")
    check = f"from wmlightning.testing import check_watermark; check_watermark('patch', {str(mine)!r})"
    run(python, "-c", check)
    assert {path.name for path in empty.iterdir()} == {"runs"}
