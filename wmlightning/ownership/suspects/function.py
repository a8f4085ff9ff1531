"""A Python function of the user's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from wmlightning.config import find_code, setting
from wmlightning.errors import UserError
from wmlightning.files import file_digest
from wmlightning.ownership.suspects.base import Shape
from wmlightning.ownership.suspects.local import LocalSuspect


class Function(LocalSuspect):
    """Anything that can be asked from Python. The code is trusted: the user typed its name.

    Args:
        function: ``module:name``, found as :func:`wmlightning.config.find_code` says. It gets a uint8 array
            ``(n, c, h, w)`` and returns labels ``(n,)`` or scores ``(n, k)``.
        batch_size: images given to it at once.
    """

    local = False  # it may ask a service in its turn

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
            with _returning():
                self._call = import_module(module)
            for part in name.split("."):
                self._call = getattr(self._call, part)
        except Exception as error:  # the user's code may raise anything while it is imported
            raise self._not_there(error) from error
        if not callable(self._call):
            raise UserError("suspect.function", f"{self.function} cannot be called", "module:name of a function")

    @property
    def first_batch(self) -> int:
        """One image, until an answer could be read: a mistake in the function shows it no more than that."""
        return self.batch_size if self._worked else 1

    def identity(self) -> dict[str, Any]:
        """See :meth:`Suspect.identity`. Code is known by its file; what that imports or reads is not looked at."""
        file = self._file()
        return {"kind": "function", "name": self.function, "sha256": file_digest(file) if file.is_file() else None}

    def _file(self) -> Path:
        """Of the module; no file for one that was typed in, or compiled into Python."""
        module = self.function.partition(":")[0]
        find_code()
        if module in sys.modules:
            return Path(getattr(sys.modules[module], "__file__", None) or "")
        try:
            with _returning():
                spec = find_spec(module)
            if spec is None:
                raise ModuleNotFoundError(f"No module named {module!r}")
        except Exception as error:  # packages around it are imported
            raise self._not_there(error) from error
        return Path(spec.origin or "")

    def _not_there(self, error: Exception) -> UserError:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
        return UserError("suspect.function", f"cannot import {self.function!r} ({reason})", "module:name")

    def compute(self, images: Tensor) -> Any:
        """Whatever it returns."""
        with _returning():
            return self._call(images.numpy().copy())


@contextmanager
def _returning() -> Iterator[None]:
    """Code that ends the program would choose its exit code, which is a verdict's."""
    try:
        yield
    except SystemExit as end:
        raise RuntimeError("it ends the program") from end
