"""The documentation says what the commands say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO, Outcome
from tests.howto import HOWTO, write_samples
from wmlightning.testing.bench import composing

DOCS = REPO / "docs"
PAGES = [REPO / "README.md", *sorted(DOCS.glob("*.md")), *sorted(HOWTO.glob("*.md"))]
Main = Callable[..., Outcome]


def blocks(page: Path, language: str) -> Iterator[str]:
    yield from re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Config and overrides of each of our commands on a page."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.match(r"python (train|verify|serve)\.py (.*)", line):
                yield found[1], shlex.split(found[2], comments=True)


def one_job(override: str) -> str:
    """The first job's override of a sweep."""
    return re.sub(r"^([\w./]+=)([^\[{(,]+),.*$", r"\1\2", override)


def test_there_are_commands() -> None:
    assert sum(len(list(commands(page))) for page in PAGES) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_can_be_composed(page: Path, tmp_path: Path) -> None:
    mine = write_samples(tmp_path / "mine", *(path.stem for path in HOWTO.glob("*.md")))
    for name, words in commands(page):
        overrides = [one_job(word) for word in words if not word.startswith("-")]
        with composing(mine if "--config-dir=FOLDER" in words else None) as compose:
            compose(*overrides, name=name)


def told() -> list[tuple[str, str]]:
    """Commands of the troubleshooting page and what they end in; ``...`` stands for anything."""
    lines = [line for block in blocks(DOCS / "troubleshooting.md", "console") for line in block.splitlines()]
    commands_, errors = lines[::2], lines[1::2]
    assert all(line.startswith("$ python ") for line in commands_)
    assert all(line.startswith("error: ") for line in errors)
    return [(c.removeprefix("$ python "), e) for c, e in zip(commands_, errors, strict=True)]


@pytest.mark.parametrize(("command", "error"), told(), ids=lambda text: text.split(" ", 1)[1][:40])
def test_mistakes_end_as_the_page_says(
    main: Main, verify: Main, runs: Path, monkeypatch: pytest.MonkeyPatch, command: str, error: str
) -> None:
    monkeypatch.delenv("NETRC", raising=False)
    program, *words = shlex.split(command)
    done = {"train.py": main, "verify.py": verify}[program](*words)
    assert done.errors, done
    pattern = ".*".join(re.escape(part) for part in error.split("..."))
    assert re.fullmatch(pattern, done.errors[0]), f"{done.errors[0]}\n{error}"
    assert done.code != 0
    assert not list(runs.glob("*/card.json"))


def test_every_page_is_in_the_navigation() -> None:
    text = (REPO / "mkdocs.yml").read_text()
    assert [str(path) for path in DOCS.rglob("*.md") if f": {path.relative_to(DOCS)}\n" not in text] == []


def test_every_module_is_in_the_reference() -> None:
    named = set(re.findall(r"^::: ([\w.]+)$", "\n".join(p.read_text() for p in DOCS.rglob("*.md")), re.MULTILINE))
    modules = {
        ".".join(path.relative_to(REPO).with_suffix("").parts)
        for path in (REPO / "wmlightning").rglob("*.py")
        if not path.name.startswith("__")
    }
    missing = {m for m in modules if not any(m == name or m.startswith(f"{name}.") for name in named)}
    assert missing == set()
