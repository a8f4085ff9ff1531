"""Renders this folder's README, tables and figures from result cards: the last step of ``run.sh``.

Nothing in them is typed by hand. With ``--readme`` the tables of the project's README are renewed too. A store may hold
a part of the study only, such as one seed: with ``--add`` the rows of the CSV files that are already there stay, unless
the store has newer ones of the same model and attack.
"""

from __future__ import annotations

import argparse
import platform
from datetime import date
from pathlib import Path

import attacks
import claims
import embedding
import pandas as pd
import verification
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from wmlightning.files import write_bytes
from wmlightning.results.figures import write_figures
from wmlightning.results.table import aggregate, from_csv, read_all
from wmlightning.results.text import csv

HERE = Path(__file__).resolve().parent
README = HERE.parents[1] / "README.md"
AS_IT_IS = {"as it is": ("none", 0.0), "through HTTP": ("HTTP", 0.0)}
ATTACKED = {
    **{f"{rate:.0%} pruned": ("prune", rate) for rate in (0.5, 0.7, 0.9)},
    **{f"fine-tuned at {rate:g}": ("finetune", rate) for rate in (0.01, 0.03, 0.1)},
    **{f"{rate:.0%} fine-pruned": ("fineprune", rate) for rate in (0.6, 0.9)},
    **{f"overwritten at {rate:g}": ("overwrite", rate) for rate in (0.01, 0.03)},
}
#: Names a model of the study.
MODEL = ["dataset", "watermark", "key", "seed"]
ATTACKS = ("none", "prune", "finetune", "fineprune", "overwrite", "inversion")
#: The one pair of figures of the paper that is established. Press, quoting a co-author; the generator is not named.
PAPER = {"none": "78.6", "marked": "78.41"}


def main() -> None:
    """Reads cards, writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--command", default="make reproduce", help="what was typed, for the page")
    parser.add_argument("--remark", default="", help="what else is to be known of the runs, for the page")
    parser.add_argument("--add", action="store_true", help="keep what the CSV files tell of models not in the store")
    parser.add_argument("--readme", action="store_true", help="put tables into the project's README, too")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tables = _tables(options.runs, options.out, options.add)
    folder = Environment(
        loader=FileSystemLoader(HERE),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = folder.get_template("README.md.j2").render(
        command=options.command, remark=options.remark, paper=PAPER, **tables
    )
    write_bytes(options.out / "README.md", page.encode())
    if options.readme:
        for name in ("embedding", "verification", "claims"):
            _include(name, str(tables[name]))
    print(page)


def _tables(runs: Path, out: Path, add: bool) -> dict[str, object]:
    frame = read_all(runs)
    frame = frame[frame.key.isin(embedding.KEYS) & frame.attack.isin(ATTACKS)]
    trained, asked = embedding.read(runs), pd.read_csv(runs / "results" / "verification.csv")
    attacked = frame[(frame.attack != "none") & (frame.key != "paper, random labels")]
    if add:
        trained = embedding.ordered(_merged(embedding.from_csv(out / "embedding.csv"), trained, MODEL))
        attacked = _merged(from_csv(out / "attacks.csv"), attacked, [*MODEL, "attack"])
        asked = _merged(pd.read_csv(out / "verification.csv"), asked, [*MODEL, "attack", "strength"])
    write_bytes(out / "embedding.csv", trained.drop(columns="seconds").round(3).to_csv(index=False).encode())
    write_bytes(out / "attacks.csv", csv(attacked.drop(columns=["seconds", "train_seconds", "group"])).encode())
    write_bytes(out / "verification.csv", asked.to_csv(index=False, float_format="%.6g").encode())
    asked = verification.read(asked)
    (out / "figures").mkdir(exist_ok=True)
    write_figures(aggregate(attacked), out / "figures")
    found = attacks.bargains(attacked)
    summed = "\n".join(
        f"| {reading.claim} | **{reading.found}** | {reading.why} |"
        for reading in claims.readings(trained, found, attacked, asked)
    )
    return {
        "embedding": embedding.markdown(trained),
        "removal": "\n".join(attacks.removal_table(found)),
        "inversion": "\n".join(attacks.inversion_table(attacked)),
        "costs": "\n".join(attacks.costs(frame)),
        "verification": "\n".join(verification.table(asked, _columns(asked))),
        "who_claims": "\n".join(verification.claims_table(asked)),
        "claims": f"| claim | here | why |\n|---|---|---|\n{summed}",
        "stored_as": sorted(trained["stored as"].unique()),
        "asked_seeds": ", ".join(str(int(seed)) for seed in sorted(asked.seed.unique())),
        "seeds": ", ".join(map(str, sorted(trained.seed.unique()))),
        "made": date.today().isoformat(),
        "machine": f"{platform.machine()}, {', '.join(sorted(frame.device.unique()))}",
        "figures": sorted(path.name for path in (out / "figures").glob("*.png")),
    }


def _merged(old: pd.DataFrame, new: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """All rows; of those that agree in ``names``, the new ones."""
    known = set(new[names].itertuples(index=False, name=None))
    stays = [row not in known for row in old[names].itertuples(index=False, name=None)]
    return pd.concat([old[stays], new], ignore_index=True).sort_values(names, kind="stable", ignore_index=True)


def _columns(asked: pd.DataFrame) -> dict[str, tuple[str, float]]:
    """Columns of which something is known."""
    known = set(zip(asked.attack, asked.strength, strict=True))
    return {title: column for title, column in {**AS_IT_IS, **ATTACKED}.items() if column in known}


def _include(name: str, table: str) -> None:
    text = README.read_text()
    start, end = f"<!-- {name} table: start -->", f"<!-- {name} table: end -->"
    before, after = text.index(start) + len(start), text.index(end)
    write_bytes(README, f"{text[:before]}\n\n{table}\n\n{text[after:]}".encode())


if __name__ == "__main__":
    main()
