"""The transcript: nothing asked twice, no image above the budget, whatever fails or is killed."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.conftest import REPO
from tests.helpers import few
from tests.ownership.services import (
    SHAPE,
    Call,
    K,
    Reply,
    api,
    honest,
    images,
    labels,
    oip,
    oip_service,
    quick,
    serving,
)
from wmlightning.errors import UserError
from wmlightning.ownership.recorded import Recorded
from wmlightning.ownership.suspects.base import Answer, Suspect, Unreachable
from wmlightning.ownership.transcript import Planned, image_digest, planned


class Honest(Suspect):
    """Answers at once, in this process."""

    name = "honest"
    batch_size = 4

    def __init__(self, name: str = "honest") -> None:
        self.name = name
        self.asked: list[int] = []

    def ask(self, images: Tensor) -> list[Answer]:
        pixels = images[:, 0, 0, 0].tolist()
        self.asked += pixels
        return [Answer(pixel % K) for pixel in pixels]


def recorded(suspect: Suspect, path: Path | None, budget: int | None = None) -> Recorded:
    return Recorded(suspect, path, budget, SHAPE, K)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "transcript.jsonl"


def test_what_is_written(path: Path) -> None:
    with recorded(Honest(), path) as asked:
        answers = asked.ask(images(6))
        assert asked.queries == 6
        assert asked.shown == {image_digest(image) for image in images(6)}
    assert [answer.label for answer in answers] == labels(6)
    header, *rest = lines(path)
    assert header["suspect"] == {"kind": "Honest", "name": "honest"}
    sent = [digest for line in rest for digest in line.get("sent", [])]
    found = [line for line in rest if "images" in line]
    told = {digest: label for line in found for digest, label in zip(line["images"], line["labels"], strict=True)}
    assert sent == [image_digest(image) for image in images(6)]
    assert [told[digest] for digest in sent] == labels(6)
    assert {tuple(line["shape"]) for line in found} == {SHAPE}
    assert set(found[0]) == {"images", "shape", "labels", "missing", "status", "attempt", "time"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first_sent = next(i for i, line in enumerate(rest) if "sent" in line)
    assert first_sent < next(i for i, line in enumerate(rest) if "images" in line), "said before it is done"


def test_no_image_in_it(path: Path) -> None:
    with recorded(Honest(), path) as asked:
        asked.ask(torch.full((3, *SHAPE), 77, dtype=torch.uint8))
    assert "77, 77" not in path.read_text().replace(",", ", ")
    values = [value for line in lines(path)[1:] for value in line.values()]
    flat = [part for value in values for part in (value if isinstance(value, list) else [value])]
    assert all(len(str(part)) < 70 for part in flat)


def test_digest_tells_images_apart() -> None:
    flat = torch.zeros((1, 2, 8), dtype=torch.uint8)
    assert image_digest(flat) != image_digest(flat.reshape(1, 4, 4))
    turned = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4).transpose(1, 2)
    assert image_digest(turned) == image_digest(turned.contiguous())


def test_resumed_without_asking_twice(path: Path) -> None:
    first, second = Honest(), Honest()
    with recorded(first, path) as asked:
        asked.ask(images(5))
    with recorded(second, path) as asked:
        assert asked.queries == 5
        assert [answer.label for answer in asked.ask(images(9))] == labels(9)
        assert [answer.label for answer in asked.ask(images(9))] == labels(9)
        assert asked.queries == 9
    assert first.asked + second.asked == list(range(9))


def test_image_that_stands_twice_is_asked_once() -> None:
    suspect = Honest()
    twice = torch.cat([images(3), images(5)])
    with recorded(suspect, None) as asked:
        assert [answer.label for answer in asked.ask(twice)] == labels(3) + labels(5)
    assert suspect.asked == list(range(5))


def test_missing_answers_are_answers(path: Path) -> None:
    def never_three(call: Call) -> Reply:
        return Reply({}, 400) if call.pixels[0] == 3 else honest(call)

    with serving(never_three) as service:
        for _ in range(2):
            with recorded(api(service.url), path) as asked:
                answers = asked.ask(images(6))
            assert answers[3] == Answer(None, "refused", 400, 1)
        assert service.n_images == 6


def test_order_of_answers_is_that_of_the_images() -> None:
    def slow_first(call: Call) -> Reply:
        time.sleep(0.15 if call.pixels[0] == 1 else 0)
        return honest(call)

    with serving(slow_first) as service, recorded(api(service.url), None) as asked:
        stream = asked.stream(images(12))
        assert [next(stream).label for _ in range(5)] == labels(5)
        stream.close()
        assert asked.queries < 13


def test_stream_left_open_ends_with_the_block(path: Path) -> None:
    with serving() as service:
        with recorded(api(service.url, quick(concurrency=2)), path) as asked:
            stream = asked.stream(images(200))
            next(stream)
        time.sleep(0.1)
        n = len(service.calls)
        time.sleep(0.1)
        assert len(service.calls) == n <= 5
        assert sum(len(line["sent"]) for line in lines(path) if "sent" in line) >= n
        stream.close()


LEFT_OPEN = """
import sys
from tests.ownership.services import api, images
stream = api(sys.argv[1]).stream(images(200))
next(stream)
raise ValueError("something else goes wrong")
"""


@pytest.mark.slow
def test_stream_left_open_does_not_keep_python_alive() -> None:
    with serving() as service:
        command = [sys.executable, "-c", LEFT_OPEN, service.url]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert "something else goes wrong" in done.stderr


def test_images_of_no_number() -> None:
    with recorded(Honest(), None) as asked:
        assert asked.ask(images(0)) == []
    with serving() as service, recorded(api(service.url), None) as asked:
        assert asked.ask(images(0)) == []


# -- budget ----------------------------------------------------------------------------------------------------------


def test_budget_ends_in_the_middle_of_a_batch(path: Path) -> None:
    suspect = Honest()
    with recorded(suspect, path, 6) as asked:
        answers = asked.ask(images(10))
        assert asked.left == 0
    assert [answer.label for answer in answers] == [*labels(6), None, None, None, None]
    assert [answer.asked for answer in answers] == [True] * 6 + [False] * 4
    with recorded(suspect, path, 8) as asked:
        assert asked.left == 2
        assert [answer.asked for answer in asked.ask(images(10))] == [True] * 8 + [False] * 2
    assert suspect.asked == list(range(8))


def test_retries_count(path: Path) -> None:
    def stubborn(call: Call) -> Reply:
        return Reply({}, 503) if call.pixels[0] == 2 else honest(call)

    with serving(stubborn) as service, recorded(api(service.url, quick(retries=9, concurrency=1)), path, 7) as asked:
        answers = asked.ask(images(6))
        assert service.n_images == asked.queries == 7
    assert [answer.missing for answer in answers] == [None, None, "server error", *["budget spent"] * 3]
    assert answers[2].attempt == 5


def test_unsent_images_do_not_count(path: Path) -> None:
    with serving() as service, recorded(api(service.url), path, 50) as asked:
        asked.ask(images(3))
    with recorded(api(service.url, quick(patience=2)), path, 50) as asked:  # nobody there any more
        with pytest.raises(UserError, match="no connection"):
            asked.ask(images(9))
        assert asked.queries == 3
    with recorded(api(service.url), path, 50) as asked:
        assert asked.queries == 3


FATES = st.sampled_from(["fine", "fine", "fine", "500", "429", "400", "cut", "junk"])


@few
@given(
    fates=st.lists(FATES, min_size=1, max_size=30),
    budget=st.integers(0, 25),
    batch=st.integers(1, 5),
    retries=st.integers(0, 3),
    n=st.integers(1, 20),
    concurrency=st.integers(1, 4),
)
def test_no_image_above_the_budget(
    fates: list[str], budget: int, batch: int, retries: int, n: int, concurrency: int
) -> None:
    """Counted where they arrive."""

    def moody(call: Call) -> Reply | None:
        fate = fates[call.number % len(fates)]
        if fate.isdecimal():
            return Reply({}, int(fate))
        if fate == "junk":
            return Reply(b"{")
        return None if fate == "cut" else answer(call)

    answer = oip_service()
    with serving(oip_service(answer=moody)) as service:
        suspect = oip(service.url, quick(retries=retries, concurrency=concurrency, patience=3), batch_size=batch)
        with recorded(suspect, None, budget) as asked:
            try:
                answers = asked.ask(images(n))
            except Unreachable as error:
                answers = []
                assert 0 <= error.answered < n
            assert service.n_images == asked.queries <= budget
            for wanted, found in zip(labels(n), answers, strict=False):
                assert found.label in (wanted, None)
                assert found.asked or asked.left < batch


# -- killed, torn, foreign -------------------------------------------------------------------------------------------


def test_dead_service_keeps_what_it_answered(path: Path) -> None:
    http = quick(concurrency=1, patience=2, retries=0)
    with (
        serving(lambda call: honest(call) if call.number < 7 else None) as service,
        recorded(api(service.url, http), path) as asked,
        pytest.raises(Unreachable, match="7 images were answered before") as caught,
    ):
        asked.ask(images(20))
    assert caught.value.answered == 7
    with serving() as service:
        suspect = api(service.url)
        suspect.name = asked.name  # back at the same address
        with recorded(suspect, path) as again:
            assert again.queries == 9
            assert [answer.label for answer in again.ask(images(20))] == labels(20)
        assert service.n_images == 13


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_torn_last_line(path: Path, cut: int) -> None:
    with recorded(Honest(), path) as asked:
        asked.ask(images(5))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    suspect = Honest()
    with recorded(suspect, path) as asked:
        assert [answer.label for answer in asked.ask(images(5))] == labels(5)
        assert asked.queries == 6
    assert suspect.asked == [4]
    assert len(lines(path)) == len(whole.splitlines()) + 1
    with recorded(suspect, path) as asked:
        asked.ask(images(5))
    assert suspect.asked == [4]


@pytest.mark.parametrize("content", [b"", b'{"sch', b"\0\0\0\0"])
def test_torn_first_line(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(0o644)
    with recorded(Honest(), path) as asked:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [answer.label for answer in asked.ask(images(5))] == labels(5)
    assert len(lines(path)) == 1 + 2 + 2, "who, what left, what came"


def test_line_of_nothing_after_a_power_cut(path: Path) -> None:
    with recorded(Honest(), path) as asked:
        asked.ask(images(4))
    path.write_bytes(path.read_bytes() + b"\0" * 20 + b"\n")
    with recorded(Honest(), path) as asked:
        assert [answer.label for answer in asked.ask(images(4))] == labels(4)
    lines(path)


answered = '{"images":["a"],"labels":[%d],"missing":null,"status":null,"attempt":1,"time":"now"}'


@pytest.mark.parametrize("line", [1, 2, 3])
@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "3",
        '"sent"',
        "{",
        '{"images":[],"labels":[1],"missing":null,"status":null,"attempt":1}',
        '{"images":["a"],"labels":[1.5],"missing":null,"status":null,"attempt":1}',
        '{"images":["a"],"labels":[null],"missing":null,"status":null,"attempt":1}',
        '{"images":["a"],"labels":[3],"missing":"lost","status":null,"attempt":1}',
        '{"images":["a","b"],"labels":[3],"missing":null,"status":null,"attempt":1}',
        '{"images":[["a"]],"labels":[3],"missing":null,"status":null,"attempt":1}',
        '{"images":["a"],"labels":3,"missing":null,"status":null,"attempt":1}',
        *(answered % label for label in (-7, K, 10**30)),
    ],
)
def test_altered_transcript_is_refused(path: Path, line: int, text: str) -> None:
    with recorded(Honest(), path) as asked:
        asked.ask(images(8))
    content = path.read_text().splitlines()
    content[line] = text
    path.write_text("\n".join(content) + "\n")
    with pytest.raises(UserError, match=f"line {line + 1} of .* was altered"):
        recorded(Honest(), path).__enter__()


def test_labels_of_a_task_that_is_not_known(path: Path) -> None:
    for label, altered in ((K, False), (2**31 - 1, False), (2**31, True), (-1, True)):
        path.unlink(missing_ok=True)
        with Recorded(Honest(), path) as asked:
            asked.ask(images(8))
        content = path.read_text().splitlines()
        content[2] = answered % label
        path.write_text("\n".join(content) + "\n")
        with pytest.raises(UserError, match=r"line 3 of .* was altered") if altered else nullcontext():
            Recorded(Honest(), path).__enter__().__exit__()


def test_transcript_of_another_suspect(path: Path) -> None:
    with recorded(Honest("one"), path):
        pass
    before = path.read_bytes()
    with pytest.raises(UserError, match="belongs to one") as caught:
        recorded(Honest("two"), path).__enter__()
    assert caught.value.key == "transcript"
    assert path.read_bytes() == before


def asked_with(url: str, path: Path, body: dict[str, Any] | None = None, **headers: str) -> Recorded:
    return recorded(api(url, quick(headers=headers), body=body), path)


@pytest.mark.parametrize(
    ("query", "body", "headers"),
    [
        ("?model=innocent", None, {}),
        ("?model=stolen&model=innocent", None, {}),
        ("", None, {}),
        ("?model=stolen", {"model": "innocent"}, {}),
        ("?model=stolen", None, {"X-Model": "innocent"}),
    ],
)
def test_another_model_at_the_same_address(
    path: Path, query: str, body: dict[str, Any] | None, headers: dict[str, str]
) -> None:
    with serving() as service:
        with asked_with(service.url + "?model=stolen", path) as asked:
            asked.ask(images(3))
        with pytest.raises(UserError, match="asked with another query, header or body") as caught:
            asked_with(service.url + query, path, body, **headers).__enter__()
        assert caught.value.key == "transcript"
        assert service.n_images == 3


TOKENS = ["Authorization", "proxy-authorization", "X-API-Key", "Cookie", "api-key", "apikey", "X-Auth-Token"]
TOKENS += ["X-Access-Token", "X-Amz-Security-Token", "X-Goog-Api-Key", "Ocp-Apim-Subscription-Key", "X-Functions-Key"]


@pytest.mark.parametrize("name", TOKENS)
def test_another_token_is_the_same_suspect(path: Path, name: str) -> None:
    with serving() as service:
        for token in ("one", "two"):
            with asked_with(service.url, path, **{name: token}) as asked:
                assert [answer.label for answer in asked.ask(images(3))] == labels(3)
        with asked_with(service.url.replace("localhost", "me:word@localhost"), path) as asked:
            asked.ask(images(3))
        assert service.n_images == 3


def test_what_may_be_secret_cannot_be_looked_up(path: Path) -> None:
    """Salted: the same in two transcripts is not the same."""
    for file in (path, path.with_name("other.jsonl")):
        with serving() as service, asked_with(service.url + "?k=1234", file, {"pin": "5678"}, Other="9012"):
            pass
    one, two = (lines(file)[0]["private"] for file in (path, path.with_name("other.jsonl")))
    assert one != two
    assert set(one) == {"salt", "scrypt"}
    identity = api("http://x/?k=1234", quick(headers={"Other": "9012"}), body={"pin": "5678"}).identity()
    assert identity == api("http://x/").identity(), "nor does anything else in it depend on that"


@pytest.mark.parametrize("private", ["{}", "3", '"x"', '{"salt": "xx", "scrypt": ""}', '{"salt": 3}'])
def test_altered_header(path: Path, private: str) -> None:
    with serving() as service, asked_with(service.url + "?k=1", path) as asked:
        asked.ask(images(3))
    header, rest = path.read_text().split("\n", 1)
    start, end = header.index('"private": ') + 11, header.index(', "time"')
    path.write_text(header[:start] + private + header[end:] + "\n" + rest)
    with pytest.raises(UserError, match="transcript"):
        asked_with(service.url + "?k=1", path).__enter__()


def test_it_tells_when_answers_came_and_whether_they_are_of_today(path: Path) -> None:
    with recorded(Honest(), path) as asked:
        assert (asked.answered_from, asked.answered_until, asked.contacted) == (None, None, False)
        asked.ask(images(3))
        assert asked.contacted
        first = asked.answered_from
    with recorded(Honest(), path) as asked:
        asked.ask(images(3))
        assert (asked.answered_from, asked.contacted) == (first, False)
        time.sleep(0.005)
        asked.ask(images(9))
        assert asked.contacted
        assert first is not None
        assert asked.answered_from == first
        assert asked.answered_until is not None
        assert first < asked.answered_until
    times = [line["time"] for line in lines(path) if "images" in line]
    assert (first, asked.answered_until) == (times[0], times[-1])


def test_plan_is_not_begun_by_what_nobody_saw(path: Path) -> None:
    with serving() as service, recorded(api(service.url), path) as asked:
        asked.agree({"a": 1})
    assert planned(path) == Planned({"a": 1}, set(), done=False)
    with recorded(api(service.url, quick(patience=1)), path) as asked, pytest.raises(UserError, match="no connection"):
        asked.ask(images(3))
    assert any("unsent" in line for line in lines(path))
    assert planned(path) == Planned({"a": 1}, set(), done=False)
    with path.open("a") as file:
        file.write('{"sent": ["a"]}\n{"sent": 3}\n3\n{')
    assert planned(path) == Planned({"a": 1}, {"a"}, done=False)
    with path.open("a") as file:
        file.write('\n{"done": true}\n')
    assert planned(path) == Planned({"a": 1}, {"a"}, done=True)
    with path.open("a") as file:
        file.write('{"plan": {"b": 2}}\n')
    assert planned(path) == Planned({"b": 2}, {"a"}, done=False)
    assert planned(path.parent) == Planned(None, set(), done=False), "what cannot be read, whoever opens it will tell"


def test_what_cannot_be_sent_is_not_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(images: Tensor) -> bytes:
        raise ValueError("not this one")

    with serving() as service:
        suspect = api(service.url)
        monkeypatch.setattr(suspect, "encode", broken)
        with recorded(suspect, path) as asked:
            with pytest.raises(ValueError, match="not this one"):
                asked.ask(images(3))
            assert (asked.queries, asked.shown) == (0, set())
    assert not any("sent" in line for line in lines(path))
    assert service.calls == []


def test_file_that_is_no_transcript(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("my diary\nday two\n")
    with pytest.raises(UserError, match="line 1"):
        recorded(Honest(), path).__enter__()
    assert path.read_text() == "my diary\nday two\n"


def test_folder_in_the_way(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(UserError, match="transcript"):
        recorded(Honest(), path).__enter__()


def test_two_at_once(path: Path) -> None:
    with recorded(Honest(), path), pytest.raises(UserError, match="being written by another process"):
        recorded(Honest(), path).__enter__()
    with recorded(Honest(), path):
        pass


KILLED = """
import sys
from pathlib import Path
from tests.ownership.services import api, images, quick
from tests.ownership.test_transcript import recorded
with recorded(api(sys.argv[1], quick(concurrency=3)), Path(sys.argv[2]), 60) as asked:
    print("started", flush=True)
    asked.ask(images(40))
"""


@pytest.mark.slow
def test_killed_and_resumed(path: Path) -> None:
    """SIGKILL in the middle: answers that came are there, and every image that arrived was counted."""
    third = threading.Event()

    def slow(call: Call) -> Reply:
        time.sleep(0.02)
        if call.number == 12:
            third.set()
        return honest(call)

    with serving(slow) as service:
        command = [sys.executable, "-c", KILLED, service.url, str(path)]
        process = subprocess.Popen(command, cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert third.wait(60)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.1)
        arrived = service.n_images
        assert 12 < arrived < 40
        with recorded(api(service.url, quick(concurrency=3)), path, 60) as asked:
            assert arrived <= asked.queries <= arrived + 3, "no image left uncounted"
            known = [digest for line in lines(path) for digest in line.get("images", ())]
            assert len(known) >= arrived - 4
            assert [answer.label for answer in asked.ask(images(40))] == labels(40)
            assert asked.queries >= service.n_images
        again = [call.pixels[0] for call in service.calls[arrived:]]
        assert len(again) == 40 - len(known), "only what had no answer"


def test_secrets_are_not_in_it(path: Path) -> None:
    token = "t0ken-t0ken-t0ken"
    with serving(lambda call: Reply({"label": call.pixels[0], "echo": [call.path, call.headers]})) as service:
        url = service.url + f"?key={token}"
        with recorded(api(url, quick(headers={"Authorization": token})), path) as asked:
            assert [answer.label for answer in asked.ask(images(3))] == labels(3)
    assert token not in path.read_text()
    assert token in str(service.calls[0].headers)
    assert token in service.calls[0].path


def test_half_a_line_does_not_spoil_the_next(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full for a moment takes the beginning of a line."""
    write, full = os.write, [False]

    def some(file: int, data: bytes) -> int:
        if full[0] == "soon":
            full[0] = True
            return write(file, data[: len(data) // 2])
        if full[0]:
            full[0] = False
            raise OSError(28, "No space left on device")
        return write(file, data)

    with recorded(Honest(), path) as asked:
        asked.ask(images(4))
        monkeypatch.setattr("wmlightning.ownership.transcript.os.write", some)
        full[0] = "soon"  # type: ignore[call-overload]
        with pytest.raises(OSError, match="No space"):
            asked.ask(images(8))
        asked.ask(images(12))
    with recorded(Honest("honest"), path) as again:
        assert [answer.label for answer in again.known(images(12))] == labels(12)
