"""What the tables say, in a line for each: from the first value of an option to the last. For ``table.py``."""

from __future__ import annotations

import pandas as pd
from pages import signed

#: What an option's smallest and largest value are called.
ENDS = {
    "fresh": ("one secret pattern", "noise drawn anew for each image"),
    "n_triggers": ("{:.1%} of the training images", "{:.0%}"),
    "mix": ("triggers merged and shuffled", "some in each batch"),
    "strength": ("noise of strength {}", "{}"),
    "opacity": ("a text of opacity {}", "{}"),
    "negatives": ("no negatives", "{} for each trigger"),
    "n_marks": ("{} mark", "{}"),
    "label": ("a label for the mark", "one for each trigger"),
    "precision": ("32-true", "bf16-mixed"),
}
#: Options whose values are not in the order of the words above.
BACKWARDS = ("label",)


def told(option: str, runs: pd.DataFrame) -> str:
    """What changes from one end of an option to the other: means over seeds, by watermark."""
    values = sorted(runs[option].unique(), reverse=option in BACKWARDS)
    first, last = values[0], values[-1]
    ends = [words.format(value) for words, value in zip(ENDS[option], (first, last), strict=True)]
    changes = {"clean": [], "new triggers": [], "decoys": []}
    for watermark, part in runs.groupby("watermark"):
        before, after = (part[part[option] == value].set_index("seed") for value in (first, last))
        lost = (after.clean - before.clean).dropna()
        mean, low, high = (signed(value) for value in (lost.mean(), lost.min(), lost.max()))
        changes["clean"].append(f"{watermark} {mean} points ({low} to {high})")
        for name in ("new triggers", "decoys"):
            changes[name].append(f"{watermark} {before[name].mean():.1f} to {after[name].mean():.1f} %")
    parts = [f"{name}: {', '.join(shares)}" for name, shares in changes.items()]
    return f"* **From {ends[0]} to {ends[1]}.** {_upper('; '.join(parts))}.{_besides(option, runs)}"


def _besides(option: str, runs: pd.DataFrame) -> str:
    """What else a table is there for."""
    if option == "label":
        return " A new trigger's label is drawn by lot: no training can tell it."
    if option == "precision" and runs.seconds.notna().all():
        least = runs.groupby(["watermark", "precision"]).seconds.min().unstack()
        times = least["32-true"] / least["bf16-mixed"]
        return f" bf16-mixed trains {times.min():.2f} to {times.max():.2f} times as fast (least seconds of the seeds)."
    return ""


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
