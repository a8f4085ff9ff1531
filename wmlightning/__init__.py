"""wmlightning: watermark image classifiers, attack the watermark, prove ownership from outside."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wmlightning.callbacks.guard import AccuracyGuard
    from wmlightning.embed.callback import Watermark
    from wmlightning.embed.keys import make_key
    from wmlightning.store import load_run

__all__ = ["AccuracyGuard", "Watermark", "load_run", "make_key"]
__version__ = "0.1.0"

_OFFERED = {
    "AccuracyGuard": "wmlightning.callbacks.guard",
    "Watermark": "wmlightning.embed.callback",
    "load_run": "wmlightning.store",
    "make_key": "wmlightning.embed.keys",
}


def __getattr__(name: str) -> Any:
    """Loads what the package offers when it is asked for: ``python train.py --help`` need not wait for torch."""
    if name in _OFFERED:
        return getattr(import_module(_OFFERED[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
