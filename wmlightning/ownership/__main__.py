"""``python -m wmlightning.ownership``: what an owner does with a key, apart from training and verifying."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from wmlightning.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        0, or 1 after a mistake of the user's, which is told in one line.
    """
    options = _parser().parse_args(arguments)
    from wmlightning.ownership.commitment import read_commitment, write_commitment
    from wmlightning.ownership.key import read_key

    try:
        key = read_key(options.key)
        if options.command == "commit":
            path = options.out or options.key.with_suffix(".commitment.json")
            commitment = write_commitment(key, path)
            print(f"{commitment['sha256']}  made {commitment['made']}\n{path}: publish it, or have it time-stamped")
        else:
            if options.commitment is not None:
                read_commitment(options.commitment, key)
            key.check(options.data_dir, options.trust)
            print(f"every trigger follows from the secret; commitment {key.commitment()}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m wmlightning.ownership", description="What to do with a key.")
    commands = parser.add_subparsers(dest="command", required=True)
    commit = commands.add_parser("commit", help="write the commitment to a key")
    commit.add_argument("key", type=Path, help="the owner's key")
    commit.add_argument("--out", type=Path, help="default: KEY with the ending .commitment.json")
    check = commands.add_parser("check", help="make all triggers anew from the secret and the data, and compare")
    check.add_argument("key", type=Path, help="the owner's key")
    check.add_argument("--data-dir", type=Path, default=Path(os.environ.get("WML_DATA_DIR") or "data"))
    check.add_argument("--commitment", type=Path, help="a published commitment that must be to this key")
    check.add_argument("--trust", action="append", default=[], metavar="CLASS", help="a class of yours in its config")
    return parser


if __name__ == "__main__":
    sys.exit(main())
