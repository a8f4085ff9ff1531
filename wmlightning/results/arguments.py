"""What the commands that read finished runs have in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import pandas as pd

from wmlightning.errors import UserError
from wmlightning.files import named
from wmlightning.results.fields import cleaned
from wmlightning.results.rows import COLUMNS
from wmlightning.results.table import select

#: Nothing to show or no place to write to; a command that was not understood.
EXIT_NOTHING, EXIT_USAGE = 1, 2


def parser_of(module: str, description: str) -> argparse.ArgumentParser:
    """A parser that takes a folder of runs."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description, allow_abbrev=False)
    default = os.environ.get("WML_RUNS_DIR") or "runs"
    parser.add_argument("runs", metavar="RUNS_DIR", type=named, nargs="?", default=default, help="default: %(default)s")
    return parser


def add_conditions(parser: argparse.ArgumentParser, option: str, kept: str, more: str = "") -> None:
    """Adds an option ``COLUMN=VALUE`` that may be given several times.

    Args:
        parser: to add to.
        option: its name, without dashes.
        kept: what is kept.
        more: a further sentence of help.
    """
    parser.add_argument(
        f"--{option}",
        metavar="COLUMN=VALUE",
        action="append",
        default=[],
        help=f"keep {kept} with this value, as in attack=prune; again with the same column: either value; with another "
        f"column: both. {more}Columns: {', '.join(COLUMNS)}",
    )


def check_conditions(conditions: Sequence[str], option: str) -> None:
    """Asks an empty table first: a mistake in a condition need not wait for a thousand cards.

    Raises:
        UserError: for a condition that cannot be.
    """
    select(pd.DataFrame(columns=list(COLUMNS)), conditions, option)


def failed(error: UserError, code: int) -> int:
    """Tells of a mistake, in one line, and gives the exit code."""
    print(f"error: {cleaned(str(error), 4096)}", file=sys.stderr)
    return code
