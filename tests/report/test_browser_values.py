"""Values on charts, in a real browser."""

from __future__ import annotations

from typing import Any

import pytest

from tests.report.browsing import find, run, show

pytestmark = pytest.mark.slow


def test_values_are_reached_by_keyboard_and_by_pointer(browser: Any, page: str) -> None:
    from selenium.webdriver import ActionChains

    show(browser, page)
    (tip,) = find(browser, "#tip")
    cursor = find(browser, "#curves .cursor")[0]
    assert cursor.get_attribute("role") == "slider"
    cursor.send_keys("\ue010")  # the end key
    last = cursor.get_attribute("aria-valuetext")
    assert tip.is_displayed() and "noise, paper" in tip.text and "noise, paper" in last
    strongest = run(browser, "return [...document.querySelector('#curves tbody').rows].at(-1).cells[0].textContent")
    assert last.startswith(f"learning rate {strongest};")
    cursor.send_keys("\ue012")  # the left arrow
    assert cursor.get_attribute("aria-valuetext") != last
    assert int(cursor.get_attribute("aria-valuenow")) == int(cursor.get_attribute("aria-valuemax")) - 1
    cursor.send_keys("\ue00c")  # escape
    assert not tip.is_displayed()
    drawing = find(browser, "#pareto svg[role=img]")[0]
    run(browser, "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", drawing)
    ActionChains(browser).move_to_element(drawing).perform()
    assert tip.is_displayed() and "points lost" in tip.text
    frame = tip.rect
    assert frame["width"] > 50 and run(browser, "return arguments[0].getBoundingClientRect().right <= innerWidth", tip)


def test_a_chosen_line_stands_out(browser: Any, page: str) -> None:
    show(browser, page)
    figure = find(browser, "#curves figure")[0]
    button = figure.find_elements("css selector", ".legend button")[1]
    button.send_keys(" ")
    assert button.get_attribute("aria-pressed") == "true"
    dim = {g.get_attribute("data-line") for g in figure.find_elements("css selector", "svg g.dim")}
    lines = {g.get_attribute("data-line") for g in figure.find_elements("css selector", "svg g[data-line]")}
    assert dim == lines - {"1"}
    button.send_keys(" ")
    assert not figure.find_elements("css selector", "svg g.dim")
