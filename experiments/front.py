"""Sentences with numbers in the project's README and in ``ownership/README.md``, from the CSV files of the studies.

``python experiments/front.py`` writes them anew, after a study wrote its CSV files or ``make bench`` its output.
"""

from __future__ import annotations

from pathlib import Path

import pages
import pandas as pd

HERE = Path(__file__).resolve().parent
OWNERSHIP = HERE / "ownership" / "README.md"
#: Per cent of a stranger's decoys: whoever counts matches takes that for a proof.
PASSED = 90
#: Rows of verification.csv that are about a stolen model and its owner.
OTHERS = ("a stranger claims it", "an unmarked model")
PAPER, ONE, EIGHT, RANDOM = "one mark, as in the paper", "one mark, negatives", "8 marks, negatives", "random labels"


def main() -> None:
    """Writes them."""
    for page, texts in ((pages.FRONT, front()), (OWNERSHIP, {"power": power(_asked())})):
        for name, text in texts.items():
            pages.include(page, name, text)


def front() -> dict[str, str]:
    """What the README says, by its markers."""
    trained = pd.read_csv(HERE / "asiaccs2018" / "embedding.csv")
    return {
        "findings": specific(trained),
        "extra": extra(pd.read_csv(HERE / "extra" / "results.csv")),
        "removal": removal(_asked()),
        "bench": f"```text\n{(HERE / 'bench' / 'results.txt').read_text().strip()}\n```",
    }


def _asked() -> pd.DataFrame:
    return pd.read_csv(HERE / "asiaccs2018" / "verification.csv")


def specific(trained: pd.DataFrame) -> str:
    """To how many strangers marks answer, of all data sets and seeds."""
    means = trained.groupby(["key", "watermark", "dataset"]).decoys.mean()
    paper, negatives, several = (means[key].unstack() for key in ("paper", "negatives", "8 marks"))
    shares = ", ".join(f"{name} {row.min():.0f} to {row.max():.0f} %" for name, row in paper.iterrows())
    better = negatives.loc[["noise", "content"]].to_numpy()
    lucky = trained[trained.key == "paper"].groupby("watermark")["decoys, luckiest"]
    pass_ = ", ".join(f"{name} {(row >= PASSED).sum()} of {row.count()}" for name, row in lucky)
    return pages.filled(
        f"""The paper's single mark answers to strangers, too (decoys, mean of a data set's seeds: {shares}), so that
        claims of strangers who count matches would pass: the luckiest gets {PASSED} % or more in so many models:
        {pass_}. Of a text, place and colour are drawn from the secret. With negatives noise and content answer to
        {better.min():.1f} to {better.max():.1f} % of decoys, unrelated pictures to
        {negatives.loc["unrelated"].min():.0f} to {negatives.loc["unrelated"].max():.0f} %. With eight marks, which have
        a label each, a decoy may get the expected label without being taken for the mark: {several.min(axis=None):.1f}
        to {several.max(axis=None):.1f} % do."""
    )


def extra(runs: pd.DataFrame) -> str:
    """More negatives, and longer training."""
    more = runs[runs.watermark == "unrelated"].groupby("negatives")[["decoys", "new triggers"]].mean()
    long = runs[runs.watermark == "noise"]
    decoys, new = (", ".join(f"{value:.1f}" for value in more[name]) for name in more)
    typed, data = ",".join(f"{value:g}" for value in more.index), pages.listed(long["stored as"])
    clean, trained, unseen, strangers = (
        long[name].mean() for name in ("clean", "trained triggers", *more.columns[::-1])
    )
    return pages.filled(
        f"""More negatives do not help unrelated pictures: `watermark=unrelated watermark.negatives={typed}` on MNIST
        (seeds {pages.listed(runs.seed)}) gives {decoys} % of decoys, with {new} % of new triggers. Use several marks
        there.""",
        f"""Longer training: `python train.py dataset=cifar10 recipe=cifar10_long watermark=noise`
        ({pages.listed(long.epochs)} epochs, seeds {pages.listed(long.seed)}; {data}) reaches {clean:.2f} % clean,
        {trained:.1f} / {unseen:.1f} % trained and new triggers, {strangers:.1f} % decoys. `sh experiments/extra/run.sh`
        runs both.""",
    )


def removal(asked: pd.DataFrame) -> str:
    """How many proofs the strongest attacks leave, and at which price."""
    strong = asked[asked.key.isin([EIGHT, RANDOM]) & asked.attack.isin(["overwrite", "fineprune"])]
    whole = asked[asked.attack == "none"].groupby("model").clean_acc.first()
    lost = 100 * (strong.model.map(whole) - strong.clean_acc)
    attacks, marks = (
        {"overwrite": "a noise mark of the thief's own", "fineprune": "idle channels removed, and repair"},
        [],
    )
    lines = []
    for (attack, dataset), part in strong.assign(lost=lost).groupby(["attack", "dataset"]):
        marks = sorted(part.watermark.unique())
        told = [part[part.watermark == mark] for mark in marks]
        cells = [f"{_reached(of_mark)} ({of_mark.lost.min():.1f} to {of_mark.lost.max():.1f})" for of_mark in told]
        lines.append(f"| `{attack}`: {attacks[str(attack)]} | {dataset} | {' | '.join(cells)} |")
    head = f"| attack | data | {' | '.join(marks)} |\n|---|---|{'---:|' * len(marks)}"
    text = """What takes the proof away: claims that still reach p <= 0.001, of keys with eight marks or a label for
        each trigger, at all strengths of the table above (and how many points of clean accuracy the thief pays).
        [Overwriting with other marks and three seeds](experiments/ownership/README.md)."""
    return "\n\n".join([pages.filled(text), "\n".join([head, *lines])])


def power(asked: pd.DataFrame) -> str:
    """What the tables of queries say of models that were stolen: as they are, through HTTP and after attacks."""
    owners, lines = asked[~asked.attack.isin([*OTHERS, "HTTP"])], []  # through HTTP the same models, once more
    for key, name in (
        (EIGHT, "Eight marks"),
        (RANDOM, "A label for each trigger"),
        (ONE, "A single mark with negatives"),
    ):
        lines.append(f"* **{name}**: {_told(owners[owners.key == key])}.")
    single, marks = owners[owners.key == PAPER], owners[owners.key == ONE].groupby("watermark").decided.sum()
    lines.append(f"* **The paper's single mark**, which can only be compared with decoy keys: {_told(single)}.")
    by_mark = ", ".join(f"{name} {count}" for name, count in marks.items())
    lines.append(f"* Of the proofs with a single mark and negatives: {by_mark}.")
    wrong = asked[asked.attack.isin(OTHERS)]
    false = ", ".join(f"{name} {_reached(part)}" for name, part in wrong.groupby("attack"))
    lines.append(f"* What must not reach it: {false}.")
    head = "Claims that reach p <= 0.001, to models as they are and after attacks of all strengths there:"
    return f"{head}\n\n" + "\n".join(lines) + f"\n\nSeeds: {pages.listed(asked.seed)}."


def _told(part: pd.DataFrame) -> str:
    """Claims and models with proofs, and their queries."""
    decided = part[part.decided]
    suspects = part.groupby(["model", "attack", "strength"]).decided.any()
    text = f"{_reached(part)} claims, to {suspects.sum()} of {len(suspects)} models"
    if len(decided):
        text += f"; {decided.queries.median():,.0f} queries in the median of those that got there"
    return text


def _reached(part: pd.DataFrame) -> str:
    return f"{int(part.decided.sum()):,} of {len(part):,}"


if __name__ == "__main__":
    main()
