"""The commitment: what an owner publishes early, so that nobody can say that the key was made up later."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wmlightning.errors import UserError
from wmlightning.files import check_writable, write_json
from wmlightning.ownership.key import Key

SCHEMA = 1
_OF = "wmlightning key"
_RIGHT = "the file that commit wrote"


def commitment_of(key: Key) -> dict[str, Any]:
    """What is published: a hash that binds the owner to the key and tells nothing of it."""
    return {
        "kind": "commitment",
        "schema": SCHEMA,
        "of": _OF,
        "sha256": key.commitment(),
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def write_commitment(key: Key, path: Path) -> dict[str, Any]:
    """Writes the commitment, unless one to the same key is there: its time stays.

    Raises:
        UserError: if a commitment to another key is there, or none can be written.
    """
    if path.exists():
        return read_commitment(path, key)
    check_writable(path.parent, "out", needed_bytes=2**16)
    path.parent.mkdir(parents=True, exist_ok=True)
    commitment = commitment_of(key)
    write_json(path, commitment)
    return commitment


def read_commitment(path: Path, key: Key) -> dict[str, Any]:
    """Reads a commitment and makes sure that it is one to this key.

    Raises:
        UserError: if there is none, or it is to another key.
    """
    found = load_commitment(path)
    if found["sha256"] != key.commitment():
        raise UserError("commitment", f"{path} is to another key", "the commitment to this key")
    return found


def time_of(commitment: dict[str, Any]) -> datetime:
    """When a commitment was made, by its owner's word: in UTC."""
    return in_utc(commitment["made"])


def in_utc(given: str) -> datetime:
    """A date stands for its first moment, and a time without a zone is one in UTC.

    Raises:
        ValueError: if it is no time, or none that UTC has.
    """
    time = datetime.fromisoformat(given)
    try:
        return time.astimezone(timezone.utc) if time.tzinfo else time.replace(tzinfo=timezone.utc)
    except OverflowError as error:  # before year 1, or after 9999
        raise ValueError(given) from error


def load_commitment(path: Path) -> dict[str, Any]:
    """Reads a commitment to whatever key.

    Raises:
        UserError: if there is none, or a field of it is missing or odd.
    """
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise UserError("commitment", f"cannot read {path} ({error.strerror})", "a published commitment") from error
    except (ValueError, RecursionError) as error:
        raise UserError("commitment", f"{path} is no commitment", _RIGHT) from error
    if not isinstance(found, dict) or found.get("kind") != "commitment":
        raise UserError("commitment", f"{path} is no commitment", _RIGHT)
    if type(found.get("schema")) is not int or not 1 <= found["schema"] <= SCHEMA:
        raise UserError("commitment", f"{path} has schema {found.get('schema')!r}", "a newer wmlightning")
    if lacking := sorted({"of", "sha256", "made"} - set(found)):
        raise UserError("commitment", f"{path} is no commitment: it lacks {', '.join(lacking)}", _RIGHT)
    for name, fits in (("of", found["of"] == _OF), ("sha256", _is_digest(found["sha256"])), ("made", _is_time(found))):
        if not fits:
            raise UserError("commitment", f"{path} is no commitment: its {name} is odd", _RIGHT)
    return found


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _is_time(commitment: dict[str, Any]) -> bool:
    try:
        time_of(commitment)
    except (TypeError, ValueError):
        return False
    return True
