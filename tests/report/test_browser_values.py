"""Values on charts, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.report.browsing import find, run, show

pytestmark = pytest.mark.slow

END, LEFT, TAB, ESCAPE = "\ue010", "\ue012", "\ue004", "\ue00c"


@pytest.fixture
def finger(browser: Any) -> Iterator[None]:
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 1})
    yield
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def settle(browser: Any) -> None:
    """Waits until the page does not scroll any more, and was drawn since."""
    script = """
const done = arguments[0];
let last = -1, same = 0;
const look = () => {
  same = scrollY === last ? same + 1 : 0;
  last = scrollY;
  if (same > 9) done(); else requestAnimationFrame(look);
};
look();
"""
    browser.execute_async_script(script)


def frame(browser: Any, element: Any) -> dict[str, float]:
    """Where an element lies in the window."""
    return dict(run(browser, "return arguments[0].getBoundingClientRect().toJSON()", element))


def tap(browser: Any, x: float, y: float) -> None:
    for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    settle(browser)


def marked(browser: Any) -> list[Any]:
    """Lines and rings that mark a place in a drawing."""
    return find(browser, ".ruler[visibility=visible], .halo[visibility=visible]")


def test_values_are_reached_by_keyboard_and_by_pointer(browser: Any, page: str) -> None:
    from selenium.webdriver import ActionChains

    show(browser, page)
    (tip,) = find(browser, "#tip")
    cursor = find(browser, "#curves .cursor")[0]
    assert cursor.get_attribute("role") == "slider"
    cursor.send_keys(END)
    last = cursor.get_attribute("aria-valuetext")
    assert tip.is_displayed() and "noise, paper" in tip.text and "noise, paper" in last
    strongest = run(browser, "return [...document.querySelector('#curves tbody').rows].at(-1).cells[0].textContent")
    assert last.startswith(f"learning rate {strongest};")
    cursor.send_keys(LEFT)
    assert cursor.get_attribute("aria-valuetext") != last
    assert int(cursor.get_attribute("aria-valuenow")) == int(cursor.get_attribute("aria-valuemax")) - 1
    cursor.send_keys(ESCAPE)
    assert not tip.is_displayed()
    drawing = find(browser, "#pareto svg[role=img]")[0]
    run(browser, "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", drawing)
    ActionChains(browser).move_to_element(drawing).perform()
    assert tip.is_displayed() and "points lost" in tip.text
    frame = tip.rect
    assert frame["width"] > 50 and run(browser, "return arguments[0].getBoundingClientRect().right <= innerWidth", tip)


def test_values_tell_of_decoys(browser: Any, page: str) -> None:
    show(browser, page)
    cursor = find(browser, "#curves .cursor")[0]
    cursor.send_keys(END)
    cells = "return [...document.querySelector('#curves tbody').rows].at(-1).cells[4].textContent.split(' ')[0]"
    decoys = run(browser, cells)
    assert decoys
    row = find(browser, "#tip tr")[-1]
    assert find(browser, "#tip tr")[0].text.split() == ["new", "triggers", "clean", "decoys"]
    assert row.text.split()[-1] == decoys
    assert f"decoys {decoys} %" in cursor.get_attribute("aria-valuetext")
    find(browser, "#pareto .cursor")[0].send_keys(END)
    assert "decoys" in find(browser, "#tip")[0].text


def test_values_stand_at_their_chart_once_the_page_has_scrolled_there(browser: Any, page: str) -> None:
    show(browser, page, still=False)
    (tip,) = find(browser, "#tip")
    cursor = find(browser, "#pareto .cursor")[-1]
    run(browser, "arguments[0].focus()", cursor)
    settle(browser)
    assert run(browser, "return scrollY") > 500
    panel, values = frame(browser, cursor), frame(browser, tip)
    assert tip.is_displayed()
    assert panel["top"] <= values["top"] <= panel["bottom"]


def test_values_go_with_their_chart_as_the_page_scrolls(browser: Any, page: str) -> None:
    show(browser, page)
    (tip,) = find(browser, "#tip")
    cursor = find(browser, "#curves .cursor")[0]
    cursor.send_keys(END)
    run(browser, "arguments[0].scrollIntoView({block: 'center'})", cursor)
    settle(browser)
    beside = frame(browser, tip)["top"] - frame(browser, cursor)["top"]
    run(browser, "scrollBy(0, 90)")
    settle(browser)
    assert tip.is_displayed()
    assert frame(browser, tip)["top"] - frame(browser, cursor)["top"] == pytest.approx(beside, abs=1)
    run(browser, "scrollBy(0, 5000)")
    settle(browser)
    assert not tip.is_displayed(), "the chart is out of sight"
    run(browser, "scrollBy(0, -5000)")
    run(browser, "arguments[0].scrollIntoView({block: 'center'})", cursor)
    settle(browser)
    assert tip.is_displayed()
    cursor.send_keys(TAB)
    assert not tip.is_displayed() and not marked(browser)


def test_values_stay_after_a_tap_until_one_elsewhere(browser: Any, page: str, finger: None) -> None:
    show(browser, page, 375)
    (tip,) = find(browser, "#tip")
    curves, points = find(browser, "#curves svg[role=img]")[0], find(browser, "#pareto svg[role=img]")[0]
    for drawing, told in ((curves, "new triggers"), (points, "points lost")):
        run(browser, "arguments[0].scrollIntoView({block: 'center'})", drawing)
        settle(browser)
        place = frame(browser, drawing)
        tap(browser, place["x"] + 0.6 * place["width"], place["y"] + 0.5 * place["height"])
        assert tip.is_displayed() and told in tip.text
        beside = frame(browser, tip)["top"] - place["top"]
        run(browser, "scrollBy(0, 60)")
        settle(browser)
        assert tip.is_displayed()
        assert frame(browser, tip)["top"] - frame(browser, drawing)["top"] == pytest.approx(beside, abs=1)
        assert len(marked(browser)) == (2 if drawing is curves else 1), "in the drawings of one chart"
    tap(browser, 3, 450)
    assert not tip.is_displayed() and not marked(browser)


def test_a_tap_on_another_chart_takes_the_values_there(browser: Any, page: str, finger: None) -> None:
    show(browser, page, 375)
    (tip,) = find(browser, "#tip")
    find(browser, "#curves .cursor")[0].send_keys(END)
    drawing = find(browser, "#pareto svg[role=img]")[0]
    run(browser, "arguments[0].scrollIntoView({block: 'center'})", drawing)
    settle(browser)
    place = frame(browser, drawing)
    tap(browser, place["x"] + 0.6 * place["width"], place["y"] + 0.5 * place["height"])
    assert tip.is_displayed() and "points lost" in tip.text
    assert len(marked(browser)) == 1


def test_symbols_lie_where_their_values_are(browser: Any, page: str) -> None:
    show(browser, page)
    script = """
return [...document.querySelectorAll('.panel use')].map(use => {
  const svg = use.closest('svg'), frame = svg.getBoundingClientRect(), box = use.getBoundingClientRect();
  const scale = frame.width / svg.viewBox.baseVal.width;
  const x = (box.left + box.right) / 2 - frame.left, y = (box.top + box.bottom) / 2 - frame.top;
  return [x / scale - Number(use.getAttribute('x')), y / scale - Number(use.getAttribute('y'))].map(Math.abs);
}).flat()
"""
    away = run(browser, script)
    assert len(away) > 100
    assert max(away) < 1, "triangles are not quite in the middle"


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
