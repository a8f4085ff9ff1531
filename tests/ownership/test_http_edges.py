"""What HTTP, proxies and the environment put between us and a service: told rightly, counted rightly, hidden."""

from __future__ import annotations

import gzip

import pytest

from tests.ownership.services import Call, Reply, api, honest, images, labels, quick, serving
from wmlightning.ownership.suspects.base import Answer


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
