"""Renders this folder's README, tables and figures from result cards: the last step of ``run.sh``.

No number in them is typed by hand; which commands were typed, and how long that took, they are told. With ``--readme``
the tables of the project's README are renewed too. A store may hold a part of the study only, such as one seed: with
``--add`` the rows of the CSV files that are already there stay, unless the store has newer ones of the same model and
attack.
"""

from __future__ import annotations

import argparse
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import attacks
import claims
import embedding
import pandas as pd
import verification
from embedding import MODEL
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from wmlightning.files import write_bytes
from wmlightning.results.card import PICTURE
from wmlightning.results.figures import write_figures

HERE = Path(__file__).resolve().parent
README = HERE.parents[1] / "README.md"
AS_IT_IS = {"as it is": ("none", 0.0), "through HTTP": ("HTTP", 0.0)}
ATTACKED = {
    **{f"{rate:.0%} pruned": ("prune", rate) for rate in (0.5, 0.7, 0.9)},
    **{f"fine-tuned at {rate:g}": ("finetune", rate) for rate in (0.01, 0.03, 0.1)},
    **{f"{rate:.0%} fine-pruned": ("fineprune", rate) for rate in (0.6, 0.9)},
    **{f"overwritten at {rate:g}": ("overwrite", rate) for rate in (0.01, 0.03)},
}


def main() -> None:
    """Reads cards, writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--command", default="make reproduce", help="what was typed, for the page")
    parser.add_argument("--took", default="", help="how long that took, for the page")
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
    tables["runs"] = _told_of_runs(options.command, options.took, tables)
    page = folder.get_template("README.md.j2").render(**tables)
    write_bytes(options.out / "README.md", page.encode())
    if options.readme:
        for name in ("runs", "embedding", "verification", "claims"):
            _include(name, str(tables[name]))
    print(page)


def _tables(runs: Path, out: Path, add: bool) -> dict[str, Any]:
    trained, asked = embedding.read(runs), verification.read(runs / "results" / "verification.csv")
    attacked = attacks.read(runs, trained)
    n_new = len(trained)
    if add:
        trained = embedding.ordered(_merged(embedding.from_csv(out / "embedding.csv"), trained, MODEL))
        attacked = _merged(attacks.from_csv(out / "attacks.csv"), attacked, attacks.ABOUT)
        asked = _merged(verification.read(out / "verification.csv"), asked, verification.ABOUT)
        attacked = attacked[attacked.victim.isin(trained.fingerprint)]  # not of a model that a new one replaces
        asked = asked[verification.fingerprints(asked).isin(trained.fingerprint)]
    write_bytes(out / "embedding.csv", trained.round(3).to_csv(index=False).encode())
    write_bytes(out / "attacks.csv", attacks.write_csv(attacked).encode())
    write_bytes(out / "verification.csv", asked.to_csv(index=False, float_format="%.6g").encode())
    (out / "figures").mkdir(exist_ok=True)
    kept = embedding.from_csv(out / "embedding.csv"), attacks.from_csv(out / "attacks.csv")
    shown = rendered(*kept, verification.read(out / "verification.csv"))  # what the files say, to the last digit
    return {**shown, "n_new": n_new, **_figures(runs, out, attacked, add)}


def rendered(trained: pd.DataFrame, attacked: pd.DataFrame, asked: pd.DataFrame) -> dict[str, Any]:
    """All that the page shows but for the figures."""
    asked = verification.of_models(asked, trained)
    # A label for each trigger is learned by heart: of new triggers there is nothing to be left.
    removed = attacked[attacked.key != "paper, random labels"]
    found = attacks.bargains(removed)
    readings = claims.readings(trained, found, attacked, asked)
    summed = "\n".join(f"| {reading.claim} | **{reading.found}** | {reading.why} |" for reading in readings)
    rules = {reading.rule: [one.claim for one in readings if one.rule == reading.rule] for reading in readings}
    return {
        "embedding": embedding.markdown(trained),
        "removal": "\n".join(attacks.removal_table(found)),
        "inversion": "\n".join(attacks.inversion_table(attacked)),
        "costs": "\n".join(attacks.costs(trained, attacked)),
        "verification": "\n".join(verification.table(asked, _columns(asked))),
        "who_claims": "\n".join(verification.claims_table(asked)),
        "strangers": "\n".join(verification.strangers_table(trained)),
        "terms": " ".join(filter(None, (verification.terms(asked), verification.of_http(asked)))),
        "claims": f"| claim | here | why |\n|---|---|---|\n{summed}",
        "rules": "\n".join(f"* {' '.join(told)} *{rule}*" for rule, told in rules.items()),
        "rules_of": claims.RULES_OF,
        "stored_as": sorted(trained["stored as"].unique()),
        "asked_seeds": _listed(asked.seed),
        "seeds": _listed(trained.seed),
        "n_models": len(trained),
        "commits": _counted(trained.commit.dropna().map(_short)),
        "machines": _counted(pd.Series([_machine(row) for row in trained.itertuples()], dtype=object)),
        "threads": _counted(trained.threads.dropna().map("{:.0f}".format)),
        "made": date.today().isoformat(),
    }


def _told_of_runs(command: str, took: str, tables: dict[str, Any]) -> str:
    """Where the numbers come from, as far as cards and rows tell."""
    n, new = tables["n_models"], tables["n_new"]
    made = f"{n} models, seeds {tables['seeds']}; `{command}` makes or finds "
    made += "all of them" if new == n else f"{new} of them, rows of the others are of earlier runs of the same script"
    made += f" ({took})." if took else "."
    told = {"Commits they were trained at": "commits", "Threads of a job": "threads", "Machines": "machines"}
    for what, name in told.items():
        known = sum(tables[name].values())
        listed = ", ".join(f"{value} ({count})" for value, count in tables[name].items())
        unknown = "" if known == n else f"; not known of {n - known}"
        made += f" {what} (models): {listed or 'none'}{unknown}."
    return made


def _short(commit: str) -> str:
    """Seven letters, and whether files had been changed since."""
    name, dirty, _ = commit.partition("-dirty")
    return f"`{name[:7]}{dirty}`"


def _machine(row: Any) -> str | None:
    if pd.isna(row.platform):
        return None
    processor = "" if pd.isna(row.cpu) else f", {row.cpu}"
    return f"{row.platform}{processor}{'' if pd.isna(row.cores) else f', {row.cores:.0f} cores'}, {row.device}"


def _counted(values: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().items()}


def _listed(values: pd.Series) -> str:
    return ", ".join(str(int(value)) for value in sorted(values.dropna().unique()))


def _figures(runs: Path, out: Path, attacked: pd.DataFrame, add: bool) -> dict[str, Any]:
    """Curves over strengths, and what inversion recovers from a model with the paper's key.

    Figures of an earlier run go, but for pictures of models that are not in the store if those are to be kept.
    """
    folder = out / "figures"
    for old in folder.glob("*.png"):
        if not (add and old.name.startswith("inversion-")):
            old.unlink()
    write_figures(attacked[attacked.key != "paper, random labels"], folder)
    recovered = attacked[(attacked.attack_type == "detection") & (attacked.key == "paper")].sort_values("seed")
    for (dataset, watermark), part in recovered.groupby(["dataset", "watermark"]):
        picture = runs / part.folder.iloc[0] / PICTURE
        if picture.exists():
            shutil.copyfile(picture, folder / f"inversion-{dataset}-{watermark}.png")
    names = sorted(path.name for path in folder.glob("*.png"))
    pictures = [name for name in names if name.startswith("inversion-")]
    return {"figures": [name for name in names if name not in pictures], "pictures": pictures}


def _merged(old: pd.DataFrame, new: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """All rows; of those that agree in ``names``, the new ones."""
    known = set(new[names].itertuples(index=False, name=None))
    stays = [row not in known for row in old[names].itertuples(index=False, name=None)]
    parts = [part for part in (old[stays], new) if len(part)] or [new]
    return pd.concat(parts, ignore_index=True).sort_values(names, kind="stable", ignore_index=True)


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
