from __future__ import annotations

import base64
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import fewer
from tests.report.reading import Node, one_of_each, page_of, parsed, picture, pictured, report_of, verdict
from tests.results.cards import leave, point, prune_card, train_card
from wmlightning.report.page import render
from wmlightning.results.card import FILE, SCHEMA

WORDS = ("dataset", "watermark", "option", "value", "stored_as", "package", "version", "strength", "setting", "choice")
NASTY = (
    "</script><script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</style></title><base href=http://evil.example>",
    "{{ 7 * 7 }}{% raw %}",
    "]]><!--",
    "a" * 100_000,
    "\u202eevil\x00\x1b[2J\ud800",
    "&lt;b&gt; &amp;",
)


def tags(page: Node) -> list[tuple[str, frozenset[str]]]:
    return [(node.tag, frozenset(node.attributes)) for node in page.everything()]


def page_with(text: str, complaints: int = 0) -> Node:
    with tempfile.TemporaryDirectory() as folder:
        names = dict.fromkeys((*WORDS, "attack", "sentence"), text)
        names["watermark"] = text[:80]  # the name of a class that was cut is no name any more
        one_of_each(Path(folder), **names)
        return page_of(Path(folder), complaints=complaints)


@pytest.fixture(scope="module")
def tame() -> list[tuple[str, frozenset[str]]]:
    return tags(page_with("tame"))


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_words_of_cards_stay_words(text: str, tame: list[tuple[str, frozenset[str]]]) -> None:
    page = page_with(text)
    assert tags(page) == tame
    assert len(page.text) < 100_000


@fewer
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip))
def test_any_text_leaves_the_page_as_it_is_built(tame: list[tuple[str, frozenset[str]]], text: str) -> None:
    assert tags(page_with("x" + text)) == tame  # a name that is empty to the reader of cards would be another page


NUMBERS = [math.nan, None, 0.0, 1.0, 5e-324, 1e308, -1e308]


@pytest.mark.parametrize("strengths", [[s] for s in NUMBERS[2:]] + [NUMBERS[2:], [0.5] * 3], ids=str)
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_any_strength_has_a_place(tmp_path: Path, strengths: list[float], scale: str) -> None:
    victim = train_card()
    metrics = {"attack/clean_acc": 0.9, "attack/trigger_new_acc": 0.5}
    card = prune_card(victim)
    card |= {"strength": {"name": "force", "scale": scale}, "curve": [point(s, metrics) for s in strengths]}
    leave(tmp_path, card)
    report = report_of(tmp_path)
    for chart in report.charts:
        for panel in chart.panels:
            for line in panel.lines:
                assert all(0 <= x <= 380 and 0 <= y <= 236 for x, y in line.points)
    parsed(render(report))


@pytest.mark.parametrize("number", [None, math.nan], ids=str)
def test_missing_numbers_leave_empty_cells(tmp_path: Path, number: float | None) -> None:
    victim = train_card()
    victim["metrics"] = dict.fromkeys(victim["metrics"], number)
    card = prune_card(train_card())
    card["victim"]["metrics"] = victim["metrics"]
    card["curve"] = [point(0.5, victim["metrics"], seconds=number, epochs=number)]
    for one in (victim, card):
        place = leave(tmp_path, train_card() if one is victim else prune_card(train_card()))
        (place / FILE).write_text(json.dumps({"schema": SCHEMA, **one}))
    page = page_of(tmp_path)
    assert len(page.one("table", id="all").one("tbody").all("tr")) == 2
    assert "nan" not in page.one("main").text.lower().split()


def test_what_cannot_be_used_is_named_and_stops_nothing(tmp_path: Path) -> None:
    leave(tmp_path, train_card())
    leave(tmp_path, {**train_card(seed=1), "schema": SCHEMA + 1}, "newer")
    leave(tmp_path, {**train_card(seed=2), "seed": "two"}, "damaged")
    verdict(tmp_path, "v1", schema=2)
    verdict(tmp_path, "v2").write_text("{")
    verdict(tmp_path, "v3", p_value="small")
    verdict(tmp_path, "v4", interval=[1])
    verdict(tmp_path, "v5").write_text("[" * 100_000)
    verdict(tmp_path, "v6", kind="something else")
    (tmp_path / "v7").mkdir()
    (tmp_path / "v7" / "verdict.json").symlink_to(tmp_path / "v1" / "verdict.json")
    page = page_of(tmp_path, complaints=8)
    lines = [line.text for line in page.one("ul", class_="warnings").all("li")]
    assert [line.split()[1].strip(":") for line in lines] == ["damaged", "newer", "v1", "v2", "v3", "v4", "v5", "v7"]
    assert not any(str(tmp_path) in line for line in lines)
    assert len(page.one("table", id="all").one("tbody").all("tr")) == 1
    assert not page.all("article")


def test_pictures_that_are_none_are_named(tmp_path: Path) -> None:
    folders = pictured(tmp_path, (0.5, 0.5, 0.5, 0.5))
    (folders[0] / "inversion.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"rubbish" * 9)
    (folders[1] / "inversion.png").unlink()
    (folders[1] / "inversion.png").symlink_to(folders[3] / "inversion.png")
    (folders[2] / "inversion.png").unlink()  # who keeps only cards need not be told
    page = page_of(tmp_path, complaints=2)
    assert len(page.all("img")) == 1
    assert len(page.one("ul", class_="warnings").all("li")) == 2


def test_a_picture_brings_no_metadata(tmp_path: Path) -> None:
    (folder,) = pictured(tmp_path, (0.5,))
    picture(folder / "inversion.png", comment="from /home/somebody")
    report = report_of(tmp_path)
    shown = report.inversions.albums[0].pictures[0].picture
    assert shown is not None
    content = base64.b64decode(shown.address.partition(",")[2])
    assert content.startswith(b"\x89PNG") and b"tEXt" not in content and b"somebody" not in content


def test_a_card_cannot_name_another_file_as_its_picture(tmp_path: Path) -> None:
    victim = train_card()
    secret: dict[str, Any] = {"score": 0.1, "p_value": 0.5, "picture": "../../triggers.png"}
    picture(leave(tmp_path, victim) / "triggers.png", 7)
    card = prune_card(victim)
    del card["curve"], card["strength"]
    leave(tmp_path, {**card, "attack": "inversion", "type": "detection", "findings": secret})
    assert not page_of(tmp_path).all("img")


def test_many_pictures_are_shared_out_fairly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wmlightning.report.albums._MOST", 4)
    pictured(tmp_path / "content", (0.5,) * 5)
    report = report_of(tmp_path)
    assert (len(report.inversions.albums[0].pictures), report.inversions.left_out) == (4, 1)
    assert "1 more picture left out" in page_of(tmp_path).one("section", id="inversions").text
