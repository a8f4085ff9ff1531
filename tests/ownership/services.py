"""Services that misbehave, on real sockets."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wmlightning.ownership.suspects.http import Http
from wmlightning.ownership.suspects.json_api import JsonApi
from wmlightning.ownership.suspects.oip import Oip

SHAPE = (1, 4, 4)
K = 10
#: Impatient enough for tests.
QUICK = Http(timeout=5, connect_timeout=2, retries=2, backoff=0.001, max_wait=0.05)


def quick(**options: Any) -> Http:
    return Http(**{**vars(QUICK), **options})


def images(n: int, first: int = 0) -> Tensor:
    """Images that say which label they want: their first pixel, modulo the classes."""
    found = torch.zeros((n, *SHAPE), dtype=torch.uint8)
    found[:, 0, 0, 0] = torch.arange(first, first + n) % 256
    found[:, 0, 1, 1] = torch.arange(first, first + n) // 256
    return found


def labels(n: int, first: int = 0) -> list[int]:
    return [i % 256 % K for i in range(first, first + n)]


@dataclass
class Call:
    """One request as it reached the service."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    handler: BaseHTTPRequestHandler = field(repr=False)

    @property
    def pixels(self) -> list[int]:
        """First pixels of the images in it."""
        content = json.loads(self.body)
        if "inputs" in content:
            tensor = content["inputs"][0]
            size = len(tensor["data"]) // tensor["shape"][0]
            return [round(float(value)) for value in tensor["data"][::size]]
        found = content["image"]
        return [image[0][0][0] for image in (found if isinstance(found[0][0][0], list) else [found])]


@dataclass
class Reply:
    """What the service says; ``cut`` ends the connection after so many bytes of the body."""

    content: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


Behaviour = Callable[[Call], Reply | None]


@dataclass
class Service:
    """A running service."""

    url: str
    calls: list[Call]

    @property
    def n_images(self) -> int:
        """Images that arrived, whatever came of them."""
        return sum(len(call.pixels) for call in self.calls if call.method == "POST")


def honest(call: Call) -> Reply:
    """The label that the image wants."""
    return Reply({"label": call.pixels[0] % K})


@contextmanager
def serving(behave: Behaviour = honest, certificate: Path | None = None) -> Iterator[Service]:
    """Serves until the end of the block."""
    lock, calls = threading.Lock(), list[Call]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            with lock:
                call = Call(len(calls), self.command, self.path, {**self.headers}, body, self)
                calls.append(call)
            with suppress(OSError):  # they may have hung up
                self._give(behave(call))

        do_GET = do_POST

        def _give(self, reply: Reply | None) -> None:
            if reply is None:  # a broken connection
                self.close_connection = True
                return
            body = reply.content if isinstance(reply.content, bytes) else json.dumps(reply.content).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if reply.cut is None else body[: reply.cut])
            self.close_connection = self.close_connection or reply.cut is not None

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield Service(f"{scheme}://localhost:{server.server_address[1]}/predict", calls)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def api(url: str, http: Http = QUICK, **options: Any) -> JsonApi:
    """Asks for one image by itself, as numbers."""
    given = {"image": {"path": "image", "kind": "list"}, "answer": {"path": "label"}, **options}
    if "pixels" not in given:
        from wmlightning.ownership.suspects.pixels import Pixels

        given["pixels"] = Pixels("byte")
    suspect = JsonApi(url, http=http, **given)
    suspect.open(SHAPE, K)
    return suspect


METADATA = {
    "name": "m",
    "versions": ["1"],
    "platform": "x",
    "inputs": [{"name": "in", "datatype": "UINT8", "shape": [-1, *SHAPE]}],
    "outputs": [{"name": "out", "datatype": "FP32", "shape": [-1, K]}],
}


def one_hot(label: int, high: float = 1.0) -> list[float]:
    return [high * (i == label) for i in range(K)]


def oip_answer(rows: list[list[float]], **changes: Any) -> dict[str, Any]:
    flat = [value for row in rows for value in row]
    tensor = {"name": "out", "datatype": "FP32", "shape": [len(rows), K], "data": flat, **changes}
    return {"model_name": "m", "outputs": [tensor]}


def oip_service(metadata: Any = METADATA, answer: Behaviour | None = None) -> Behaviour:
    """A model behind the protocol."""

    def behave(call: Call) -> Reply | None:
        if call.method == "GET":
            return metadata if isinstance(metadata, Reply) else Reply(metadata)
        if answer is not None:
            return answer(call)
        return Reply(oip_answer([one_hot(pixel % K) for pixel in call.pixels]))

    return behave


def oip(url: str, http: Http = QUICK, **options: Any) -> Oip:
    return Oip(url.removesuffix("/predict"), "m", http=http, **options)
