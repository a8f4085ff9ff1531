"""``python -m wmlightning.results [RUNS_DIR]``: all finished runs in one table, as text, files and figures."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from wmlightning.errors import UserError
from wmlightning.files import check_writable, named, write_bytes
from wmlightning.results.arguments import (
    EXIT_NOTHING,
    EXIT_USAGE,
    add_conditions,
    check_conditions,
    failed,
    parser_of,
)
from wmlightning.results.card import FILE
from wmlightning.results.table import aggregate, read_all, select
from wmlightning.results.text import csv, latex, markdown, show

_ROOM = 32 * 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the cards, prints the summary, writes the files.

    Args:
        arguments: of the command line; the process's own by default.

    Returns:
        The exit code: 1 if there is nothing to show or no place to write to, 2 if the command was not understood.
    """
    options = _parser().parse_args(arguments)
    try:
        check_conditions(options.where, "where")
    except UserError as error:
        return failed(error, EXIT_USAGE)
    try:
        frame = _read(options.runs, options.where)
        out = None if options.no_files or options.out == "-" else named(options.out or str(options.runs / "results"))
        if out is not None:
            check_writable(out, "out", _ROOM)
        written = _write(frame, out) if out is not None else []  # first: a pager may close before all is printed
        show(aggregate(frame, every_epoch=options.all))
        for path in written:
            print(f"wrote {path}")
    except UserError as error:
        return failed(error, EXIT_NOTHING)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(
        "wmlightning.results",
        "Puts all finished trainings and attacks below a folder into one table: prints mean and range over seeds, and "
        "writes CSV, LaTeX, Markdown and figures.",
    )
    parser.add_argument("--out", metavar="FOLDER", help="where files go (default: RUNS_DIR/results); - for none")
    parser.add_argument("--no-files", action="store_true", help="only print")
    parser.add_argument("--all", action="store_true", help="print every epoch, not only the last of each strength")
    add_conditions(parser, "where", "rows")
    return parser


def _read(runs: Path, conditions: Sequence[str]) -> pd.DataFrame:
    if not runs.is_dir():
        raise UserError("runs_dir", f"{runs} is no folder", "name the folder that holds finished runs")
    frame = read_all(runs)
    if frame.empty:
        raise UserError("runs_dir", f"no usable {FILE} below {runs}", "name the folder that holds finished runs")
    kept = select(frame, conditions)
    if kept.empty:
        wrong = f"no row of {len(frame)} has {' and '.join(conditions)}"
        raise UserError("where", wrong, "see results.csv for the values there are")
    return kept


def _write(frame: pd.DataFrame, out: Path) -> list[Path]:
    from wmlightning.results.figures import write_figures  # late: who only prints need not wait for matplotlib

    summary = aggregate(frame)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    texts = {
        "results.csv": csv(frame),
        "summary.csv": csv(summary),
        "results.tex": latex(summary),
        "results.md": markdown(summary),
    }
    for name, text in texts.items():
        write_bytes(out / name, text.encode())
    return [out / name for name in texts] + write_figures(frame, out / "figures")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails again, flushing at its end
        sys.exit(EXIT_NOTHING)
