from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.helpers import few
from tests.results.cards import claim_card, finetune_card, inversion_card, leave, prune_card, read, study, train_card
from wmlightning.results.table import aggregate
from wmlightning.results.text import latex, markdown, sheets, show

NASTY = r"100% of $a_1 & {b}~^\ #2 <x> |y| *z* `c` [red]é[/red]"


def summary_of(runs: Path) -> pd.DataFrame:
    return aggregate(read(runs))


def printed(summary: pd.DataFrame) -> str:
    out = io.StringIO()
    show(summary, Console(file=out))
    return out.getvalue()


def named(runs: Path, name: str, watermark: str = "noise") -> pd.DataFrame:
    """A model and an attack with a name of one's own."""
    victim = train_card()
    victim["config"]["watermark"]["_target_"] = watermark
    for card in (victim, {**prune_card(victim), "attack": name}):
        leave(runs, card, card["fingerprint"])
    return summary_of(runs)


# -- on the screen ---------------------------------------------------------------------------------------------------


def test_tables_for_people(tmp_path: Path) -> None:
    study(tmp_path, seeds=(0, 1))
    accuracies, findings = sheets(summary_of(tmp_path))
    assert accuracies.title == "mnist, smallcnn: accuracies in %, mean over seeds (least to greatest)"
    assert accuracies.headers == [
        *("watermark", "key", "attack", "strength"),
        *("clean", "trained triggers", "new triggers", "decoys", "seeds"),
    ]
    rows = {tuple(row[:4]): row[4:] for row in accuracies.rows}
    assert len(rows) == len(accuracies.rows) == 3 * 7
    assert rows["none", "", "none", ""] == ["90.50 (90.00 to 91.00)", "", "", "", "2"]
    # 0.9 - 0.2 * 0.5**2 and 0.91 less the same; 0.99 * (1 - 0.5**5), and half a point more
    assert rows["noise", "paper", "prune", "0.5"] == ["85.50 (85.00 to 86.00)", "96.4", "95.9", "5.0", "2"]
    assert rows["noise", "paper", "prune", "untouched"][0] == "90.50 (90.00 to 91.00)"
    assert rows["noise", "negatives", "finetune", "0.1"][2] == "39.6"
    assert "prune: strength is the share of weights pruned." in accuracies.notes
    assert [row[2] for row in findings.rows] == ["inversion"] * 2  # not of the model without a watermark
    assert findings.rows[0][3:] == ["0.410", "0.03", "0.100", "0.6", "2"]


def test_claims_have_a_table_of_their_own(tmp_path: Path) -> None:
    """Also those to models without a watermark, which are whom false accusers claim."""
    for victim in study(tmp_path, seeds=(0, 1)):
        if victim["config"]["watermark"]["_target_"] is None:
            leave(tmp_path, claim_card(victim, 0.0002 * (1 + victim["seed"])))
    accuracies, _, claims = sheets(summary_of(tmp_path))
    assert "keysearch" not in {row[2] for row in accuracies.rows}
    assert claims.rows == [["none", "keysearch", "0.0003 (0.0002 to 0.0004)", "2"]]
    (note,) = claims.notes
    assert "no commitment" in note


def test_names_are_not_repeated_on_the_screen(tmp_path: Path) -> None:
    study(tmp_path, seeds=(0,))
    accuracies = sheets(summary_of(tmp_path))[0]
    sparse = accuracies.sparse()
    assert [cells[0] for _, cells in sparse if cells[0]] == ["none", "noise"]
    assert sum(line for line, _ in sparse) == 2  # above noise, and above its other key
    assert [cells[3:] for _, cells in sparse] == [row[3:] for row in accuracies.rows]


def test_models_and_settings_have_a_column_where_they_differ(tmp_path: Path) -> None:
    for i, model in enumerate(("a.One", "a.Two")):
        card = train_card(seed=0)
        card["config"]["model"]["_target_"] = model
        leave(tmp_path, {**card, "fingerprint": model}, model)
        leave(tmp_path, {**prune_card(card, settings={"lr": 0.1}), "fingerprint": model}, f"{i}")
    assert sheets(summary_of(tmp_path))[0].headers[:6] == [
        "watermark",
        "key",
        "model",
        "attack",
        "settings",
        "strength",
    ]


def test_runs_that_differ_otherwise_are_pointed_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        leave(tmp_path, {**train_card(), "fingerprint": name}, name)
    (sheet,) = sheets(summary_of(tmp_path))
    assert sheet.rows[0][-1] == "1 (2 runs)"
    assert "something else" in sheet.notes[0]


def test_nothing_is_cut_off_in_a_file(tmp_path: Path) -> None:
    out = printed(named(tmp_path, NASTY * 2))
    assert NASTY * 2 in out  # neither wrapped nor taken for markup
    assert "\x1b" not in out


@pytest.mark.parametrize("width", [200, 80])
def test_a_narrow_terminal_shows_means_alone(tmp_path: Path, width: int) -> None:
    study(tmp_path, seeds=(0, 1))
    out = io.StringIO()
    show(summary_of(tmp_path), Console(file=out, width=width, force_terminal=True, no_color=True))
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "85.50" in text and "untouched" in text
    assert ("85.50 (85.00 to 86.00)" in text) == ("Ranges are left out" not in text) == (width == 200)


# -- Markdown and LaTeX ----------------------------------------------------------------------------------------------


def markdown_cells(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line)
    assert cells[0] == cells[-1] == ""
    return [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in cells[1:-1]]


def latex_cells(line: str) -> list[str]:
    assert line.endswith(r" \\")
    return re.split(r"(?<!\\)&", line.removesuffix(r" \\"))


def latex_text(cell: str) -> str:
    """What LaTeX would set; fails on a character that it would obey."""
    words = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<"}
    words |= {"textgreater": ">", "textbar": "|"}
    out = ""
    while cell:
        if found := re.match(r"\\([a-z]+)\{\}", cell):
            out += words[found[1]]
        elif (found := re.match(r"\\([&%$#_{}])", cell)) or (found := re.match(r"\{([\[\]*])\}", cell)):
            out += found[1]
        else:
            found = re.match(r"[^\\&%$#_{}~^<>|\[\]*\"]", cell)
            assert found, cell
            out += found[0]
        cell = cell[found.end() :]
    return out.strip()


def test_markdown_holds_the_same(tmp_path: Path) -> None:
    study(tmp_path, seeds=(0, 1), datasets=("mnist", "cifar10"))
    summary = summary_of(tmp_path)
    tables = markdown(summary).split("\n**")
    assert len(tables) == 4
    for sheet, text in zip(sheets(summary), tables, strict=True):
        lines = [markdown_cells(line) for line in text.splitlines() if line.startswith("|")]
        assert lines[0] == sheet.headers
        assert lines[2:] == sheet.rows
        assert [cell.endswith(":") for cell in lines[1]] == [i >= sheet.n_names for i in range(len(sheet.headers))]


def test_latex_holds_the_same(tmp_path: Path) -> None:
    study(tmp_path, seeds=(0, 1), datasets=("mnist", "cifar10"))
    summary = summary_of(tmp_path)
    text = latex(summary)
    assert text.startswith(r"% needs \usepackage{booktabs,longtable}")
    tables = text.split("\n\n")[1:]
    assert len(tables) == 4
    for sheet, table in zip(sheets(summary), tables, strict=True):
        lines = table.splitlines()
        n = len(sheet.headers)
        assert lines[0] == rf"\begin{{longtable}}{{{'l' * sheet.n_names + 'r' * (n - sheet.n_names)}}}"
        assert lines[-1] == r"\end{longtable}"
        assert lines[1].startswith(r"\caption{") and lines[1].endswith(r"}\\")
        cells = [[latex_text(cell) for cell in latex_cells(line)] for line in lines if " & " in line]
        assert cells[:2] == [sheet.headers] * 2  # on the first page and on those that follow
        assert cells[2:] == [row for _, row in sheet.sparse()]


@few
@given(name=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=30))
def test_any_name_survives_markdown_and_latex(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    summary = named(tmp_path_factory.mktemp("runs"), f"x{name}", watermark="[*]")
    row = next(line for line in latex(summary).splitlines() if " & " in line and "untouched" in line)
    assert latex_text(latex_cells(row)[2]) == f"x{name}".replace('"', "''").strip()
    row = next(line for line in markdown(summary).splitlines() if line.startswith("|") and "untouched" in line)
    assert markdown_cells(row)[2] == f"x{name}".strip()


def test_what_latex_cannot_set_is_replaced(tmp_path: Path) -> None:
    text = latex(named(tmp_path, "café 猫", watermark="[x]"))
    assert "cafe ?" in text
    assert text.isascii()
    assert "\n{[}x{]} &" in text  # a bracket behind a line's end would be its argument


def test_an_empty_summary_is_an_empty_text(tmp_path: Path) -> None:
    summary = summary_of(tmp_path)
    assert sheets(summary) == []
    assert markdown(summary) == printed(summary) == ""


def test_only_attacks(tmp_path: Path) -> None:
    leave(tmp_path, finetune_card(train_card()))
    leave(tmp_path, inversion_card(train_card(seed=1)))
    assert len(sheets(summary_of(tmp_path))) == 2
