"""A Python function of the user's own."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import Tensor

from wmlightning.config import find_code, setting
from wmlightning.errors import UserError
from wmlightning.ownership.suspects.base import Shape
from wmlightning.ownership.suspects.local import LocalSuspect


class Function(LocalSuspect):
    """Anything that can be asked from Python. The code is trusted: the user typed its name.

    Args:
        function: ``module:name``, found as :func:`wmlightning.config.find_code` says. It gets a uint8 array
            ``(n, c, h, w)`` and returns labels ``(n,)`` or scores ``(n, k)``.
        batch_size: images given to it at once.
    """

    def __init__(self, function: str, batch_size: int = 100) -> None:
        self.function = self.name = str(function)
        self.batch_size = setting(batch_size, "suspect.batch_size", int, 1)
        self._call: Any = None

    def connect(self, shape: Shape | None) -> None:
        """Imports the module."""
        del shape
        module, _, name = self.function.partition(":")
        find_code()
        try:
            self._call = import_module(module)
            for part in name.split("."):
                self._call = getattr(self._call, part)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError("suspect.function", f"cannot import {self.function!r} ({error})", "module:name") from error
        if not callable(self._call):
            raise UserError("suspect.function", f"{self.function} cannot be called", "module:name of a function")

    def identity(self) -> dict[str, Any]:
        """See :meth:`Suspect.identity`."""
        return {"kind": "function", "name": self.function}

    def compute(self, images: Tensor) -> Any:
        """Whatever it returns."""
        return self._call(images.numpy().copy())
