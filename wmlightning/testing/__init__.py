"""Our contract tests, for the leaves of others: one line of pytest each.

::

    from wmlightning.testing import check_watermark

    def test_mine() -> None:
        check_watermark("mine", config_dir="conf")

The same functions hold what we ship to its promises. They need neither data nor pytest, and leave nothing behind.
"""

from __future__ import annotations

from wmlightning.testing.attacks import check_attack
from wmlightning.testing.models import check_model, check_network
from wmlightning.testing.sources import check_images, check_source
from wmlightning.testing.suspects import check_answers, check_suspect
from wmlightning.testing.watermarks import check_marks, check_pictures, check_watermark

__all__ = [
    "check_answers",
    "check_attack",
    "check_images",
    "check_marks",
    "check_model",
    "check_network",
    "check_pictures",
    "check_source",
    "check_suspect",
    "check_watermark",
]
