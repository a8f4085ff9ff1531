"""What is known of the key's age and the suspect's: a key that is the younger of the two may have been searched for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from wmlightning.errors import UserError
from wmlightning.ownership.commitment import in_utc, read_commitment, time_of
from wmlightning.ownership.key import Key
from wmlightning.ownership.timestamp import Stamp, verified_time

_UNCOMMITTED = "No published commitment was given: the key may be younger than the suspect."
_UNSTAMPED = "When the commitment was made is its owner's word: no time stamp was given."


@dataclass(frozen=True)
class Age:
    """What was shown.

    Attributes:
        made: when the commitment was made, by its owner's word.
        stamp: what an authority vouches for.
        since: when the suspect is known to have existed. All times are in UTC.
    """

    made: datetime | None = None
    stamp: Stamp | None = None
    since: datetime | None = None

    @property
    def condition(self) -> str:
        """What must be true for the p-value to mean anything: the beginning of a sentence."""
        if self.made is None:
            return "If the key is older than the suspect, which nothing that was given shows,"
        known = f" (it is known of since {_day(self.since)})" if self.since else ""
        if self.stamp is None:
            return f"If the suspect was made after {_day(self.made)}, when by its owner's word the key existed{known},"
        return f"If the suspect was made after {_day(self.stamp.time)}, when the key is proven to have existed{known},"

    @property
    def doubts(self) -> list[str]:
        """What a reader must know."""
        if self.made is None:
            return [_UNCOMMITTED]
        return [] if self.stamp else [_UNSTAMPED]


def age_of(options: dict[str, Any], key: Key) -> Age:
    """Reads what the config gives: ``commitment``, ``timestamp`` with ``timestamp_ca``, ``suspect_since``.

    Raises:
        UserError: if a part does not hold, or the commitment is younger than the suspect.
    """
    since = _since(options["suspect_since"])
    if not options["commitment"]:
        for name in ("timestamp", "suspect_since"):
            if options[name]:
                raise UserError(name, "there is no commitment that it could be held against", "commitment=FILE")
        return Age()
    commitment = Path(options["commitment"]).expanduser()
    age = Age(time_of(read_commitment(commitment, key)), since=since)
    if options["timestamp"]:
        roots = [Path(root).expanduser() for root in options["timestamp_ca"]]
        age = Age(age.made, verified_time(commitment, Path(options["timestamp"]).expanduser(), roots), since)
    if since is not None:
        _check_order(age, since)
    return age


def _check_order(age: Age, since: datetime) -> None:
    assert age.made is not None
    time, how = (age.stamp.time, "stamped") if age.stamp else (age.made, "made")
    if time > since:
        wrong = f"the suspect existed at {_exact(since)}, and the commitment was {how} later, at {_exact(time)}"
        raise UserError("suspect_since", wrong, "a key that was committed to before the suspect existed")


def _since(given: str | None) -> datetime | None:
    if given is None:
        return None
    try:
        return in_utc(given)
    except ValueError as error:
        raise UserError("suspect_since", f"{given!r} is no date", "such as 2025-12-31") from error


def _exact(time: datetime) -> str:
    return time.isoformat(timespec="seconds")


def _day(time: datetime) -> str:
    return time.date().isoformat()
