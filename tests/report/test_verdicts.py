from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.reading import VERDICT, Node, page_of, report_of, verdict
from wmlightning.ownership.verdict import Verdict
from wmlightning.report.page import render
from wmlightning.results.card import folder_name
from wmlightning.results.fields import LONGEST


def test_a_verdict_is_told_in_full(tmp_path: Path) -> None:
    verdict(tmp_path)
    article = page_of(tmp_path).one("article")
    for text in (
        VERDICT["reason"],
        VERDICT["test"],
        VERDICT["assumption"],
        VERDICT["commitment"],
        VERDICT["committed"],
    ):
        assert text in article.text
    assert article.one("h3").text == "owned stolen.onnx"
    told = {row.one("dt").text: row.one("dd").text for row in article.one("dl").all("div")}
    assert told["p"] == "3.2e-18 at level 1e-06; 8 of 8 marks answer" and told["p, several suspects"] == "9.6e-18"
    assert told["Queries"] == "40, 1 without an answer; all that the test needs"
    assert "38 of 39 triggers matched; 95 % interval 87 to 100 %" in article.text
    assert "38 of 39" in article.one("svg").attributes["aria-label"]


def test_whose_key_is_claimed_and_how_old_it_is(tmp_path: Path) -> None:
    about = {"dataset": "mnist", "watermark": "noise", "key": "4 marks"}
    stamped = "2026-03-02T08:00:00+00:00 by an authority"
    verdict(tmp_path, "mine.stolen", about=about, stamped=stamped, e_value=1234.5)
    verdict(tmp_path, "other.stolen", commitment="ab" * 32, p_adjusted=None, p_value=0.25)
    mine, other = report_of(tmp_path).rulings
    assert (mine.claimed, mine.folder, mine.stamped, mine.e_value) == (
        "mnist, noise, 4 marks",
        "mine.stolen",
        stamped,
        1234.5,
    )
    assert (other.claimed, other.folder) == ("", "other.stolen"), "of a version that did not tell"
    page = page_of(tmp_path)
    told = {row.one("dt").text: row.one("dd").text for row in page.all("article")[0].one("dl").all("div")}
    assert (told["Key claimed"], told["Time stamp"], told["e-value"]) == ("mnist, noise, 4 marks", stamped, "1.23e+03")
    table = page.one("table", id="asked")
    assert "sortable" in table.attributes["class"]
    rows = [[cell.text for cell in row.children if isinstance(cell, Node)] for row in table.one("tbody").all("tr")]
    assert rows[0] == [
        *("stolen.onnx", "mnist, noise, 4 marks 9f9f9f9f\N{HORIZONTAL ELLIPSIS}", "owned", "40", "38 of 39"),
        *("9.6e-18", "labels of several marks, exact"),
    ]
    assert rows[1][1] == "abababab\N{HORIZONTAL ELLIPSIS}" and rows[1][5] == "0.25", "one suspect needs no correction"


def test_many_verdicts_are_a_table_first(tmp_path: Path) -> None:
    for i in range(13):
        verdict(tmp_path, f"owner.{i}")
    section = page_of(tmp_path).one("section", id="verdicts")
    assert len(section.one("table").one("tbody").all("tr")) == len(section.all("article")) == 13
    assert "open" not in section.all("details")[0].attributes


def test_surrogates_are_told_apart_and_places_are_not_told(tmp_path: Path) -> None:
    runs = "/home/somebody/runs"
    suspects = [
        *(
            f"{runs}/mnist-noise-s0-0123456789ab/attacks/{a}/surrogate-008.safetensors"
            for a in ("prune-1", "finetune-2")
        ),
        f"{runs}/mnist-noise-s1-ba9876543210",
        f"{runs}/model.onnx",
    ]
    for i, suspect in enumerate(suspects):
        verdict(tmp_path, f"{i}/owner.{folder_name(suspect)}", suspect=suspect)
    report = report_of(tmp_path)
    dots = "\N{HORIZONTAL ELLIPSIS}"
    assert [ruling.suspect for ruling in report.rulings] == [
        *(s.replace(runs, dots) for s in suspects[:3]),
        f"{dots}/model.onnx",
    ]
    assert "somebody" not in render(report)
    assert [ruling.folder.split(".")[0] for ruling in report.rulings] == [f"{i}/owner" for i in range(4)]


def test_long_sentences_are_not_cut(tmp_path: Path) -> None:
    sentence = "word " * LONGEST
    verdict(tmp_path, assumption=sentence)
    assert sentence.strip() in page_of(tmp_path).one("article").text


@pytest.mark.parametrize(
    "decision, kind", [("owned", "owned"), ("not shown", "not-shown"), ("cannot tell", "cannot-tell")]
)
def test_decisions_look_different_and_are_words(tmp_path: Path, decision: str, kind: str) -> None:
    verdict(tmp_path, decision=decision)
    article = page_of(tmp_path).one("article")
    assert article.attributes["class"] == f"verdict {kind}"
    assert article.one("span", class_="decision").text == decision


def test_what_other_versions_add_or_leave_out_does_no_harm(tmp_path: Path) -> None:
    more = dict.fromkeys(set(VERDICT) - {"kind", "schema", "decision"})
    verdict(tmp_path, "bare", **more, decision="who knows", something={"new": [1]})
    verdict(tmp_path, "no-triggers", triggers=0, matches=0)
    bare, _ = report_of(tmp_path).rulings
    assert (bare.kind, bare.queries, bare.interval, bare.notes) == ("other", None, None, [])
    articles = page_of(tmp_path).all("article")
    assert [len(article.all("svg")) for article in articles] == [0, 0]
    assert not articles[0].one("dl").all("div"), "nothing is said of what is missing"


def test_what_verify_writes_can_be_read(tmp_path: Path) -> None:
    fields = {name: value for name, value in VERDICT.items() if name not in ("kind", "schema")}
    Verdict(**{**fields, "interval": (0.871, 0.996)}).write(tmp_path / "key.suspect")
    (ruling,) = report_of(tmp_path).rulings
    assert (ruling.matches, ruling.triggers, ruling.p, ruling.interval) == (38, 39, 3.2e-18, (0.871, 0.996))
    assert ruling.share == pytest.approx(38 / 39)
