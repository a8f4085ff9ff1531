from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.reading import VERDICT, page_of, report_of, verdict
from wmlightning.ownership.verdict import Verdict
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
