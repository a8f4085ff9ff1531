"""A TorchScript file."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from wmlightning.config import setting
from wmlightning.errors import UserError
from wmlightning.ownership.suspects.base import Shape
from wmlightning.ownership.suspects.local import LocalSuspect, file_identity, model_file
from wmlightning.ownership.suspects.pixels import Pixels, pixels_of


class TorchScript(LocalSuspect):
    """A model that torch compiled and saved.

    Such a file holds TorchScript operations, not Python: it starts no program. But among its operations are some that
    read and write files, so compute a stranger's file where that does no harm, in a container.

    Args:
        path: of the file.
        pixels: what the model takes.
        batch_size: images computed at once.
    """

    def __init__(self, path: str, pixels: Pixels | None = None, batch_size: int = 500) -> None:
        self.path = path
        self.name = str(path)
        self.pixels = pixels_of(pixels)
        self.batch_size = setting(batch_size, "suspect.batch_size", int, 1)
        self._model: Any = None

    def connect(self, shape: Shape | None) -> None:
        """Loads the file."""
        self.pixels.check(shape)
        file = model_file(self.path)
        try:
            with warnings.catch_warnings():  # torch would rather have people save in another format
                warnings.simplefilter("ignore", FutureWarning)
                self._model = torch.jit.load(str(file), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError, EOFError, LookupError) as error:
            reason = str(error).strip().splitlines()[0][:150]
            raise UserError("suspect.path", f"cannot read {file} ({reason})", "a file of torch.jit.save") from error

    def identity(self) -> dict[str, Any]:
        """See :meth:`Suspect.identity`."""
        return file_identity("torchscript", model_file(self.path), self.pixels)

    def compute(self, images: Tensor) -> Any:
        """Whatever it gives."""
        with torch.inference_mode():
            return self._model(torch.from_numpy(self.pixels.array(images)))
