"""The card: one JSON file for each finished piece of work. A run without a card is not finished."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from wmlightning.errors import UserError
from wmlightning.files import write_json

FILE = "card.json"
SCHEMA = 1
#: Beside the card of an attack that recovers images: what it recovered.
PICTURE = "inversion.png"
#: Beside the card of a training, and secret: its triggers.
GALLERY = "triggers.png"
#: What a verification leaves, in a folder of its own.
VERDICT = "verdict.json"
VERDICT_SCHEMA = 1

_PACKAGES = (
    "wmlightning",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "hydra-core",
    "numpy",
    "pillow",
)


def fingerprint(content: Any) -> str:
    """12 hexadecimal digits that name plain content (dicts, lists, numbers, strings), whatever its order of keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def folder_name(suspect: str) -> str:
    """What of a suspect's name its verdict's folder is called by: letters and digits."""
    return "".join(letter if letter.isalnum() else "-" for letter in suspect).strip("-")[-60:] or "suspect"


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Writes the card: the last file of a run, whole or not at all."""
    write_json(folder / FILE, {"schema": SCHEMA, **card})


def read_card(folder: Path) -> dict[str, Any] | None:
    """Reads a finished run's card; ``None`` if there is none, or not a whole one.

    Raises:
        UserError: if a newer version of wmlightning wrote it.
    """
    try:
        card = json.loads((folder / FILE).read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    if not isinstance(card, dict) or not isinstance(card.get("schema"), int):
        return None
    if card["schema"] > SCHEMA:
        wrong = f"{folder / FILE} has schema {card['schema']}, this version reads up to {SCHEMA}"
        raise UserError("runs_dir", wrong, "update wmlightning or name another folder")
    return card


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """Versions, commit and machine, for the card."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "versions": versions,
        "git_commit": _git_commit(),
    }


def _cpu() -> str | None:
    """The processor's model, if the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor()) or None


def _git_commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
