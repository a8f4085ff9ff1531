from __future__ import annotations

import json
import os
import shutil
import stat
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from wmlightning.errors import UserError
from wmlightning.files import check_writable, write_bytes, write_json

Usage = namedtuple("Usage", "total used free")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"first, longer", b"second", b""):
        write_bytes(path, content)
        assert path.read_bytes() == content
    assert _names(tmp_path) == ["file"]


def test_files_get_the_rights_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"x")
        assert os.umask(0o027) == 0o027  # and the umask is as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("breaks", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.chmod"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: str, error: BaseException
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(breaks, fail)
        with pytest.raises(type(error)):
            write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["file"]


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"b": 1, "a": [1.5, None]})
    text = path.read_text()
    assert json.loads(text) == {"a": [1.5, None], "b": 1}
    assert text.index('"a"') < text.index('"b"')
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_text() == text
    assert _names(tmp_path) == ["file.json"]


def test_readers_never_see_a_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([letter]) * 200_000 for letter in b"ab"]
    write_bytes(path, contents[0])
    stop = threading.Event()
    seen: list[bool] = []

    def read() -> None:
        while not stop.is_set():
            seen.append(path.read_bytes() in contents)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(30):
        write_bytes(path, contents[turn % 2])
    stop.set()
    reader.join()
    assert seen
    assert all(seen)


def test_a_folder_that_can_be_made_is_accepted_and_not_made(tmp_path: Path) -> None:
    check_writable(tmp_path, "runs_dir", 1)
    check_writable(tmp_path / "a" / "b", "runs_dir", 1)
    assert _names(tmp_path) == []


def test_relative_folders_are_checked_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    check_writable(Path("runs"), "runs_dir", 1)
    with pytest.raises(UserError):
        check_writable(Path("file"), "runs_dir", 1)


@pytest.mark.parametrize("below", [".", "a", "a/b"])
def test_a_file_in_the_way_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"runs_dir: .*file is a file; name a folder") as caught:
        check_writable(tmp_path / "file" / below, "runs_dir", 1)
    assert "\n" not in str(caught.value)
    assert caught.value.key == "runs_dir"


def test_a_full_disk_is_told_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> Usage:
        asked.append(Path(path))
        return Usage(2**40, 2**40, 10 * 2**20)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    check_writable(tmp_path / "runs", "runs_dir", 10 * 2**20)
    with pytest.raises(UserError, match=r"runs_dir: 10 MiB are free in .* up to 11 MiB"):
        check_writable(tmp_path / "runs", "runs_dir", 11 * 2**20)
    assert set(asked) == {tmp_path}  # the disk that the folder would be on
    assert _names(tmp_path) == []


def test_a_disk_that_refuses_files_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(UserError, match="Read-only file system"):
        check_writable(tmp_path, "runs_dir", 1)


def test_no_right_to_write_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="no right to write"):
        check_writable(tmp_path, "runs_dir", 1)


def test_a_name_that_no_disk_takes_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="runs_dir"):
        check_writable(tmp_path / ("x" * 300), "runs_dir", 1)


def test_a_folder_that_may_not_be_entered_is_told(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0)
    root = os.geteuid() == 0
    above = {folder: folder.stat().st_mode for folder in (tmp_path, *tmp_path.parents[:2])}
    if root:  # root may enter every folder: ask as somebody else
        for folder in above:
            folder.chmod(0o755)
        os.seteuid(65534)
    try:
        with pytest.raises(UserError, match="runs_dir"):
            check_writable(locked / "a" / "b", "runs_dir", 1)
    finally:
        if root:
            os.seteuid(0)
            for folder, mode in above.items():
                folder.chmod(mode)
        locked.chmod(0o700)
