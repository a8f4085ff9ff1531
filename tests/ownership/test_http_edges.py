"""What HTTP, proxies and the environment put between us and a service: told rightly, counted rightly, hidden."""

from __future__ import annotations

import gzip
import json
import socket
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.ownership.services import SHAPE, Call, K, Reply, api, honest, images, labels, quick, serving
from wmlightning.errors import UserError
from wmlightning.ownership.recorded import Recorded
from wmlightning.ownership.suspects.base import Answer
from wmlightning.ownership.suspects.http import Channel, Http
from wmlightning.ownership.suspects.http import Reply as HttpReply
from wmlightning.ownership.suspects.json_api import JsonApi


def given_labels(answers: list[Answer]) -> list[int | None]:
    return [answer.label for answer in answers]


# -- compressed and large --------------------------------------------------------------------------------------------

SMALL = gzip.compress(b'{"error": "slow down"}')


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    "reply", [Reply(SMALL, headers={"Content-Encoding": "gzip"}), Reply(b"<html>" + b" " * 3_000_000)]
)
def test_what_comes_with_a_refusal_does_not_matter(status: int, reply: Reply) -> None:
    """Networks of caches compress such pages whatever was asked for: what they say by status is to be heeded."""
    headers = {**reply.headers, "Retry-After": "0.01"}

    def busy(call: Call) -> Reply:
        return Reply(reply.content, status, headers) if call.number == 2 else honest(call)

    with serving(busy) as service:
        answers = api(service.url, quick(concurrency=1, max_answer_mb=1)).ask(images(6))
    assert given_labels(answers) == labels(6)
    assert [answer.attempt for answer in answers] == [1, 1, 2, 1, 1, 1]


@pytest.mark.parametrize("encoding", ["Identity", "", "none", "utf-8"])
def test_a_plain_answer_under_an_odd_encoding(encoding: str) -> None:
    def odd(call: Call) -> Reply:
        return Reply(honest(call).content, headers={"Content-Encoding": encoding})

    with serving(odd) as service:
        answers = api(service.url).ask(images(6))
    assert given_labels(answers) == labels(6)


@pytest.mark.parametrize("encoding", ["GZIP", "x-gzip", "deflate", "br", "zstd", "compress", "identity, gzip"])
def test_a_compressed_answer_however_it_is_called(encoding: str) -> None:
    def packed(call: Call) -> Reply:
        return Reply(SMALL, headers={"Content-Encoding": encoding}) if call.number == 3 else honest(call)

    with serving(packed) as service:
        answers = api(service.url, quick(concurrency=1)).ask(images(6))
    assert [answer.missing for answer in answers] == [None, None, None, "too large", None, None]


# -- never sent ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["Bearer ", " s3cret", " "])
def test_an_empty_token_is_told_before_anything_is_asked(value: str) -> None:
    with pytest.raises(UserError, match="blank") as caught:
        Http(headers={"Authorization": value})
    assert caught.value.key == "suspect.http.headers"
    assert "Authorization" in str(caught.value)
    assert "empty" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_an_empty_value_and_blanks_inside_are_sent() -> None:
    with serving() as service:
        api(service.url, quick(headers={"X-None": "", "X-Two": "a b"})).ask(images(1))
    assert service.calls[0].headers["X-None"] == ""
    assert service.calls[0].headers["X-Two"] == "a b"


def test_what_our_own_side_refuses_is_not_sent() -> None:
    """By rules of HTTP that we do not know of."""

    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.LocalProtocolError("illegal")

    reply = exchanged(refuse)
    assert not reply.sent
    assert not reply.again
    assert reply.failure == "connection lost"


def exchanged(behave: Callable[[httpx.Request], httpx.Response]) -> HttpReply:
    """What becomes of one exchange where no socket is."""

    async def ask() -> HttpReply:
        channel = Channel("http://x", Http())
        async with httpx.AsyncClient(transport=httpx.MockTransport(behave)) as client:
            return await channel.exchange(client, "POST", channel.url, b"{}")

    return anyio.run(ask)


@contextmanager
def full() -> Iterator[str]:
    """A listener that takes no more connections, so that asking for one more has no answer at all."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            with suppress(BlockingIOError):
                caller.connect(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/predict"


@contextmanager
def mute() -> Iterator[str]:
    """A listener that takes connections and then says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/predict"


@pytest.mark.parametrize(("timeout", "connect_timeout"), [(0.3, 10), (0.3, 0.3), (10, 0.3)])
def test_without_a_connection_nothing_is_counted(timeout: float, connect_timeout: float) -> None:
    """Whichever of the two times is up first."""
    with full() as url:
        asked = counted(url, timeout=timeout, connect_timeout=connect_timeout)
    assert asked == ("no connection in time", 0)


@pytest.mark.parametrize("connect_timeout", [10, 0.3])
def test_without_tls_nothing_is_counted(connect_timeout: float) -> None:
    """The connection is there, and what would keep the image secret is not."""
    with mute() as url:
        asked = counted(url.replace("http:", "https:"), timeout=0.6, connect_timeout=connect_timeout)
    assert asked == ("no connection in time", 0)


def test_who_takes_the_image_and_says_nothing_has_it() -> None:
    with mute() as url:
        assert counted(url, timeout=0.3) == ("no answer in 0.3 seconds", 1)


@pytest.mark.parametrize("behaviour", ["mute", "refuses"])
def test_a_proxy_that_opens_no_tunnel_has_no_image(monkeypatch: pytest.MonkeyPatch, behaviour: str) -> None:
    """What is asked of the proxy is no image yet."""
    with serving(lambda _: Reply({}, 502)) as refuses, mute() as silent:
        proxy = silent if behaviour == "mute" else refuses.url
        through(monkeypatch, proxy, "https")
        assert counted("https://suspect.example/", timeout=0.5)[1] == 0


def counted(url: str, **options: Any) -> tuple[str, int]:
    """How asking for one image failed, and how many the transcript counts as shown."""
    suspect = api(url, quick(retries=0, patience=1, **options))
    with Recorded(suspect, None, budget=10, shape=SHAPE, n_classes=K) as recorded:
        with pytest.raises(UserError) as caught:
            recorded.ask(images(1))
        said = str(caught.value).split(f"{suspect.name}: ")[1].split(";")[0]
        return said, recorded.queries


# -- the environment -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    """They are read for addresses without TLS too."""
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with serving() as service:
        error = fails(api(service.url))
        assert given_labels(api(service.url, quick(verify=False)).ask(images(1))) == labels(1)
    assert error.key == "suspect.http.verify"
    assert "SSL_CERT_FILE" in str(error)


@pytest.mark.parametrize("no_proxy", ["localhost,fd00::/8", "[::1]"])
def test_hosts_without_a_proxy_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, no_proxy: str) -> None:
    monkeypatch.setenv("NO_PROXY", no_proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    assert "NO_PROXY" in str(fails(api("http://127.0.0.1:9/")))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_password(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """Whether it passes our request on or opens a tunnel: no header of the suspect's helps."""
    with serving(lambda _: Reply({"e": "who are you"}, 407)) as service:
        through(monkeypatch, service.url, scheme)
        error = fails(api(f"{scheme}://suspect.example/"))
    assert error.key == "suspect.url"
    assert f"{scheme.upper()}_PROXY" in str(error)
    assert "token" not in str(error)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_down(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://localhost:{taken.getsockname()[1]}"
        through(monkeypatch, url, scheme)
        error = fails(api(f"{scheme}://suspect.example/"))
        assert "no connection through the proxy" in str(error)
        assert f"{scheme.upper()}_PROXY" in str(error)
        monkeypatch.setenv("NO_PROXY", "localhost")
        assert "proxy" not in str(fails(api(url))).lower(), "none is used for this address"


def test_a_proxy_that_takes_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with full() as url:
        through(monkeypatch, url, "http")
        error = fails(api("http://suspect.example/", quick(timeout=0.3)))
    assert "no connection through the proxy in time" in str(error)
    assert "HTTP_PROXY" in str(error)


@pytest.mark.parametrize("url", ["http://{}", "https://{}", "http://{}:81", "http://[::1]:9"])
def test_no_proxy_is_blamed_where_there_is_none(url: str) -> None:
    assert "proxy" not in str(fails(api(url.format("127.0.0.1")))).lower()


def through(monkeypatch: pytest.MonkeyPatch, proxy: str, scheme: str) -> None:
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.removesuffix("/predict"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def fails(suspect: JsonApi) -> UserError:
    with pytest.raises(UserError) as caught:
        suspect.ask(images(1))
    assert "\n" not in str(caught.value)
    return caught.value


# -- what a service says again ---------------------------------------------------------------------------------------


def test_a_password_in_the_address_that_is_written_otherwise() -> None:
    """What is sent is made from the characters it stands for, and short enough not to look like a token."""
    with serving(lambda call: Reply({"e": call.headers["Authorization"]}, 400)) as service:
        error = fails(api(service.url.replace("localhost", "bob:p%40ss%21wd@localhost")))
    sent = service.calls[0].headers["Authorization"].split()[1]
    assert b64decode(sent) == b"bob:p@ss!wd"
    assert "HTTP 400" in str(error)
    assert sent not in str(error)
    assert "p@ss" not in str(error)


@pytest.mark.parametrize("times", [0, 1, 2])
@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("token", ['s3cr"t\\Word', "pass/wörd", 'ab"c', "\\new\\u0041x"])
def test_a_token_that_json_writes_otherwise(token: str, times: int, upper: bool) -> None:
    """As text, in JSON, and in JSON within JSON; some write more characters as numbers than others, or a slash so."""

    def echo(call: Call) -> Reply:
        text = f"bad token {json.loads(call.body)['auth']}."
        for _ in range(times):
            text = json.dumps(text, ensure_ascii=upper)
            text = text.replace("/", "\\/").replace("W", "\\u0057") if upper else text
        return Reply(text.encode(), 400)

    with serving(echo) as service:
        error = fails(api(service.url, body={"auth": token}))
    assert "bad token ***." in str(error)


def test_what_is_said_in_json_is_still_read() -> None:
    with serving(lambda _: Reply({"e": 'no "model"\nhere: \u00fc'}, 400)) as service:
        error = fails(api(service.url))
    assert 'no "model" here: ü' in str(error)


# -- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"accept-encoding": "gzip"}, [("Accept-Encoding", "identity")]),
        ({"accept": "text/plain"}, [("Accept", "text/plain")]),
        ({}, [("Accept", "application/json"), ("Content-Type", "application/json")]),
        ({"content-type": "application/vnd.x+json"}, [("Content-Type", "application/vnd.x+json")]),
    ],
)
def test_each_header_is_sent_once(given: dict[str, str], sent: list[tuple[str, str]]) -> None:
    """However it is written: one's own instead of ours, but for compression, which would get round the bound."""
    seen: list[Any] = []

    def note(call: Call) -> Reply:
        seen.append(call.handler.headers)
        return honest(call)

    with serving(note) as service:
        api(service.url, quick(headers=given)).ask(images(1))
    for name, value in sent:
        assert seen[0].get_all(name) == [value]


# -- dates -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the system's zone cannot be changed")
@pytest.mark.parametrize("zone", ["XXX+5", "XXX-9"])
@pytest.mark.parametrize("form", ["%a %b %d %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S -0000", "%a, %d %b %Y %H:%M:%S GMT"])
def test_dates_of_retry_after_are_utc(monkeypatch: pytest.MonkeyPatch, zone: str, form: str) -> None:
    """Wherever we are: for a date that names no zone we waited for hours, or not at all."""
    date = time.strftime(form, time.gmtime(time.time() + 60))
    with zone_of_the_system(monkeypatch, zone):
        reply = exchanged(lambda _: httpx.Response(429, headers={"Retry-After": date}, stream=httpx.ByteStream(b"")))
    assert 55 < reply.wait < 61


@contextmanager
def zone_of_the_system(monkeypatch: pytest.MonkeyPatch, zone: str) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        yield
    time.tzset()
