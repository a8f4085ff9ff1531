"""What the pages of this folder share: text between markers, numbers over seeds, and where numbers come from."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from wmlightning.files import write_bytes
from wmlightning.results.card import environment

#: The project's own page.
FRONT = Path(__file__).resolve().parents[1] / "README.md"


def include(page: Path, name: str, text: str) -> None:
    """Puts a text between the markers ``<!-- name: start -->`` and ``<!-- name: end -->`` of a page."""
    old, start, end = page.read_text(), f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    before, after = old.index(start) + len(start), old.index(end)
    write_bytes(page, f"{old[:before]}\n\n{text.strip()}\n\n{old[after:]}".encode())


def filled(*paragraphs: str) -> str:
    """Paragraphs in lines of the width that the other pages have."""
    lines = (" ".join(text.split()) for text in paragraphs)
    return "\n\n".join(textwrap.fill(line, 128, break_long_words=False, break_on_hyphens=False) for line in lines)


def spread(values: pd.Series, places: int) -> str:
    """The mean and, if it is not all there is, from where to where values reach; nothing of no values."""
    if values.isna().all():
        return ""
    mean, low, high = (f"{number:.{places}f}" for number in (values.mean(), values.min(), values.max()))
    return mean if low == high else f"{mean} ({low} to {high})"


def signed(value: float) -> str:
    """A change, in points; nothing is no loss."""
    return f"{round(value, 2) + 0.0:+.2f}"


def listed(values: Iterable[Any]) -> str:
    """All different values, in order."""
    return ", ".join(str(value) for value in sorted(set(values)))


def short(commit: Any) -> str:
    """A commit as pages show it: whether files were changed beside it is not left out."""
    if not isinstance(commit, str):
        return "not recorded"
    name, _, dirty = commit.partition("-")
    return f"`{name[:7]}{'-dirty' if dirty else ''}`"


#: Columns of a card's row that :func:`origin` reads.
MADE_WITH = ("commit", "platform", "device", "threads")


def made_with(card: dict[str, Any]) -> dict[str, Any]:
    """Those columns, from a card."""
    told = card["environment"]
    return {
        "commit": told["git_commit"],
        "platform": told["platform"],
        "device": card["device"],
        "threads": card["threads"],
    }


def origin(runs: pd.DataFrame) -> str:
    """Where rows of trainings come from: commits, machine, threads."""
    runs = runs.reindex(columns=[*MADE_WITH])
    counts = runs.commit.map(short).value_counts()
    commits = ", ".join(f"{name} ({count})" for name, count in counts.items())
    known = runs.dropna(subset=["platform", "device", "threads"])
    machine = (
        listed(f"{name}, {device}" for name, device in zip(known.platform, known.device, strict=True))
        or "Machine not recorded"
    )
    threads = listed(known.threads.astype(int)) or "not recorded"
    return f"Commits that models were trained at (models): {commits}. {machine}; threads of a job: {threads}."


def rendered_today() -> str:
    """A line for the end of a page's part."""
    return f"Rendered on {date.today().isoformat()}."


def measured(**more: Any) -> dict[str, Any]:
    """What is kept beside numbers that no cards stand behind: when, at which commit and on what they were measured."""
    told = environment()
    made = {"date": date.today().isoformat(), "commit": told["git_commit"], "platform": told["platform"]}
    return {**made, "cores": os.cpu_count(), **more}


def told(record: dict[str, Any]) -> str:
    """The same as a sentence; a record's own remark after it."""
    cores = f", {record['cores']} cores" if record.get("cores") else ""
    machine = f"; {record['platform']}{cores}" if record.get("platform") else ""
    commit = f"commit {short(record['commit'])}" if record.get("commit") else "commit not recorded"
    return f"Measured on {record['date']}, {commit}{machine}. {record.get('remark', '')}".strip()
