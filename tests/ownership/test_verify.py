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
from wmlightning.ownership.choice import choose, triggers_of
from wmlightning.ownership.commitment import write_commitment
from wmlightning.ownership.key import keep_key, read_key
from wmlightning.ownership.questions import DecoyKeys, Terms
from wmlightning.ownership.suspects.base import Answer, Unreachable
from wmlightning.ownership.suspects.function import Function
from wmlightning.ownership.verdict import Verdict
from wmlightning.ownership.verify import exit_code, verify
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


def ask_in_one_order(out: Path) -> None:
    """The verifier's secret would be drawn by the system: another order each time, which decides in most cases only."""
    verifiers = out / "decoys.secret"
    if not verifiers.exists():
        out.mkdir(parents=True)
        verifiers.write_bytes(bytes(range(32)))
        verifiers.chmod(0o600)


def verified(owners: Path, key: str, suspect: str, *overrides: str) -> Verdict:
    few = FEW_DECOYS if key == "decoys" else ()
    ask_in_one_order(owners / "out" / suspect)
    (verdict,) = verify(config(owners, key, suspect, *few, *overrides))
    return verdict


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("key", KEYS)
def test_owners_model_is_owned(owners: Path, key: str, sequential: bool) -> None:
    verdict = verified(owners, key, key, *([] if key == "decoys" else ["queries=40"]), f"sequential={sequential}")
    assert verdict.decision == "owned", verdict.text()
    assert verdict.exit_code == 0
    assert verdict.test == {"marks": "several marks", "decoys": "decoy keys"}[key]
    assert verdict.matches > 0.5 * verdict.triggers
    if sequential:
        assert verdict.queries <= {"marks": 15, "decoys": 300}[key], verdict.text()
        assert verdict.e_value is not None
        assert 1 / verdict.e_value == pytest.approx(verdict.p_value)
    else:
        assert verdict.queries == {"marks": 40, "decoys": 500}[key]
        assert verdict.e_value is None
    assert f"{verdict.triggers} triggers" in verdict.text()


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("key", KEYS)
def test_innocent_model_is_not(owners: Path, key: str, sequential: bool) -> None:
    verdict = verified(owners, key, "innocent", f"sequential={sequential}")
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
    for part in (
        verdict.reason,
        verdict.assumption,
        key.commitment(),
        f"{verdict.matches} of {verdict.triggers}",
        "several marks",
    ):
        assert part in page.replace("&#39;", "'"), part
    assert "src=" not in page and "http" not in page, "no picture unasked, nothing from the network"
    for path in (path for path in out.rglob("*") if path.is_file()):
        assert key.secret.reveal().hex() not in path.read_bytes().hex()
        assert key.secret.reveal().hex().encode() not in path.read_bytes()
    shown = verified(owners, "marks", "innocent", "show_triggers=true")
    assert len(shown.sample) == min(8, shown.triggers)
    page = (owners / "out" / "innocent" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(shown.sample)


def test_shown_triggers_are_spent_for_others_and_not_asked_twice(owners: Path) -> None:
    first = verified(owners, "marks", "marks", "sequential=false", "queries=40")
    again = verified(owners, "marks", "marks", "sequential=false", "queries=40")
    assert (again.p_value, again.matches) == (first.p_value, first.matches)
    earlier = "All answers are of an earlier call, "
    assert not any(note.startswith(earlier) for note in first.notes)
    assert any(note.startswith(earlier) and "not contacted now" in note for note in again.notes)
    lines = [json.loads(line) for line in (owners / "out" / "marks" / "transcript.jsonl").read_text().splitlines()]
    assert sum(len(line.get("sent", ())) for line in lines) == 40, "the second time, the transcript answers"
    verified(owners, "marks", "innocent")
    others = (owners / "out" / "innocent" / "transcript.jsonl").read_text()
    seen = {digest for line in lines for digest in line.get("images", ())}
    assert len(seen) == 40
    assert not any(digest in others for digest in seen)
    with pytest.raises(UserError, match=r"^triggers: all \d+ are spent"):
        verified(owners, "marks", "decoys", "queries=1000", "sequential=false")
        verified(owners, "marks", "decoys", f"out={owners / 'elsewhere'}", "queries=1000")


def test_decoys_are_strangers_marks_on_the_very_same_images(owners: Path, tmp_path: Path) -> None:
    """Also when some triggers are spent: else the suspect could tell the key's images from theirs."""
    key = read_key(owners / "decoys.key")
    maker = key.check(tmp_path)
    triggers, true = triggers_of(key, maker, "trained")
    assert triggers is key.new, "decoys are made of the new triggers' images"
    fresh = torch.arange(len(key.new))[5:]

    class Same(Secret):
        """The owner's own secret as every stranger's."""

        def derive(self, label: str) -> Secret:
            return key.secret if label.startswith("decoy/") else super().derive(label)

    question = choose(maker, triggers, true, fresh, Terms(0.1, 7, 70, sequential=False), Same(bytes(32)))
    assert isinstance(question, DecoyKeys)
    places = [
        next(i for i, own in enumerate(key.new.images) if torch.equal(own, image)) for image in question.triggers.images
    ]
    assert len(set(places)) == 7 and min(places) >= 5
    assert question.true.tolist() == true[places].tolist()
    assert all(torch.equal(question.decoy(number), question.triggers.images) for number in range(3))
    other = choose(maker, triggers, true, fresh, Terms(0.1, 7, 70, sequential=False), Secret(bytes(32)))
    assert isinstance(other, DecoyKeys)
    assert not torch.equal(other.decoy(0), other.decoy(1))


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
        ("sequential=perhaps", "sequential"),
        ("expect.survival=80", "expect.survival"),
        ("null_models=[nothing]", "null_models"),
        ("null_models=nothing", "null_models"),
        ("timestamp_ca=3", "timestamp_ca"),
        ("key=null", "key"),
        ("commitment=3", "commitment"),
        ("out=3", "out"),
        ("suspects=3", "suspects"),
        ("trust=mine.Class", "trust"),
        ("trust=[{a: 1}]", "trust"),
        ("timestamp_ca=[1]", "timestamp_ca"),
        ("null_models=[{a: 1}]", "null_models"),
        ("show_triggers=maybe", "show_triggers"),
        ("expect=null", "expect"),
        ("expect.decoys=few", "expect.decoys"),
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
        verified(owners, "decoys", "decoys", "alpha=0.001", "sequential=false")
    with pytest.raises(UserError, match=r"needs 1216 decoys for alpha=0.001; at least 1217"):
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
    asked = [
        f"key={owners / 'marks'}.key",
        "suspect=callable",
        f"out={owners / 'odd'}",
        "sequential=false",
        "queries=40",
    ]
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        (odd,) = verify(compose("verify", [*asked, "suspect.function=odd_suspect:answer"]))
        assert (odd.decision, odd.missing) == ("owned", 8), odd.text()
        (no,) = verify(compose("verify", [*asked[:2], f"out={owners / 'no'}", "suspect.function=odd_suspect:refuse"]))
    assert (no.decision, no.matches) == ("cannot tell", 0)
    assert "100 % of the images had no usable answer" in no.reason


def test_several_suspects_are_corrected_for(owners: Path) -> None:
    """Each in its folder, each at its share of the level; a chance that any innocent is called owned."""
    suspects = (
        f"suspects=[{{path: {owners / 'innocent'}}}, {{path: {owners / 'marks'}}}, {{path: {owners / 'decoys'}}}]"
    )
    verdicts = verify(config(owners, "marks", "unused", suspects, "alpha=0.01"))
    assert [verdict.decision for verdict in verdicts] == ["not shown", "owned", "not shown"], verdicts[1].text()
    owned = verdicts[1]
    assert owned.p_adjusted == pytest.approx(3 * owned.p_value)
    assert owned.p_value <= 0.01 / 3
    assert exit_code(verdicts) == 0
    assert exit_code(verdicts[::2]) == 1
    for verdict in verdicts:
        folder = owners / "out" / "unused" / verdict.suspect.strip("/").replace("/", "-")[-60:].replace("_", "-")
        assert json.loads((folder / "verdict.json").read_text())["decision"] == verdict.decision
    shown = [
        {image for line in path.read_text().splitlines() for image in json.loads(line).get("sent", ())}
        for path in (owners / "out" / "unused").glob("*/transcript.jsonl")
    ]
    assert len(set.union(*shown)) == sum(map(len, shown)), "nobody sees what another was shown"
    assert set.union(*shown) <= set(json.loads((owners / "marks.spent.json").read_text()))


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ("runs/a", r"^suspects\[0\]: 'runs/a' is no mapping; such as"),
        ("{paht: x}", r"^suspects\[0\]: Key 'paht' .*; options of the suspect that is chosen"),
        ("{suspect: radio}", r"^suspects\[0\]\.suspect: no suspect is called 'radio'; one of .*oip"),
        ("{suspect: oip, path: x}", r"^suspects\[0\]: Key 'path' .*; options of suspect=oip"),
        ("{suspect: oip, url: 'ftp://x'}", r"^suspects\[0\]\.url: "),
        ("${oc.env:HIDDEN}", r"^suspects\[0\]: '\$\{oc.env:HIDDEN\}' is no mapping; such as"),
    ],
)
def test_mistakes_in_suspects(owners: Path, entry: str, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIDDEN", "a token")
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        cfg = compose("verify", [f"key={owners / 'marks.key'}", f"suspects=[{entry}]", "suspect.path=x"])
        with pytest.raises(UserError, match=error):
            verify(cfg)


def test_suspect_of_another_kind_that_is_gone(owners: Path) -> None:
    """It cannot be told; the others can."""
    gone = "{suspect: oip, url: 'http://127.0.0.1:9', http: {retries: 0}}"
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        typed = [f"key={owners / 'marks.key'}", f"out={owners / 'out'}", "suspect.path=unused"]
        cfg = compose("verify", [*typed, "alpha=0.01", f"suspects=[{gone}, {{path: {owners / 'marks'}}}]"])
        verdicts = verify(cfg)
    assert [verdict.decision for verdict in verdicts] == ["cannot tell", "owned"]
    assert (verdicts[0].queries, verdicts[0].p_value) == (0, 1)
    assert "does not answer" in verdicts[0].reason
    assert all(line[-1].isalnum() or line[-1] in ".)" for line in verdicts[0].text().splitlines())


def test_suspect_that_dies_and_comes_back(owners: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it answered counts once; the same command asks for the rest, of the very same decoys."""
    run = load_run(owners / "decoys")
    module, left = type(sys)("mortal_suspect"), [45]

    class Mortal(Function):
        def ask(self, images: torch.Tensor) -> list[Answer]:
            left[0] -= len(images)
            if left[0] < 0:
                raise Unreachable("the cable was cut")
            return super().ask(images)

    module.Mortal = Mortal  # type: ignore[attr-defined]
    module.answer = lambda images: run.network(torch.from_numpy(images).float() / 255)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mortal_suspect", module)
    typed = [f"key={owners / 'decoys'}.key", "suspect=callable", "suspect.function=mortal_suspect:answer", *FEW_DECOYS]
    typed += ["suspect._target_=mortal_suspect.Mortal"]
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        cfg = compose("verify", [*typed, f"out={owners / 'mortal'}", "suspect.batch_size=10"])
        (dead,) = verify(cfg)
        assert (dead.decision, dead.exit_code) == ("cannot tell", 2), dead.text()
        assert "the cable was cut" in dead.reason
        asked = (owners / "mortal" / "transcript.jsonl").read_text()
        left[0] = 10_000
        (alive,) = verify(cfg)
    assert alive.decision == "owned", alive.text()
    transcript = (owners / "mortal" / "transcript.jsonl").read_text()
    assert transcript.startswith(asked)
    sent = [digest for line in transcript.splitlines() for digest in json.loads(line).get("sent", ())]
    answered = {digest for line in asked.splitlines() for digest in json.loads(line).get("images", ())}
    assert not answered.intersection(sent[len(answered) + 10 :]), "what was answered is not asked again"


def test_time_stamp_stands_in_the_verdict(owners: Path) -> None:
    from tests.ownership.test_timestamp import Authority
    from wmlightning.ownership.timestamp import response_of, write_request

    published, authority = owners / "published.json", Authority.make(owners / "authority")
    write_commitment(read_key(owners / "marks.key"), published)
    unstamped = verified(owners, "marks", "marks", f"commitment={published}")
    assert "its owner's word" in unstamped.text()
    authority.answer(write_request(published), response_of(published))
    stamp = (f"commitment={published}", f"timestamp={response_of(published)}", f"timestamp_ca=[{authority.root}]")
    verdict = verified(owners, "marks", "marks", *stamp)
    assert verdict.stamped is not None
    assert verdict.stamped.endswith("says CN=Honest Time")
    assert "its owner's word" not in verdict.text()
    assert verdict.stamped in (owners / "out" / "marks" / "report.html").read_text()
    alone = verified(owners, "marks", "marks", *stamp[:2], f"timestamp_ca={authority.root}")
    assert alone.stamped == verdict.stamped, "one file needs no brackets"
    with pytest.raises(UserError, match=r"^timestamp: there is no commitment"):
        verified(owners, "marks", "marks", stamp[1])


def test_null_models_are_a_cross_check(owners: Path) -> None:
    verdict = verified(owners, "marks", "marks", f"null_models=[{owners / 'innocent'},{owners / 'decoys'}]")
    assert verdict.null_models is not None
    assert verdict.null_models.startswith("p = 0.333 by rank among 2 models made without the key, ")
    assert "cross-check: p = 0.333" in verdict.text()
    assert verdict.null_models in (owners / "out" / "marks" / "report.html").read_text()


def test_how_many_queries_is_told_before_the_first(owners: Path) -> None:
    told: list[str] = []
    cfg = config(owners, "marks", "marks", "expect.survival=0.75")
    (verdict,) = verify(
        cfg, lambda line: told.append(f"{line} {(owners / 'out' / 'marks' / 'transcript.jsonl').exists()}")
    )
    assert len(told) == 1
    assert told[0].startswith("about ")
    assert "queries decide at alpha = 0.001 if at least 75 % of the triggers still work" in told[0]
    assert told[0].endswith("False"), "nothing had been asked"
    assert verdict.estimate in told[0]
    hopeless = verified(owners, "marks", "innocent", "queries=1")
    assert hopeless.estimate.startswith("not enough for alpha = 0.001")
    assert hopeless.decision == "cannot tell"


def test_command(train: Callable[..., Any], owners: Path) -> None:
    program = (sys.executable, str(REPO / "verify.py"))
    typed = (f"key={owners / 'marks.key'}", f"suspect.path={owners / 'marks'}", f"out={owners / 'out'}")
    ask_in_one_order(owners / "out")
    done = train(*typed, runs=owners, cwd=owners, program=program)
    assert done.code == 0, str(done)
    assert done.out.startswith("before asking: about ")
    assert "\nOWNED: " in done.out
    wrong = train("key=nothing.key", "suspect.path=x", runs=owners, cwd=owners, program=program)
    assert wrong.code == 3
    assert wrong.errors == [
        "error: key: cannot read nothing.key (No such file or directory); the file that training wrote"
    ]
