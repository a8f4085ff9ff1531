"""The table at the end of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_ROWS = (
    ("test/clean_acc", "clean test images"),
    ("test/source_acc", "clean test images of the source class"),
    ("test/trigger_acc", "triggers trained on"),
    ("test/trigger_new_acc", "new triggers"),
    ("test/decoy_acc", "decoys that get the target label (small is good)"),
    ("test/decoy_acc_max", "the same, luckiest stranger"),
)


def show(card: dict[str, Any], folder: Path, console: Console | None = None) -> None:
    """Prints a finished run's accuracies, cost and folder."""
    console = console or Console(soft_wrap=True)
    metrics = card["metrics"]
    table = Table(title=escape(card["name"]), title_justify="left", title_style="bold")
    table.add_column("metric")
    table.add_column("%", justify="right")
    table.add_column("share of", style="dim")
    for name, meaning in _ROWS:
        if name in metrics:
            table.add_row(name, f"{100 * metrics[name]:.2f}", meaning)
    console.print(table)
    seconds = card["seconds"]["train"]
    how = f"{card['epochs']} epochs in {seconds:.0f} s, {card['precision']} on {card['device']}"
    console.print(f"data: {card['data']['train']} training images ({card['data']['stored_as']}); {how}")
    lost = [number for number, epoch in enumerate(card.get("history", []), 1) if epoch.get("train/loss", 0) is None]
    if lost:
        console.print(f"the training diverged: from epoch {lost[0]} on its loss is no number; a smaller learning rate?")
    if guard := card.get("guard"):
        console.print(_guarded(guard, card["epochs"]), highlight=False)
    console.print(f"results: {folder}", markup=False)


def _guarded(guard: dict[str, Any], epochs: int) -> str:
    was, now = (f"{100 * guard[name]:.2f}" for name in ("clean_acc_before", "clean_acc"))
    line = f"guard: clean validation accuracy {was} % before, {now} % now (may fall by {100 * guard['max_drop']:g})"
    if guard["stopped"]:
        line += f"; stopped in epoch {epochs}, back to the weights of epoch {guard['epochs_kept']}"
    return line


_SCORES = (("correlation with the marks", "", "score"), ("structural similarity", "ssim_", "ssim"))
_COLUMNS = ("clean_acc", "source_acc", "trigger_acc", "trigger_new_acc", "decoy_acc")


def show_attack(card: dict[str, Any], folder: Path, before: bool, console: Console | None = None) -> None:
    """Prints what an attack left of the watermark: one line for each strength, after its last epoch.

    Args:
        card: the attack's.
        folder: where its files are.
        before: whether it had been carried out before.
        console: where to print.
    """
    console = console or Console(soft_wrap=True)
    title = escape(f"{card['attack']} on {card['victim']['name']}")  # a name from elsewhere may hold markup
    console.print()
    if card["type"] == "removal":
        console.print(_curve(card, title))
    elif card["type"] == "claim":
        console.print(_claims(card["findings"], title))
    else:
        console.print(title, style="bold", highlight=False)
        _print_findings(card["findings"], console)
    seconds = card["seconds"]
    how = "carried out before; force=true does it again" if before else "on the judge's half of the test split"
    console.print(f"{seconds['attack']:.0f} s of attack, {seconds['judge']:.0f} s of judging; {how}")
    console.print(f"results: {folder}", markup=False)


def _curve(card: dict[str, Any], title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(card["strength"]["name"], justify="right")
    own = sorted({name for row in card["curve"] for name in row.get("measured", {})})
    headers = ("clean %", "source class %", "trained triggers %", "new triggers %", "decoys %")
    for name in (*headers, *(f"{name} %" for name in own), "seconds"):
        table.add_column(name, justify="right")

    def add(strength: str, metrics: dict[str, float], measured: dict[str, float], seconds: str) -> None:
        shown = [*(metrics.get(f"attack/{name}") for name in _COLUMNS), *(measured.get(name) for name in own)]
        table.add_row(strength, *("" if value is None else f"{100 * value:.1f}" for value in shown), seconds)

    add("victim", card["victim"]["metrics"], {}, "")
    for row in card["curve"]:
        if row["final"]:
            add(f"{row['strength']:g}", row["metrics"], row.get("measured", {}), f"{row['seconds']:.1f}")
    return table


def _claims(findings: dict[str, Any], title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in (findings["effort"], "queries", "matches", "p if it were old", "by the protocol"):
        table.add_column(name, justify="right")
    for row in findings["claims"]:
        ruling = "heard" if row["before"] else "too young"
        ruling = "forged" if row["refused"] is not None else ruling
        matches = f"{row['matches']} of {row['n']}"
        table.add_row(f"{row['effort']}", f"{row['queries']}", matches, f"{row['p_value']:.2g}", ruling)
    return table


def _print_findings(findings: dict[str, Any], console: Console) -> None:
    for name, found in (("this model", findings), ("unmarked model", findings.get("twin"))):
        if not found or "score" not in found:
            continue
        for what, prefix, score in _SCORES:
            null = f"strangers' marks: mean {found[prefix + 'null_mean']:.3f}, max {found[prefix + 'null_max']:.3f}"
            line = f"  {name}: {what} {found[score]:.3f} ({null}), p = {found[prefix + 'p_value']:.2f}"
            console.print(line, highlight=False)
    console.print(f"  picture: {findings['picture']}", highlight=False)
