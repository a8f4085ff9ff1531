from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from tests.helpers import few
from tests.results.cards import leave, prune_card, read, train_card
from wmlightning.results.card import FILE, SCHEMA
from wmlightning.results.table import aggregate, from_csv, read_all
from wmlightning.results.text import csv


def test_a_card_cut_short_is_none(tmp_path: Path) -> None:
    leave(tmp_path, train_card(seed=0))
    cut = leave(tmp_path, prune_card(train_card(seed=1))) / FILE
    cut.write_bytes(cut.read_bytes()[:-20])
    assert len(read(tmp_path)) == 1


def test_a_newer_card_stops_nothing_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave(tmp_path, train_card(seed=0))
    leave(tmp_path, {**train_card(seed=1), "schema": SCHEMA + 1}, "newer")
    leave(tmp_path, {**train_card(seed=2), "schema": SCHEMA + 1}, "newest")
    assert len(read_all(tmp_path)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["skipped newer", "skipped newest"]
    assert all("update wmlightning" in line for line in lines)


def test_other_kinds_of_work_are_passed_over(tmp_path: Path) -> None:
    leave(tmp_path, {"kind": "verdict", "name": "x"}, "x")
    assert read(tmp_path).empty


def test_a_class_that_lies_deep_keeps_its_name(tmp_path: Path) -> None:
    """Were its long path cut off, a watermarked model could be taken for one without."""
    card = train_card()
    card["config"]["watermark"]["_target_"] = ".".join(["deep"] * 60) + ".Stripes"
    leave(tmp_path, card)
    assert list(read(tmp_path)["watermark"]) == ["stripes"]


ENDLESS = [float("inf"), -float("inf"), 10**400]
NO_TEXT = [None, 3, True, [], {}]
NO_SHARE = ["0.5", True, [], {}, -0.1, 1.1, *ENDLESS]
NO_COUNT = ["1", True, [], {}, -1, 0.5, 2**64, *ENDLESS]
NO_MAPPING = ["x", 3, True, [], [{}]]
NO_FLAG = [None, 1, "true", [], {}]

#: Where in a card, and what must not stand there.
TRAIN_FIELDS: dict[tuple[str | int, ...], list[Any]] = {
    ("kind",): NO_TEXT,
    ("seed",): [None, *NO_COUNT],
    ("fingerprint",): NO_TEXT,
    ("name",): NO_TEXT[1:],
    ("epochs",): NO_COUNT,
    ("seconds", "train"): ["1", True, [], -1, *ENDLESS],
    ("metrics",): NO_MAPPING,
    ("metrics", "test/clean_acc"): NO_SHARE,
    ("config",): NO_MAPPING,
    ("config", "dataset", "name"): NO_TEXT,
    ("config", "watermark", "_target_"): NO_TEXT[1:],
    ("config", "watermark", "n_marks"): [0, *NO_COUNT],
    ("config", "watermark", "negatives"): ["1", True, [], *ENDLESS],
}
ATTACK_FIELDS: dict[tuple[str | int, ...], list[Any]] = {
    ("attack",): [*NO_TEXT, "", "none"],
    ("fingerprint",): NO_TEXT,
    ("type",): [*NO_TEXT, "", "other"],
    ("victim", "fingerprint"): NO_TEXT,
    ("victim", "metrics"): NO_MAPPING,
    ("victim", "metrics", "attack/clean_acc"): NO_SHARE,
    ("strength",): NO_MAPPING,
    ("strength", "scale"): [*NO_TEXT, "square"],
    ("curve",): [None, "x", 3, {}, [3], [None], [[]]],
    ("curve", 0, "strength"): [None, "1", True, [], {}, float("nan"), *ENDLESS],
    ("curve", 0, "final"): NO_FLAG,
    ("curve", 0, "queries"): NO_COUNT,
    ("curve", 0, "settings"): NO_MAPPING,
    ("curve", 0, "metrics", "attack/trigger_new_acc"): NO_SHARE,
    ("config", "attack"): NO_MAPPING,
    ("config", "attack", "prune"): NO_MAPPING,
}


def card_with(path: tuple[str | int, ...]) -> dict[str, Any]:
    return train_card(seed=1) if path in TRAIN_FIELDS else prune_card(train_card(seed=1))


def spoil(card: Any, path: tuple[str | int, ...], value: Any) -> Any:
    card = json.loads(json.dumps(card))
    part = card
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    return card


def spell(path: Any) -> str:
    return ".".join(map(str, path))


@pytest.mark.parametrize("path", [*TRAIN_FIELDS, *ATTACK_FIELDS], ids=spell)
def test_a_field_of_another_type_costs_its_card_only(tmp_path: Path, path: tuple[str | int, ...]) -> None:
    leave(tmp_path, train_card(seed=0))
    for value in (TRAIN_FIELDS | ATTACK_FIELDS)[path]:
        leave(tmp_path, spoil(card_with(path), path, value), "bad")
        heard: list[str] = []
        assert len(read_all(tmp_path, heard.append)) == 1, value
        assert len(heard) == 1, value
        assert heard[0].startswith("skipped bad: ")
        assert str(path[0]) in heard[0]
        assert len(heard[0]) < 200


def test_a_number_with_a_thousand_digits_is_no_seed(tmp_path: Path) -> None:
    leave(tmp_path, spoil(train_card(), ("seed",), 10**1000))
    assert read(tmp_path, complaints=1).empty


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=4),
)


@few
@given(value=JSON, path=st.sampled_from([*TRAIN_FIELDS, *ATTACK_FIELDS]))
def test_nothing_in_a_card_breaks_the_table(tmp_path_factory: Any, value: Any, path: tuple[str | int, ...]) -> None:
    runs = tmp_path_factory.mktemp("runs")
    leave(runs, train_card(seed=0))
    leave(runs, spoil(card_with(path), path, value), "bad")
    frame = read_all(runs, lambda line: None)
    assert len(frame) >= 1
    aggregate(frame, every_epoch=True)
    (runs / "x.csv").write_text(csv(frame))
    assert_frame_equal(from_csv(runs / "x.csv"), frame, rtol=1e-6, atol=1e-12)


def test_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    card = prune_card(train_card())
    card["name"] = "../../../etc/passwd"
    card["config"]["dataset"]["name"] = "x" * 100_000
    card["config"]["watermark"]["_target_"] = "os.system"
    card["config"]["model"]["_target_"] = "subprocess.\x1b[2JPopen\ud800"
    leave(tmp_path, card, "x")
    row = read(tmp_path).iloc[0]
    assert (row["watermark"], row["model"], row["name"]) == ("system", "?[2jpopen?", "../../../etc/passwd")
    assert len(row["dataset"]) < 200
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    leave(tmp_path, train_card())
    for name, content in {
        "deep": b'{"schema": 1, "kind": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "long": b'{"schema": 1, "seed": ' + b"9" * 10_000 + b"}",
        "unlike\nname": b'{"schema": 1}',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_bytes(content)
    (tmp_path / "folder" / FILE).mkdir(parents=True)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / FILE)
    heard: list[str] = []
    assert len(read_all(tmp_path, heard.append)) == 1
    assert [line.split(":")[0] for line in heard] == [
        "skipped deep",
        "skipped long",
        "skipped pipe",
        "skipped unlike?name",
    ]


def test_a_card_larger_than_any_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(tmp_path, train_card())
    monkeypatch.setattr("wmlightning.results.found.LARGEST", 100)
    assert read(tmp_path, complaints=1).empty
