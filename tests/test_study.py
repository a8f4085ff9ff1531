"""What the scripts of experiments/asiaccs2018 and experiments/ownership make of cards and rows."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from tests.conftest import REPO
from wmlightning.results.card import write_card
from wmlightning.results.table import frame_of

MODULES = ("embedding", "attacks", "verification", "claims", "tables", "asking", "power")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    for folder in ("ownership", "asiaccs2018"):
        monkeypatch.syspath_prepend(REPO / "experiments" / folder)
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    for name in MODULES:
        sys.modules.pop(name)


def train_card(folder: Path, fingerprint: str, target: str | None, epochs: int = 4, **changed: Any) -> None:
    task = {"dataset": {"name": "mnist"}, "model": {}, "recipe": {}, "precision": "32-true", "seed": 0}
    tags = ["asiaccs2018", "paper"] if target else []
    config = {**task, "trainer": {"max_epochs": epochs}, "watermark": {"_target_": target}, "tags": tags}
    card = {
        "kind": "train",
        "fingerprint": fingerprint,
        "seed": 0,
        "config": config,
        "epochs": epochs,
        "metrics": {"test/clean_acc": 0.9},
        "data": {"triggers": 0, "stored_as": "original files"},
        "precision": "32-true",
        "seconds": {"train": 1.0},
        "threads": 1,
        "device": "cpu",
        "environment": {"platform": "Linux", "git_commit": "0123456789abcdef-dirty"},
        **changed,
    }
    (folder / fingerprint).mkdir(parents=True)
    write_card(folder / fingerprint, card)


NOISE = "wmlightning.watermarks.noise.Noise"


def test_unmarked_models_of_another_study_are_left_out(study: SimpleNamespace, tmp_path: Path) -> None:
    train_card(tmp_path, "aaaa", NOISE)
    train_card(tmp_path, "bbbb", None)
    train_card(tmp_path, "cccc", None, epochs=9)
    found = study.embedding.read(tmp_path)
    assert list(found.fingerprint) == ["bbbb", "aaaa"]
    assert study.asking.twins_of(tmp_path / "aaaa", tmp_path) == [tmp_path / "bbbb"]
    assert list(found.columns) == study.embedding.COLUMNS


def test_two_models_of_one_name_are_refused(study: SimpleNamespace, tmp_path: Path) -> None:
    train_card(tmp_path, "aaaa", NOISE)
    train_card(tmp_path, "bbbb", NOISE, epochs=9)
    with pytest.raises(SystemExit, match=r"2 models of mnist noise paper 0 \(aaaa, bbbb\); keep one"):
        study.embedding.read(tmp_path)


# -- readings --------------------------------------------------------------------------------------------------------


def trained(study: SimpleNamespace, *models: tuple[str, str]) -> pd.DataFrame:
    """Watermark and key; fingerprints are their numbers."""
    rows = [
        {"dataset": "mnist", "seed": i, "watermark": w, "key": k, "fingerprint": f"f{i}", "new triggers": 99.0}
        | {"decoys": 10.0 * i, "decoys, luckiest": 90.0}
        for i, (w, k) in enumerate(models)
    ]
    return pd.DataFrame(rows, columns=study.embedding.COLUMNS)


def asked(model: int, decided: list[bool], watermark: str = "noise", attack: str = "none") -> pd.DataFrame:
    name = {"model": f"mnist-{watermark}-s0-f{model}", "dataset": "mnist", "watermark": watermark, "key": "", "seed": 0}
    found = {"queries": 40, "triggers": 40, "matches": 40, "p_value": 0.5, "strength": 0.0, "attack": attack}
    return pd.DataFrame([{**name, **found, "turn": turn, "decided": one} for turn, one in enumerate(decided)])


def ownership(study: SimpleNamespace, runs: pd.DataFrame, *rows: pd.DataFrame) -> Any:
    frame = study.verification.of_models(pd.concat(rows), runs) if rows else study.verification.read(Path("none"))
    return study.claims.Reading("", "", *study.claims._ownership(runs[runs.key == "paper"], frame))


def test_models_are_counted_and_not_their_orders(study: SimpleNamespace) -> None:
    runs = trained(study, ("noise", "paper"), ("content", "paper"), ("noise", "8 marks"))
    rows = asked(0, [True, True, False]), asked(1, [False] * 3, "content"), asked(2, [True] * 20)
    found = ownership(study, runs, *rows, asked(0, [True] * 3, attack="HTTP"))
    assert found.found == study.claims.LIMITS
    assert "0 of 1 model with content, 1 of 1 model with noise, asked about 40 triggers" in found.why
    assert "With eight marks the owner does in 1 of 1 model, each asked in 20 orders" in found.why


def test_a_mark_that_no_test_can_show_counts_for_nothing(study: SimpleNamespace) -> None:
    runs = trained(study, ("unrelated", "paper"), ("noise", "paper"))
    alone = ownership(study, runs, asked(0, [False] * 3, "unrelated"))
    assert alone.found == study.claims.UNTOLD
    both = ownership(study, runs, asked(0, [False] * 3, "unrelated"), asked(1, [True] * 3))
    assert both.found == study.claims.CONFIRMED
    assert "unrelated cannot get there" in both.why


def test_without_the_papers_key_nothing_is_read(study: SimpleNamespace) -> None:
    runs = trained(study, ("noise", "8 marks"))
    assert ownership(study, runs, asked(0, [True] * 20)).found == study.claims.NOTHING
    assert ownership(study, runs).found == study.claims.NOTHING


def inverted(p: list[float], strangers: int, watermark: str = "noise") -> pd.DataFrame:
    row = {"attack_type": "detection", "key": "paper", "watermark": watermark, "strangers": strangers}
    rows = [{**row, "p_value": one, "twin_p_value": 0.01, "score": 0.1, "twin_score": 0.0} for one in p]
    return pd.DataFrame(rows).astype({"strangers": "Int64"})


def test_too_few_strangers_confirm_nothing(study: SimpleNamespace) -> None:
    found, why = study.claims._inversion(inverted([0.1, 0.9], 9))
    assert found == study.claims.UNTOLD
    assert "with 9 strangers p is 0.1 at the least" in why
    found, _ = study.claims._inversion(inverted([0.01] * 9, 99, "unrelated"))
    assert found == study.claims.UNTOLD


def test_models_without_a_test_and_keys_of_several_marks_are_told(study: SimpleNamespace) -> None:
    untested = inverted([0.5], 99, "content").assign(p_value=float("nan"))
    marks = inverted([0.01, 0.5], 99).assign(key="8 marks")
    parts = [inverted([0.3, 0.4, 0.9], 99), untested, marks]
    found, why = study.claims._inversion(pd.concat(parts, ignore_index=True))
    assert found == study.claims.CONFIRMED
    assert "in 0 of 3 models (0 of 3 with noise)" in why
    assert "and 1 model (1 with content), inverted before there was this test" in why
    assert "Of keys with eight marks, of which any may show, it does in 1 of 2 models (1 of 2 with noise)" in why


def test_pictures_that_show_the_secret_are_counted(study: SimpleNamespace) -> None:
    frame = pd.concat([inverted([0.01, 0.5, 0.5], 99), inverted([0.01] * 5, 99, "unrelated")])
    found, why = study.claims._inversion(frame)
    assert found == study.claims.LIMITS
    assert "in 1 of 3 models (1 of 3 with noise)" in why
    assert "in 3 of 3 comparisons with unmarked models" in why


# -- removal ---------------------------------------------------------------------------------------------------------


def surrogates(*found: tuple[float, float, float, bool]) -> pd.DataFrame:
    """Strength, clean accuracy (of a victim with 0.9), new triggers, and whether it is the last epoch."""
    name = {"dataset": "mnist", "watermark": "noise", "key": "paper", "seed": 0, "attack": "finetune"}
    what = {"attack_type": "removal", "is_victim": False, "victim_clean_acc": 0.9, "decoy_acc": 0.0}
    rows = [
        {**name, **what, "strength": s, "clean_acc": c, "clean_lost": 0.9 - c, "trigger_new_acc": t, "final": last}
        for s, c, t, last in found
    ]
    return frame_of([{**dict.fromkeys(frame_of([]).columns), **row} for row in rows])


def test_a_bargain_of_any_epoch_is_one_in_both_columns(study: SimpleNamespace) -> None:
    two_points = 0.8799999781  # in single precision
    found = study.attacks.bargains(
        surrogates((0.1, two_points, 0.4, False), (0.1, 0.8, 0.1, True), (0.01, 0.9, 0.9, True))
    )
    (row,) = found.itertuples()
    assert (row.left, row.lost, row.price) == (40, 2, 2), "two points are two points"
    assert (row.weakest, row.strongest) == (0.1, 0.1)
    assert "| 40.0 |" in "\n".join(study.attacks.removal_table(found))


def test_the_learning_rate_that_is_told_is_the_least_that_removes(study: SimpleNamespace) -> None:
    found = study.attacks.bargains(surrogates((0.03, 0.85, 0.4, True), (0.1, 0.89, 0.1, True), (1.0, 0.1, 0.1, True)))
    _, why = study.claims._removal(found, "finetune")
    assert "of the learning rates tried (up to 1) it takes 0.03 or more" in why


def test_where_all_lose_more_the_table_says_so(study: SimpleNamespace) -> None:
    found = study.attacks.bargains(surrogates((0.1, 0.5, 0.2, True), (0.2, 0.4, 0.1, True)))
    assert "| 20.0 (some lose more) |" in "\n".join(study.attacks.removal_table(found))


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_store_in_which_nothing_was_attacked_or_asked_has_tables(study: SimpleNamespace, tmp_path: Path) -> None:
    """As with ``KEYS=fresh``, and with ``ADD=1`` into an empty folder."""
    train_card(tmp_path / "runs", "aaaa", NOISE)
    out = tmp_path / "out"
    out.mkdir()
    pd.DataFrame(columns=study.power.COLUMNS).to_csv(tmp_path / "verification.csv", index=False)
    (tmp_path / "runs" / "results").mkdir()
    (tmp_path / "verification.csv").rename(tmp_path / "runs" / "results" / "verification.csv")
    once = study.tables._tables(tmp_path / "runs", out, add=True)
    again = study.tables._tables(tmp_path / "runs", out, add=True)
    assert once == again
    assert once["commits"] == {"`0123456-dirty`": 1}
    told = study.tables._told_of_runs("make reproduce", "", once)
    assert "Commits they were trained at (models): `0123456-dirty` (1). Threads of a job (models): 1 (1)." in told


def test_figures_of_an_earlier_run_go(study: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    folder.mkdir()
    for name in ("curve-old.png", "inversion-old.png"):
        (folder / name).touch()
    attacked = study.attacks.from_csv(tmp_path / "none.csv")
    assert study.tables._figures(tmp_path, tmp_path, attacked, True)["pictures"] == ["inversion-old.png"]
    assert not (folder / "curve-old.png").exists()
    assert study.tables._figures(tmp_path, tmp_path, attacked, False)["pictures"] == []


def test_rows_that_were_asked_for_otherwise_are_asked_for_again(study: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "power.csv"
    assert list(study.power.known(out).columns) == study.power.COLUMNS
    pd.DataFrame({"model": ["a", "b"], "asked_as": [study.power.ASKED_AS, "other"]}).to_csv(out, index=False)
    assert list(study.power.known(out).model) == ["a"]
    pd.DataFrame({"model": ["a"]}).to_csv(out, index=False)  # of a version that did not tell
    assert not len(study.power.known(out))


def test_make_runs_the_study_in_the_environment_that_it_made() -> None:
    done = subprocess.run(
        ["make", "-n", "reproduce", "PYTHON=python3.99"], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert "PYTHON=.venv/bin/python sh experiments/asiaccs2018/run.sh" in done.stdout
