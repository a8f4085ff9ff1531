"""The page on paper, printed by a real browser."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from typing import Any

import pytest

from tests.report.browsing import find, run, show
from tests.report.reading import pictured, verdict
from tests.results.cards import study
from wmlightning.report.__main__ import main

pytestmark = pytest.mark.slow

A4 = {"paperWidth": 8.27, "paperHeight": 11.69}
ROOM = 703  # CSS pixels between the margins of A4


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with more of everything than a sheet of paper holds."""
    runs = tmp_path_factory.mktemp("long")
    study(runs, seeds=tuple(range(4)), datasets=("mnist", "cifar10"))
    pictured(runs / "more", (0.5,) * 6)
    verdict(runs)
    assert main([str(runs)]) == 0
    return (runs / "report.html").as_uri()


@pytest.fixture(scope="module")
def sheets(browser: Any, long: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words on each sheet."""
    if shutil.which("pdftotext") is None:
        pytest.skip("no pdftotext: apt-get install poppler-utils")
    show(browser, long, media="")
    file = tmp_path_factory.mktemp("paper") / "report.pdf"
    file.write_bytes(
        base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, **A4})["data"])
    )
    words = subprocess.run(["pdftotext", "-layout", file, "-"], capture_output=True, text=True, check=True, timeout=60)
    return words.stdout.split("\f")[:-1]


def test_controls_are_gone_and_tables_whole(browser: Any, page: str) -> None:
    show(browser, page, dark=True, media="print")
    assert run(browser, "return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for selector in ("nav", "#filters", "#theme", ".cursor"):
        assert not any(element.is_displayed() for element in find(browser, selector)), selector
    assert run(browser, "return getComputedStyle(document.querySelector('.tall')).maxHeight") == "none"
    pages = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert len(pages) > 10_000


def test_nothing_is_wider_than_the_paper(browser: Any, long: str) -> None:
    show(browser, long, ROOM, media="print")
    script = """
return [...document.querySelectorAll('main *')].filter(e => e.getClientRects().length)
  .map(e => [Math.round(e.getBoundingClientRect().right), e.outerHTML.slice(0, 80)])
  .filter(([right]) => right > arguments[0])
"""
    found = run(browser, script, ROOM)
    assert found == [], found[:4]


def test_every_sheet_with_results_has_their_heads(sheets: list[str]) -> None:
    first = next(i for i, words in enumerate(sheets) if "One row a training or attack" in words)
    results = sheets[first:]
    assert len(results) > 2
    for words in results:
        assert {"seed", "attack", "strengths", "seconds"} <= set(words.split())
        assert re.search("[0-9a-f]{6} +(mnist|cifar10)", words), "heads without a row"


def test_no_sheet_holds_a_heading_alone(sheets: list[str]) -> None:
    (words,) = (words for words in sheets if "Recovered images" in words)
    assert "seed 0: score" in " ".join(words.split())
    assert all(len(words.split()) > 20 for words in sheets)
