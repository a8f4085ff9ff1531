"""A service that is down for a while in the midst of a verification: the test stops, and goes on when it is back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from tests.conftest import REPO
from tests.ownership.services import SHAPE, Call, K, Reply, api, honest, images, oip, oip_service, quick, serving
from tests.ownership.test_verify import KEYS, TASK
from wmlightning.errors import UserError
from wmlightning.job import prepare
from wmlightning.ownership.choice import triggers_of
from wmlightning.ownership.key import keep_key, read_key
from wmlightning.ownership.recorded import Recorded
from wmlightning.ownership.suspects.base import Unreachable
from wmlightning.ownership.suspects.remote import RemoteSuspect
from wmlightning.ownership.verdict import Verdict
from wmlightning.ownership.verify import verify
from wmlightning.secret import Secret


def in_rounds(suspect: RemoteSuspect, n: int, few: int = 1) -> tuple[list[str | None], Unreachable | None]:
    """Asks for so many images at a time: why each has no answer, as far as it came, and what ended it."""
    with Recorded(suspect, shape=SHAPE, n_classes=K) as asked:
        try:
            for first in range(0, n, few):
                asked.ask(images(few, first))
        except Unreachable as error:
            return [answer.missing for answer in asked.known(images(n)) if answer.asked], error
        return [answer.missing for answer in asked.known(images(n))], None


# -- gone ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403, 407, 408, 429, 500, 503])
def test_failures_count_from_one_stream_to_the_next(status: int) -> None:
    """A test in rounds asks for an image or two at a time, each time in a stream of its own."""
    with serving(lambda call: honest(call) if call.number < 3 else Reply({}, status)) as service:
        told, error = in_rounds(api(service.url, quick(patience=4, retries=0)), 20)
    assert error is not None
    assert "4 requests in a row failed" in str(error)
    assert f"HTTP {status}" in str(error)
    assert service.n_images == 3 + 4
    assert len(told) == 3 + 3, "the last one can be asked again"


@pytest.mark.parametrize("n", [4, 40])
def test_of_several_images_in_a_request_nothing_is_lost(n: int) -> None:
    """Whether the rounds are small, or all are asked at once: each of them alone tells a service from an image."""
    with serving(oip_service(answer=lambda call: plain(call) if call.number < 4 else Reply({}, 503))) as service:
        suspect = oip(service.url, quick(patience=5, retries=0, concurrency=1))
        told, error = in_rounds(suspect, 40, n)
    assert error is not None
    assert told == [None] * len(told)
    assert len(service.calls) == 4 + 5


def plain(call: Call) -> Reply:
    found = oip_service()(call)
    assert found is not None
    return found


def test_back_after_some_failures() -> None:
    """With a sign of life the row ends, however many streams it went through."""
    with serving(lambda call: Reply({}, 503) if call.number % 5 else honest(call)) as service:
        told, error = in_rounds(api(service.url, quick(patience=5, retries=0)), 20)
    assert error is None
    assert told == [None, *["server error"] * 4] * 4


def test_whoever_was_gone_is_asked_with_patience_again() -> None:
    with serving(lambda call: Reply({}, 503) if 1 <= call.number < 6 else honest(call)) as service:
        suspect = api(service.url, quick(patience=3, retries=0))
        told, error = in_rounds(suspect, 9)
        assert error is not None
        assert told == [None, "server error", "server error"]
        told, error = in_rounds(suspect, 9)
    assert error is None
    assert told == ["server error"] * 2 + [None] * 7


# -- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 413, 415, 422])
def test_what_is_said_of_an_image_is_no_outage(status: int) -> None:
    """However many images in a row it refuses in small rounds: it is there, and says what it does not like."""
    with serving(lambda call: Reply({}, status) if call.number % 10 else honest(call)) as service:
        told, error = in_rounds(api(service.url, quick(patience=3)), 20)
    assert error is None
    assert told.count(None) == 2
    assert service.n_images == 20


@pytest.mark.parametrize("status", [400, 403, 422, 503, None])
@pytest.mark.parametrize("n", [1, 4])
def test_who_refuses_certain_images_is_asked_on(status: int | None, n: int) -> None:
    def picky(call: Call) -> Reply | None:
        refused = None if status is None else Reply({}, status)
        return refused if any(pixel % 5 == 4 for pixel in call.pixels) else plain(call)

    with serving(lambda call: plain(call) if call.method == "GET" else picky(call)) as service:
        told, error = in_rounds(oip(service.url, quick(retries=0), batch_size=n), 40, n)
    assert error is None
    assert len(told) == 40
    wanted = "connection lost" if status is None else "refused" if status < 500 else "server error"
    assert all(why == wanted for why in told if why)
    assert all(told[4::5])


def test_one_image_in_a_request_of_several_that_makes_it_fail() -> None:
    """After the request of several failed, the first of its images is answered: that costs one more request."""
    with (
        serving(lambda call: Reply({}, 503) if call.number == 4 else plain(call)) as service,
        Recorded(oip(service.url, quick(retries=0, concurrency=1)), shape=SHAPE, n_classes=K) as asked,
    ):
        answers = asked.ask(images(40))
        assert asked.queries == 41
    assert [answer.missing for answer in answers] == [None] * 33 + ["server error"] * 7
    assert [answer.attempt for answer in answers] == [1] * 32 + [2] + [1] * 7


# -- end to end ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key whose model nobody trained: the service knows its triggers."""
    folder = tmp_path_factory.mktemp("owner")
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        keep_key(
            prepare(compose("train", [f"runs_dir={folder}", *TASK, *KEYS["marks"]]), secret=Secret(b"o" * 32)),
            folder / "owner.key",
        )
    return folder


@pytest.mark.parametrize("status", [503, 401])
@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("still", [0, 1, 2])
def test_the_same_command_goes_on_when_the_service_is_back(
    owner: Path, tmp_path: Path, status: int, sequential: bool, still: int
) -> None:
    """However often it was still down: what a new process takes for a mistake in the config costs nothing either."""
    key = tmp_path / "owner.key"
    key.write_bytes((owner / "owner.key").read_bytes())
    triggers, _ = triggers_of(read_key(key), read_key(key).check("", []), "new")
    wanted = dict(zip(map(bytes, triggers.images.numpy()), triggers.labels.tolist(), strict=True))
    down = True

    def behave(call: Call) -> Reply:
        if down and call.number > 2:
            return Reply({}, status)
        return Reply({"label": wanted.get(bytes(np.array(json.loads(call.body)["image"], dtype=np.uint8)), 0)})

    def go(url: str) -> Verdict:
        typed = [f"key={key}", f"out={tmp_path / 'out'}", "suspect=json_api", f"suspect.url={url}", "alpha=0.002"]
        typed += ["suspect.image.kind=list"]
        typed += ["suspect.http.backoff=0.001", "suspect.http.retries=1", f"sequential={sequential}", "queries=60"]
        with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
            (verdict,) = verify(compose("verify", typed))
        return verdict

    with serving(behave) as service:
        verdict = go(service.url)
        assert verdict.decision == "cannot tell"
        assert "5 requests in a row failed" in verdict.stopped
        assert len(service.calls) <= 3 + (5 + 3) * 2, "each twice, and those side by side"
        for _ in range(still):
            status = 401  # the token has expired, or nobody is behind the gateway
            with pytest.raises(UserError, match=r"^suspect\.http\.headers: .*HTTP 401"):
                go(service.url)
        down = False
        verdict = go(service.url)
    assert verdict.decision == "owned", verdict.text()
