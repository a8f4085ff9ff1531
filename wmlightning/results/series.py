"""What belongs in one picture of a removal attack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Series:
    """One removal attack with one choice of settings, on all that it was carried out on.

    Attributes:
        attack: its name.
        settings: what was chosen otherwise than in other attacks of the name.
        strength_name: what its strength is.
        log: whether strengths are on a logarithmic scale.
        summary: its surrogates and their untouched victims.
    """

    attack: str
    settings: str
    strength_name: str
    log: bool
    summary: pd.DataFrame

    @property
    def title(self) -> str:
        """Attack and settings."""
        return f"{self.attack} ({self.settings})" if self.settings else self.attack


def series(summary: pd.DataFrame) -> Iterator[Series]:
    """Takes the summary of :func:`~wmlightning.results.table.aggregate` apart."""
    removal = summary[summary["attack_type"] == "removal"]
    attacks = removal.loc[~removal["is_victim"], ["attack", "settings", "strength_name", "strength_scale"]]
    for attack, settings, name, scale in attacks.drop_duplicates().itertuples(index=False):
        of_attack = removal[
            (removal["attack"] == attack)
            & (removal["strength_name"] == name)
            & (removal["strength_scale"] == scale)
            & (removal["is_victim"] | (removal["settings"] == settings))
        ]
        victims = ["dataset", "model", "watermark", "key"]
        # A victim that was only attacked with other settings has no curve here.
        alone = of_attack.groupby(victims, sort=False)["is_victim"].transform("all")
        yield Series(attack, settings, name, scale == "log", of_attack[~alone.astype(bool)])
