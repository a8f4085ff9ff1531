from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.reading import parsed, pictured
from tests.results.cards import leave, prune_card, train_card
from wmlightning.report.__main__ import main


def test_it_writes_one_page_and_says_what_is_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    victim = train_card()
    for card in (victim, prune_card(victim)):
        leave(tmp_path / "runs", card)
    out = tmp_path / "some" / "where" / "page.html"
    assert main([str(tmp_path / "runs"), "--out", str(out)]) == 0
    told, err = capsys.readouterr()
    assert told.startswith(f"wrote {out}: 1 model, 1 attack, 0 verdicts") and not err
    parsed(out.read_text(encoding="utf-8"))
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_a_page_with_secrets_is_readable_by_its_owner_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictured(tmp_path, (0.5,))
    assert main([str(tmp_path), "--with-secrets"]) == 0
    assert "keep it to yourself" in capsys.readouterr().out
    assert stat.S_IMODE((tmp_path / "report.html").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "arguments, key, code",
    [
        (["nowhere"], "runs_dir", 1),
        (["empty"], "runs_dir", 1),
        (["runs", "--only", "dataset=cifar10"], "only", 1),
        (["runs", "--only", "dataset"], "only", 2),
        (["runs", "--only", "colour=red"], "only", 2),
        (["runs", "--only", "seed=one"], "only", 2),
        (["runs", "--out", "empty"], "out", 1),
        (["runs", "--out", "runs/file/page.html"], "out", 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_end_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    key: str,
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    leave(tmp_path / "runs", train_card())
    (tmp_path / "runs" / "file").touch()
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert not out and err.startswith(f"error: {key}: ") and len(err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_as_a_command_it_starts_without_torch_and_matplotlib(tmp_path: Path) -> None:
    leave(tmp_path, train_card())
    leave(tmp_path, prune_card(train_card()))
    program = (
        "import sys; from wmlightning.report.__main__ import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'lightning', 'matplotlib', 'wandb'} & set(sys.modules); print(code, sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines()[-1] == "0 []", done
