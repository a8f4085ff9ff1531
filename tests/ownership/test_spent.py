"""The files beside a key that say what was shown of it: whole, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wmlightning.errors import UserError
from wmlightning.ownership.spent import Look, Spent

WHOLE: dict[str, Any] = {"plan": "p", "suspect": "run r", "folder": "/out", "alpha": 0.003}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    spent, look = Spent(tmp_path / "owner.key"), Look(**WHOLE)
    assert (spent.noted(), spent.looks()) == (set(), [])
    spent.reserve(["a", "b"], look, [])
    assert (spent.noted(), spent.looks()) == ({"a", "b"}, [look])


@pytest.mark.parametrize(
    "change",
    [
        *({"alpha": value} for value in (-0.5, 0, 1, "q", None, True, float("nan"), float("inf"), 10**400, [0.1])),
        *({name: value} for name in ("plan", "suspect", "folder") for value in (None, 3, ["x"])),
        {"more": 1},
    ],
    ids=str,
)
def test_altered_look_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """A level below 0 would give the next look more than it has."""
    (tmp_path / "owner.asked.json").write_text(json.dumps([WHOLE, {**WHOLE, **change}]))
    with pytest.raises(UserError, match=r"^key: .*owner\.asked\.json is damaged; "):
        Spent(tmp_path / "owner.key").looks()


@pytest.mark.parametrize("content", [b"", b"{}", b"[3]", b"[null]", b'[["a"]]', b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("name", ["spent", "asked"])
def test_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / f"owner.{name}.json").write_bytes(content)
    spent = Spent(tmp_path / "owner.key")
    with pytest.raises(UserError, match=rf"^key: .*owner\.{name}\.json is damaged; "):
        spent.noted() if name == "spent" else spent.looks()


def test_folder_in_their_place_is_told_in_one_line(tmp_path: Path) -> None:
    spent = Spent(tmp_path / "owner.key")
    for name, read in (("spent", spent.noted), ("asked", spent.looks)):
        (tmp_path / f"owner.{name}.json").mkdir()
        with pytest.raises(UserError, match=rf"^key: cannot read .*owner\.{name}\.json \(Is a directory\); "):
            read()
