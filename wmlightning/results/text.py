"""The summary as text: on a terminal, as Markdown, as LaTeX; and both tables as CSV."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wmlightning.results.rows import Row

#: Column of the summary, its heading, and how many digits after the point.
_ACCURACIES = (
    ("clean_acc", "clean", 2),
    ("trigger_acc", "trained triggers", 1),
    ("trigger_new_acc", "new triggers", 1),
    ("decoy_acc", "decoys", 1),
)
_FINDINGS = (
    ("score", "score", ".3f"),
    ("p_value", "p-value", ".3g"),
    ("twin_score", "score, unmarked model", ".3f"),
    ("twin_p_value", "p-value, unmarked model", ".3g"),
)

#: Nothing shorter is broken into lines.
_SHORT = 10

_Column = tuple[str, Callable[[Row], str]]


@dataclass(frozen=True)
class Sheet:
    """One table for people.

    Args:
        title: data set, and what the numbers are.
        headers: one for each column.
        n_blocks: so many columns in front tell what a block of rows is about, and need not be repeated in each.
        n_names: so many columns in front hold words or strengths, the others hold results.
        rows: cells, all of them filled.
        notes: what a reader has to know.
    """

    title: str
    headers: list[str]
    n_blocks: int
    n_names: int
    rows: list[list[str]]
    notes: list[str]

    def sparse(self) -> list[tuple[bool, list[str]]]:
        """The rows with repeated names left out; with each, whether a line belongs above it."""
        depth = 2 if len({tuple(row[:2]) for row in self.rows}) < len(self.rows) else 1  # none around single rows
        out = []
        before: list[str] = []
        for row in self.rows:
            same = 0
            while same < min(self.n_blocks, len(before)) and row[same] == before[same]:
                same += 1
            out.append((bool(before) and same < depth, [""] * same + row[same:]))
            before = row
        return out


def sheets(summary: pd.DataFrame) -> list[Sheet]:
    """The summary of :func:`~wmlightning.results.table.aggregate` as tables for people, one or two for a data set."""
    found = []
    for dataset, part in summary.groupby("dataset", sort=False):
        detection, claim = part["attack_type"] == "detection", part["attack_type"] == "claim"
        if not (detection | claim).all():
            found.append(_accuracies(str(dataset), part[~detection & ~claim]))
        if (scored := detection & part["score_mean"].notna()).any():  # an unmarked model has no marks to be scored by
            found.append(_findings(str(dataset), part[scored]))
        if claim.any():
            found.append(_claims(str(dataset), part[claim]))
    return found


def _accuracies(dataset: str, part: pd.DataFrame) -> Sheet:
    front: list[_Column] = [("strength", _strength)]
    if "epochs" in part.columns:
        front.append(("epochs", lambda row: "" if pd.isna(row["epochs"]) else str(row["epochs"])))
    results = [(header, _cell(name, f".{digits}f")) for name, header, digits in _ACCURACIES]
    notes = [
        f"{attack}: strength is the {name}."
        for attack, name in dict.fromkeys(zip(part["attack"], part["strength_name"], strict=True))
        if name
    ]
    if (part["attack"] != "none").any():
        notes.append("Attack none is measured on all test images, the others on the half that no thief had.")
    return _sheet((dataset, "accuracies in %"), part, front, results, notes)


def _findings(dataset: str, part: pd.DataFrame) -> Sheet:
    results = [(header, _cell(name, form)) for name, header, form in _FINDINGS]
    return _sheet((dataset, "what attacks that look for a watermark found"), part, [], results, [])


def _claims(dataset: str, part: pd.DataFrame) -> Sheet:
    notes = ["The p-value is what a verifier would find who asks for no commitment: it shows nothing."]
    return _sheet((dataset, "what false accusers reach"), part, [], [("p", _cell("p_value", ".2g"))], notes)


def _sheet(
    about: tuple[str, str], part: pd.DataFrame, front: list[_Column], results: list[_Column], notes: list[str]
) -> Sheet:
    dataset, what = about
    names: list[_Column] = [(name, _named(name)) for name in ("watermark", "key", "model", "attack", "settings")]
    models = part["model"].unique()
    if len(models) == 1:  # named once, in the title
        names.pop(2)
        dataset = ", ".join(filter(None, (dataset, models[0])))
    if (part["n_seeds"] > 1).any():
        what += ", mean over seeds (least to greatest)"
    if (part["n_runs"] > part["n_seeds"]).any():
        notes = [*notes, "Rows with more runs than seeds average runs that differ in something else."]
    records = [{str(name): value for name, value in row.items()} for row in part.to_dict("records")]
    names, front = ([column for column in some if any(map(column[1], records))] for some in (names, front))
    columns = [*names, *front, *results, ("seeds", _seeds)]
    rows = [[tell(row) for _, tell in columns] for row in records]
    headers = [header for header, _ in columns]
    return Sheet(f"{dataset}: {what}", headers, len(names), len(names) + len(front), rows, notes)


def _named(name: str) -> Callable[[Row], str]:
    return lambda row: str(row[name])


def _strength(row: Row) -> str:
    if row["is_victim"]:
        return "untouched"
    return "" if pd.isna(row["strength"]) else f"{row['strength']:g}"


def _seeds(row: Row) -> str:
    return f"{row['n_seeds']}" + (f" ({row['n_runs']} runs)" if row["n_runs"] > row["n_seeds"] else "")


def _cell(name: str, form: str) -> Callable[[Row], str]:
    """Mean, and behind it the range where it is wider than the rounding."""

    def tell(row: Row) -> str:
        if pd.isna(row[f"{name}_mean"]):
            return ""
        mean, low, high = (f"{row[f'{name}_{how}']:{form}}" for how in ("mean", "min", "max"))
        return mean if low == high else f"{mean} ({low} to {high})"

    return tell


def show(summary: pd.DataFrame, console: Console | None = None) -> None:
    """Prints the summary; without ranges where the terminal is too narrow for them."""
    console = console or Console()
    if not console.is_terminal:
        console.width = 1000  # a file or a pager has no right edge: nothing is to be wrapped for it
    for sheet in sheets(summary):
        table = _table(sheet)
        notes = sheet.notes
        if console.measure(table, options=console.options.update(width=10_000)).maximum > console.width:
            table = _table(sheet, narrow=True)
            notes = [*notes, "Ranges are left out here: make the terminal wider, or see the files."]
        console.print(table)
        for note in notes:
            console.print(Text(note, style="dim"))
        console.print()


def _table(sheet: Sheet, narrow: bool = False) -> Table:
    title = Text(sheet.title, style="bold")
    look: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": 0, "show_edge": False} if narrow else {}
    table = Table(title=title, title_justify="left", **look)
    rows = sheet.sparse()
    if narrow:
        rows = [(line, [_without_range(i, cell, sheet) for i, cell in enumerate(row)]) for line, row in rows]
    for i, header in enumerate(sheet.headers):
        longest = max(map(len, (*header.split(), *(row[i] for _, row in rows))))
        justify: Literal["left", "right"] = "left" if i < sheet.n_names else "right"
        table.add_column(header, justify=justify, min_width=min(longest, _SHORT), overflow="fold")
    for new_block, row in rows:
        if new_block:
            table.add_section()
        table.add_row(*(Text(cell) for cell in row))  # as Text: a name in brackets is no markup
    return table


def _without_range(column: int, cell: str, sheet: Sheet) -> str:
    is_result = sheet.n_names <= column < len(sheet.headers) - 1  # the last one counts seeds
    return cell.split(" (")[0] if is_result else cell


def csv(table: pd.DataFrame) -> str:
    """Either table as CSV, with seven digits: as many as single precision holds."""
    return table.to_csv(index=False, float_format="%.7g", lineterminator="\n")


def markdown(summary: pd.DataFrame) -> str:
    """The summary as Markdown tables."""
    parts = []
    for sheet in sheets(summary):
        lines = [_markdown_row(sheet.headers)]
        lines.append("|" + "---|" * sheet.n_names + "---:|" * (len(sheet.headers) - sheet.n_names))
        lines += [_markdown_row(row) for row in sheet.rows]
        notes = [f"\n{_markdown_escaped(' '.join(sheet.notes))}"] if sheet.notes else []
        parts.append("\n".join([f"**{_markdown_escaped(sheet.title)}**\n", *lines, *notes]) + "\n")
    return "\n".join(parts)


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(_markdown_escaped(cell) for cell in cells)} |"


def _markdown_escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|~&#$])", r"\\\1", text)


def latex(summary: pd.DataFrame) -> str:
    """The summary as LaTeX tables with booktabs' rules, which break across pages."""
    lines = [r"% needs \usepackage{booktabs,longtable}"]
    for sheet in sheets(summary):
        n_results = len(sheet.headers) - sheet.n_names
        head = [r"\toprule", _latex_row(sheet.headers), r"\midrule"]
        caption = _latex_escaped(". ".join([sheet.title, " ".join(sheet.notes)]).strip(". ") + ".")
        lines += ["", rf"\begin{{longtable}}{{{'l' * sheet.n_names}{'r' * n_results}}}"]
        lines += [rf"\caption{{{caption}}}\\", *head, r"\endfirsthead", *head, r"\endhead"]
        lines += [r"\bottomrule", r"\endfoot"]
        for new_block, row in sheet.sparse():
            lines += [r"\addlinespace"] * new_block + [_latex_row(row)]
        lines.append(r"\end{longtable}")
    return "\n".join(lines) + "\n"


def _latex_row(cells: list[str]) -> str:
    return " & ".join(_latex_escaped(cell) for cell in cells) + r" \\"


_LATEX: dict[str, str] = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{c: f"{{{c}}}" for c in "[]*"},  # behind \\ they would be its arguments
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
}


def _latex_escaped(text: str) -> str:
    """As ordinary letters, in ASCII: which others a document can set depends on its fonts."""
    letters = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    plain = letters.encode("ascii", "replace").decode()
    return "".join(_LATEX.get(c, c) for c in plain)
