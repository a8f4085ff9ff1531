from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pandas.testing import assert_frame_equal

from tests.results.cards import leave, prune_card, read, study, train_card
from wmlightning.results.__main__ import main
from wmlightning.results.card import SCHEMA
from wmlightning.results.table import from_csv

FILES = ["figures", "results.csv", "results.md", "results.tex", "summary.csv"]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path, seeds=(0, 1))
    frame = read(tmp_path)
    assert main([str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "mnist, smallcnn: accuracies in %" in out
    assert err == ""
    assert files(tmp_path / "results") == FILES
    assert files(tmp_path / "results" / "figures") == ["curve-finetune.png", "curve-prune.png", "pareto.png"]
    told = [line.removeprefix("wrote ") for line in out.splitlines() if line.startswith("wrote ")]
    assert len(told) == 7 and all(Path(name).stat().st_size > 0 for name in told)
    assert_frame_equal(from_csv(tmp_path / "results" / "results.csv"), frame, rtol=1e-6)
    assert_frame_equal(read(tmp_path), frame)  # what it wrote is no run


def test_again_gives_the_same_files(tmp_path: Path) -> None:
    for card in (train_card(), prune_card(train_card())):
        leave(tmp_path, card)
    main([str(tmp_path)])
    first = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.*")}
    main([str(tmp_path)])
    assert {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.*")} == first


@pytest.mark.parametrize("options", [["--out", "-"], ["--no-files"], ["--no-files", "--out", "x"]])
def test_only_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    leave(tmp_path / "runs", train_card())
    assert main(options) == 0  # ./runs by default
    assert "wrote" not in capsys.readouterr().out
    assert files(tmp_path) == ["runs"]
    assert len(files(tmp_path / "runs")) == 1


def test_the_environment_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(tmp_path, train_card("cifar10"))
    monkeypatch.setenv("WML_RUNS_DIR", str(tmp_path))
    assert main(["--out", str(tmp_path / "new" / "folder")]) == 0
    assert "cifar10" in capsys.readouterr().out
    assert files(tmp_path / "new" / "folder") == FILES


def test_conditions_narrow_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path, seeds=(0, 1))
    assert main([str(tmp_path), "--where", "attack=prune", "--where", "seed=1", "--where", "key=paper"]) == 0
    assert "finetune" not in capsys.readouterr().out
    assert len(from_csv(tmp_path / "results" / "results.csv")) == 3
    assert files(tmp_path / "results" / "figures") == ["curve-prune.png", "pareto.png"]


def test_every_epoch_is_printed_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path, seeds=(0,))
    usual = ["--no-files", str(tmp_path)]
    main(usual)
    final = capsys.readouterr().out
    main([*usual, "--all"])
    everything = capsys.readouterr().out
    assert "epochs" in everything and "epochs" not in final
    assert len(everything.splitlines()) - len(final.splitlines()) == 3 * 2


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("attack", "error: where: 'attack' names no value"),
        ("colour=red", "error: where: there is no column 'colour'"),
        ("seed=one", "error: where: 'one' is no number"),
        ("final=1", "error: where: final=1 is neither true nor false"),
    ],
)
def test_a_condition_that_says_nothing_is_a_mistake_in_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], condition: str, told: str
) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert main([str(folder), "--where", condition]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(told) and len(err.splitlines()) == 1


def test_nothing_there_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    leave(tmp_path / "full", train_card())
    for name, told in {
        "nowhere": "nowhere is no folder",
        "file": "file is no folder",
        "empty": "no usable card.json below",
    }.items():
        assert main([str(tmp_path / name)]) == 1
        out, err = capsys.readouterr()
        assert err.startswith("error: runs_dir: ") and told in err and len(err.splitlines()) == 1
        assert out == ""
    assert main([str(tmp_path / "full"), "--where", "attack=prune"]) == 1
    assert capsys.readouterr().err.startswith("error: where: no row of 1 has attack=prune")
    assert files(tmp_path) == ["empty", "file", "full"]


def test_a_place_that_cannot_be_written_to_is_told_before_anything_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(tmp_path, train_card())
    (tmp_path / "file").touch()
    assert main([str(tmp_path), "--out", str(tmp_path / "file")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: out: ") and len(err.splitlines()) == 1


def test_cards_left_out_are_named_beside_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave(tmp_path, train_card())
    leave(tmp_path, {**train_card(seed=1), "schema": SCHEMA + 1}, "newer")
    assert main([str(tmp_path), "--no-files"]) == 0
    out, err = capsys.readouterr()
    assert "mnist" in out
    assert err.startswith("skipped newer: ") and len(err.splitlines()) == 1


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **more}, check=False)


def test_as_a_command_it_starts_without_torch(tmp_path: Path) -> None:
    leave(tmp_path, train_card())
    leave(tmp_path, prune_card(train_card()))
    program = (
        "import sys; from wmlightning.results.__main__ import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'lightning', 'torchvision', 'wandb'} & set(sys.modules); print(code, sorted(heavy))"
    )
    done = run("-c", program, str(tmp_path))
    assert done.stdout.splitlines()[-1] == "0 []", done
    done = run("-m", "wmlightning.results", str(tmp_path / "nowhere"), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_stops_early_is_no_failure_of_ours(tmp_path: Path) -> None:
    leave(tmp_path, train_card())
    command = f'"{sys.executable}" -m wmlightning.results "{tmp_path}" | head -n 1'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert files(tmp_path / "results") == FILES
