"""``python -m wmlightning.report [RUNS_DIR]``: all results below a folder as one page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from wmlightning.errors import UserError
from wmlightning.files import check_writable, named, write_bytes
from wmlightning.report.page import gather, render
from wmlightning.results.arguments import (
    EXIT_NOTHING,
    EXIT_USAGE,
    add_conditions,
    check_conditions,
    failed,
    parser_of,
)
from wmlightning.results.table import on_stderr

_ROOM = 64 * 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the folder and writes the page.

    Args:
        arguments: of the command line; the process's own by default.

    Returns:
        The exit code: 1 if there is nothing to show or no place to write to, 2 if the command was not understood.
    """
    options = _parser().parse_args(arguments)
    try:
        check_conditions(options.only, "only")
    except UserError as error:
        return failed(error, EXIT_USAGE)
    try:
        if not options.runs.is_dir():
            raise UserError("runs_dir", f"{options.runs} is no folder", "name the folder that holds finished runs")
        out = options.out or options.runs / "report.html"
        if out.is_dir():
            raise UserError("out", f"{out} is a folder", "name a file")
        check_writable(out.parent, "out", _ROOM)
        report = gather(options.runs, options.only, options.with_secrets, on_stderr)
        page = render(report).encode()
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, page, private=options.with_secrets)
    except UserError as error:
        return failed(error, EXIT_NOTHING)
    secret = "; it shows triggers: keep it to yourself" if options.with_secrets else ""
    print(f"wrote {out}: {report.summary()}, {len(page) / 1e6:.1f} MB{secret}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(
        "wmlightning.report",
        "Makes one HTML page of all finished trainings, attacks and verifications below a folder. The page is complete "
        "in itself and holds no secret unless asked for.",
    )
    parser.add_argument("--out", metavar="FILE", type=named, help="default: RUNS_DIR/report.html")
    add_conditions(parser, "only", "results", "Verdicts stay. ")
    parser.add_argument(
        "--with-secrets",
        action="store_true",
        help="show triggers, what attacks recovered of them, and the options of marks: a page for the owner alone",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
