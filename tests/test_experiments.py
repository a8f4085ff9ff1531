"""The pages of experiments/ say what the CSV files beside them say."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import REPO

#: Where a page stands, the module that renders its table, and how.
PAGES = {
    "ablations/README.md": ("table", "rendered(pd.read_csv('results.csv'))"),
    "ownership/README.md": ("overwriting", "table(pd.read_csv('overwriting.csv'))"),
    "ownership/validity.md": ("validity", "summary(pd.read_csv('validity.csv'))"),
    "trained/table.md": ("table", "markdown(table.from_csv())"),
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_its_numbers(page: str) -> None:
    path, (module, render) = REPO / "experiments" / page, PAGES[page]
    code = f"import pandas as pd, {module}\nprint({module}.{render})"
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=path.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    table = done.stdout.strip()
    assert table.count("\n") > 3
    assert table in path.read_text()


def test_the_validity_table_stands_in_the_readme_too() -> None:
    folder = REPO / "experiments" / "ownership"
    assert (folder / "validity.md").read_text().strip() in (folder / "README.md").read_text()
