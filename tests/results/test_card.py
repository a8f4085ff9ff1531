from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import few
from wmlightning.errors import UserError
from wmlightning.results.card import FILE, SCHEMA, environment, fingerprint, read_card, write_card

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
PLAIN = st.recursive(LEAVES, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=4))


def _reordered(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _reordered(content[key]) for key in reversed(content)}
    return [_reordered(value) for value in content] if isinstance(content, list) else content


@few
@given(content=PLAIN)
def test_fingerprint_ignores_the_order_of_keys(content: Any) -> None:
    name = fingerprint(content)
    assert name == fingerprint(_reordered(content)) == fingerprint(json.loads(json.dumps(content)))
    assert len(name) == 12
    assert set(name) <= set("0123456789abcdef")


@few
@given(one=PLAIN, other=PLAIN)
def test_other_content_has_another_fingerprint(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint({"x": one}) == fingerprint({"x": other})) == same


def test_fingerprint_tells_order_of_values_and_types_apart() -> None:
    different = [[1, 2], [2, 1], ["1", 2], [12], {"a": 1}, {"a": "1"}, {"a": 1.5}, {"a": {"b": 1}}, {"a": None}, {}]
    assert len({fingerprint(content) for content in different}) == len(different)


def test_fingerprint_is_the_same_in_every_version() -> None:
    # Finished runs are found again by this name: it must not change from release to release.
    assert fingerprint({"seed": 0, "lr": 0.002, "name": "é", "of": [1, None, True]}) == "85b4e73f91b7"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_fingerprint_refuses_what_json_cannot_say(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({"a": value})


@few
@given(content=st.dictionaries(st.text().filter(lambda key: key != "schema"), PLAIN, max_size=4))
def test_cards_come_back(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("card")
    write_card(folder, content)
    assert read_card(folder) == {"schema": SCHEMA, **content}
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_no_card_no_folder(tmp_path: Path) -> None:
    assert read_card(tmp_path) is None
    assert read_card(tmp_path / "nowhere") is None


def test_a_card_cut_off_anywhere_is_no_card(tmp_path: Path) -> None:
    write_card(tmp_path, {"metrics": {"test/clean_acc": 0.5}, "name": "é"})
    whole = (tmp_path / FILE).read_bytes()
    end = len(whole.rstrip())
    for length in range(end):
        (tmp_path / FILE).write_bytes(whole[:length])
        assert read_card(tmp_path) is None, length
    (tmp_path / FILE).write_bytes(whole[:end])
    assert read_card(tmp_path) is not None


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[]", b"3", b"{}", b'{"schema": "1"}', b'{"schema": null}', b"null"])
def test_something_else_is_no_card(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert read_card(tmp_path) is None


def test_a_card_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"schema": SCHEMA + 1}))
    with pytest.raises(UserError, match=f"schema {SCHEMA + 1}, this version reads up to {SCHEMA}") as caught:
        read_card(tmp_path)
    assert "\n" not in str(caught.value)


def test_environment_is_plain_and_names_versions() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["torch"].startswith("2.")
    assert found["versions"]["wmlightning"] != "not installed"
    assert found["cores"] >= 1
    assert found["cpu"] is None or "\n" not in found["cpu"]
