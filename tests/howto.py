"""The samples of the documentation, as files in a folder of somebody's own."""

from __future__ import annotations

import re
from pathlib import Path

HOWTO = Path(__file__).resolve().parents[1] / "docs" / "howto"
_SAMPLE = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def samples(page: str, folder: Path = HOWTO) -> dict[str, str]:
    """Files that a page shows, by their paths."""
    return dict(_SAMPLE.findall((folder / f"{page}.md").read_text()))


def write_samples(folder: Path, *pages: str) -> Path:
    """Writes the files of some pages; gives their folder."""
    for page in pages:
        for name, content in samples(page).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
    return folder
