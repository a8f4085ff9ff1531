"""The service to practise on: it answers as its model does, and gives away nothing else, whatever it is asked."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import few, random_images
from tests.ownership.services import quick
from wmlightning.errors import UserError
from wmlightning.ownership.protocol import Refused, read_question
from wmlightning.ownership.recorded import Recorded
from wmlightning.ownership.suspects.json_api import JsonApi
from wmlightning.ownership.suspects.network import Network, run_shape
from wmlightning.ownership.suspects.oip import Oip
from wmlightning.ownership.suspects.pixels import Pixels
from wmlightning.store import Run

pytest.importorskip("fastapi", reason="the extra serve is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from wmlightning.ownership.server import ServedModel, create_app, listen, run_server  # noqa: E402 (needs the extra)

MAX_BATCH = 8
INFER = "/v2/models/classifier/infer"
Shape = tuple[int, int, int]


@pytest.fixture(scope="module")
def model(stored: Run) -> ServedModel:
    return ServedModel(stored)


@pytest.fixture(scope="module")
def shape(stored: Run) -> Shape:
    return run_shape(stored)


@pytest.fixture(scope="module")
def app(model: ServedModel) -> Any:
    return create_app(model, MAX_BATCH, max_body_mb=1, body_seconds=2)


@pytest.fixture(scope="module")
def url(app: Any) -> Iterator[str]:
    """The service on a real socket."""
    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


class Caller:
    """Asks the app in this process."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.request(method, path, **options)

        return asyncio.run(go())

    def infer(self, body: Any, **options: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self("POST", INFER, content=content, **options)


@pytest.fixture(scope="module")
def call(app: Any) -> Caller:
    return Caller(app)


def request_of(images: Any, datatype: str = "UINT8", **changes: Any) -> dict[str, Any]:
    array = np.asarray(images)
    tensor = {"name": "image", "shape": list(array.shape), "datatype": datatype, "data": array.reshape(-1).tolist()}
    return {"inputs": [{**tensor, **changes}]}


def zeros(shape: Shape, n: int = 1) -> np.ndarray:
    return np.zeros((n, *shape), np.uint8)


# -- as its model ----------------------------------------------------------------------------------------------------


def test_labels_over_the_net_are_those_on_this_machine(stored: Run, url: str, tmp_path: Path) -> None:
    images = stored.job.source.images("test", torch.arange(100))
    local = Network(str(stored.folder))
    with Recorded(local, shape=tuple(images.shape[1:]), n_classes=len(stored.classes)) as asked:  # type: ignore[arg-type]
        wanted = [answer.label for answer in asked.ask(images)]
    assert len(set(wanted)) > 1
    for name, options in {
        "uint8": {},
        "float": {"datatype": "FP32"},
        "labels": {"output": "label"},
        "single": {"batch_size": 1},
        "versioned": {"version": 1},
    }.items():
        suspect = Oip(url, "classifier", http=quick(), **{"batch_size": MAX_BATCH, **options})  # type: ignore[arg-type]
        with Recorded(suspect, tmp_path / name, 100, local.shape, local.n_classes) as asked:
            assert [answer.label for answer in asked.ask(images)] == wanted, name
            assert asked.queries == 100
        with Recorded(suspect, tmp_path / name, 100, local.shape, local.n_classes) as asked:
            assert [answer.label for answer in asked.ask(images)] == wanted, "from the transcript"


def test_a_mapping_reads_it_too(stored: Run, url: str, shape: Shape) -> None:
    images = stored.job.source.images("test", torch.arange(6))
    tensor = {"name": "image", "shape": [1, *shape], "datatype": "FP32"}
    suspect = JsonApi(
        url + INFER,
        {"path": "inputs.0.data", "kind": "flat"},
        {"path": "outputs.1.data.0"},
        body={"inputs": [tensor]},
        pixels=Pixels("unit"),
        http=quick(),
    )
    suspect.open(shape, len(stored.classes))
    found = stored.network(images.float().div(255)).argmax(1).tolist()
    assert [answer.label for answer in suspect.ask(images)] == found


def test_scores_are_the_logits_to_the_bit(stored: Run, call: Caller, shape: Shape) -> None:
    images = random_images(3, shape)
    with torch.inference_mode():
        wanted = stored.network(images.float().div(255)).numpy()
    for datatype, sent in (("UINT8", images), ("FP32", images.numpy().astype(np.float32) / np.float32(255))):
        scores, label = call.infer(request_of(sent, datatype)).json()["outputs"]
        assert (scores["name"], scores["datatype"], scores["shape"]) == ("scores", "FP32", [3, wanted.shape[1]])
        assert np.array_equal(np.float32(scores["data"]).reshape(wanted.shape), wanted)
        assert (label["name"], label["datatype"], label["shape"]) == ("label", "INT64", [3])
        assert label["data"] == wanted.argmax(1).tolist()
        nested = call.infer(request_of(sent, datatype, data=np.asarray(sent).tolist())).json()
        assert nested["outputs"][0] == scores, "flat or nested"


def test_many_at_once(url: str, shape: Shape) -> None:
    body = json.dumps(request_of(random_images(MAX_BATCH, shape)))
    with httpx.Client(base_url=url, limits=httpx.Limits(max_connections=16)) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: client.post(INFER, content=body).text, range(80)))
        assert client.get("/v2/health/live").json() == {"live": True}
    assert len(set(answers)) == 1
    assert len(json.loads(answers[0])["outputs"][1]["data"]) == MAX_BATCH


# -- the protocol ----------------------------------------------------------------------------------------------------


def test_what_the_service_says_about_itself(call: Caller, shape: Shape, stored: Run) -> None:
    assert set(call("GET", "/v2").json()) == {"name", "version", "extensions"}
    assert call("GET", "/v2/health/live").json() == {"live": True}
    assert call("GET", "/v2/health/ready").json() == {"ready": True}
    for path in ("/v2/models/classifier", "/v2/models/classifier/versions/1"):
        found = call("GET", path).json()
        assert found["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, *shape]}]
        assert found["outputs"][0]["shape"] == [-1, len(stored.classes)]
        assert (found["name"], found["versions"]) == ("classifier", ["1"])
        assert call("GET", path + "/ready").json() == {"name": "classifier", "ready": True}


def test_answer_fits_its_schema(call: Caller, shape: Shape) -> None:
    """By hand, from the protocol's text: names, types and nothing else."""
    answer = call.infer({"id": "mine", **request_of(zeros(shape, 2))})
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert set(found) == {"model_name", "model_version", "id", "outputs"}
    assert (found["model_name"], found["model_version"], found["id"]) == ("classifier", "1", "mine")
    for output in found["outputs"]:
        assert set(output) == {"name", "shape", "datatype", "data"}
        assert np.prod(output["shape"]) == len(output["data"])
        kind = {"FP32": float, "INT64": int}[output["datatype"]]
        assert all(type(value) is kind for value in output["data"])
    assert "id" not in call.infer(request_of(zeros(shape))).json()


def test_outputs_as_wanted(call: Caller, shape: Shape) -> None:
    def names(*wanted: str) -> list[str]:
        body = {**request_of(zeros(shape)), "outputs": [{"name": name} for name in wanted]}
        return [output["name"] for output in call.infer(body).json()["outputs"]]

    assert names("label") == ["label"]
    assert names("label", "scores") == ["label", "scores"]
    assert names() == ["scores", "label"]


def test_openapi_page(call: Caller) -> None:
    assert call("GET", "/docs").status_code == 200
    document = call("GET", "/openapi.json").json()
    assert INFER.replace("classifier", "{name}") in document["paths"]
    operation = document["paths"]["/v2/models/{name}/infer"]["post"]
    names = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert names <= set(document["components"]["schemas"]), "no reference leads nowhere"
    assert "InferenceRequest" in json.dumps(operation["requestBody"])
    assert "InferenceResponse" in json.dumps(operation["responses"]["200"])


# -- what it refuses -------------------------------------------------------------------------------------------------


def refused(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    return str(answer.json()["error"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/classifier/versions/2", 404),
        ("GET", "/v2/models/classifier%2f..%2f..%2fetc/ready", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
        ("DELETE", "/v2/models/classifier", 405),
        ("POST", INFER, 400),
    ],
)
def test_wrong_places(call: Caller, method: str, path: str, status: int) -> None:
    refused(call(method, path), status)


def test_limits(call: Caller, shape: Shape) -> None:
    assert f"at most {MAX_BATCH}" in refused(call.infer(request_of(zeros(shape, MAX_BATCH + 1))), 400)
    assert call.infer(request_of(zeros(shape, MAX_BATCH))).status_code == 200
    refused(call.infer(b" " * (2**20 + 1)), 413)

    async def drips() -> Any:  # no length said beforehand
        for _ in range(2000):
            yield b" " * 1024

    refused(call("POST", INFER, content=drips()), 413)
    refused(call.infer(b"{}", headers={"Content-Encoding": "gzip"}), 415)
    refused(call.infer(b"{}", headers={"Inference-Header-Content-Length": "2"}), 415)

    async def stalls() -> Any:
        yield b"{"
        await asyncio.sleep(9)

    refused(call("POST", INFER, content=stalls()), 408)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": []},
        {"data": None},
        {"data": "abc"},
        {"data": {}},
        {"data": [[]]},
        {"data": [None]},
        {"shape": []},
        {"shape": [0]},
        {"shape": [-1]},
        {"shape": ["1"]},
        {"shape": None},
        {"shape": [10**30]},
        {"name": "other"},
        {"name": 3},
        {"datatype": "FP64"},
        {"datatype": None},
        {"extra": 1, "data": [1, [2]]},
    ],
)
def test_bad_tensors(call: Caller, shape: Shape, changes: dict[str, Any]) -> None:
    refused(call.infer(request_of(zeros(shape), **changes)), 400)


@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
@pytest.mark.parametrize("value", [-1, 256, 1.5, "1", None, True, [1], 10**30, 10**400, float("nan"), float("inf")])
def test_bad_pixels(call: Caller, shape: Shape, datatype: str, value: Any) -> None:
    data = [0.5 if datatype == "FP32" else 7] * int(np.prod(shape))
    data[3] = value
    refused(call.infer(request_of(zeros(shape), datatype, data=data)), 400)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"3", b"null", b"\xff", b"[" * 10**5, b'{"inputs": []}', b'{"inputs":3}']
)
def test_bad_bodies(call: Caller, body: bytes) -> None:
    refused(call.infer(body), 400)


def _bodies() -> dict[str, str]:
    """Small on the way, large for whoever makes an array of them before looking."""
    return {
        "one long word among short ones": json.dumps(["a" * 20_000, *["b"] * 10_000]),
        "a long word among numbers": json.dumps(["a" * 20_000, *[1] * 10_000]),
        "as many empty lists as fit": "[" + "[]," * 4_000_000 + "[]]",
        "as many objects as fit": "[" + "{}," * 4_000_000 + "{}]",
        "as many numbers as fit": "[" + "1," * 6_000_000 + "1]",
        "one word": json.dumps(["a" * 12_000_000]),
        "lists of one": "[" + "[1]," * 3_000_000 + "[1]]",
    }


@pytest.mark.parametrize("which", _bodies())
@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_what_a_body_takes_is_bounded_by_its_length(shape: Shape, which: str, datatype: str) -> None:
    head = json.dumps(request_of(zeros(shape), datatype, data=0))
    body = head.replace('"data": 0', f'"data": {_bodies()[which]}').encode()
    assert len(body) < 16 * 2**20
    tracemalloc.start()
    try:
        with pytest.raises(Refused) as caught:
            read_question(body, shape, 64)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.status == 400
    assert peak < 2 * len(body) + 4 * 2**20, f"{peak / 2**20:.0f} MiB for a body of {len(body) / 2**20:.1f}"


def test_bad_shapes(call: Caller, shape: Shape) -> None:
    c, h, w = shape
    for sides in ([1, h, w, c], [1, c * h, w], [1, c, h * w, 1, 1], [c, h, w], [0, c, h, w], [-1, c, h, w]):
        data = [0] * (0 if sides[0] == 0 else int(np.prod(shape)))
        for datatype in ("UINT8", "FP32"):
            refused(call.infer(request_of(zeros(shape), datatype, shape=sides, data=data)), 400)


def test_too_large_is_said_before_it_arrives(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=1.8) as raw:  # less than the time that a body has
        raw.sendall(b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
        assert b" 413 " in raw.recv(100)


def test_bad_outputs(call: Caller, shape: Shape) -> None:
    for outputs in ([{"name": "x"}], [{"name": "label"}] * 2, [3], "label"):
        refused(call.infer({**request_of(zeros(shape)), "outputs": outputs}), 400)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([[], {}, 0, 1, 255]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
TENSOR = ("name", "shape", "datatype", "data")
PLACES = ("inputs", "outputs", "id", "parameters", *TENSOR)


@few
@given(st.lists(st.tuples(st.sampled_from(PLACES), VALUES), max_size=4), st.sampled_from(["UINT8", "FP32"]))
def test_no_request_breaks_it(
    call: Caller, shape: Shape, stored: Run, changes: list[tuple[str, Any]], datatype: str
) -> None:
    body = request_of(zeros(shape), datatype)
    body["inputs"][0].update((place, value) for place, value in changes if place in TENSOR)
    body.update((place, value) for place, value in changes if place not in TENSOR)
    answer = call.infer(json.dumps(body).encode("utf-8", "surrogatepass"))
    check_innocent(answer, stored)


@few
@given(st.binary(max_size=200))
def test_no_bytes_break_it(call: Caller, stored: Run, body: bytes) -> None:
    check_innocent(call.infer(body), stored)


@few
@given(st.text(min_size=1, max_size=30))
def test_no_path_breaks_it(call: Caller, stored: Run, name: str) -> None:
    try:
        url = httpx.URL("http://x").copy_with(path=f"/v2/models/{name}".encode("utf-8", "replace").decode())
    except (httpx.InvalidURL, ValueError):
        return
    for method, path in (("GET", ""), ("POST", "/infer")):
        check_innocent(call(method, str(url.copy_with(path=url.path + path))), stored)


def check_innocent(answer: httpx.Response, stored: Run) -> None:
    assert answer.status_code in (200, 307, 400, 404, 405, 413), answer.text
    for secret in (str(stored.folder.parent), stored.folder.name, "Traceback", ".py", "noise", "trigger", "watermark"):
        assert secret not in answer.text
    if answer.status_code != 200 and answer.content:
        assert set(answer.json()) == {"error"}


def test_nothing_of_the_owner_is_told(call: Caller, stored: Run) -> None:
    pages = ["/v2", "/v2/models/classifier", "/openapi.json", "/docs", "/v2/models/classifier/ready"]
    text = " ".join(call("GET", page).text + str(call("GET", page).headers) for page in pages).lower()
    for word in (
        stored.card["fingerprint"],
        stored.folder.name,
        "watermark",
        "trigger",
        "noise",
        "procedural",
        "secret",
    ):
        assert str(word).lower() not in text.replace("wmlightning", "")


def test_a_fault_inside_is_told_without_details(stored: Run, shape: Shape, capfd: pytest.CaptureFixture[str]) -> None:
    model = ServedModel(stored)
    broken = Caller(create_app(model))

    def fault(_: Any) -> Any:
        raise RuntimeError(f"cannot open {stored.folder}")

    model.scores = fault  # type: ignore[method-assign]
    assert refused(broken.infer(request_of(zeros(shape))), 500) == "internal error"
    model.scores = lambda images: np.full((len(images), 3), np.nan, np.float32)  # type: ignore[method-assign]
    assert "no numbers" in refused(broken.infer(request_of(zeros(shape))), 500)


def test_cut_off_on_the_way(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    for tail in (b"", b"{"):
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n" + tail)
    assert httpx.get(url + "/v2/health/live").status_code == 200


def test_address_in_use(app: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="cannot listen") as caught:
        run_server(app, "127.0.0.1", taken.getsockname()[1])
    assert caught.value.key == "port"
    with pytest.raises(UserError, match="cannot listen"):
        run_server(app, "no.such.host.invalid", 1)
