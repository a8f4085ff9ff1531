"""The commitment: what an owner publishes early, so that nobody can say that the key was made up later."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wmlightning.errors import UserError
from wmlightning.files import write_json
from wmlightning.ownership.key import Key

SCHEMA = 1


def commitment_of(key: Key) -> dict[str, Any]:
    """What is published: a hash that binds the owner to the key and tells nothing of it."""
    return {
        "kind": "commitment",
        "schema": SCHEMA,
        "of": "wmlightning key",
        "sha256": key.commitment(),
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def write_commitment(key: Key, path: Path) -> dict[str, Any]:
    """Writes the commitment, unless one to the same key is there: its time stays.

    Raises:
        UserError: if a commitment to another key is there.
    """
    if path.exists():
        return read_commitment(path, key)
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


def load_commitment(path: Path) -> dict[str, Any]:
    """Reads a commitment to whatever key.

    Raises:
        UserError: if there is none.
    """
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise UserError("commitment", f"cannot read {path} ({error.strerror})", "a published commitment") from error
    except ValueError as error:
        raise UserError("commitment", f"{path} is no commitment", "the file that commit wrote") from error
    if not isinstance(found, dict) or found.get("kind") != "commitment" or not isinstance(found.get("sha256"), str):
        raise UserError("commitment", f"{path} is no commitment", "the file that commit wrote")
    if type(found.get("schema")) is not int or found["schema"] > SCHEMA:
        raise UserError("commitment", f"{path} has schema {found.get('schema')!r}", "a newer wmlightning")
    return found
