"""A real browser, and a page for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.reading import pictured, verdict
from tests.results.cards import study
from wmlightning.report.__main__ import main

PLACES = ("/usr/bin/chromium", "/usr/bin/chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    runs = tmp_path_factory.mktemp("runs")
    study(runs, datasets=("mnist", "cifar10"))
    pictured(runs / "more", (0.5, 0.2))
    verdict(runs, suspect="a-name-without-any-place-to-break" * 9)
    assert main([str(runs)]) == 0
    return (runs / "report.html").as_uri()
