"""The page in a real browser: what only layout, styles and the script can show."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.reading import pictured, verdict
from tests.results.cards import study
from wmlightning.report.__main__ import main

pytestmark = pytest.mark.slow

PLACES = ("/usr/bin/chromium", "/usr/bin/chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install selenium")
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.service import Service

    chromium, driver = (shutil.which(Path(place).name) or place for place in PLACES)
    if not Path(chromium).exists() or not Path(driver).exists():
        pytest.skip("no chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        started = webdriver.Chrome(options=options, service=Service(driver))
    except WebDriverException as error:
        pytest.skip(f"chromium does not start here: {error.msg}")
    yield started
    started.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    runs = tmp_path_factory.mktemp("runs")
    study(runs, datasets=("mnist", "cifar10"))
    pictured(runs / "more", (0.5, 0.2))
    verdict(runs, suspect="a-name-without-any-place-to-break" * 9)
    assert main([str(runs)]) == 0
    return (runs / "report.html").as_uri()


def show(browser: Any, page: str, width: int = 1280, dark: bool = False, media: str = "screen") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
        {"name": "prefers-reduced-motion", "value": "reduce"},  # a click would miss what still moves
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get("about:blank")
    browser.get(page)


def run(browser: Any, script: str, *arguments: Any) -> Any:
    return browser.execute_script(script, *arguments)


def find(browser: Any, selector: str) -> list[Any]:
    return list(browser.find_elements("css selector", selector))


def column(browser: Any, number: int) -> list[str]:
    """The cells of the rows that are shown of the table of all results."""
    script = (
        "return [...document.querySelectorAll('#all tbody tr:not([hidden])')].map(r => r.cells[%d].textContent.trim())"
    )
    return list(run(browser, script % number))


def open_all(browser: Any) -> None:
    run(browser, "document.querySelectorAll('details').forEach(d => d.open = true)")


def test_it_is_shown_from_a_file_without_errors_and_without_a_network(browser: Any, page: str) -> None:
    show(browser, page)
    assert browser.get_log("browser") == []
    asked = [
        entry["message"] for entry in browser.get_log("performance") if 'Network.requestWillBeSent"' in entry["message"]
    ]
    assert asked, "the log holds requests"
    assert all('"url":"file:' in line or '"url":"data:' in line or '"url":"about:' in line for line in asked), asked
    broken = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    run(
        browser,
        "document.querySelectorAll('details').forEach(d => d.open = true); scrollTo(0, document.body.scrollHeight)",
    )
    assert len(find(browser, "img")) == 2 and run(browser, broken) == 0


def test_its_policy_stops_what_does_not_belong_to_it(browser: Any, page: str) -> None:
    show(browser, page)
    run(
        browser,
        "const s = document.createElement('script'); s.textContent = 'window.evil = 1'; document.body.append(s)",
    )
    assert run(browser, "return window.evil === undefined")
    refused = "const done = arguments[0]; fetch('data:text/plain,x').then(() => done(false), () => done(true))"
    assert browser.execute_async_script(refused)


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


def test_the_keyboard_reaches_everything_and_shows_where_it_is(browser: Any, page: str) -> None:
    show(browser, page)
    run(browser, "document.body.focus()")
    reached = []
    for _ in range(40):
        browser.switch_to.active_element.send_keys("\ue004")  # tab
        script = "const e = document.activeElement; return [e.className || e.tagName, getComputedStyle(e).outlineStyle]"
        reached.append(run(browser, script))
    assert reached[0][0] == "skip"
    assert {"cursor", "scroll"} <= {name for name, _ in reached}
    assert all(outline != "none" for _, outline in reached), reached


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


@pytest.mark.parametrize("width", [320, 375, 768])
def test_the_page_never_scrolls_sideways(browser: Any, page: str, width: int) -> None:
    show(browser, page, width)
    open_all(browser)
    assert run(browser, "return document.documentElement.scrollWidth") == width
    wide = "return [...document.querySelectorAll('.scroll')].some(box => box.scrollWidth > box.clientWidth)"
    assert width > 400 or run(browser, wide), "wide tables scroll inside themselves"


#: Of each element with words of its own, the least contrast between them and what is painted behind them.
CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgb = (colour) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => {
  const v = c[i] / 255; return sum + w * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); }, 0);
const behind = (e) => {
  const colour = rgb(getComputedStyle(e).backgroundColor);
  return colour[3] === 255 ? colour : behind(e.parentElement);
};
const ratio = (a, b) => {
  const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
  return (x + 0.05) / (y + 0.05);
};
const found = [];
for (const e of document.querySelectorAll('body *')) {
  const svg = e instanceof SVGElement;
  const words = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())
    && !e.closest('script, title, [hidden]');
  const mark = svg && e.matches('.line, .mark, .front, .share');
  if (!words && !mark || !e.getClientRects().length) continue;
  const style = getComputedStyle(e);
  const colour = mark ? (style.stroke !== 'none' ? style.stroke : style.fill) : svg ? style.fill : style.color;
  const under = svg ? e.closest('svg').parentElement : e;
  found.push([ratio(rgb(colour), behind(under)), mark ? 'mark' : 'text', e.outerHTML.slice(0, 90)]);
}
return found.sort((a, b) => a[0] - b[0]);
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_words_and_lines_can_be_told_from_what_is_behind_them(browser: Any, page: str, dark: bool) -> None:
    show(browser, page, dark=dark)
    open_all(browser)
    background = run(browser, "return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background.strip("rgb()").split(","))) < 200) == dark
    found = run(browser, CONTRAST)
    texts = [one for one in found if one[1] == "text"]
    marks = [one for one in found if one[1] == "mark"]
    assert len(texts) > 500 and len(marks) > 100
    assert texts[0][0] >= 4.5, texts[:3]
    assert marks[0][0] >= 3.0, marks[:3]


def test_the_button_changes_colours(browser: Any, page: str) -> None:
    show(browser, page, dark=True)
    colour = "return getComputedStyle(document.body).backgroundColor"
    before = run(browser, colour)
    (button,) = find(browser, "#theme")
    assert button.text == "Light"
    button.click()
    assert run(browser, colour) != before and button.text == "Dark"
    button.click()
    assert run(browser, colour) == before


def test_on_paper_controls_are_gone_and_tables_whole(browser: Any, page: str) -> None:
    show(browser, page, dark=True, media="print")
    assert run(browser, "return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for selector in ("nav", "#filters", "#theme", ".cursor"):
        assert not any(element.is_displayed() for element in find(browser, selector)), selector
    assert run(browser, "return getComputedStyle(document.querySelector('.tall')).maxHeight") == "none"
    pages = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert len(pages) > 10_000
