"""What is written down twice says the same."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import wmlightning
from tests.conftest import REPO
from wmlightning.config import CONF


def read(name: str) -> str:
    return (REPO / name).read_text()


def test_one_version() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    (version,) = re.findall(r'^version = "([^"]+)"$', read("pyproject.toml"), re.MULTILINE)
    assert version == wmlightning.__version__ == citation["version"]
    headings = re.findall(r"^## \[([^\]]+)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert version in headings or len(headings) == 1  # before the first release there is none


def test_the_citation_is_whole() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["license"] == "Apache-2.0"
    (paper,) = citation["references"]
    assert paper["doi"] == "10.1145/3196494.3196550"
    assert len(paper["authors"]) == 7


def test_the_workflow_runs_the_script_and_nothing_else() -> None:
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    steps = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert steps == [".ci/run"]


def test_hooks_are_what_lint_and_types_run() -> None:
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    ours = {hook["entry"].removeprefix(".venv/bin/").split()[0] for hook in hooks}
    recipe = re.search(r"^lint: setup\n((?:\t.*\n)+)\ntypes: setup\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE)
    assert recipe is not None
    assert ours == set(re.findall(r"^\t\$\(BIN\)/(\S+)", "".join(recipe.groups()), re.MULTILINE))


def linted(folder: Path) -> tuple[int, str]:
    tool = Path(sys.executable).with_name("lint-imports")
    if not tool.exists():
        pytest.skip("no import-linter")
    done = subprocess.run(
        [tool, "--no-cache", "--no-logo"], cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    return done.returncode, done.stdout


def test_imports_that_run_upwards_and_modules_without_a_place_are_found(tmp_path: Path) -> None:
    shutil.copytree(REPO / "wmlightning", tmp_path / "wmlightning", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    assert linted(tmp_path)[0] == 0
    noise = tmp_path / "wmlightning" / "watermarks" / "noise.py"
    noise.write_text(noise.read_text() + "\nfrom wmlightning.attacks import prune\n")
    (tmp_path / "wmlightning" / "misplaced.py").write_text("")
    code, out = linted(tmp_path)
    assert code == 1
    assert "wmlightning.watermarks is not allowed to import" in " ".join(out.split())
    assert "wmlightning.misplaced" in out


def test_every_shipped_leaf_can_be_named_in_a_card() -> None:
    from wmlightning.config import shipped_targets

    named = {path.parent.name for path in CONF.glob("*/*.yaml") if "_target_" in path.read_text()}
    assert {"attack", "dataset", "model", "suspect", "watermark"} <= named
    assert {"wmlightning.watermarks.noise.Noise", "torchvision.datasets.MNIST"} <= shipped_targets()
