"""Sorting and filters, in a real browser."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from tests.report.browsing import find, open_all, run, show
from tests.results.cards import claim_card, leave, prune_card, study, train_card
from wmlightning.report.__main__ import main

pytestmark = pytest.mark.slow

#: Titles of columns that hold numbers; all others hold words.
NUMBERS = {
    *("seed", "strengths", "strength", "clean", "points lost", "new triggers", "decoys", "score", "p", "seconds"),
    *("share of weights pruned", "learning rate", "new triggers that still work", "clean accuracy"),
    "new triggers left, %",
}
#: Fingerprints that could be taken for numbers, among others.
LIKE_NUMBERS = ("5547e5", "1e3000", "9e1abc", "80ab12", "100000", "abc123", "00e123", "7f0000", "2e0002", "12ab34")


def column(browser: Any, number: int) -> list[str]:
    """The cells of the rows that are shown of the table of all results."""
    script = (
        "return [...document.querySelectorAll('#all tbody tr:not([hidden])')].map(r => r.cells[%d].textContent.trim())"
    )
    return list(run(browser, script % number))


def test_columns_are_sorted_by_their_heads(browser: Any, page: str) -> None:
    show(browser, page)
    heads = find(browser, "#all thead th")
    clean = next(i for i, head in enumerate(heads) if head.text.startswith("clean"))
    before = column(browser, clean)
    button = heads[clean].find_element("css selector", "button")
    button.click()
    up = column(browser, clean)
    assert up == sorted(before, key=float) != before
    assert heads[clean].get_attribute("aria-sort") == "ascending"
    button.send_keys("\ue007")  # the enter key
    assert column(browser, clean) == sorted(before, key=float, reverse=True)
    assert heads[clean].get_attribute("aria-sort") == "descending"
    p = next(i for i, head in enumerate(heads) if head.text.split() == ["p"])
    for order in (1, -1):
        heads[p].find_element("css selector", "button").click()
        cells = column(browser, p)
        known = [float(cell) for cell in cells if cell]
        assert known == sorted(known)[::order] and cells[len(known) :] == [""] * (len(cells) - len(known)), "empty last"
    assert heads[clean].get_attribute("aria-sort") == "none"


def meaning(title: str, cell: str) -> Any:
    """What a column is sorted by: of a cell with several numbers the first, ``None`` if it holds nothing."""
    if title not in NUMBERS:
        return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", cell)] if cell else None
    if cell == "untouched" and title != "strength":  # a chart's table: it stands before all strengths
        return -math.inf
    number = re.match(r"[-\N{MINUS SIGN}]?[\d.]+(e[-+]?\d+)?", cell)
    return float(number[0].replace("\N{MINUS SIGN}", "-")) if number else None


def test_every_column_is_sorted_by_what_it_holds(browser: Any, tmp_path: Path) -> None:
    study(tmp_path)
    for i, name in enumerate(LIKE_NUMBERS):
        victim = {**train_card(seed=i % 4), "fingerprint": name + "f" * 6}
        better = {**victim, "metrics": {**victim["metrics"], "test/clean_acc": 0.99}}
        gaining = {**prune_card(better, rates=(10.0**-i, 0.95)), "victim": prune_card(victim)["victim"]}
        for card in (victim, gaining, claim_card(victim, 3.0 ** (-9 * i))):
            leave(tmp_path, card, f"{i}-{card.get('attack', 'train')}")
    assert main([str(tmp_path)]) == 0
    show(browser, (tmp_path / "report.html").as_uri())
    open_all(browser)
    tables = find(browser, "table.sortable")
    assert len(tables) > 3
    heads = "return [...arguments[0].tHead.rows[0].cells].map(head => head.innerText.trim())"
    cells = "return [...arguments[0].tBodies[0].rows].map(row => row.cells[arguments[1]].innerText.trim())"
    for table in tables:
        titles = run(browser, heads, table)
        for number, title in enumerate(titles):
            for down in (False, True):
                run(browser, "arguments[0].querySelectorAll('th button')[arguments[1]].click()", table, number)
                found = [meaning(title, cell) for cell in run(browser, cells, table, number)]
                known = [value for value in found if value is not None]
                wanted = sorted(known, reverse=down) + [None] * (len(found) - len(known))
                assert found == wanted, (title, down, found)


def test_filters_leave_what_fits_and_say_how_much(browser: Any, page: str) -> None:
    from selenium.webdriver.support.select import Select
    from selenium.webdriver.support.wait import WebDriverWait

    show(browser, page)
    total = len(column(browser, 0))
    Select(find(browser, "#f-dataset")[0]).select_by_visible_text("mnist")
    Select(find(browser, "#f-attack")[0]).select_by_visible_text("prune")
    assert set(column(browser, 1)) == {"mnist"} and set(column(browser, 5)) == {"prune"}
    assert find(browser, "#count")[0].text == f"{len(column(browser, 0))} of {total} results"
    find(browser, "#f-text")[0].send_keys("NOISE negatives")
    assert set(column(browser, 2)) == {"noise"} and set(column(browser, 3)) == {"negatives"}
    find(browser, "#f-text")[0].send_keys("nowhere")
    assert column(browser, 0) == [] and find(browser, "#count")[0].text == f"0 of {total} results"
    find(browser, "#filters button")[0].click()
    WebDriverWait(browser, 5).until(lambda _: len(column(browser, 0)) == total)
    assert find(browser, "#count")[0].text == f"{total} results"


def test_one_result_is_counted_as_one(browser: Any, tmp_path: Path) -> None:
    leave(tmp_path, train_card())
    assert main([str(tmp_path)]) == 0
    show(browser, (tmp_path / "report.html").as_uri())
    assert find(browser, "#count")[0].text == "1 result"
