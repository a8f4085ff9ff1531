"""Sorting and filters, in a real browser."""

from __future__ import annotations

from typing import Any

import pytest

from tests.report.browsing import find, run, show

pytestmark = pytest.mark.slow


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


def test_filters_leave_what_fits_and_say_how_much(browser: Any, page: str) -> None:
    from selenium.webdriver.support.select import Select

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
    assert len(column(browser, 0)) == total
    assert find(browser, "#count")[0].text == f"{total} results"
