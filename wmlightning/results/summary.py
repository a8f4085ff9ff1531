"""The table at the end of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
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
    table = Table(title=card["name"], title_justify="left", title_style="bold")
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
    console.print(f"results: {folder}")
