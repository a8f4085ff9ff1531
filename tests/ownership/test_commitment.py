"""Publishing a commitment, and holding a key against it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from tests.ownership.test_key import SECRET, SMALL
from wmlightning.job import prepare
from wmlightning.ownership.__main__ import main
from wmlightning.ownership.key import make_key, write_key

WHOLE = {
    "kind": "commitment",
    "schema": 1,
    "of": "wmlightning key",
    "sha256": "00" * 32,
    "made": "2024-02-29T12:00:00+00:00",
}


@pytest.fixture
def owner(composed: Callable[..., DictConfig], tmp_path: Path) -> Path:
    write_key(make_key(prepare(composed(*SMALL), secret=SECRET)), tmp_path / "owner.key")
    return tmp_path / "owner.key"


def test_commit_makes_its_folder_or_says_why_not(owner: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["commit", str(owner), "--out", str(owner.parent / "new" / "x.json")]) == 0
    assert (owner.parent / "new" / "x.json").is_file()
    assert main(["commit", str(owner), "--out", str(owner / "x.json")]) == 1
    assert capsys.readouterr().err == f"error: out: {owner} is a file; name a folder\n"


@pytest.mark.parametrize("command", ["commit", "stamp-request"])
def test_a_folder_that_cannot_be_written_to(
    owner: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    if command == "stamp-request":
        pytest.importorskip("rfc3161_client")
    published = owner.with_suffix(".commitment.json")
    if command == "stamp-request":
        assert main(["commit", str(owner)]) == 0
        capsys.readouterr()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert main([command, str(owner if command == "commit" else published)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"no right to write in {owner.parent}" in line


def test_commit_and_check(owner: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = owner.with_suffix(".commitment.json")
    assert main(["commit", str(owner)]) == 0
    text = published.read_text()
    assert SECRET.reveal().hex() not in text
    assert set(json.loads(text)) == {"kind", "schema", "of", "sha256", "made"}
    assert json.loads(text)["sha256"] in capsys.readouterr().out
    assert main(["commit", str(owner)]) == 0
    assert published.read_text() == text, "the time of the first stays"
    assert main(["check", str(owner), "--commitment", str(published)]) == 0
    assert "every trigger follows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is no commitment"),
        ("[]", "is no commitment"),
        ('{"kind": "commitment", "schema": 9, "sha256": ""}', "has schema 9"),
        ('{"kind": "commitment", "schema": 1, "sha256": "00"}', "is no commitment: it lacks made, of"),
        (json.dumps(WHOLE), "is to another key"),
        *[
            (json.dumps({**WHOLE, name: 3}), f"is no commitment: its {name} is odd")
            for name in ("of", "sha256", "made")
        ],
        (json.dumps({**WHOLE, "made": "long ago"}), "is no commitment: its made is odd"),
        (json.dumps({**WHOLE, "made": "0001-01-01T00:00:00+05:00"}), "is no commitment: its made is odd"),
        (json.dumps({**WHOLE, "sha256": "0g" * 32}), "is no commitment: its sha256 is odd"),
        (json.dumps({**WHOLE, "schema": 0}), "has schema 0"),
        ('{"kind": ' + "[" * 10**5, "is no commitment"),
    ],
)
def test_odd_commitments(owner: Path, capsys: pytest.CaptureFixture[str], content: str, told: str) -> None:
    published = owner.with_suffix(".commitment.json")
    published.write_text(content)
    for command in (["commit", str(owner)], ["check", str(owner), "--commitment", str(published)]):
        assert main(command) == 1
        line = capsys.readouterr().err
        assert line.startswith("error: commitment: ")
        assert told in line
    assert published.read_text() == content


def test_no_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "no.key")]) == 1
    assert capsys.readouterr().err.startswith("error: key: cannot read ")
