"""Suspects that compute on this machine: a leaf says how, and what comes out is read here."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from wmlightning.config import path_of
from wmlightning.errors import UserError
from wmlightning.files import file_digest
from wmlightning.ownership.suspects.base import (
    FAILED,
    MALFORMED,
    WRONG_CLASSES,
    WRONG_COUNT,
    Answer,
    Batch,
    Spend,
    Suspect,
    Unlimited,
    Unreachable,
    missing,
    reading,
    size,
    wrong_classes,
)
from wmlightning.ownership.suspects.reading import of_array

_PATIENCE = 5  # as with a service


class LocalSuspect(Suspect):
    """A model in this process. A leaf writes :meth:`compute`, and ``connect`` to load what it needs."""

    local = True
    _worked = False
    _failures = 0

    @abstractmethod
    def compute(self, images: Tensor) -> Any:
        """Labels ``(n,)`` or scores ``(n, k)``, as anything that numpy can hold, for uint8 images ``(n, c, h, w)``."""

    def ask(self, images: Tensor) -> list[Answer]:
        """See :meth:`Suspect.ask`.

        Raises:
            UserError: if the very first images cannot be computed: the model wants others. Later ones have no answer.
            Unreachable: if it fails again and again: what it asks in its turn is gone, or this machine's memory.
        """
        n, found = len(images), None
        try:
            found = _plain(self.compute(images))
        except Exception as error:  # others wrote the model: it may raise anything
            reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:150]}"
            if not self._worked:
                wrong = f"{self.name} does not take {size(self.shape)} images ({reason})"
                raise UserError("suspect", wrong, "a classifier of such images; see suspect.pixels") from error
            self._failures += 1
            if self._failures >= _PATIENCE:
                failures, self._failures = self._failures, 0  # who asks again has patience again
                raise Unreachable(f"{self.name}: failed {failures} times in a row ({reason})") from error
            return missing(FAILED, n)
        self._failures = 0
        answers = of_array(found, n, self.n_classes)
        if not self._worked:
            self._check(answers, found)
        self._worked = True
        return answers

    def stream(self, images: Tensor, spend: Spend | None = None) -> Generator[Batch, None, None]:
        """See :meth:`Suspect.stream`. Of several images that fail together each is tried alone: it may be one of them.

        What failed is held back until something works again: else what it asks in its turn is gone, and may come back.
        """
        spend, held = spend or Unlimited(), list[tuple[int, Answer]]()
        for batch in super().stream(images, spend):
            several = len(batch) > 1 and all(answer.missing == FAILED for _, answer in batch)
            for part in self._alone(images, batch, spend) if several else [batch]:
                if all(answer.missing == FAILED for _, answer in part):
                    held += part
                else:
                    yield held + part
                    held = []
        if held:
            yield held

    def _alone(self, images: Tensor, batch: Batch, spend: Spend) -> Iterator[Batch]:
        for i, failed in batch:
            asked = self.local or bool(spend.take([i], 2))
            answers = self.ask(images[i : i + 1]) if asked else [failed]
            yield [(i, replace(answer, attempt=2 if asked else 1)) for answer in answers]

    def _check(self, answers: list[Answer], found: npt.NDArray[Any]) -> None:
        why = answers[0].missing
        if why == WRONG_CLASSES:
            raise wrong_classes(self.name, found.shape[1], self.n_classes)
        if why in (MALFORMED, WRONG_COUNT):
            wrong = f"{self.name} gives {found.dtype} {found.shape} for {len(answers)} images"
            raise UserError("suspect", wrong, "(n,) labels or (n, k) scores")


def _plain(found: Any) -> npt.NDArray[Any]:
    if isinstance(found, Tensor):
        return found.detach().float().cpu().numpy() if found.is_floating_point() else found.detach().cpu().numpy()
    return np.asarray(found)


def model_file(path: Any, key: str = "suspect.path") -> Path:
    """A file that is there.

    Raises:
        UserError: naming ``key``, if it is not.
    """
    file = path_of(path, key)
    if not file.is_file():
        raise UserError(key, f"there is no file {file}", "a model's file")
    return file


def file_identity(kind: str, path: Path, *settings: Any) -> dict[str, Any]:
    """A file is what it holds, wherever it lies, and how that is read."""
    return {"kind": kind, "name": path.name, "sha256": file_digest(model_file(path)), "reading": reading(*settings)}
