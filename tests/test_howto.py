"""What the how-tos show works as it stands: leaves in a folder outside the package, with nothing of ours edited."""

from __future__ import annotations

import importlib.util
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Outcome
from tests.howto import HOWTO, samples, write_samples
from wmlightning.config import named_targets
from wmlightning.errors import UserError
from wmlightning.report.__main__ import main as report
from wmlightning.results.__main__ import main as results

Main = Callable[..., Outcome]
PAGES = sorted(path.stem for path in HOWTO.glob("*.md"))


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An author's folder. What is imported from it is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path / "mine"
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_there_is_a_page_for_each_kind_of_leaf() -> None:
    assert PAGES == ["attack", "dataset", "network", "suspect", "watermark"]


@pytest.mark.parametrize("page", PAGES)
def test_samples_pass_their_own_tests(page: str, mine: Path, tmp_path: Path) -> None:
    write_samples(mine, page)
    (file,) = mine.glob("test_*.py")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert tests
    for number, test in enumerate(tests):
        place = tmp_path / str(number)
        place.mkdir()
        test(**({"tmp_path": place} if "tmp_path" in inspect.signature(test).parameters else {}))


def test_samples_are_formatted_as_our_code(mine: Path) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("no ruff")
    write_samples(mine, *PAGES)
    settings = ["--config", str(HOWTO.parents[1] / "pyproject.toml"), "--config", 'lint.ignore=["D1", "S101", "I001"]']
    for command in (["check"], ["format", "--check"]):
        options = settings if command == ["check"] else settings[:2]
        done = subprocess.run([ruff, *command, *options, mine], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_a_watermark_and_an_attack_of_ones_own_take_part_in_everything(
    main: Main, small: list[str], mine: Path, runs: Path
) -> None:
    write_samples(mine, "watermark", "attack")
    task = [*small, "watermark.n_triggers=40", "watermark.n_decoys=3", "trainer.enable_progress_bar=false"]
    sweep = ["-m", "watermark=patch,noise", "attack=[jitter,prune]", "attack.jitter.levels=[0.1]"]
    done = main(f"--config-dir={mine}", *sweep, "attack.prune.rates=[0.5]", *task)
    assert done.code == 0, done
    cards = [json.loads(path.read_text()) for path in runs.rglob("card.json")]
    found = {(card["config"]["watermark"]["_target_"].rsplit(".", 1)[1], card.get("attack")) for card in cards}
    assert found == {(w, a) for w in ("Patch", "Noise") for a in (None, "jitter", "prune")}

    assert results([str(runs)]) == 0
    table = (runs / "results" / "results.md").read_text()
    assert "patch" in table
    assert "jitter" in table
    assert (runs / "results" / "figures").is_dir()
    assert report([str(runs), "--out", str(runs / "page.html")]) == 0
    page = (runs / "page.html").read_text()
    assert "patch" in page
    assert "jitter" in page

    (victim,) = runs.glob("procedural-patch-*")
    attack = [f"victim={victim}", "attack=prune", "attack.prune.rates=[0.7]", *small[3:]]
    again = main(*attack)
    (line,) = again.errors
    assert line.startswith("error: victim: its config would run 'patch.Patch', which is not ours; trust=[patch.Patch]")
    assert main(f"--config-dir={mine}", *attack).code == 0


@pytest.mark.slow
def test_a_key_of_ones_own_watermark_proves_ownership(main: Main, verify: Main, mine: Path, tmp_path: Path) -> None:
    write_samples(mine, "watermark", "network")
    key = tmp_path / "owner.key"
    task = ["dataset=procedural", "++dataset.source.n_train=1500", "++dataset.source.n_test=400", "trainer=cpu"]
    marks = ["watermark=patch", "watermark.n_marks=8", "watermark.n_triggers=240", "trainer.max_epochs=3"]
    done = main(f"--config-dir={mine}", f"key={key}", "model=mlp", *task, *marks, "trainer.precision=32-true")
    assert done.code == 0, done
    (run,) = (tmp_path / "runs").glob("procedural-patch-mlp-*")
    asked = [f"key={key}", f"suspect.path={run}", "triggers=trained"]
    refused = verify(*asked)
    assert refused.code == 3
    assert "patch.Patch" in refused.err
    verdict = verify(f"--config-dir={mine}", *asked)
    assert verdict.code == 0, verdict
    assert "OWNED" in verdict.out


def test_every_sample_names_its_place() -> None:
    for page in PAGES:
        names = list(samples(page))
        assert any(name.startswith("test_") for name in names), page
        assert any(name.endswith(".yaml") and name.count("/") == 1 for name in names), page


def test_targets_of_ones_own_configs_are_known_and_broken_ones_told(mine: Path) -> None:
    write_samples(mine, *PAGES)
    (mine / "model" / "nested.yaml").write_text("{_target_: 'a.B', inner: [{_target_: c.D}]}  # _target_: e.F\n")
    own = {"patch.Patch", "jitter.Jitter", "arrays.Arrays", "mlp.Mlp", "linear.Linear", "a.B", "c.D"}
    assert named_targets(mine) == own | {"torchvision.models.squeezenet1_1"}
    (mine / "watermark" / "broken.yaml").write_text("size: [1\n")
    with pytest.raises(UserError, match=r"^config_dir: .*broken\.yaml cannot be read .*; a config in YAML") as caught:
        named_targets(mine)
    assert "\n" not in str(caught.value)


def test_code_that_is_not_there_is_told(main: Main, small: list[str], mine: Path, runs: Path) -> None:
    write_samples(mine, "watermark")
    (mine / "patch.py").unlink()
    (line,) = main(f"--config-dir={mine}", "watermark=patch", *small).errors
    assert line.startswith("error: watermark: cannot make patch.Patch: ")
    assert "No module named 'patch'" in line
    assert not runs.exists()


def test_files_of_ones_own_never_stand_in_for_a_library(main: Main, small: list[str], mine: Path) -> None:
    mine.mkdir()
    (mine / "torchvision.py").write_text("raise RuntimeError('imported')\n")
    done = main(f"--config-dir={mine}", "watermark=none", *small)
    assert done.code == 0, done
    assert sys.path.index(str(mine)) > next(i for i, p in enumerate(sys.path) if p.endswith("site-packages"))
