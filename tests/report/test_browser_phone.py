"""The page on small screens, in a real browser."""

from __future__ import annotations

from typing import Any

import pytest

from tests.report.browsing import find, open_all, run, show
from tests.results.cards import finetune_card, inversion_card, leave, prune_card, study, train_card
from wmlightning.report.__main__ import main

pytestmark = pytest.mark.slow

PHONES = pytest.mark.parametrize("width", [320, 375])


@pytest.fixture(scope="module")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with long names of keys, and with many strengths."""
    runs = tmp_path_factory.mktemp("wordy")
    study(runs)
    victim = {**train_card(watermark="unrelated", key="8 marks"), "fingerprint": "5" * 12}
    victim["config"]["watermark"] |= {"n_marks": 8, "negatives": 0.0, "label": "random"}
    victim["config"]["start"] = {"run": "elsewhere"}
    rates = tuple(a * 10**-b for b in (4, 3, 2, 1) for a in (1, 2, 5))
    cards = victim, prune_card(victim, tuple(i / 20 for i in range(1, 20))), finetune_card(victim, rates)
    for i, card in enumerate((*cards, inversion_card(victim, p_value=0.5))):
        leave(runs, card, f"wordy-{i}")
    assert main([str(runs)]) == 0
    return (runs / "report.html").as_uri()


@PHONES
def test_long_names_stay_within_their_places(browser: Any, wordy: str, width: int) -> None:
    show(browser, wordy, width)
    open_all(browser)
    assert run(browser, "return document.documentElement.scrollWidth") == width
    names = find(browser, ".legend span")
    assert any("into a trained model" in name.text for name in names)
    script = """
return [...document.querySelectorAll('.legend li > *, .legend span')].filter(e =>
  e.getBoundingClientRect().right > e.closest('figure').getBoundingClientRect().right - 4).map(e => e.outerHTML)
"""
    assert run(browser, script) == []


@pytest.mark.parametrize("width", [320, 375, 600, 660, 768, 1280])
def test_letters_on_charts_are_large_enough_and_apart(browser: Any, wordy: str, width: int) -> None:
    show(browser, wordy, width)
    script = """
return [...document.querySelectorAll('.panel svg')].map(svg => [...svg.querySelectorAll('text')]
  .filter(text => text.getClientRects().length).map(text => {
    const {left, right, top, bottom} = text.getBoundingClientRect();
    return [parseFloat(getComputedStyle(text).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width,
      left, right, top, bottom];
  }))
"""
    charts = run(browser, script)
    assert len(charts) > 4
    for texts in charts:
        assert len(texts) > 6
        for i, (size, left, right, top, bottom) in enumerate(texts):
            assert size >= 9.9
            assert left >= 0 and right <= width
            for _, left_, right_, top_, bottom_ in texts[:i]:
                apart = left >= right_ or right <= left_ or top >= bottom_ or bottom <= top_
                assert apart or (bottom - top_) < 4 or (bottom_ - top) < 4, "boxes are higher than their digits"


@PHONES
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_heads_of_rows_stay_in_sight(browser: Any, wordy: str, width: int, dark: bool) -> None:
    show(browser, wordy, width, dark)
    open_all(browser)
    script = """
return [...document.querySelectorAll('main table')].map(table => {
  const box = table.closest('.scroll');
  box.scrollLeft = 1e6;
  return [...table.tBodies[0].rows].map(row => {
    const head = row.cells[0].getBoundingClientRect(), frame = box.getBoundingClientRect();
    const colour = getComputedStyle(row.cells[0]).backgroundColor;
    return [box.scrollLeft > 0, head.left - frame.left, head.width / frame.width, /^rgb\\(/.test(colour)];
  });
}).flat()
"""
    rows = run(browser, script)
    assert any(scrolled for scrolled, *_ in rows)
    for _, left, share, opaque in rows:
        assert 0 <= left <= 2 and share < 0.6 and opaque


@PHONES
def test_what_is_tapped_is_large_enough(browser: Any, wordy: str, width: int) -> None:
    show(browser, wordy, width)
    script = """
return [...document.querySelectorAll('nav a, button, summary, select, input')].filter(e => e.getClientRects().length)
  .map(e => [e.getBoundingClientRect().height, e.outerHTML.slice(0, 80)]).sort((a, b) => a[0] - b[0])
"""
    smallest, what = run(browser, script)[0]
    assert smallest >= 24, what
