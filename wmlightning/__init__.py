"""wmlightning: watermark image classifiers, attack the watermark, prove ownership from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wmlightning.store import load_run

__all__ = ["load_run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Loads what the package offers when it is asked for: ``python train.py --help`` need not wait for torch."""
    if name == "load_run":
        from wmlightning.store import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
