"""What is settled before the first query holds: one look, one plan, no trigger forgotten, no verdict lost."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hydra import compose, initialize_config_dir

from tests.conftest import REPO, environment
from tests.ownership.services import Call, Reply, serving
from wmlightning.errors import UserError
from wmlightning.job import prepare
from wmlightning.ownership.__main__ import main as own
from wmlightning.ownership.commitment import commitment_of, write_commitment
from wmlightning.ownership.key import Key, keep_key, read_key
from wmlightning.ownership.questions import SeveralMarks
from wmlightning.ownership.spent import Spent, suspect_named
from wmlightning.ownership.statistics.result import ASSUMPTIONS, NULL_MODELS
from wmlightning.ownership.suspects.base import Answer as SuspectsAnswer
from wmlightning.ownership.suspects.base import Suspect, Unreachable
from wmlightning.ownership.suspects.function import Function
from wmlightning.ownership.suspects.http import Http
from wmlightning.ownership.suspects.json_api import JsonApi
from wmlightning.ownership.suspects.oip import Oip
from wmlightning.ownership.suspects.pixels import Pixels
from wmlightning.ownership.transcript import image_digest
from wmlightning.ownership.verdict import Verdict
from wmlightning.ownership.verify import _folders as folders_of
from wmlightning.ownership.verify import verify
from wmlightning.secret import Secret
from wmlightning.store import Run

Images = npt.NDArray[np.uint8]
Answer = Callable[[Images], list[int]]
TASK = ("dataset=procedural", "++dataset.source.n_train=600", "++dataset.source.n_test=400", "watermark.negatives=0")
KEYS = {
    "marks": ("watermark.n_marks=4", "watermark.n_triggers=120"),
    "random": ("watermark.label=random", "watermark.n_triggers=120"),
    "decoys": ("watermark.n_triggers=40",),
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys whose models nobody trained: suspects here are functions that know them, or do not."""
    folder = tmp_path_factory.mktemp("keys")
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        for name, options in KEYS.items():
            job = prepare(compose("train", [f"runs_dir={folder}", *TASK, *options]), secret=Secret(b"k" * 32))
            keep_key(job, folder / f"{name}.key")
    return folder


@pytest.fixture
def place(keys: Path, tmp_path: Path) -> Path:
    for name in KEYS:
        (tmp_path / f"{name}.key").write_bytes((keys / f"{name}.key").read_bytes())
    return tmp_path


@pytest.fixture
def ask(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Verdict]]:
    """Verifies a key against functions."""

    def go(key: str, suspects: dict[str, Answer], *overrides: str) -> list[Verdict]:
        module = type(sys)("made_up")
        for name, answer in suspects.items():
            setattr(module, name, answer)
        module.Cable, module.Raising = Cable, Raising  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "made_up", module)
        listed = ",".join(f"{{function: 'made_up:{name}'}}" for name in suspects)
        which = [f"suspects=[{listed}]"] if len(suspects) > 1 else [f"suspect.function=made_up:{next(iter(suspects))}"]
        typed = [f"key={place / key}.key", f"out={place / 'out'}", "suspect=callable", "suspect.batch_size=5"]
        typed.append("suspect._target_=made_up.Cable")
        with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
            cfg = compose("verify", [*typed, *which, *overrides])
        return verify(cfg)

    return go


def knowing(key: Key) -> Answer:
    """Answers the key's triggers as the owner wishes, and everything else as one that does not know it."""
    known = {
        image_digest(image): int(label)
        for part in (key.trained, key.new)
        for image, label in zip(part.images, part.labels, strict=True)
    }
    return lambda images: [known.get(image_digest(torch.from_numpy(image)), 0) for image in images]


class Cable(Function):
    """A function that can be out of reach."""

    def ask(self, images: torch.Tensor) -> list[SuspectsAnswer]:
        left = getattr(self._call, "left", None)
        if left is not None:
            left[0] -= len(images)
            if left[0] < 0:
                raise Unreachable("the cable was cut")
        return super().ask(images)


class Raising(Function):
    """A function whose mistakes are the user's."""

    def ask(self, images: torch.Tensor) -> list[SuspectsAnswer]:
        return [SuspectsAnswer(label) for label in self._call(images.numpy())]


def dying(answer: Answer, after: int) -> Answer:
    """Cannot be reached any more after so many images."""

    def go(images: Images) -> list[int]:
        return answer(images)

    go.left = [after]  # type: ignore[attr-defined]
    return go


class Killed(BaseException):
    """Nothing of this process happens any more."""


def kill(*_: object) -> None:
    raise Killed


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "transcript.jsonl").read_text().splitlines()]


def sent(out: Path) -> list[str]:
    return [digest for line in lines(out) for digest in line.get("sent", ())]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*") if path.suffix != ".lock"}


def unasked(verdict: Verdict) -> Verdict:
    """A verdict without the note that the suspect was not contacted now, which must be there."""
    told = [note for note in verdict.notes if note.startswith("All answers are of an earlier call, ")]
    assert len(told) == 1
    return replace(verdict, notes=[note for note in verdict.notes if note not in told])


def kept(folder: Path) -> dict[str, bytes]:
    """All files but those that tell a verdict."""
    told = ("verdict.json", "verdict.txt", "report.html")
    return {name: content for name, content in files(folder).items() if Path(name).name not in told}


# -- one look --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["marks", "random", "decoys"])
def test_a_test_of_fixed_size_does_not_look_before_the_end(
    ask: Callable[..., list[Verdict]], place: Path, key: str
) -> None:
    """Not at a suspect that is gone, nor where the budget ends: not even if what came would do."""
    owned = knowing(read_key(place / f"{key}.key"))
    options = ("sequential=false", "alpha=0.05", "queries=40", "budget=410")
    before = {"marks": 35, "random": 35, "decoys": 395}[key]
    (verdict,) = ask(key, {"suspect": dying(owned, before)}, *options)
    assert (verdict.decision, verdict.p_value) == ("cannot tell", 1.0), verdict.text()
    assert "the cable was cut" in verdict.reason
    (verdict,) = ask(key, {"suspect": owned}, *options)
    assert verdict.decision == "owned", verdict.text()


@pytest.mark.parametrize(("key", "sequential"), [("marks", False), ("random", True)])
def test_no_more_is_planned_than_the_budget_lets_out(
    ask: Callable[..., list[Verdict]], place: Path, key: str, sequential: bool
) -> None:
    """A test of fixed size is then a smaller one, which can be finished; where that cannot decide, nothing is shown."""
    owned, options = knowing(read_key(place / f"{key}.key")), ("queries=40", f"sequential={sequential}")
    with pytest.raises(UserError, match=r"^budget: 2 queries, but even if every one matches, p is"):
        ask(key, {"suspect": owned}, *options, "budget=2")
    assert not (place / f"{key}.spent.json").exists()
    (verdict,) = ask(key, {"suspect": owned}, *options, "budget=12")
    assert verdict.decision == "owned", verdict.text()
    assert sequential or verdict.queries == verdict.triggers == 12
    for budget in (50, 3):
        (again,) = ask(key, {"suspect": owned}, *options, f"budget={budget}")
        assert unasked(again) == verdict, "with another budget it is the same plan"


def test_a_smaller_budget_does_not_shorten_what_was_begun(ask: Callable[..., list[Verdict]], place: Path) -> None:
    innocent = {"suspect": lambda images: [3] * len(images)}
    (short,) = ask("random", innocent, "queries=10")
    assert (short.triggers, short.stopped) == (10, "nothing more that was planned could have decided")
    (longer,) = ask("random", innocent, "queries=40", "budget=5")
    assert (longer.decision, longer.triggers) == ("not shown", 10)


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("key", ["marks", "random"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("queries=60", "queries=40, now it is 60"),
        ("queries=20", "queries=40, now it is 20"),
        ("alpha=0.01", r"alpha \(for each suspect\)=0.001, now it is 0.01"),
        ("sequential={other}", "sequential="),
        ("triggers=trained", "is about other triggers"),
    ],
)
def test_another_plan_is_refused(
    ask: Callable[..., list[Verdict]], place: Path, key: str, sequential: bool, change: str, named: str
) -> None:
    """It would be one more look at the same answers. Nothing is asked for it, and nothing written."""
    if key == "random" and ("triggers" in change or (sequential and change == "queries=60")):
        pytest.skip("no other plan: such a key shows trained triggers, and the test goes on: see below")
    options = ("queries=40", "alpha=0.001", f"sequential={sequential}")
    ask(key, {"suspect": lambda images: [3] * len(images)}, *options)
    before = files(place)
    calls: list[int] = []
    with pytest.raises(UserError, match=rf"^transcript: .*{named}") as caught:
        ask(key, {"suspect": lambda images: calls.append(1) or [3]}, *options, change.format(other=not sequential))  # type: ignore[func-returns-value]
    assert "\n" not in str(caught.value)
    assert (files(place), calls) == (before, [])


def test_another_key_needs_another_folder(ask: Callable[..., list[Verdict]]) -> None:
    innocent = {"suspect": lambda images: [3] * len(images)}
    ask("marks", innocent)
    with pytest.raises(UserError, match=r"^transcript: .*(other triggers|key=)"):
        ask("random", innocent)


def test_a_test_in_rounds_goes_on_where_stakes_do_not_depend_on_how_many_follow(
    ask: Callable[..., list[Verdict]], place: Path
) -> None:
    """Prolonged, its path is the one that a longer plan would have gone from the start."""
    key = read_key(place / "random.key")
    owned, draw = knowing(key), np.random.default_rng(3)
    weak = {image_digest(image): bool(draw.random() < 0.3) for image in key.trained.images}

    def fading(images: Images) -> list[int]:
        pairs = zip(images, owned(images), strict=True)
        return [label if weak[image_digest(torch.from_numpy(image))] else (label + 1) % 10 for image, label in pairs]

    (short,) = ask("random", {"suspect": fading}, "queries=10")
    assert short.decision == "not shown", short.text()
    asked = sent(place / "out")
    (longer,) = ask("random", {"suspect": fading}, "queries=100")
    assert sent(place / "out")[: len(asked)] == asked
    assert len(set(sent(place / "out"))) == len(sent(place / "out"))
    (again,) = ask("random", {"suspect": fading}, "queries=100")
    assert (again.p_value, again.triggers) == (longer.p_value, longer.triggers)
    with pytest.raises(UserError, match=r"^transcript: .*queries=100, now it is 10"):
        ask("random", {"suspect": fading}, "queries=10")


def test_nothing_is_asked_where_no_answer_could_decide(ask: Callable[..., list[Verdict]], place: Path) -> None:
    """No trigger is shown in vain, and asking for more is then no other plan."""
    owned = knowing(read_key(place / "marks.key"))
    (verdict,) = ask("marks", {"suspect": owned}, "queries=2")
    assert (verdict.decision, verdict.queries) == ("cannot tell", 0)
    assert "Even if every trigger had matched" in verdict.reason
    assert not (place / "marks.spent.json").exists()
    (verdict,) = ask("marks", {"suspect": owned}, "queries=40")
    assert verdict.decision == "owned"


# -- spent -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_triggers_are_spent_however_the_process_ends(place: Path, kill: int) -> None:
    """They are on the disk before they leave; decoys are not among them."""
    key = read_key(place / "decoys.key")
    reached, arrived = threading.Event(), list[bytes]()

    def slow(call: Call) -> Reply:
        if call.method == "GET":
            return Reply(status=404)
        arrived.extend(json.loads(call.body)["image"])
        if len(arrived) >= 25:
            reached.set()
            time.sleep(5)
        return Reply({"labels": [0] * len(json.loads(call.body)["image"])})

    with serving(slow) as service:
        typed = [
            f"key={place / 'decoys.key'}",
            f"out={place / 'out'}",
            "suspect=json_api",
            f"suspect.url={service.url}",
        ]
        typed += ["suspect.image={path: image, kind: list, many: true}", "suspect.answer={path: labels}"]
        typed += ["suspect.batch_size=5", "suspect.http.concurrency=1", "suspect.pixels.kind=byte"]
        typed += ["alpha=0.05", "queries=10", "budget=600", "sequential=false"]
        process = subprocess.Popen(
            [sys.executable, str(REPO / "verify.py"), *typed],
            cwd=place,
            env=environment(place, PYTHONPATH=str(REPO), WML_DATA_DIR=os.environ.get("WML_DATA_DIR", str(place))),
        )
        assert reached.wait(120)
        process.send_signal(kill)
        assert process.wait() == {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143}[signal.Signals(kill)]
    pixels = {json.dumps(image) for image in arrived}
    shown = {image_digest(i) for i in key.new.images if json.dumps(i.tolist()) in pixels}
    noted = set(json.loads((place / "decoys.spent.json").read_text()))
    assert len(shown) == 10
    assert noted == shown, "these triggers, and no decoy"


def test_set_aside_triggers_come_back(ask: Callable[..., list[Verdict]], place: Path) -> None:
    """Of a test that ended early, only what was shown is spent; of one that is to go on, all."""
    owned = knowing(read_key(place / "random.key"))
    ask("random", {"suspect": dying(owned, 3)}, "queries=40")
    noted = set(json.loads((place / "random.spent.json").read_text()))
    assert len(noted) == 40, "others are not shown what this one is still to be asked"
    ask("random", {"other": owned}, "queries=40", f"out={place / 'other'}")
    assert not set(sent(place / "other")) & noted
    (verdict,) = ask("random", {"suspect": owned}, "queries=40")
    assert verdict.decision == "owned"
    shown = {*sent(place / "out"), *sent(place / "other")}
    assert set(json.loads((place / "random.spent.json").read_text())) == shown
    assert len(shown) < 40


def by_mark(key: Key) -> Callable[[int], Answer]:
    """Innocent suspects that take any trigger of a mark for the same class."""
    marks = {image_digest(image): int(mark) for image, mark in zip(key.new.images, key.new.groups, strict=True)}
    return lambda shift: lambda images: [(marks[image_digest(torch.from_numpy(image))] + shift) % 3 for image in images]


def test_what_several_marks_leave_to_the_next_look_depends_on_no_label(
    ask: Callable[..., list[Verdict]], place: Path
) -> None:
    """A mark whose label was guessed is asked about no more: its other triggers would tell the next look of it."""
    key = read_key(place / "marks.key")
    triggers = {image_digest(image) for image in key.new.images}

    def after(name: str) -> set[str]:
        return triggers - set(as_json(place, f"{name}.spent.json"))

    left = []
    for name, answer in (("owned", knowing(key)), *((f"innocent{i}", by_mark(key)(i)) for i in range(3))):
        (place / f"{name}.key").write_bytes((place / "marks.key").read_bytes())
        (verdict,) = ask(name, {name: answer}, f"out={place / name}")
        assert verdict.decision == ("owned" if name == "owned" else "not shown"), verdict.text()
        left.append(after(name))
    plan = next(entry["plan"] for entry in lines(place / "owned") if "plan" in entry)
    assert left[0] == set(plan["triggers"][plan["apart"] :]), "twice what will probably do is spent, shown or not"
    assert len(triggers) > len(left[0]) > 0.5 * len(triggers)
    assert left[1:] == [set()] * 3
    unseen = plan["apart"] - len(sent(place / "owned"))
    note = f"So are {unseen} more: with several marks, what is left must not depend on labels."
    assert note in (place / "owned" / "verdict.txt").read_text()
    assert any(len(sent(place / f"innocent{i}")) < len(triggers) for i in range(3)), "though not all were shown"
    (again,) = ask("owned", {"other": knowing(key)}, f"out={place / 'second'}")
    assert again.decision == "owned"
    assert set(sent(place / "second")) <= left[0]


@pytest.mark.parametrize("suspects", [1, 2])
def test_a_plan_of_several_marks_that_is_a_part_of_the_key_is_spent(
    ask: Callable[..., list[Verdict]], place: Path, suspects: int
) -> None:
    """There would be two remainders, and a label would choose between them."""
    owned = knowing(read_key(place / "marks.key"))
    queries = ["queries=40"] if suspects == 1 else []
    ask("marks", {f"s{i}": owned for i in range(suspects)}, *queries)
    assert len(as_json(place, "marks.spent.json")) == (40 if suspects == 1 else 120)


def broken(images: Images) -> list[int]:
    raise NameError("name 'model' is not defined")


def test_a_mistake_costs_what_was_shown(ask: Callable[..., list[Verdict]], place: Path) -> None:
    """And no more: what it had set aside goes to others, or to the same suspect when it is corrected."""
    with pytest.raises(UserError, match=r"^suspect: .*NameError"):
        ask("marks", {"suspect": broken}, "queries=40")
    shown = set(sent(place / "out"))
    assert 0 < len(shown) < 40
    assert set(as_json(place, "marks.spent.json")) == shown
    assert [look["alpha"] for look in as_json(place, "marks.asked.json")] == [0.001]
    (verdict,) = ask("marks", {"suspect": knowing(read_key(place / "marks.key"))}, "queries=40")
    assert verdict.decision == "owned"
    assert len(as_json(place, "marks.spent.json")) == 40


@pytest.mark.parametrize("options", [(), ("queries=40",)])
def test_a_mistake_after_answers_keeps_what_is_set_aside(
    ask: Callable[..., list[Verdict]], place: Path, options: tuple[str, ...]
) -> None:
    """It may as well be the suspect: an outage that a new process sees from its start, a token that has expired."""
    owned, calls = knowing(read_key(place / "marks.key")), []

    def breaks(images: Images) -> list[int]:
        calls.append(len(images))
        if len(calls) > 2:
            raise UserError("suspect.batch_size", "too many", "1")
        return [answer if i else 3 for i, answer in enumerate(owned(images))]

    for _ in range(3):
        with pytest.raises(UserError, match=r"^suspect.batch_size: "):
            ask("marks", {"suspect": breaks}, "suspect._target_=made_up.Raising", *options)
        plan = next(entry["plan"] for entry in lines(place / "out") if "plan" in entry)
        assert set(as_json(place, "marks.spent.json")) == set(plan["triggers"])
    (verdict,) = ask("marks", {"suspect": owned}, "suspect._target_=made_up.Raising", *options)
    assert verdict.decision == "owned"


class Late(Function):
    """While it is connected to, something else happens."""

    meanwhile: ClassVar[Callable[[], object] | None] = None

    def connect(self, shape: tuple[int, int, int] | None) -> None:
        super().connect(shape)
        meanwhile, Late.meanwhile = Late.meanwhile, None
        if meanwhile is not None:
            meanwhile()


def test_the_same_command_while_it_connects(ask: Callable[..., list[Verdict]], place: Path) -> None:
    """The one that comes first to ask has its plan and its decoys there; the other says so, and changes nothing."""
    owned = {"suspect": knowing(read_key(place / "marks.key"))}
    Late.meanwhile = lambda: ask("marks", owned, "queries=40")
    with pytest.raises(UserError, match=r"^transcript: .* names images that no plan of ours asks for"):
        ask("marks", owned, "queries=40", f"suspect._target_={Late.__module__}.Late")
    before = files(place / "out")
    (verdict,) = ask("marks", owned, "queries=40")
    assert verdict.decision == "owned"
    assert files(place / "out")["decoys.secret"] == before["decoys.secret"]
    assert sent(place / "out") == [
        image for line in before["transcript.jsonl"].splitlines() for image in json.loads(line).get("sent", ())
    ]


def test_what_a_finished_look_has_left_is_there_for_others_beside_it(
    ask: Callable[..., list[Verdict]], place: Path
) -> None:
    first, second = knowing(read_key(place / "marks.key")), lambda images: [3] * len(images)
    (alone,) = ask("marks", {"first": first}, "queries=1000", f"out={place / 'out' / 'made-up-first'}", "alpha=0.001")
    assert alone.decision == "owned"
    again, other = ask("marks", {"first": first, "second": second}, "queries=1000", "alpha=0.002")
    assert (again.decision, other.decision) == ("owned", "not shown"), (other.reason, other.stopped)


@pytest.mark.parametrize("triggers", [None, 5, "a", {}])
def test_a_plan_that_is_none_costs_the_others_nothing(
    ask: Callable[..., list[Verdict]], place: Path, triggers: object
) -> None:
    owned = knowing(read_key(place / "marks.key"))
    first, _ = folders(place, "first", "second")
    first.mkdir(parents=True)
    (first / "decoys.secret").write_bytes(bytes(32))
    begun = ({"plan": {"triggers": triggers}}, {"sent": ["a"]})
    (first / "transcript.jsonl").write_text("".join(json.dumps(line) + "\n" for line in begun))
    verdicts = ask("marks", {"first": owned, "second": owned}, "queries=20", "alpha=0.01")
    assert [verdict.decision for verdict in verdicts] == ["cannot tell", "owned"]
    assert "was altered" in verdicts[0].reason


def test_what_goes_on_after_a_mistake_is_set_aside_again(
    ask: Callable[..., list[Verdict]], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"^suspect: .*NameError"):
        ask("marks", {"suspect": broken}, "queries=40")
    with monkeypatch.context() as patch:
        patch.setattr(SeveralMarks, "put", kill)
        with pytest.raises(Killed):
            ask("marks", {"suspect": broken}, "queries=40")
    assert len(as_json(place, "marks.spent.json")) == 40
    with pytest.raises(UserError, match=r"^suspect: .*NameError"):
        ask("marks", {"suspect": broken}, "queries=40")
    ask("marks", {"other": lambda images: [3] * len(images)}, "queries=1000", f"out={place / 'other'}")
    asked = sent(place / "out")
    with pytest.raises(UserError, match=r"^transcript: others were shown meanwhile"):
        ask("marks", {"suspect": broken}, "queries=40")
    assert sent(place / "out") == asked


def test_answers_that_are_looked_for_in_the_wrong_place(place: Path) -> None:
    owned = knowing(read_key(place / "marks.key"))

    def behave(call: Call) -> Reply:
        return Reply({"labels": owned(np.array(json.loads(call.body)["image"], np.uint8))})

    typed = [f"key={place / 'marks.key'}", "suspect=json_api", "suspect.pixels.kind=byte", "suspect.batch_size=5"]
    typed += ["suspect.image={path: image, kind: list, many: true}"]
    with serving(behave) as service, initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        typed.append(f"suspect.url={service.url}")
        (wrong,) = verify(compose("verify", [*typed, "suspect.answer={path: label}", f"out={place / 'out'}"]))
        assert wrong.decision == "cannot tell"
        assert "cannot be read); correct how it is asked and read" in wrong.reason
        assert set(as_json(place, "marks.spent.json")) == set(sent(place / "out"))
        right = ["suspect.answer={path: labels}", f"out={place / 'B'}", "alpha=0.002"]
        (verdict,) = verify(compose("verify", [*typed, *right]))
    assert verdict.decision == "owned", verdict.text()


# -- looks -----------------------------------------------------------------------------------------------------------


def as_json(place: Path, name: str) -> list[Any]:
    return json.loads((place / name).read_text())  # type: ignore[no-any-return]


def test_a_second_look_has_what_is_left_of_the_level(ask: Callable[..., list[Verdict]], place: Path) -> None:
    """In another folder, with other triggers: m looks at the full level would accuse m times as many innocents."""
    innocent = {"suspect": lambda images: [3] * len(images)}
    (first,) = ask("marks", innocent, "queries=20")
    assert (first.decision, first.p_adjusted) == ("not shown", None)
    assert (place / "marks.asked.json").stat().st_mode & 0o077 == 0
    before = files(place)
    for other in (f"out={place / 'B'}", "triggers=trained"):
        with pytest.raises(UserError, match=rf"^suspect: it was asked with this key before, see {place / 'out'}, and"):
            ask("marks", innocent, "queries=20", f"out={place / 'B'}", other)
    assert files(place) == before, "nothing is left of what was refused"
    (again,) = ask("marks", innocent, "queries=20")
    assert unasked(again) == first, "in its folder it goes on"
    (second,) = ask("marks", innocent, "queries=20", "alpha=0.003", f"out={place / 'B'}")
    assert second.p_adjusted == pytest.approx(min(1, second.p_value * 1.5))
    assert any("look 2 at this suspect" in note and "alpha = 0.002 was left" in note for note in second.notes)
    assert [look["alpha"] for look in as_json(place, "marks.asked.json")] == [0.001, 0.002]
    with pytest.raises(UserError, match=r"alpha=0\.003 was spent on that, now it is 0\.003"):
        ask("marks", innocent, "queries=20", "alpha=0.003", f"out={place / 'C'}")
    (resumed,) = ask("marks", innocent, "queries=20", "alpha=0.003", f"out={place / 'B'}")
    assert unasked(resumed) == second


def test_a_second_look_decides_at_its_own_level(ask: Callable[..., list[Verdict]], place: Path) -> None:
    owned = {"suspect": knowing(read_key(place / "marks.key"))}
    ask("marks", {"suspect": lambda images: [3] * len(images)}, "alpha=0.01", "queries=20")
    (second,) = ask("marks", owned, "alpha=0.011", "queries=40", f"out={place / 'B'}")
    assert second.decision == "owned"
    assert second.p_value <= 0.011 - 0.01 + 1e-12
    assert second.p_adjusted is not None and second.p_adjusted <= 0.011


def test_a_look_costs_what_it_was_decided_at(ask: Callable[..., list[Verdict]], place: Path) -> None:
    """One next to a guilty one has no larger level: with the rest it would be accused with more than alpha in all."""
    owned, left = knowing(read_key(place / "random.key")), [5]

    def lucky(images: Images) -> list[int]:
        found = []
        for label in owned(images):
            left[0] -= 1
            found.append(label if left[0] >= 0 else (label + 1) % 10)
        return found

    options = ("alpha=0.05", "sequential=false", "queries=20")
    guilty, other = ask("random", {"guilty": owned, "lucky": lucky}, *options)
    assert 0.025 < other.p_value <= 0.05, "where Holm's correction accuses it"
    assert [guilty.decision, other.decision] == ["owned", "not shown"]
    assert other.p_adjusted == pytest.approx(2 * other.p_value)
    assert [look["alpha"] for look in as_json(place, "random.asked.json")] == [0.025, 0.025]


def test_a_file_is_the_same_suspect_under_any_name(place: Path, stored: Run) -> None:
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        typed = [f"key={place / 'marks.key'}", "queries=20"]
        verify(compose("verify", [*typed, f"suspect.path={stored.folder}", f"out={place / 'A'}"]))
        for path in (f"{stored.folder}/../{stored.folder.name}", f"{stored.folder}/model.safetensors"):
            with pytest.raises(UserError, match=rf"^suspect: .*see {place / 'A'}, "):
                verify(compose("verify", [*typed, f"suspect.path={path}", f"out={place / 'B'}"]))
        twice = f"suspects=[{{path: {stored.folder}}}, {{path: {stored.folder}/model.safetensors}}]"
        with pytest.raises(UserError, match=r"^suspects: .* are the same; each suspect once"):
            verify(compose("verify", [*typed, "suspect.path=x", twice, f"out={place / 'C'}"]))


def test_a_function_is_known_by_its_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by its file, which may hold others, and changes with every remark."""
    code = place / "my_suspects.py"
    code.write_text("def one(images):\n    return [3] * len(images)\n\n\ntwo = one\n")
    monkeypatch.syspath_prepend(str(place))
    typed = [f"key={place / 'marks.key'}", "suspect=callable", "queries=20", "alpha=0.01"]
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        both = "suspects=[{function: 'my_suspects:one'}, {function: 'my_suspects:two'}]"
        assert len(verify(compose("verify", [*typed, "suspect.function=x", both, f"out={place / 'A'}"]))) == 2
        code.write_text(code.read_text() + "# a remark\n")
        with pytest.raises(UserError, match=rf"^suspect: it was asked with this key before, see {place / 'A'}"):
            again = ["suspect.function=my_suspects:one", "alpha=0.005", f"out={place / 'B'}"]
            verify(compose("verify", [*typed, *again]))


def test_what_a_service_is_asked_with_tells_it_from_others() -> None:
    """As in transcripts: but not how it is read, or who asks; and nothing that may be secret can be guessed."""

    def named(suspect: Suspect, secret: bytes = b"k" * 32) -> str:
        return suspect_named(suspect, Secret(secret))

    url = "http://localhost:1/predict"
    plain = named(json_api(url))
    assert plain == f"json_api {url}"
    others = [
        json_api(url, body={"model": "b"}),
        json_api(url, body={"model": "c"}),
        json_api(url + "?model=b"),
        json_api(url, headers={"Model": "b"}),
        json_api(url + "/b"),
        *(Oip("http://localhost:1", "m", version=version) for version in (None, 1, 2)),
    ]
    names = [named(suspect) for suspect in others]
    assert len({plain, *names}) == len(others) + 1
    assert names == [named(suspect) for suspect in others]
    assert named(others[0], b"l" * 32) != names[0], "without the key nobody can try what it is"
    assert "model" not in names[0]
    for same in (
        json_api(url, headers={"Authorization": "new"}),
        json_api(url, method="PUT"),
        json_api(url, pixels=Pixels("unit")),
    ):
        assert named(same) == plain


def json_api(url: str, headers: dict[str, str] | None = None, **options: Any) -> JsonApi:
    image, answer = {"path": "image", "kind": "list", "many": True}, {"path": "labels"}
    pixels = options.pop("pixels", Pixels("byte"))
    return JsonApi(url, image, answer, pixels=pixels, http=Http(headers=headers), **options)


def test_models_behind_one_address_are_asked_together(place: Path) -> None:
    """And a look at one of them takes nothing of another's level."""
    owned = knowing(read_key(place / "marks.key"))

    def behave(call: Call) -> Reply:
        asked = json.loads(call.body)
        images = np.array(asked["image"], np.uint8)
        return Reply({"labels": owned(images) if asked["model"] == "stolen" else [3] * len(images)})

    typed = [f"key={place / 'marks.key'}", "suspect=json_api", "suspect.pixels.kind=byte", "suspect.batch_size=5"]
    typed += ["suspect.image={path: image, kind: list, many: true}", "suspect.answer={path: labels}", "alpha=0.01"]
    typed += ["queries=40"]
    with serving(behave) as service, initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        typed.append(f"suspect.url={service.url}")
        both = "suspects=[{body: {model: mine}}, {body: {model: stolen}}]"
        verdicts = verify(compose("verify", [*typed, both, f"out={place / 'A'}"]))
        assert [verdict.decision for verdict in verdicts] == ["not shown", "owned"]
        with pytest.raises(UserError, match=r"^suspect: it was asked with this key before"):
            verify(compose("verify", [*typed, "alpha=0.005", "suspect.body={model: mine}", f"out={place / 'B'}"]))
    looks = as_json(place, "marks.asked.json")
    assert len({look["suspect"] for look in looks}) == 2
    assert "stolen" not in (place / "marks.asked.json").read_text()


@pytest.mark.parametrize("gone", ["transcript.jsonl", "both"])
def test_who_removes_the_transcript_looks_again(ask: Callable[..., list[Verdict]], place: Path, gone: str) -> None:
    ask("marks", {"suspect": lambda images: [3] * len(images)}, "queries=20")
    secret = (place / "out" / "decoys.secret").read_bytes()
    for name in ("transcript.jsonl", "decoys.secret") if gone == "both" else (gone,):
        (place / "out" / name).unlink()
    with pytest.raises(UserError, match=r"^suspect: it was asked with this key before"):
        ask("marks", {"suspect": lambda images: [3] * len(images)}, "queries=20")
    (second,) = ask("marks", {"suspect": lambda images: [3] * len(images)}, "queries=20", "alpha=0.002")
    assert any("look 2" in note for note in second.notes)
    assert (place / "out" / "decoys.secret").read_bytes() != secret


@pytest.mark.parametrize("removed", [True, False])
def test_other_decoys_after_a_look_are_refused(ask: Callable[..., list[Verdict]], place: Path, removed: bool) -> None:
    """Of a key of one mark, one trigger may be planned: its order does not tell whose secret it was."""
    options = ("alpha=0.05", "expect={survival: 1, decoys: 0}", "budget=600")
    ask("decoys", {"suspect": lambda images: [1] * len(images)}, *options)
    secret = place / "out" / "decoys.secret"
    secret.unlink()
    if not removed:
        secret.write_bytes(bytes(32))
    asked = sent(place / "out")
    with pytest.raises(UserError, match=r"^(out: .*decoys.secret is gone|transcript: .*decoys.secret=)"):
        ask("decoys", {"suspect": lambda images: [1] * len(images)}, *options)
    assert sent(place / "out") == asked
    assert secret.exists() != removed


def test_a_kill_before_the_first_image_sets_nothing_aside_for_good(
    ask: Callable[..., list[Verdict]], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned = {"suspect": knowing(read_key(place / "marks.key"))}
    with monkeypatch.context() as patch:
        patch.setattr(Spent, "release", lambda *_: None)  # no time for it
        patch.setattr(SeveralMarks, "put", kill)
        with pytest.raises(Killed):
            ask("marks", owned, "queries=40")
    assert len(as_json(place, "marks.spent.json")) == 40
    assert not sent(place / "out")
    (verdict,) = ask("marks", owned, "queries=40")
    assert verdict.decision == "owned"
    assert not [note for note in verdict.notes if "look 2" in note]
    assert len(as_json(place, "marks.spent.json")) == 40


# -- null models -----------------------------------------------------------------------------------------------------


def test_null_models_of_another_shape_cost_no_trigger(
    ask: Callable[..., list[Verdict]], place: Path, stored: Run
) -> None:
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        options = (*TASK, *KEYS["marks"], "++dataset.source.shape=[3,16,16]")
        job = prepare(compose("train", [f"runs_dir={place}", *options]), secret=Secret(b"k" * 32))
    keep_key(job, place / "small.key")
    calls: list[int] = []
    with pytest.raises(UserError, match=r"^null_models: .*takes 1x28x28 images; the key's are 3x16x16"):
        ask("small", {"suspect": lambda images: calls.append(1) or [0]}, f"null_models=[{stored.folder}]")  # type: ignore[func-returns-value]
    assert not calls
    assert not (place / "small.spent.json").exists()


def test_null_models_say_what_they_rest_on(ask: Callable[..., list[Verdict]], place: Path, stored: Run) -> None:
    owned = knowing(read_key(place / "marks.key"))
    (verdict,) = ask("marks", {"suspect": owned}, f"null_models=[{stored.folder}]")
    assert verdict.null_models is not None
    assert "p = 0.5 by rank among 1 models made without the key" in verdict.null_models
    assert f"the same {verdict.triggers} triggers" in verdict.null_models
    assert verdict.null_models.endswith(ASSUMPTIONS[NULL_MODELS])
    assert ASSUMPTIONS[NULL_MODELS] in verdict.text()
    assert ASSUMPTIONS[NULL_MODELS] in (place / "out" / "report.html").read_text()


# -- several ---------------------------------------------------------------------------------------------------------


def folders(place: Path, *names: str) -> list[Path]:
    return [place / "out" / f"made-up-{name}" for name in names]


def test_one_that_cannot_be_asked_costs_the_others_nothing(ask: Callable[..., list[Verdict]], place: Path) -> None:
    owned = knowing(read_key(place / "marks.key"))
    first, second, third = folders(place, "first", "second", "third")
    second.mkdir(parents=True)
    (second / "decoys.secret").write_bytes(b"torn")
    begun = ({"plan": {}}, {"sent": ["a"]})
    (second / "transcript.jsonl").write_text("".join(json.dumps(line) + "\n" for line in begun))
    (third / "transcript.jsonl").parent.mkdir()
    (third / "transcript.jsonl").write_text("my diary\nday two\n")
    verdicts = ask("marks", {"first": owned, "second": owned, "third": owned}, "queries=20", "alpha=0.01")
    assert [verdict.decision for verdict in verdicts] == ["owned", "cannot tell", "cannot tell"]
    assert "decoys.secret is damaged" in verdicts[1].reason
    assert "line 1 of" in verdicts[2].reason
    for folder, verdict in zip((first, second, third), verdicts, strict=True):
        assert json.loads((folder / "verdict.json").read_text())["decision"] == verdict.decision
        assert verdict.text()


def test_too_few_triggers_are_shared(ask: Callable[..., list[Verdict]], place: Path) -> None:
    """Fresh ones are dealt out before the first query: none of three suspects goes without."""
    owned = knowing(read_key(place / "marks.key"))
    suspects = {"first": owned, "second": owned, "third": owned}
    verdicts = ask("marks", suspects, "queries=1000", "alpha=0.01", "sequential=false")
    n = len(read_key(place / "marks.key").new)
    assert sum(verdict.queries for verdict in verdicts) == n
    assert max(verdict.queries for verdict in verdicts) - min(verdict.queries for verdict in verdicts) <= 1
    assert {verdict.decision for verdict in verdicts} == {"owned"}
    fourth = ask("marks", {**suspects, "fourth": owned}, "queries=1000", "alpha=0.01", "sequential=false")
    assert [verdict.decision for verdict in fourth] == ["cannot tell"] * 4, "at another level: the plans are others"
    assert "are spent" in fourth[3].reason
    for folder in folders(place, "first", "second", "third"):
        assert json.loads((folder / "verdict.json").read_text())["decision"] == "owned", "reached before: it stands"
    assert any("was reached before stands: owned" in note for note in fourth[0].notes)


def test_each_verdict_is_written_as_it_comes(ask: Callable[..., list[Verdict]], place: Path) -> None:
    owned = knowing(read_key(place / "marks.key"))

    def interrupted(images: Images) -> list[int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask("marks", {"first": owned, "second": interrupted}, "alpha=0.01")
    (first, _) = folders(place, "first", "second")
    assert json.loads((first / "verdict.json").read_text())["decision"] == "owned"


# -- a verdict that was reached --------------------------------------------------------------------------------------


def test_answers_that_are_there_need_no_suspect(place: Path) -> None:
    """A service that is gone changes nothing of what it said."""
    key = read_key(place / "marks.key")
    owned = knowing(key)

    def behave(call: Call) -> Reply:
        images = np.array(json.loads(call.body)["image"], np.uint8)
        return Reply({"labels": owned(images)})

    def run(url: str, *overrides: str) -> Verdict:
        typed = [f"key={place / 'marks.key'}", f"out={place / 'out'}", "suspect=json_api", f"suspect.url={url}"]
        typed += ["suspect.image={path: image, kind: list, many: true}", "suspect.answer={path: labels}"]
        typed += ["suspect.batch_size=5", "suspect.pixels.kind=byte", "suspect.http.retries=0"]
        with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
            (verdict,) = verify(compose("verify", [*typed, *overrides]))
        return verdict

    with serving(behave) as service:
        url = service.url
        first = run(url)
    assert first.decision == "owned"
    before = kept(place / "out")
    again = run(url)
    assert unasked(again) == first
    assert kept(place / "out") == before
    before = files(place / "out")
    (place / "out" / "transcript.jsonl").unlink()
    with serving(lambda _: Reply(status=503)) as busy:  # another port is another suspect
        with pytest.raises(UserError, match="no connection"):
            run(url, "alpha=0.002")  # without the transcript it would be another look
        assert run(busy.url, f"out={place / 'busy'}").decision == "cannot tell"
    assert (place / "out" / "verdict.json").read_bytes() == before["verdict.json"]
    assert (place / "out" / "report.html").read_bytes() == before["report.html"]


def test_a_protocol_service_is_not_contacted_for_what_is_known(place: Path) -> None:
    from tests.ownership.services import oip_service

    shape = list(read_key(place / "marks.key").new.images.shape[1:])
    metadata = {
        "name": "classifier",
        "inputs": [{"name": "in", "datatype": "UINT8", "shape": [-1, *shape]}],
        "outputs": [{"name": "out", "datatype": "INT64", "shape": [-1]}],
    }

    def answer(call: Call) -> Reply:
        n = json.loads(call.body)["inputs"][0]["shape"][0]
        return Reply({"outputs": [{"name": "out", "datatype": "INT64", "shape": [n], "data": [3] * n}]})

    down = [False]

    def behave(call: Call) -> Reply | None:
        return Reply(status=503) if down[0] else oip_service(metadata, answer)(call)

    with serving(behave) as service:
        typed = [f"key={place / 'random.key'}", f"out={place / 'out'}", "suspect=oip", "suspect.http.retries=0"]
        typed.append("queries=40")
        typed.append(f"suspect.url={service.url.removesuffix('/predict')}")
        with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
            (first,) = verify(compose("verify", typed))
            assert first.decision == "not shown", first.text()
            down[0], n = True, len(service.calls)
            before = kept(place / "out")
            (again,) = verify(compose("verify", typed))
            assert (unasked(again), kept(place / "out"), len(service.calls)) == (first, before, n)
            before = files(place / "out")
            (place / "out" / "transcript.jsonl").unlink()
            (lost,) = verify(compose("verify", [*typed, "alpha=0.002"]))  # another look
    assert lost.decision == "cannot tell"
    assert any("was reached before stands: not shown" in note for note in lost.notes)
    assert (place / "out" / "verdict.json").read_bytes() == before["verdict.json"]
    assert (place / "out" / "report.html").read_bytes() == before["report.html"]


def test_a_verdict_that_was_reached_gives_way_to_another(
    ask: Callable[..., list[Verdict]], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only `cannot tell` leaves it, and only if it was on the same suspect."""
    (owned,) = ask("marks", {"suspect": knowing(read_key(place / "marks.key"))})
    assert owned.decision == "owned"
    page = place / "out" / "verdict.json"
    nothing = replace(owned, decision="cannot tell")
    assert replace(nothing, identity="").write(page.parent).notes[-1].endswith("stands: owned.")
    assert nothing.write(page.parent).notes[-1].endswith("stands: owned.")
    assert json.loads(page.read_text())["decision"] == "owned"
    assert replace(owned, decision="not shown").write(page.parent).decision == "not shown"
    assert json.loads(page.read_text())["decision"] == "not shown"
    owned.write(page.parent)
    replace(nothing, identity="sha256 of another").write(page.parent)
    assert json.loads(page.read_text())["decision"] == "cannot tell"


def test_shown_triggers_are_for_the_owners_eyes(ask: Callable[..., list[Verdict]], place: Path) -> None:
    ask("marks", {"suspect": knowing(read_key(place / "marks.key"))}, "show_triggers=true")
    for name in ("verdict.json", "verdict.txt", "report.html"):
        assert (place / "out" / name).stat().st_mode & 0o077 == 0, name


def test_a_folder_that_cannot_be_made_is_told_before_asking(ask: Callable[..., list[Verdict]], place: Path) -> None:
    (place / "file").write_text("mine")
    for out in ("file", "file/b"):
        with pytest.raises(UserError, match=r"^out: .*file is a file; name a folder"):
            ask("marks", {"suspect": lambda images: [0] * len(images)}, f"out={place / out}")


def test_home_is_understood(ask: Callable[..., list[Verdict]], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place / "home"))
    ask("marks", {"suspect": lambda images: [3] * len(images)}, "out='~/asked'")
    assert (place / "home" / "asked" / "verdict.json").is_file()


def test_the_interval_after_an_early_stop_is_a_description(ask: Callable[..., list[Verdict]], place: Path) -> None:
    owned = knowing(read_key(place / "marks.key"))
    for name, sequential in (("a", True), ("b", False)):
        out = place / name
        ask("marks", {name: owned}, f"sequential={sequential}", "queries=40", f"out={out}")
        assert ("only a description" in (out / "report.html").read_text()) == sequential


# -- the key's age ---------------------------------------------------------------------------------------------------


def test_what_a_verdict_is_conditional_on(ask: Callable[..., list[Verdict]], place: Path) -> None:
    key = read_key(place / "marks.key")
    suspect = {"suspect": knowing(key)}
    (bare,) = ask("marks", suspect)
    assert bare.reason.startswith("If the key is older than the suspect, which nothing that was given shows, a model ")
    published = place / "published.json"
    published.write_text(json.dumps({**commitment_of(key), "made": "2024-02-29T12:00:00+01:00"}))
    (committed,) = ask("marks", suspect, f"commitment={published}")
    assert committed.reason.startswith("If the suspect was made after 2024-02-29, when by its owner's word the key")
    (known,) = ask("marks", suspect, f"commitment={published}", "suspect_since=2024-03-01")
    assert "(it is known of since 2024-03-01)" in known.reason
    assert {verdict.exit_code for verdict in (bare, committed, known)} == {0}


@pytest.mark.parametrize("since", ["2024-02-29", "2024-02-29T10:59:59", "2023-01-01", "2024-02-29T11:59:59+01:00"])
def test_a_commitment_that_is_younger_than_the_suspect_is_refused(
    ask: Callable[..., list[Verdict]], place: Path, since: str
) -> None:
    published = place / "published.json"
    published.write_text(json.dumps({**commitment_of(read_key(place / "marks.key")), "made": "2024-02-29T11:00:00"}))
    calls: list[int] = []
    with pytest.raises(UserError, match=r"^suspect_since: .*the commitment was made later, at 2024-02-29T11:00:00"):
        ask(
            "marks",
            {"suspect": lambda images: calls.append(1) or [0]},  # type: ignore[func-returns-value]
            f"commitment={published}",
            f"suspect_since='{since}'",
        )
    assert not calls


def test_a_stamp_that_is_younger_than_the_suspect_is_refused(ask: Callable[..., list[Verdict]], place: Path) -> None:
    pytest.importorskip("rfc3161_client")
    from tests.ownership.test_timestamp import Authority
    from wmlightning.ownership.timestamp import response_of, write_request

    key, published = read_key(place / "marks.key"), place / "published.json"
    authority = Authority.make(place / "authority")
    published.write_text(json.dumps({**commitment_of(key), "made": "2001-01-01"}))
    authority.answer(write_request(published), response_of(published))
    stamp = (f"commitment={published}", f"timestamp={response_of(published)}", f"timestamp_ca=[{authority.root}]")
    suspect = {"suspect": knowing(key)}
    with pytest.raises(UserError, match=r"^suspect_since: .*the commitment was stamped later"):
        ask("marks", suspect, *stamp, "suspect_since=2002-01-01")
    (verdict,) = ask("marks", suspect, *stamp, "suspect_since=2999-01-01")
    assert verdict.decision == "owned"
    assert "when the key is proven to have existed (it is known of since 2999-01-01)" in verdict.reason


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("soon", "is no date"),
        ("2024", "something else|is no date"),
        ("'9999-12-31T23:00:00-05:00'", "is no date"),
        ("'0001-01-01T00:00:00+05:00'", "is no date"),
    ],
)
def test_dates_that_are_none(ask: Callable[..., list[Verdict]], place: Path, value: str, told: str) -> None:
    write_commitment(read_key(place / "marks.key"), place / "published.json")
    with pytest.raises(UserError, match=rf"^suspect_since: .*({told})"):
        ask("marks", {"suspect": lambda _: [0]}, f"commitment={place / 'published.json'}", f"suspect_since={value}")
    with pytest.raises(UserError, match=r"^suspect_since: there is no commitment"):
        ask("marks", {"suspect": lambda _: [0]}, "suspect_since=2024-01-01")


def test_a_key_under_another_name_is_the_same_key(ask: Callable[..., list[Verdict]], place: Path) -> None:
    """Links are how one key is used from several folders: looks and triggers are noted once for all of them."""
    (place / "project").mkdir()
    (place / "project" / "link.key").symlink_to(place / "marks.key")
    innocent: dict[str, Answer] = {"suspect": lambda images: [3] * len(images)}
    ask("marks", innocent, "queries=20")
    with pytest.raises(UserError, match=rf"^suspect: it was asked with this key before, see {place / 'out'}, and"):
        ask("project/link", innocent, "queries=20", f"out={place / 'B'}")
    other: dict[str, Answer] = {"other": lambda images: [3] * len(images)}
    ask("project/link", other, "queries=20", f"out={place / 'C'}")
    assert not set(sent(place / "out")) & set(sent(place / "C")), "and no trigger is shown to two"
    assert not list((place / "project").glob("*.json"))


def test_keys_whose_names_differ_after_a_dot_share_nothing(
    ask: Callable[..., list[Verdict]], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not what was shown of them, not the folder of a verification, not their commitment and its time stamp."""
    for name, content in (("net-1.0", "marks"), ("net-1.1", "random")):
        (place / f"{content}.key").rename(place / name)
        ask("", {"suspect": lambda images: [3] * len(images)}, "queries=20", f"key={place / name}", "out=null")
        assert len(as_json(place, f"{name}.asked.json")) == 1
        assert set(as_json(place, f"{name}.spent.json")) >= set(sent(place / f"{name}.made-up-suspect")) > set()
        assert own(["commit", str(place / name)]) == 0
        assert own(["stamp-request", str(place / f"{name}.commitment.json")]) == 0
        assert (place / f"{name}.commitment.tsq").is_file()
    assert not list(place.glob("net-1.[!01]*")), "nothing is of both"
    assert "error" not in capsys.readouterr().err


def test_no_two_suspects_share_a_folder(ask: Callable[..., list[Verdict]], place: Path) -> None:
    """The verdict on one would take the place of another's."""
    names = ["a-2", "a", "a"]
    suspects = [Function(f"made_up:{name}") for name in names]
    for suspect, name in zip(suspects, names, strict=True):
        suspect.name = name
    for order in itertools.permutations(suspects):
        found = folders_of(list(order), place / "marks.key", None)
        assert len(set(found)) == 3
        assert found[[suspect.name for suspect in order].index("a-2")].name == "marks.a-2"


def test_what_others_say_is_spent_is_told(ask: Callable[..., list[Verdict]], place: Path) -> None:
    """Who writes down which triggers are spent chooses those that are asked about."""
    key = read_key(place / "random.key")
    (verdict,) = ask("random", {"suspect": lambda images: [3] * len(images)}, "queries=20")
    assert not [note for note in verdict.notes if "left out" in note]
    digests = [image_digest(image) for image in key.trained.images]
    (place / "random.spent.json").write_text(json.dumps(digests[:70]))
    for _ in range(2):
        (verdict,) = ask("random", {"other": lambda images: [3] * len(images)}, "queries=20", f"out={place / 'other'}")
        told = "70 of 120 triggers were left out as spent, as random.spent.json says: that file must be"
        (note,) = [note for note in verdict.notes if note.startswith(told)]
        assert str(place) not in note, "where the key lies is told to no logger"


def test_a_prepared_secret_is_not_the_verifiers(ask: Callable[..., list[Verdict]], place: Path) -> None:
    """Decoys that the claimant knows can be prepared for."""
    (place / "out").mkdir()
    (place / "out" / "decoys.secret").write_bytes(b"p" * 32)
    ask("decoys", {"suspect": lambda images: [1] * len(images)}, "alpha=0.05", "queries=10")
    assert (place / "out" / "decoys.secret").read_bytes() != b"p" * 32
