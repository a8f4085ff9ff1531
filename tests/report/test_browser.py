"""The page in a real browser: what only layout, styles and the script can show."""

from __future__ import annotations

from typing import Any

import pytest

from tests.report.browsing import find, open_all, run, show

pytestmark = pytest.mark.slow


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


def test_a_link_to_a_model_opens_it_as_often_as_it_is_followed(browser: Any, page: str) -> None:
    show(browser, page)
    link = find(browser, "#all tbody th a")[0]
    model = find(browser, "#" + link.get_attribute("href").partition("#")[2])[0]
    for _ in range(2):
        link.send_keys("\ue007")  # the enter key
        assert model.get_attribute("open")
        run(browser, "arguments[0].open = false", model)


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
  const mark = svg && e.matches('.line, .mark, .front, .share, use.dot, .whisker, .untouched');
  if (!words && !mark || !e.getClientRects().length) continue;
  const style = getComputedStyle(e);
  const filled = style.stroke === 'none' || e.matches('use.dot, text');
  const colour = !svg ? style.color : filled ? style.fill : style.stroke;
  const under = behind(svg ? e.closest('svg').parentElement : e);
  const opacity = mark ? Number(style.opacity) : 1;
  const seen = rgb(colour).map((c, i) => opacity * c + (1 - opacity) * under[i]);
  found.push([ratio(seen, under), mark ? 'mark' : 'text', e.outerHTML.slice(0, 90)]);
}
return found.sort((a, b) => a[0] - b[0]);
"""


#: Gives the faintest symbols and lines all the colours that there are: a page of one watermark has but one.
EVERY_COLOUR = """
for (const selector of ['use.dot:not([data-front])', '.front', '#curves g:has(.whisker)'])
  for (const colour of ['c0', 'c1', 'c2', 'c3', 'c4', 'c5', 'cn']) {
    const one = document.querySelector(selector), copy = one.cloneNode(true);
    copy.setAttribute('class', one.getAttribute('class').replace(/\\bc[0-9n]\\b/, colour));
    one.after(copy);
  }
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_words_and_lines_can_be_told_from_what_is_behind_them(browser: Any, page: str, dark: bool) -> None:
    show(browser, page, dark=dark)
    open_all(browser)
    background = run(browser, "return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background.strip("rgb()").split(","))) < 200) == dark
    run(browser, EVERY_COLOUR)
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
