"""Services that are slow, broken or hostile: what they do is told apart, bounded, and never taken for a label."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import few
from tests.ownership.services import SHAPE, Call, K, Reply, api, honest, images, labels, quick, serving
from wmlightning.errors import UserError
from wmlightning.ownership.recorded import Recorded
from wmlightning.ownership.suspects.base import Answer, Unreachable, Unreadable
from wmlightning.ownership.suspects.http import Channel, Http
from wmlightning.ownership.suspects.replies import Reply as HttpReply

TOKEN = "s3cr3t-token-of-mine"


def but(number: int, reply: Callable[[Call], Reply | None]) -> Callable[[Call], Reply | None]:
    """Honest, the request of this number excepted."""
    return lambda call: reply(call) if call.number == number else honest(call)


def given_labels(answers: list[Answer]) -> list[int | None]:
    return [answer.label for answer in answers]


def test_labels_arrive_in_order_from_requests_side_by_side() -> None:
    def slower_first(call: Call) -> Reply:
        time.sleep(0.02 if call.number % 4 == 1 else 0)
        return honest(call)

    with serving(slower_first) as service:
        answers = api(service.url, quick(concurrency=4)).ask(images(30))
    assert given_labels(answers) == labels(30)
    assert {answer.status for answer in answers} == {200}
    assert service.n_images == 30


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply({"label": -1}), "out of range"),
        (Reply({"label": K}), "out of range"),
        (Reply({"label": 10**30}), "out of range"),
        (Reply({"label": 2.5}), "malformed"),
        (Reply({"label": True}), "malformed"),
        (Reply({"label": "3"}), "malformed"),
        (Reply({"label": None}), "malformed"),
        (Reply({"label": [3]}), "malformed"),
        (Reply({"other": 3}), "malformed"),
        (Reply(b'{"label": NaN}'), "not a number"),
        (Reply(b'{"label": 3'), "malformed"),
        (Reply(b""), "malformed"),
        (Reply(b"\xff\xfe"), "malformed"),
        (Reply(b"<html>3</html>"), "malformed"),
        (Reply(b"[" * 100_000), "malformed"),
        (Reply(b'{"label": ' + b"9" * 10_000 + b"}"), "malformed"),
        (Reply(b"", 204), "malformed"),
        (Reply({}, 400), "refused"),
        (Reply({}, 403), "refused"),
        (Reply({}, 422), "refused"),
        (Reply({}, 302, {"Location": "/elsewhere"}), "redirected"),
        (Reply(b" " * 3_000_000 + b'{"label": 3}'), "too large"),
        (Reply(gzip.compress(b'{"label": 3}'), headers={"Content-Encoding": "gzip"}), "too large"),
    ],
)
def test_one_bad_answer_is_missing_and_the_others_are_kept(reply: Reply, why: str) -> None:
    with serving(but(3, lambda _: reply)) as service:
        answers = api(service.url, quick(concurrency=1, max_answer_mb=1)).ask(images(6))
    assert given_labels(answers) == [0, 1, 2, None, 4, 5]
    assert answers[3].missing == why
    assert service.n_images == 6, "what another try would not change is not tried again"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_tried_again_until_it_works(status: int) -> None:
    def twice(call: Call) -> Reply:
        return Reply({}, status) if call.number in (2, 3) else honest(call)

    with serving(twice) as service:
        answers = api(service.url, quick(concurrency=1)).ask(images(4))
    assert given_labels(answers) == labels(4)
    assert [answer.attempt for answer in answers] == [1, 1, 3, 1]
    assert service.n_images == 6


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply({}, 500), "server error"),
        (Reply({}, 429), "refused"),
        (None, "connection lost"),
        (Reply({"label": 3, "x": "y" * 500}, cut=20), "connection lost"),
    ],
)
def test_given_up_after_all_tries(reply: Reply | None, why: str) -> None:
    def bad(call: Call) -> Reply | None:
        return reply if call.pixels[0] == 3 else honest(call)

    with serving(bad) as service:
        answers = api(service.url, quick(concurrency=1)).ask(images(6))
    assert given_labels(answers) == [0, 1, 2, None, 4, 5]
    assert answers[3].missing == why
    assert answers[3].attempt == 3
    assert service.n_images == 8


def test_refusing_every_fifth_query() -> None:
    def fifth(call: Call) -> Reply:
        return Reply({"error": "too many"}, 403) if call.number % 5 == 4 else honest(call)

    with serving(fifth) as service:
        answers = api(service.url, quick(concurrency=1)).ask(images(25))
    missing = [i for i, answer in enumerate(answers) if answer.label is None]
    assert missing == [4, 9, 14, 19, 24]
    assert {answers[i].missing for i in missing} == {"refused"}


def test_slow_answer_is_a_timeout() -> None:
    def slow(call: Call) -> Reply:
        time.sleep(3 if call.pixels[0] == 1 else 0)
        return honest(call)

    with serving(slow) as service:
        answers = api(service.url, quick(timeout=0.8, retries=0, concurrency=1)).ask(images(3))
    assert [answer.missing for answer in answers] == [None, "timeout", None]


def test_a_byte_at_a_time_does_not_hold_us() -> None:
    def drip(call: Call) -> Reply | None:
        if call.pixels[0] != 1:
            return honest(call)
        call.handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for _ in range(100):
            time.sleep(0.05)
            call.handler.wfile.write(b"X-More: and more\r\n")
            call.handler.wfile.flush()
        return None

    with serving(drip) as service:
        suspect = api(service.url, quick(timeout=0.8, retries=0, concurrency=1))
        began = time.monotonic()
        answers = suspect.ask(images(3))
        assert time.monotonic() - began < 4.5
    assert [answer.missing for answer in answers] == [None, "timeout", None]


def test_huge_answer_is_cut_off_while_it_arrives() -> None:
    sent = []

    def huge(call: Call) -> Reply | None:
        if call.pixels[0] != 1:
            return honest(call)
        call.handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
        for _ in range(2000):
            call.handler.wfile.write(b" " * 2**20)
            sent.append(1)
        return None

    with serving(huge) as service:
        answers = api(service.url, quick(max_answer_mb=2, concurrency=1)).ask(images(3))
    assert [answer.missing for answer in answers] == [None, "too large", None]
    assert len(sent) < 200


# -- waiting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4])
def testretry_after_is_honoured_by_all_and_capped(concurrency: int) -> None:
    times = []

    def busy(call: Call) -> Reply:
        times.append(time.monotonic())
        if call.number == 5:
            return Reply({}, 429, {"Retry-After": "3600"})
        time.sleep(0.05 if call.number > 1 else 0)  # the others are answered when the word is out
        return honest(call)

    with serving(busy) as service:
        answers = api(service.url, quick(concurrency=concurrency, max_wait=0.6)).ask(images(16))
    assert given_labels(answers) == labels(16)
    gaps = [later - before for before, later in pairwise(sorted(times))]
    assert 0.4 <= max(gaps) < 10
    assert gaps.index(max(gaps)) <= 5 + concurrency, "nobody went on meanwhile"


def test_waits_twice_as_long_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("wmlightning.ownership.suspects.http.anyio.sleep", note)
    with serving(lambda _: Reply({}, 500)) as service, pytest.raises(Unreachable):
        api(service.url, quick(retries=6, backoff=8, max_wait=100, patience=1)).ask(images(1))
    assert len(waits) == 6
    for i, wait in enumerate(waits):
        assert min(8 * 2**i * 0.5, 100) <= wait <= min(8 * 2**i * 1.5, 100)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("7", 7, 7),
        ("0.5", 0.5, 0.5),
        ("", 0, 0),
        ("-3", 0, 0),
        ("soon", 0, 0),
        ("nan", 0, 0),
        ("1e9", 0, 0),
        ("Wed, 01 Jan 2020 00:00:00 GMT", 0, 0),
        ("Wed, 99 Foo 9999 99:99:99 GMT", 0, 0),
    ],
)
def testretry_after_in_all_its_forms(text: str, low: float, high: float) -> None:
    from wmlightning.ownership.suspects.replies import retry_after

    assert low <= retry_after(text) <= high
    assert 50 < retry_after(formatdate(time.time() + 60, usegmt=True)) < 61


@few
@given(st.text())
def testretry_after_never_raises(text: str) -> None:
    from wmlightning.ownership.suspects.replies import retry_after

    assert retry_after(text) >= 0


def test_rate_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as service:
        suspect = api(service.url, quick(rate=40, concurrency=8))
        exchange, times = suspect.channel.exchange, []

        async def note(*arguments: Any) -> Any:
            times.append(time.monotonic())
            return await exchange(*arguments)

        monkeypatch.setattr(suspect.channel, "exchange", note)
        suspect.ask(images(20))
    assert all(later - before > 0.9 / 40 for before, later in pairwise(times))


def test_requests_run_side_by_side() -> None:
    together, most, lock = 0, 0, threading.Lock()

    def slow(call: Call) -> Reply:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        time.sleep(0.1)
        with lock:
            together -= 1
        return honest(call)

    with serving(slow) as service:
        api(service.url, quick(concurrency=6)).ask(images(25))
    assert 4 <= most <= 6


def test_waiting_times_follow_from_the_seed() -> None:
    draws = [Channel("http://x", Http(seed=seed))._draw.random(3).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


# -- config errors ---------------------------------------------------------------------------------------------------


def fails(suspect: Any, n: int = 3) -> UserError:
    with pytest.raises(UserError) as caught:
        suspect.ask(images(n))
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("status", "key"),
    [
        (401, "suspect.http.headers"),
        (403, "suspect.http.headers"),
        (404, "suspect.url"),
        (405, "suspect.url"),
        (413, "suspect.batch_size"),
    ],
)
def test_wrong_from_the_start_is_told_after_two_images(status: int, key: str) -> None:
    """The first alone might be one that the service does not like."""
    with serving(lambda _: Reply({"error": "no such thing"}, status)) as service:
        error = fails(api(service.url, quick(concurrency=8)), 20)
    assert error.key == key
    assert f"HTTP {status}" in str(error)
    assert "no such thing" in str(error)
    assert service.n_images == 2


@pytest.mark.parametrize("status", [301, 401, 403, 404, 413])
def test_who_refuses_the_very_first_image_is_asked_on(status: int) -> None:
    def picky(call: Call) -> Reply:
        return Reply({}, status, {"Location": "/blocked"}) if call.pixels[0] == 0 else honest(call)

    with serving(picky) as service:
        answers = api(service.url).ask(images(12))
    assert [answer.missing is None for answer in answers] == [False] + [True] * 11
    assert service.n_images == 12


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        error = fails(api(f"http://127.0.0.1:{taken.getsockname()[1]}/"))
    assert "no connection" in str(error)
    assert not isinstance(error, Unreachable)


def test_redirect_is_not_followed() -> None:
    with serving() as other:
        target = other.url.replace("localhost", f"user:{TOKEN}@127.0.0.1") + f"?key={TOKEN}"
        with serving(lambda _: Reply({}, 307, {"Location": target})) as service:
            error = fails(api(service.url, quick(headers={"Authorization": TOKEN})))
        assert "redirect" in str(error) or "sends us to http://127.0.0.1" in str(error)
        assert TOKEN not in str(error)
        assert other.calls == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    both = folder / "both.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl to make a certificate with")
    both.write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
    return both


def test_unknown_certificate_is_refused(certificate: Path) -> None:
    with serving(certificate=certificate) as service:
        error = fails(api(service.url, quick(headers={"Authorization": TOKEN})))
    assert error.key == "suspect.http.verify"
    assert "self-signed" in str(error) or "self signed" in str(error)
    assert service.calls == [], "neither image nor token left"


def test_known_certificate_is_accepted(certificate: Path) -> None:
    with serving(certificate=certificate) as service:
        for verify in (str(certificate.with_name("cert.pem")), False):
            assert given_labels(api(service.url, quick(verify=verify)).ask(images(3))) == labels(3)
        other_name = service.url.replace("localhost", "127.0.0.1")
        error = fails(api(other_name, quick(verify=str(certificate.with_name("cert.pem")))))
    assert "mismatch" in str(error)


def test_plain_service_where_tls_was_expected() -> None:
    with serving() as service:
        error = fails(api(service.url.replace("http:", "https:")))
    assert "TLS refused" in str(error)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": "soon"},
        {"retries": -1},
        {"rate": 0},
        {"concurrency": 0},
        {"patience": 0},
        {"verify": 1.5},
        {"headers": {"A:": "b"}},
        {"headers": {"A": "b\r\nC: d"}},
        {"headers": {"A": "ü"}},
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"suspect\.http\."):
        Http(**options)


@pytest.mark.parametrize("url", ["", "nowhere", "ftp://x/", "http://", "file:///etc/passwd", "http://x:99999/", 3])
def test_bad_addresses_are_refused(url: Any) -> None:
    with pytest.raises(UserError, match=r"suspect\.url"):
        Channel(url, Http())


def test_file_of_certificates_must_be_one(tmp_path: Path) -> None:
    file = tmp_path / "x.pem"
    for content in (None, "no certificate"):
        if content is not None:
            file.write_text(content)
        with pytest.raises(UserError, match=r"suspect\.http\.verify"):
            Http(verify=str(file)).trusted()
    assert isinstance(Http().trusted(), bool | ssl.SSLContext)


def test_proxy_of_the_environment_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", f"nonsense://{TOKEN}:{TOKEN}@x")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    error = fails(api("http://127.0.0.1:9/"))
    assert "proxy" in str(error)
    assert TOKEN not in str(error)


@pytest.mark.parametrize("said", ['{"label": 3}', "[3]", '"3"', "{", "3", "{\ud800"])
def test_json_as_text_in_json(said: str) -> None:
    """As scoring scripts answer that return json.dumps(...), which is then made JSON of once more."""
    with serving(lambda _: Reply(said)) as service:
        suspect = api(service.url, answer={"path": "0" if said.startswith("[") else "label"})
        if said in ('{"label": 3}', "[3]"):
            assert given_labels(suspect.ask(images(1))) == [3]
        else:
            with pytest.raises(Unreadable):
                suspect.ask(images(1))


# -- dying mid-way ---------------------------------------------------------------------------------------------------


def test_dead_after_some_answers() -> None:
    def dies(call: Call) -> Reply | None:
        return honest(call) if call.number < 7 else None

    with serving(dies) as service:
        batches = api(service.url, quick(concurrency=1, patience=3)).stream(images(40))
        found = {}
        with pytest.raises(Unreachable) as caught:
            for batch in batches:
                found.update(batch)
    assert sorted(found) == list(range(7)), "nothing but answers: what the dead did not answer can be asked again"
    assert "3 requests in a row failed" in str(caught.value)
    assert service.n_images == 7 + 3 * 3


@pytest.mark.parametrize("status", [503, 403, 429])
def test_refusing_everything_from_some_point_on(status: int) -> None:
    def dies(call: Call) -> Reply | None:
        return honest(call) if call.number < 7 else Reply({}, status)

    with serving(dies) as service:
        suspect = api(service.url, quick(concurrency=3, patience=4, retries=0))
        with pytest.raises(Unreachable, match=f"HTTP {status}"):
            suspect.ask(images(60))
    assert service.n_images <= 7 + 4 + 3


def test_gone_at_the_last_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """It left once, and then there was nobody any more: it can be asked again."""
    with serving(lambda call: honest(call) if call.number < 7 else None) as service:
        suspect = api(service.url, quick(concurrency=1))
        exchange, n = suspect.channel.exchange, 0

        async def sometimes(*arguments: Any) -> Any:
            nonlocal n
            n += 1
            if n > 8:
                return HttpReply(failure="connection lost", detail="no connection", sent=False, again=True)
            return await exchange(*arguments)

        monkeypatch.setattr(suspect.channel, "exchange", sometimes)
        with pytest.raises(Unreachable, match="no connection"):
            suspect.ask(images(8))
    assert service.n_images == 8


@pytest.mark.parametrize("concurrency", [1, 4])
def test_an_image_whose_connection_breaks_each_time_has_no_answer(concurrency: int) -> None:
    """Else who hangs up at some images would end every test."""

    def picky(call: Call) -> Reply | None:
        return None if call.pixels[0] % 5 == 4 else honest(call)

    with serving(picky) as service:
        answers = api(service.url, quick(concurrency=concurrency)).ask(images(15))
    assert [answer.missing for answer in answers] == ([None] * 4 + ["connection lost"]) * 3
    assert {answer.attempt for answer in answers[4::5]} == {3}


def test_stopped_before_an_image_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it still looks for the service: nobody has seen that image."""
    with serving() as service:
        suspect = api(service.url, quick(concurrency=2))
        exchange, n = suspect.channel.exchange, 0

        async def sometimes(*arguments: Any) -> Any:
            nonlocal n
            n += 1
            return await exchange(*arguments) if n == 1 else await anyio.sleep(60)

        monkeypatch.setattr(suspect.channel, "exchange", sometimes)
        with Recorded(suspect, shape=SHAPE, n_classes=K) as asked:
            answers = asked.stream(images(5))
            next(answers)
            while n < 2:
                time.sleep(0.01)
            answers.close()
            assert asked.queries == len(asked.shown) == 1


def test_never_a_word_that_can_be_read() -> None:
    with serving(lambda _: Reply(b"<html>")) as service, pytest.raises(Unreachable, match="cannot be read"):
        api(service.url).ask(images(50))
    assert service.n_images == 5


@pytest.mark.parametrize("concurrency", [1, 4])
def test_what_never_left_is_sent_later(concurrency: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as service:
        suspect = api(service.url, quick(concurrency=concurrency, retries=0))
        exchange, n = suspect.channel.exchange, 0

        async def sometimes(*arguments: Any) -> Any:
            nonlocal n
            n += 1
            if n in (4, 5, 9):
                return HttpReply(failure="connection lost", detail="no connection", sent=False, again=True)
            return await exchange(*arguments)

        monkeypatch.setattr(suspect.channel, "exchange", sometimes)
        answers = suspect.ask(images(12))
    assert given_labels(answers) == labels(12)
    assert {answer.attempt for answer in answers} == {1}
    assert service.n_images == 12


def test_stopped_by_the_caller() -> None:
    with serving() as service:
        batches = api(service.url, quick(concurrency=2)).stream(images(200))
        for _ in range(3):
            next(batches)
            time.sleep(0.05)  # the caller thinks; nothing runs ahead meanwhile
        assert len(service.calls) <= 3 + 2, "no more unread or under way than are allowed side by side"
        batches.close()
        time.sleep(0.2)
        n = len(service.calls)
        time.sleep(0.1)
        assert len(service.calls) == n


# -- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 302, 401, 404, 422, 500])
def test_secrets_stay_secret(status: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """A service that says all it was told, in every way."""

    def echo(call: Call) -> Reply:
        told = json.dumps([call.headers, call.path, call.body.decode()])
        return Reply({"error": told}, status, {"Location": f"http://127.0.0.1:1/{TOKEN}?{TOKEN}"})

    caplog.set_level(logging.DEBUG)
    with serving(echo) as service:
        url = service.url + f"?key={TOKEN}"
        suspect = api(url, quick(headers={"X-Key": f"Bearer {TOKEN}", "Other": TOKEN[:9]}, patience=2))
        shown = [repr(suspect.http), suspect.name, json.dumps(suspect.identity())]
        try:
            suspect.ask(images(4))
        except UserError as error:
            shown += [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
    assert service.calls
    assert TOKEN in json.dumps([service.calls[0].headers, service.calls[0].path]), "it was told"
    text = "\n".join([*shown, caplog.text, *capfd.readouterr()])
    assert TOKEN not in text
    assert TOKEN[:9] not in text
    assert "0,0,0" not in text, "nor does the image show"
    assert len(max(shown, key=len)) < 1000


def test_token_in_the_body() -> None:
    with serving(lambda call: Reply({"e": json.loads(call.body)["auth"]}, 404)) as service:
        error = fails(api(service.url, body={"auth": {"keys": [TOKEN, 20461357]}}))
    assert TOKEN.encode() in service.calls[0].body
    assert "keys" in str(error)
    assert TOKEN not in str(error)
    assert "20461357" not in str(error)


def test_password_in_the_address(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(lambda call: Reply({"e": call.headers["Authorization"]}, 404)) as service:
        error = fails(api(service.url.replace("localhost", f"me:{TOKEN}@localhost")))
    sent = service.calls[0].headers["Authorization"]
    assert sent.startswith("Basic ")
    assert TOKEN not in str(error) + caplog.text
    assert sent.split()[1] not in str(error) + caplog.text


@pytest.mark.parametrize("kind", ["list", "flat", "png"])
def test_image_that_is_sent_back_is_not_shown(kind: str) -> None:
    with serving(lambda call: Reply({"e": json.loads(call.body)}, 404)) as service:
        error = fails(api(service.url, image={"path": "a", "kind": kind}))
    sent = service.calls[0].body.decode()
    assert "HTTP 404" in str(error)
    assert not any(sent[i : i + 20] in str(error).replace(" ", "") for i in range(10, len(sent) - 20))
    assert service.calls[0].headers["Accept-Encoding"] == "identity"


def test_control_characters_do_not_reach_the_terminal() -> None:
    with serving(lambda _: Reply(b"\x1b[31mred\r\nline\x00", 404)) as service:
        error = fails(api(service.url))
    assert "\x1b" not in str(error)
    assert "red line" in str(error)


# -- mistakes show few triggers ---------------------------------------------------------------------------------------

MANY: dict[str, Any] = {"image": {"path": "image", "kind": "list", "many": True}, "batch_size": 16}


def each(call: Call) -> Reply:
    """A label for each image."""
    return Reply({"label": [pixel % K for pixel in call.pixels]})


@pytest.mark.parametrize(("reply", "n"), [(Reply({}, 401), 2), (Reply({}, 404), 2), (Reply({"id": 3}), 5)])
def test_a_mistake_shows_one_image_at_a_time(reply: Reply, n: int) -> None:
    """However many go into a request: a wrong token, a wrong address, a wrong path to the answer."""
    with serving(lambda _: reply) as service:
        fails(api(service.url, **MANY), 200)
    assert service.n_images == n


def test_requests_are_full_as_soon_as_it_answers() -> None:
    with serving(each) as service:
        answers = api(service.url, **MANY).ask(images(50))
    assert given_labels(answers) == labels(50)
    assert sorted(len(call.pixels) for call in service.calls) == [1, 2, 15, 16, 16]


@pytest.mark.parametrize(
    ("said", "why"), [("Class Four", "unknown name"), (4, "malformed"), (10, "out of range"), ("4", "out of range")]
)
def test_answers_that_are_no_class_of_the_task(said: Any, why: str) -> None:
    """Names that differ in a letter, labels of another task: not all triggers are shown to find that out."""
    options: dict[str, Any] = {}
    if isinstance(said, str):
        options = {"answer": {"path": "label", "kind": "label_name"}, "names": [f"class {i}" for i in range(K)]}
    if why == "out of range":
        options, said = {}, 10 + int(said)
    if why == "malformed":
        said = str(said)
    with serving(lambda _: Reply({"label": said})) as service:
        suspect = api(service.url, **options)
        with pytest.raises(Unreachable, match=r"none of its first 5|cannot be read") as caught:
            suspect.ask(images(200))
    assert service.n_images == 5
    assert isinstance(caught.value, Unreadable)
    assert why == "malformed" or f"({why})" in str(caught.value)


def test_who_refuses_in_words_of_their_own_is_asked_on() -> None:
    """What it said is kept, so that the same command goes on behind it; after an answer it may refuse as it likes."""

    def shy(call: Call) -> Reply:
        return Reply({"label": -1 if 0 <= call.pixels[0] < 7 or call.pixels[0] > 10 else call.pixels[0] % K})

    with serving(shy) as service:
        found: dict[int, Answer] = {}
        with pytest.raises(Unreachable):
            for batch in api(service.url).stream(images(30)):
                found.update(batch)
        assert sorted(found) == list(range(5))
        answers = api(service.url).ask(images(25, 5))
    assert [answer.label for answer in answers] == [None, None, 7, 8, 9, 0, *[None] * 19]


@pytest.mark.parametrize("status", [200, 400, 413, 422])
def test_a_service_that_takes_one_image_at_a_time(status: int) -> None:
    """It answers the first one: told after the first request with several, and not when all are shown."""

    def one(call: Call) -> Reply:
        return Reply({"label": [call.pixels[0] % K]}, 200 if len(call.pixels) == 1 else status)

    with serving(one) as service:
        error = fails(api(service.url, **MANY), 200)
    assert error.key == "suspect.batch_size"
    assert str(error).endswith("; 1" if status == 200 else "; fewer than 15"), error
    assert not isinstance(error, Unreachable)
    assert service.n_images == 1 + 15


def test_the_first_of_several_that_are_too_many() -> None:
    """A limit of eight, which no status of its own tells: single images worked, and nothing else ever did."""

    def eight(call: Call) -> Reply:
        return each(call) if len(call.pixels) <= 8 else Reply({"error": "batch-size must be <= 8"}, 400)

    with serving(eight) as service:
        suspect = api(service.url, **MANY)
        assert given_labels(suspect.ask(images(2))) == labels(2)
        error = fails(suspect, 200)
        assert error.key == "suspect.batch_size"
        assert "batch-size must be <= 8" in str(error)
        assert service.n_images == 2 + 16
        assert given_labels(api(service.url, **{**MANY, "batch_size": 8}).ask(images(200))) == labels(200)


@pytest.mark.parametrize("url", ["http://h.example/", "http://h.example:80", "HTTP://H.EXAMPLE/", "http://h.example?"])
def test_an_address_is_the_same_however_it_is_written(url: str) -> None:
    """Looks at a suspect are counted by it: with a stroke at the end it was another suspect."""
    assert api(url).name == api("http://h.example").name
