"""What was shown of a key, and to whom: two files beside it.

``KEY.spent.json`` holds hashes of the triggers that suspects have seen, or that are set aside for one.
``KEY.asked.json`` holds the looks that were taken: at which suspect, at which level, and where it is written down.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from filelock import FileLock

from wmlightning.errors import UserError
from wmlightning.files import beside, json_bytes, write_bytes
from wmlightning.ownership.suspects.base import Suspect
from wmlightning.secret import Secret

#: What names a suspect, and what only says how it is read: other pixels, another look at the same model.
_NAMED = ("kind", "name", "sha256", "reading")


@dataclass(frozen=True)
class Look:
    """A suspect being asked by one plan, from the first image that leaves for it.

    Attributes:
        plan: names it: the verifier's secret of this plan, in public.
        suspect: see :func:`suspect_named`.
        folder: of the transcript.
        alpha: level that was spent on it.
        released: whether what it had set aside was given back, and must be set aside again before it goes on.
    """

    plan: str
    suspect: str
    folder: str
    alpha: float
    released: bool = False

    @property
    def whole(self) -> bool:
        """Whether it can be one: a level below 0 would make room for more."""
        named = all(isinstance(name, str) for name in (self.plan, self.suspect, self.folder))
        return named and type(self.alpha) in (int, float) and 0 < self.alpha < 1

    def same(self, other: Look) -> bool:
        """Whether the other is this look, carried on."""
        return (self.plan, self.suspect) == (other.plan, other.suspect)


def told(identity: dict[str, Any]) -> str:
    """What a suspect is, for everybody to read: a file by what it holds, anything else by its name."""
    digest = identity.get("sha256")
    name = f"sha256 {digest}" if digest else f"{identity.get('kind')} {identity.get('name')}"
    more = {key: value for key, value in identity.items() if key not in _NAMED and value is not None}
    return f"{name} {json.dumps(more, sort_keys=True)}" if more else name


def suspect_named(suspect: Suspect, secret: Secret) -> str:
    """Names a suspect in whatever way it is read.

    Code may hold several suspects, and a remark added to it makes no other one: a function goes by its name. Of a
    service a query, a header or a body may choose the model. They may also be secret, and a short secret is guessed
    from its hash: so it takes the key's own secret to make that.

    Args:
        suspect: need not be open.
        secret: the key's.

    Raises:
        UserError: if there is no such file or module.
    """
    identity, private = suspect.identity(), suspect.private()
    if identity.get("kind") == "function":
        identity = {**identity, "sha256": None}
    if not private:
        return told(identity)
    asked = json.dumps(private, sort_keys=True)
    return f"{told(identity)} asked as {secret.derive(f'suspect asked as {asked}').name()}"


def earlier_than(look: Look, looks: Sequence[Look]) -> list[Look]:
    """The looks at the same suspect that were taken before."""
    before = takewhile(lambda other: not other.same(look), looks)
    return [other for other in before if other.suspect == look.suspect]


class Spent:
    """What a query shows is known to whom it was shown to.

    Args:
        key: path of the key.
    """

    def __init__(self, key: Path) -> None:
        key = key.resolve()  # one key under two names has one set of notes
        self.path = beside(key, ".key", ".spent.json")
        self._asked = beside(key, ".key", ".asked.json")

    def noted(self) -> set[str]:
        """Hashes of the triggers that nobody else is to be shown.

        Raises:
            UserError: if the file is damaged.
        """
        noted = _read(self.path)
        if not all(isinstance(name, str) for name in noted):
            raise _damaged(self.path)
        return set(noted)

    def looks(self) -> list[Look]:
        """The looks that were taken, in their order.

        Raises:
            UserError: if the file is damaged.
        """
        try:
            looks = [Look(**entry) for entry in _read(self._asked)]
        except TypeError as error:
            raise _damaged(self._asked) from error
        if not all(look.whole for look in looks):
            raise _damaged(self._asked)
        return looks

    def reserve(self, triggers: Iterable[str], look: Look, earlier: Sequence[Look], unseen: Iterable[str] = ()) -> None:
        """Sets triggers aside before the first of them leaves: a kill then cannot make one pass for unseen.

        Args:
            triggers: hashes.
            look: that shows them.
            earlier: looks at the same suspect that it was planned after.
            unseen: all that it is still to show: set aside again if they were given back, or a kill came between.

        Raises:
            UserError: if another verification has taken one of them, or looked at the suspect, meanwhile.
        """
        wanted = set(triggers)
        with self._changing() as (noted, looks):
            released = any(other.same(look) and other.released for other in looks)
            if released and noted & set(unseen) - wanted:
                wrong = "others were shown meanwhile what it was to be asked when it ended by a mistake"
                raise UserError("transcript", wrong, "another folder")
            if wanted & noted or earlier_than(look, looks) != list(earlier):
                wrong = f"{self.path} changed while this verification was planned"
                raise UserError("key", wrong, "the same command again")
            noted |= wanted.union(unseen)
            looks[:] = [replace(other, released=False) if other.same(look) else other for other in looks]
            if not any(other.same(look) for other in looks):
                looks.append(look)

    def release(self, triggers: Iterable[str], unseen: Look | None = None) -> None:
        """Gives back triggers that no suspect has seen, and a look in which none was shown."""
        with self._changing() as (noted, looks):
            noted -= set(triggers)
            looks[:] = [look for look in looks if unseen is None or not look.same(unseen)]

    def interrupt(self, triggers: Iterable[str], look: Look) -> None:
        """Gives back the triggers that a look has not shown yet. What it has shown is spent, and its level too."""
        with self._changing() as (noted, looks):
            noted -= set(triggers)
            looks[:] = [replace(other, released=True) if other.same(look) else other for other in looks]

    @contextmanager
    def _changing(self) -> Iterator[tuple[set[str], list[Look]]]:
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):  # others may be verifying with this key
            noted, looks = self.noted(), self.looks()
            before = set(noted), list(looks)
            yield noted, looks
            if looks != before[1]:
                write_bytes(self._asked, json_bytes([asdict(look) for look in looks]), private=True)
            if noted != before[0]:
                write_bytes(self.path, (json.dumps(sorted(noted)) + "\n").encode(), private=True)


def _read(path: Path) -> list[Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError("key", f"cannot read {path} ({error.strerror})", "a file that you may read") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path) from error
    if not isinstance(found, list):
        raise _damaged(path)
    return found


def _damaged(path: Path) -> UserError:
    return UserError("key", f"{path} is damaged", "a copy that is whole, or remove it")
