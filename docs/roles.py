"""Sphinx roles in docstrings, such as ``:class:`Key```, as plain code: the reference is written in Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(class|func|meth|mod|data):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Rewrites docstrings as they are read. Full names of what has an entry become links, others stay names."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(_link, obj.docstring.value)


def _link(found: re.Match[str]) -> str:
    kind, name = found.groups()
    linked = kind != "data" and name.startswith("wmlightning.")
    return f"[`{name.rsplit('.', 1)[-1]}`][{name}]" if linked else f"`{name}`"
