"""Any other JSON API, described by where the image goes in and where the answer comes out."""

from __future__ import annotations

import copy
import io
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from wmlightning.config import switch
from wmlightning.errors import UserError, listed
from wmlightning.ownership.suspects.base import MALFORMED, WRONG_COUNT, Answer, Shape, missing, reading, size
from wmlightning.ownership.suspects.http import Http
from wmlightning.ownership.suspects.pixels import Pixels, pixels_of
from wmlightning.ownership.suspects.reading import NOTHING, of_label, of_name, of_scores, of_top, reach, steps
from wmlightning.ownership.suspects.remote import RemoteSuspect

IMAGE_KINDS = ("png", "list", "flat")
ANSWER_KINDS = ("label", "label_name", "scores", "top_k")


@dataclass(frozen=True)
class ImagePlace:
    """Where an image goes, and in which form.

    Attributes:
        path: dotted path in the body, such as ``instances`` or ``inputs.0.image``.
        kind: ``png``: base64 of a lossless file; ``list``: nested numbers; ``flat``: the same numbers in one list.
        many: whether a list of images goes there, instead of one image by itself.
        item: dotted path inside an object that wraps each image of the list; ``b64`` makes ``[{"b64": ...}, ...]``.
        prefix: put before base64, such as ``data:image/png;base64,``.
    """

    path: str
    kind: str = "png"
    many: bool = False
    item: str = ""
    prefix: str = ""

    def __post_init__(self) -> None:
        if self.kind not in IMAGE_KINDS:
            raise UserError("suspect.image.kind", f"{self.kind!r} is unknown", f"one of {listed(IMAGE_KINDS)}")
        for name in ("path", "item"):
            object.__setattr__(self, name, steps(getattr(self, name), f"suspect.image.{name}"))
        if not self.path:
            raise UserError("suspect.image.path", "'' leads nowhere", "a dotted path in the body")
        switch(self.many, "suspect.image.many")
        if not isinstance(self.prefix, str):
            raise UserError("suspect.image.prefix", f"{self.prefix!r} is no text", "text, in quotes")


@dataclass(frozen=True)
class AnswerPlace:
    """Where the answer comes out, and what it is.

    Attributes:
        path: dotted path in what comes back; numbers index lists, such as ``predictions.0``.
        kind: ``label``: a number; ``label_name``: see ``names``; ``scores``: one for each class; ``top_k``: a list of
            objects with a label and a score.
        item: where images go in as a list, ``path`` leads to a list of answers, and this from one of them further on.
        label: of ``top_k``: path of an object's label.
        score: of ``top_k``: path of its score.
    """

    path: str = ""
    kind: str = "label"
    item: str = ""
    label: str = "label"
    score: str = "score"

    def __post_init__(self) -> None:
        if self.kind not in ANSWER_KINDS:
            raise UserError("suspect.answer.kind", f"{self.kind!r} is unknown", f"one of {listed(ANSWER_KINDS)}")
        for name in ("path", "item", "label", "score"):
            object.__setattr__(self, name, steps(getattr(self, name), f"suspect.answer.{name}"))


class JsonApi(RemoteSuspect):
    """A service that takes an image in a JSON document and gives its answer in another.

    Args:
        url: that images are sent to.
        image: see :class:`ImagePlace`.
        answer: see :class:`AnswerPlace`.
        method: ``POST`` or ``PUT``.
        body: what is sent beside the image, the same each time.
        names: names of the classes: a list in the order of the key's labels, or a label for each name.
        pixels: of images sent as numbers.
        batch_size: images in one request, where ``image.many`` allows several.
        http: how to ask.
    """

    def __init__(
        self,
        url: str,
        image: Mapping[str, Any],
        answer: Mapping[str, Any],
        method: str = "POST",
        body: Mapping[str, Any] | None = None,
        names: Sequence[str] | Mapping[str, int] | None = None,
        pixels: Pixels | None = None,
        batch_size: int = 1,
        http: Http | None = None,
    ) -> None:
        super().__init__(url, batch_size, http)
        self.image: ImagePlace = _place(ImagePlace, image, "suspect.image")
        self.answer: AnswerPlace = _place(AnswerPlace, answer, "suspect.answer")
        self.method = str(method).upper()
        if self.method not in ("POST", "PUT"):
            raise UserError("suspect.method", f"{method!r} sends no body", "POST or PUT")
        if batch_size > 1 and not self.image.many:
            raise UserError("suspect.batch_size", f"{batch_size} images do not fit", "1, or image.many=true")
        self.body = _body(body)
        self.names = _names(names)
        self._in_order = not isinstance(names, Mapping)
        if self.answer.kind == "label_name" and self.names is None:
            raise UserError("suspect.names", "missing", "names of the classes, in the order of their labels")
        if self.names is not None and self.answer.kind in ("label", "scores"):
            wrong = f"answers of kind {self.answer.kind} are not read by names"
            raise UserError("suspect.names", wrong, "null, or answer.kind=label_name, which reads numbers too")
        self.pixels = pixels_of(pixels)
        if self.image.kind == "png" and self.pixels.mean is not None:
            raise UserError("suspect.pixels.mean", "no PNG holds such pixels", "image.kind=list or flat, or null")
        self.channel.secrets += _strings(self.body)
        _put(copy.deepcopy(self.body), self.image.path, None)

    def identity(self) -> dict[str, Any]:
        """See :meth:`Suspect.identity`."""
        how = reading(self.image, self.answer, self.names, self.pixels, self.method)
        return {"kind": "json_api", "name": self.name, "reading": how}

    def private(self) -> dict[str, Any]:
        """See :meth:`Suspect.private`. The body may choose the model, and hold a token."""
        return {**super().private(), **({"body": self.body} if self.body else {})}

    def open(self, shape: Shape | None = None, n_classes: int | None = None) -> None:
        """See :meth:`Suspect.open`. A name too many or too few shifts the labels of others."""
        super().open(shape, n_classes)
        if self.names is None or n_classes is None:
            return
        if self._in_order and len(self.names) != n_classes:
            wrong = f"{len(self.names)} names, the key's task has {n_classes} classes"
            raise UserError("suspect.names", wrong, "one for each of them, in their order")
        if (largest := max(self.names.values())) >= n_classes:
            wrong = f"the label {largest}, the key's task has {n_classes} classes"
            raise UserError("suspect.names", wrong, f"labels from 0 to {n_classes - 1}")

    def connect(self, shape: Shape | None) -> None:
        """Checks that the images can be sent; the service itself is first spoken to with the first image."""
        self.pixels.check(shape)
        if shape is not None and self.image.kind == "png" and shape[0] not in (1, 3, 4):
            raise UserError("suspect.image.kind", f"no PNG holds {size(shape)} images", "list or flat")

    def encode(self, images: Tensor) -> bytes:
        """The body with the images in their place."""
        forms = self._forms(images)
        if self.image.item:
            forms = [_put({}, self.image.item, form) for form in forms]
        body = _put(copy.deepcopy(self.body), self.image.path, forms if self.image.many else forms[0])
        return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()

    def _forms(self, images: Tensor) -> list[Any]:
        if self.image.kind == "png":
            return [self.image.prefix + png(image) for image in images]
        pixels = self.pixels.numbers(images)
        forms: list[Any] = (pixels if self.image.kind == "list" else pixels.reshape(len(images), -1)).tolist()
        return forms

    def decode(self, content: Any, n: int) -> list[Answer]:
        """Follows the paths."""
        found = reach(content, self.answer.path)
        if not self.image.many:
            return [self._one(reach(found, self.answer.item))]
        if not isinstance(found, list):
            return missing(MALFORMED, n)
        if len(found) != n:
            return missing(WRONG_COUNT, n)
        return [self._one(reach(item, self.answer.item)) for item in found]

    def _one(self, found: Any) -> Answer:
        if found is NOTHING:
            return Answer(missing=MALFORMED)
        if self.answer.kind == "label":
            return of_label(found, self.n_classes)
        if self.answer.kind == "label_name":
            return of_name(found, self.names or {}, self.n_classes)
        if self.answer.kind == "scores":
            return of_scores(found, self.n_classes)
        return of_top(found, self.answer.label, self.answer.score, self.names, self.n_classes)


def png(image: Tensor) -> str:
    """A uint8 image ``(c, h, w)`` as base64 of a PNG file, which loses nothing."""
    array = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    file = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(file, "PNG", compress_level=1)
    return b64encode(file.getvalue()).decode()


def _place(kind: Any, given: Mapping[str, Any], key: str) -> Any:
    try:
        return kind(**given)
    except TypeError:
        right = f"of {listed(kind.__dataclass_fields__)}"
        found = sorted(map(str, given)) if isinstance(given, Mapping) else repr(given)
        raise UserError(key, f"{found} is missing something, or has too much", right) from None


def _body(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """What goes along, if it can be sent. It may hold a token, and is not shown."""
    if not isinstance(given, Mapping | None):
        raise UserError("suspect.body", f"a {type(given).__name__} is no mapping", "{NAME: VALUE}, or null")
    body = dict(given or {})
    try:
        json.dumps(body, allow_nan=False)
    except (TypeError, ValueError):
        raise UserError("suspect.body", "it holds what JSON does not know", "text, finite numbers, lists") from None
    return body


def _names(given: Sequence[str] | Mapping[str, int] | None) -> dict[str, int] | None:
    if given is None:
        return None
    right = "a list of names in the order of the key's labels, or {name: label}"
    if not isinstance(given, (Mapping, list, tuple)) or not given:
        raise UserError("suspect.names", f"{given!r} is no list of names", right)
    pairs = list(given.items()) if isinstance(given, Mapping) else [(name, i) for i, name in enumerate(given)]
    for name, label in pairs:
        if type(name) not in (str, int):
            raise UserError("suspect.names", f"{name!r} is no name", "words, in quotes")
        if type(label) is not int or label < 0:
            raise UserError("suspect.names", f"the label of {name!r}, {label!r}, is no number", right)
    names = {str(name): label for name, label in pairs}
    if len(names) < len(pairs):
        raise UserError("suspect.names", "a name stands there twice", "another name for each class")
    return names


def _strings(content: Any) -> list[str]:
    """All text and numbers in a document: some of it may be a token."""
    if isinstance(content, (dict, list)):
        return [
            text for item in (content.values() if isinstance(content, dict) else content) for text in _strings(item)
        ]
    return [] if content is None or isinstance(content, bool) else [str(content)]


def _put(content: Any, path: str, value: Any) -> Any:
    """Writes ``value`` where ``path`` leads, making objects on the way; lists must be there."""
    here, steps = content, path.split(".")
    for step, last in zip(steps, [*[False] * (len(steps) - 1), True], strict=True):
        index: Any = int(step) if isinstance(here, list) and step.isdecimal() else step
        if isinstance(here, list) and not (isinstance(index, int) and index < len(here)):
            raise UserError("suspect.image.path", f"{path!r} leads out of a list of the body", "a place in it")
        if not isinstance(here, (dict, list)):
            raise UserError("suspect.image.path", f"{path!r} leads through a value of the body", "a place in it")
        if last:
            here[index] = value
        elif isinstance(here, dict):
            here = here.setdefault(index, {})
        else:
            here = here[index]
    return content
