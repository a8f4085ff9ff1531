"""The contract of a suspect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from wmlightning.config import make
from wmlightning.ownership.recorded import Recorded
from wmlightning.ownership.suspects import base
from wmlightning.ownership.suspects.base import Answer, Shape, Suspect
from wmlightning.testing.bench import claim, composing, plain

_N = 7
_REASONS = {value for name, value in vars(base).items() if name.isupper() and isinstance(value, str)}


def check_suspect(
    name: str,
    config_dir: str | Path | None = None,
    overrides: Sequence[str] = (),
    shape: Shape = (1, 28, 28),
    n_classes: int = 10,
) -> None:
    """Holds a suspect to its contract. It is really asked: about some twenty random images.

    Args:
        name: as typed after ``suspect=``.
        config_dir: folder of its config, as typed after ``--config-dir``.
        overrides: what else would be typed: ``suspect.url=http://127.0.0.1:8000``.
        shape: ``(c, h, w)`` of the images that it takes.
        n_classes: how many classes it tells apart.

    Raises:
        AssertionError: saying which promise is broken.
        UserError: if it cannot be made or reached.
    """
    with composing(config_dir) as compose:
        node = compose(f"suspect={name}", *overrides, name="verify").suspect
        suspect, again = make(node, "suspect"), make(node, "suspect")
        claim(isinstance(suspect, Suspect), f"suspect._target_ makes a {type(suspect).__name__}, no Suspect")
        same = suspect.identity() == again.identity() and suspect.private() == again.private()
        claim(same, f"{name}: the same config is another identity() when made again: its transcript would be refused")
        check_answers(suspect, shape, n_classes)


def check_answers(suspect: Suspect, shape: Shape, n_classes: int) -> None:
    """What every suspect owes: an answer for each image, in their order, once; and nothing behind the budget's back.

    Raises:
        AssertionError: saying which promise is broken.
        UserError: if it cannot be reached.
    """
    name, identity = suspect.name, suspect.identity()
    claim(isinstance(name, str) and name.strip(), "a suspect needs a name")
    claim(isinstance(identity, dict) and identity.get("name"), f"{name}: identity() has no name")
    claim(plain(identity), f"{name}: identity() does not survive JSON")
    private = suspect.private()
    claim(isinstance(private, dict) and plain(private), f"{name}: private() does not survive JSON")
    suspect.open(shape, n_classes)
    same = suspect.identity() == identity and suspect.private() == private
    claim(same, f"{name}: open() changes identity() or private(): its own transcript would be refused")
    claim(suspect.shape == shape and suspect.n_classes == n_classes, f"{name}: open() is not to be overridden")
    images = torch.randint(0, 256, (_N, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    given = images.clone()
    several = suspect.ask(images[: max(1, min(_N, suspect.batch_size))])
    claim(torch.equal(images, given), f"{name}: ask() wrote to the images that it was given")
    wanted = min(_N, suspect.batch_size)
    claim(len(several) == wanted, f"{name}: {len(several)} answers to {wanted} images")
    for answer in several:
        _check_answer(name, answer, n_classes)
    claim(any(answer.label is not None for answer in several), f"{name}: not one label: {several[0]}")
    _check_stream(suspect, images)
    _check_recorded(suspect, images, shape, n_classes)


def _check_answer(name: str, answer: Answer, n_classes: int) -> None:
    claim(isinstance(answer, Answer), f"{name}: ask() gives a {type(answer).__name__}, no Answer")
    one = (answer.label is None) != (answer.missing is None)
    claim(one, f"{name}: {answer} has neither a label nor a reason, or both")
    if answer.label is not None:
        number = type(answer.label) is int and 0 <= answer.label < n_classes
        claim(number, f"{name}: the label {answer.label!r} is none of 0..{n_classes - 1}")
    else:
        claim(answer.missing in _REASONS, f"{name}: {answer.missing!r} is no reason of ownership.suspects.base")


def _check_stream(suspect: Suspect, images: torch.Tensor) -> None:
    """Each image once; and no more than may leave."""
    found = [i for batch in suspect.stream(images) for i, _ in batch]
    claim(sorted(found) == list(range(_N)), f"{suspect.name}: stream() answers {sorted(found)} of {_N} images")
    purse = _Purse(3)
    found = [i for batch in suspect.stream(images, purse) for i, _ in batch]
    claim(set(found) <= purse.taken, f"{suspect.name}: stream() sent images that spend.take() did not allow")


def _check_recorded(suspect: Suspect, images: torch.Tensor, shape: Shape, n_classes: int) -> None:
    """As a verdict asks it: written down, and not asked twice."""
    with TemporaryDirectory(prefix="wmlightning-testing-") as folder:
        path = Path(folder) / "transcript.jsonl"
        with Recorded(suspect, path, None, shape, n_classes) as asked:
            first, spent = asked.ask(images), asked.queries
        claim(spent >= _N, f"{suspect.name}: {_N} images were answered and {spent} were counted")
        with Recorded(suspect, path, None, shape, n_classes) as asked:
            claim(asked.ask(images) == first, f"{suspect.name}: its transcript gives other answers")
            claim(asked.queries == spent, f"{suspect.name}: it was asked again about what its transcript holds")


class _Purse:
    """Lets so many images pass."""

    def __init__(self, n: int) -> None:
        self.left = n
        self.taken: set[int] = set()

    def take(self, which: Sequence[int], attempt: int) -> list[int]:
        del attempt
        allowed = list(which[: self.left])
        self.left -= len(allowed)
        self.taken |= set(allowed)
        return allowed

    def give_back(self, which: Sequence[int]) -> None:
        self.left += len(which)
