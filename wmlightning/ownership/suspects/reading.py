"""What an answer says. Everything here may come from a liar: whatever it is, it becomes a label or a reason."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from wmlightning.errors import UserError
from wmlightning.ownership.suspects.base import (
    MALFORMED,
    NOT_A_NUMBER,
    OUT_OF_RANGE,
    UNKNOWN_NAME,
    WRONG_CLASSES,
    WRONG_COUNT,
    Answer,
    missing,
)

#: Stands for what could not be read.
NOTHING: Any = object()


def parse(body: bytes) -> Any:
    """JSON, or ``NOTHING``: broken, too deep, not UTF-8, numbers of ten thousand digits."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return NOTHING


def steps(value: Any, key: str) -> str:
    """Checks a dotted path of a config; a whole number is a place in a list.

    Raises:
        UserError: naming ``key``.
    """
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not isinstance(value, str) and not whole:
        right = "a dotted path such as predictions.0.label, in quotes if it looks like a number; '' for all of it"
        raise UserError(key, f"{value!r} leads nowhere", right)
    return str(value)


def reach(content: Any, path: str) -> Any:
    """What a dotted path leads to, or ``NOTHING``.

    Args:
        content: of JSON.
        path: such as ``predictions.0.label``; numbers index lists; an empty one leads to ``content`` itself.
    """
    for step in path.split(".") if path else ():
        if isinstance(content, dict) and step in content:
            content = content[step]
        elif isinstance(content, list) and step.isdecimal() and int(step) < len(content):
            content = content[int(step)]
        else:
            return NOTHING
    return content


def of_label(value: Any, n_classes: int | None) -> Answer:
    """A label given as a number."""
    if isinstance(value, float):
        if math.isnan(value):
            return Answer(missing=NOT_A_NUMBER)
        value = int(value) if value.is_integer() else value
    if not isinstance(value, int) or isinstance(value, bool):
        return Answer(missing=MALFORMED)
    if value < 0 or (n_classes is not None and value >= n_classes):
        return Answer(missing=OUT_OF_RANGE)
    return Answer(value)


def of_name(value: Any, names: Mapping[str, int], n_classes: int | None) -> Answer:
    """A label given as the name of its class."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return Answer(missing=MALFORMED)
    try:
        text = str(value)
    except ValueError:  # more digits than Python writes
        return Answer(missing=UNKNOWN_NAME)
    return of_label(names[text], n_classes) if text in names else Answer(missing=UNKNOWN_NAME)


def of_scores(row: Any, n_classes: int | None) -> Answer:
    """A score for each class: the largest wins, the first of equals."""
    if not isinstance(row, (list, tuple)) or not row or not all(map(_is_number, row)):
        return Answer(missing=MALFORMED)
    if n_classes is not None and len(row) != n_classes:
        return Answer(missing=WRONG_CLASSES)
    best = _best(row)
    return Answer(missing=NOT_A_NUMBER) if best is None else Answer(best)


def of_top(items: Any, label: str, score: str, names: Mapping[str, int] | None, n_classes: int | None) -> Answer:
    """The best classes with their scores, in any order.

    Args:
        items: a list of objects.
        label: path of an object's label, or class name.
        score: path of its score.
        names: of the classes, if labels are names.
        n_classes: of the task.
    """
    if not isinstance(items, list) or not items:
        return Answer(missing=MALFORMED)
    scores = [reach(item, score) for item in items]
    if not all(map(_is_number, scores)):
        return Answer(missing=MALFORMED)
    best = _best(scores)
    if best is None:
        return Answer(missing=NOT_A_NUMBER)
    found = reach(items[best], label)
    return of_label(found, n_classes) if names is None else of_name(found, names, n_classes)


def of_array(found: npt.NDArray[Any], n: int, n_classes: int | None) -> list[Answer]:
    """What code on this machine computed: labels ``(n,)`` or scores ``(n, k)``."""
    if found.ndim not in (1, 2) or found.dtype.kind not in "iuf":
        return missing(MALFORMED, n)
    if len(found) != n:
        return missing(WRONG_COUNT, n)
    if found.ndim == 1 or (found.shape[1] == 1 and found.dtype.kind != "f"):
        return [of_label(value, n_classes) for value in found.reshape(n).tolist()]
    if found.shape[1] == 0:
        return missing(MALFORMED, n)
    if n_classes is not None and found.shape[1] != n_classes:
        return missing(WRONG_CLASSES, n)
    best = found.argmax(1)
    labels = best.tolist()
    told = {label: Answer(label) for label in set(labels)}
    answers = [told[label] for label in labels]
    if found.dtype.kind == "f":  # argmax takes NaN for the largest, and takes -inf if there is nothing else
        for i in np.flatnonzero(~np.isfinite(found[np.arange(n), best])).tolist():
            answers[i] = Answer(missing=NOT_A_NUMBER)
    return answers


def of_tensor(data: Any, shape: Any, n: int, scores: bool, n_classes: int | None) -> list[Answer]:
    """A tensor as the Open Inference Protocol sends it: flat or nested data, and a shape.

    Args:
        data: from JSON.
        shape: from JSON.
        n: images that were asked about.
        scores: whether it holds a score for each class, and not labels.
        n_classes: of the task.
    """
    if not isinstance(data, list) or not isinstance(shape, list) or not all(_is_size(item) for item in shape):
        return missing(MALFORMED, n)
    flat = _flat(data)
    rows = shape[0] if shape else 0
    if not scores and len(shape) == 2 and shape[1] == 1:
        shape = shape[:1]
    if flat is None or len(shape) != (2 if scores else 1) or math.prod(shape) != len(flat):
        return missing(MALFORMED, n)
    if rows != n:
        return missing(WRONG_COUNT, n)
    if not scores:
        return [of_label(value, n_classes) for value in flat]
    width = shape[1]
    return [of_scores(flat[width * i : width * (i + 1)], n_classes) for i in range(n)]


def _flat(data: Sequence[Any]) -> list[Any] | None:
    """The numbers of a nested list in their order; ``None`` if it is nested deeper than a matrix."""
    nested = [isinstance(item, list) for item in data]
    if not any(nested):
        return list(data)
    flat = [value for item in data for value in item] if all(nested) else [data]
    return None if any(isinstance(value, list) for value in flat) else flat


def _best(scores: Sequence[float]) -> int | None:
    """Where the largest one is; ``None`` if one is no number, or all are the logarithm of nothing."""
    best = max(range(len(scores)), key=scores.__getitem__)
    return None if any(map(math.isnan, scores)) or math.isinf(scores[best]) else best


def _is_number(value: Any) -> bool:
    """Integers that no float can hold are no scores."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40
