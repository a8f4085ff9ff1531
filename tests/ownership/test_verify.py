"""From key and suspect to verdict: the owner's model is owned, an innocent one is not, nobody else's key helps."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from tests.conftest import REPO
from wmlightning import load_run
from wmlightning.errors import UserError
from wmlightning.job import prepare
from wmlightning.ownership.commitment import write_commitment
from wmlightning.ownership.key import keep_key, read_key
from wmlightning.ownership.questions import ask
from wmlightning.ownership.verdict import Verdict
from wmlightning.ownership.verify import verify
from wmlightning.pipeline import train
from wmlightning.secret import Secret

TASK = (
    "dataset=procedural",
    "++dataset.source.n_train=1500",
    "++dataset.source.n_test=600",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=8",
    "trainer.enable_progress_bar=false",
    "logger=none",
    "callbacks=none",
)
KEYS = {
    "marks": ("watermark.n_marks=4", "watermark.n_triggers=120", "watermark.negatives=0", "watermark.strength=0.4"),
    "decoys": ("watermark.n_triggers=100", "watermark.strength=0.4"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A watermarked model for each kind of key, and an innocent one."""
    folder = tmp_path_factory.mktemp("owners")
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        for name, options in {**KEYS, "innocent": ("watermark=none",)}.items():
            secret = None if name == "innocent" else Secret(bytes([len(name)]) * 32)
            job = prepare(compose("train", [f"runs_dir={folder}", *TASK, *options]), secret=secret)
            if secret is not None:
                keep_key(job, folder / f"{name}.key")
            train(job, force=False)
            job.folder.rename(folder / name)
    return folder


@pytest.fixture
def owners(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "owners"))


def config(owners: Path, key: str, suspect: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        typed = [f"key={owners / key}.key", f"suspect.path={owners / suspect}", f"out={owners / 'out' / suspect}"]
        return compose("verify", [*typed, *overrides])


FEW_DECOYS = ("alpha=0.02", "queries=10", "budget=600")


def verified(owners: Path, key: str, suspect: str, *overrides: str) -> Verdict:
    few = FEW_DECOYS if key == "decoys" else ()
    return verify(config(owners, key, suspect, *few, *overrides))


@pytest.mark.parametrize("key", KEYS)
def test_owners_model_is_owned(owners: Path, key: str) -> None:
    verdict = verified(owners, key, key)
    assert verdict.decision == "owned", verdict.text()
    assert verdict.exit_code == 0
    assert verdict.test == {"marks": "several marks", "decoys": "decoy keys"}[key]
    assert verdict.matches > 0.5 * verdict.triggers
    assert verdict.queries == {"marks": 40, "decoys": 500}[key]


@pytest.mark.parametrize("key", KEYS)
def test_innocent_model_is_not(owners: Path, key: str) -> None:
    verdict = verified(owners, key, "innocent")
    assert verdict.decision == "not shown", verdict.text()
    assert verdict.exit_code == 1


def test_one_owners_key_does_not_claim_anothers_model(owners: Path) -> None:
    assert verified(owners, "marks", "decoys").decision == "not shown"
    assert verified(owners, "decoys", "marks").decision == "not shown"


def test_report_tells_everything_but_the_secret(owners: Path) -> None:
    key = read_key(owners / "marks.key")
    published = owners / "published.json"
    write_commitment(key, published)
    verdict = verified(owners, "marks", "marks", f"commitment={published}")
    out = owners / "out" / "marks"
    told = json.loads((out / "verdict.json").read_text())
    assert told["decision"] == "owned"
    assert told["commitment"] == key.commitment()
    page = (out / "report.html").read_text()
    for part in (verdict.reason, verdict.assumption, key.commitment(), f"{verdict.matches} of 40", "several marks"):
        assert part in page.replace("&#39;", "'"), part
    assert "src=" not in page and "http" not in page, "no picture unasked, nothing from the network"
    for path in (path for path in out.rglob("*") if path.is_file()):
        assert key.secret.reveal().hex() not in path.read_text()
    shown = verified(owners, "marks", "innocent", "show_triggers=true")
    assert len(shown.sample) == 8
    assert (owners / "out" / "innocent" / "report.html").read_text().count("data:image/png;base64,") == 8


def test_shown_triggers_are_spent_for_others_and_not_asked_twice(owners: Path) -> None:
    first = verified(owners, "marks", "marks")
    again = verified(owners, "marks", "marks")
    assert (again.p_value, again.matches) == (first.p_value, first.matches)
    lines = [json.loads(line) for line in (owners / "out" / "marks" / "transcript.jsonl").read_text().splitlines()]
    assert sum(len(line.get("sent", ())) for line in lines) == 40, "the second time, the transcript answers"
    verified(owners, "marks", "innocent")
    others = (owners / "out" / "innocent" / "transcript.jsonl").read_text()
    seen = {line["image"] for line in lines if "image" in line}
    assert len(seen) == 40
    assert not any(digest in others for digest in seen)
    with pytest.raises(UserError, match=r"^triggers: all \d+ are spent"):
        verified(owners, "marks", "decoys", "queries=1000")
        verified(owners, "marks", "decoys", f"out={owners / 'elsewhere'}", "queries=1000")


def test_decoys_are_strangers_marks_on_the_very_same_images(owners: Path, tmp_path: Path) -> None:
    """Also when some triggers are spent: else the suspect could tell the key's images from theirs."""
    key = read_key(owners / "decoys.key")
    maker = key.check(tmp_path)
    fresh = torch.arange(len(key.new))[5:]
    question = ask(maker, key.new, fresh, 0.1, 7, 1000, [key.secret] * 9)
    sets = question.images.view(10, 7, *question.images.shape[1:])
    assert torch.equal(sets[0], key.new.images[5:12])
    assert all(torch.equal(made, sets[0]) for made in sets[1:]), "the owner's own secret as a stranger's"


def test_too_little_to_decide(owners: Path) -> None:
    verdict = verified(owners, "marks", "marks", "queries=2")
    assert verdict.decision == "cannot tell"
    assert verdict.exit_code == 2
    assert "Even if every trigger had matched" in verdict.reason


def test_forged_and_uncommitted_keys_are_refused(owners: Path) -> None:
    write_commitment(read_key(owners / "decoys.key"), owners / "other.json")
    with pytest.raises(UserError, match=r"^commitment: .* is to another key"):
        verified(owners, "marks", "marks", f"commitment={owners / 'other.json'}")
    content = bytearray((owners / "marks.key").read_bytes())
    content[-1] ^= 1
    (owners / "marks.key").write_bytes(content)
    with pytest.raises(UserError, match=r"^key: .* is damaged"):
        verified(owners, "marks", "marks")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("alpha=0", "alpha"),
        ("alpha=2", "alpha"),
        ("queries=0", "queries"),
        ("budget=0", "budget"),
        ("triggers=old", "triggers"),
        ("key=nothing.key", "key"),
        ("commitment=nothing.json", "commitment"),
        ("suspect.path=nothing", "suspect.path"),
        ("suspect._target_=torch.nn.Linear", "suspect"),
    ],
)
def test_mistakes(owners: Path, override: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"^{key}.*: .*; "):
        verified(owners, "marks", "marks", override)


def test_budget_too_small_for_decoys(owners: Path) -> None:
    with pytest.raises(UserError, match=r"^budget: 600 queries, but a key of one mark needs 999 decoys"):
        verified(owners, "decoys", "decoys", "alpha=0.001")


def test_suspect_that_answers_wrongly_now_and_then(
    owners: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of the answers are flipped, a fifth refused: still owned. All refused: cannot tell."""
    run = load_run(owners / "marks")
    module = type(sys)("odd_suspect")

    def answer(images: Any) -> list[int]:
        labels = run.network(torch.from_numpy(images).float() / 255).argmax(1)
        labels[::10] = (labels[::10] + 1) % 6
        labels[1::5] = 99
        return labels.tolist()  # type: ignore[no-any-return]

    module.answer = answer  # type: ignore[attr-defined]
    module.refuse = lambda images: [99] * len(images)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "odd_suspect", module)
    asked = [f"key={owners / 'marks'}.key", "suspect=callable", f"out={owners / 'odd'}"]
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        verdict = verify(compose("verify", [*asked, "suspect.function=odd_suspect:answer"]))
        assert (verdict.decision, verdict.missing) == ("owned", 8), verdict.text()
        silent = verify(compose("verify", [*asked[:2], f"out={owners / 'no'}", "suspect.function=odd_suspect:refuse"]))
    assert (silent.decision, silent.matches) == ("cannot tell", 0)


def test_command(train: Callable[..., Any], owners: Path) -> None:
    program = (sys.executable, str(REPO / "verify.py"))
    typed = (f"key={owners / 'marks.key'}", f"suspect.path={owners / 'marks'}")
    done = train(*typed, runs=owners, cwd=owners, program=program)
    assert done.code == 0, str(done)
    assert done.out.startswith("OWNED: ")
    wrong = train("key=nothing.key", "suspect.path=x", runs=owners, cwd=owners, program=program)
    assert wrong.code == 3
    assert wrong.errors == [
        "error: key: cannot read nothing.key (No such file or directory); the file that training wrote"
    ]
