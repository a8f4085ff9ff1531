"""A stored model as a service that speaks the Open Inference Protocol v2: what a thief would put on the net.

It tells what any such service tells: image size, number of classes, scores. Nothing about training, watermark, files or
errors inside gets out.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import numpy as np
import numpy.typing as npt
import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from wmlightning import __version__
from wmlightning.errors import UserError
from wmlightning.ownership import protocol
from wmlightning.ownership.protocol import Refused
from wmlightning.ownership.suspects.network import arithmetic_of, run_shape
from wmlightning.store import Run

_VERSION = "1"
_REFS = "#/components/schemas/{model}"
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": protocol.ErrorDocument, "description": "The request cannot be understood"},
    404: {"model": protocol.ErrorDocument, "description": "No such model"},
}
_BODY_ERRORS: dict[int | str, dict[str, Any]] = {
    **_ERRORS,
    408: {"model": protocol.ErrorDocument, "description": "The body took too long"},
    413: {"model": protocol.ErrorDocument, "description": "The body is too large"},
    415: {"model": protocol.ErrorDocument, "description": "The body is not plain JSON"},
}


class ServedModel:
    """A network that many requests may ask at once.

    Args:
        run: a finished run.
        name: of the model, to the world.
        device: where to compute.
    """

    def __init__(self, run: Run, name: str = "classifier", device: str = "cpu") -> None:
        self.name = name
        self.shape = run_shape(run)
        self.n_classes = len(run.classes)
        self._arithmetic = arithmetic_of(run, device, "device")
        self._network = run.network.eval().to(self._arithmetic.device)
        # One thread computes, with all of torch's own threads: several would fight over the same cores.
        self._turn = ThreadPoolExecutor(1, "inference")

    def scores(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Logits ``(n, k)`` for uint8 images, or float32 ones in [0, 1]. May be called from any thread."""
        return self._turn.submit(self._compute, torch.from_numpy(images)).result()

    def _compute(self, images: torch.Tensor) -> npt.NDArray[np.float32]:
        arithmetic = self._arithmetic
        with torch.inference_mode(), arithmetic.scope():
            if images.dtype == torch.uint8:
                floats = arithmetic.floats(images)
            else:
                layout = torch.channels_last if arithmetic.channels_last else torch.contiguous_format
                floats = images.to(arithmetic.device).contiguous(memory_format=layout)
            scores: npt.NDArray[np.float32] = self._network(floats).float().cpu().numpy()
            return scores

    def metadata(self) -> protocol.ModelMetadata:
        """What the model says about itself."""
        tensor = protocol.TensorMetadata
        return protocol.ModelMetadata(
            name=self.name,
            versions=[_VERSION],
            platform="pytorch",
            inputs=[tensor(name=protocol.INPUT, datatype="UINT8", shape=[-1, *self.shape])],
            outputs=[
                tensor(name=protocol.SCORES, datatype="FP32", shape=[-1, self.n_classes]),
                tensor(name=protocol.LABEL, datatype="INT64", shape=[-1]),
            ],
        )


def create_app(model: ServedModel, max_batch: int = 64, max_body_mb: float = 16, body_seconds: float = 30) -> FastAPI:
    """The service.

    Args:
        model: to serve.
        max_batch: images in one request at most.
        max_body_mb: MiB of a request at most.
        body_seconds: time for a request to arrive.
    """
    app = FastAPI(title="Open Inference Protocol", version="2", summary="A classifier of images.")
    workers = ThreadPoolExecutor(4, "request")  # read and write JSON, so that health answers meanwhile

    def check(name: str, version: str = _VERSION) -> None:
        if (name, version) != (model.name, _VERSION):
            raise Refused(404, "no such model")

    def answer(body: bytes) -> bytes:
        question = protocol.read_question(body, model.shape, max_batch)
        return protocol.write_answer(question, model.name, _VERSION, model.scores(question.images))

    @app.get("/v2", tags=["server"])
    async def server_metadata() -> protocol.ServerMetadata:
        return protocol.ServerMetadata(name="open-inference-server", version=__version__, extensions=[])

    @app.get("/v2/health/live", tags=["server"])
    async def live() -> protocol.Live:
        return protocol.Live(live=True)

    @app.get("/v2/health/ready", tags=["server"])
    async def ready() -> protocol.Ready:
        return protocol.Ready(ready=True)

    @app.get("/v2/models/{name}", tags=["model"], responses=_ERRORS)
    @app.get("/v2/models/{name}/versions/{version}", tags=["model"], responses=_ERRORS)
    async def model_metadata(name: str, version: str = _VERSION) -> protocol.ModelMetadata:
        check(name, version)
        return model.metadata()

    @app.get("/v2/models/{name}/ready", tags=["model"], responses=_ERRORS)
    @app.get("/v2/models/{name}/versions/{version}/ready", tags=["model"], responses=_ERRORS)
    async def model_ready(name: str, version: str = _VERSION) -> protocol.ModelReady:
        check(name, version)
        return protocol.ModelReady(name=name, ready=True)

    content = {"application/json": {"schema": {"$ref": _REFS.format(model="InferenceRequest")}}}
    wanted: dict[str, Any] = {"requestBody": {"required": True, "content": content}}
    inference: dict[str, Any] = {"tags": ["model"], "responses": _BODY_ERRORS, "openapi_extra": wanted}

    @app.post("/v2/models/{name}/infer", response_model=protocol.InferenceResponse, **inference)
    @app.post("/v2/models/{name}/versions/{version}/infer", response_model=protocol.InferenceResponse, **inference)
    async def infer(request: Request, name: str, version: str = _VERSION) -> Response:
        check(name, version)
        body = await read_body(request, int(max_body_mb * 2**20), body_seconds)
        document = await asyncio.get_running_loop().run_in_executor(workers, answer, body)
        return Response(document, media_type="application/json")

    _tell_errors(app)
    _describe(app)
    return app


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The body of a request, which nobody made us hold more of than ``limit`` bytes.

    Raises:
        Refused: if it is too large, too slow, cut off or packed.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refused(415, "plain JSON, not compressed")
    if "inference-header-content-length" in request.headers:
        raise Refused(415, "plain JSON, no binary tensors")
    length = request.headers.get("content-length", "0")
    too_large = Refused(413, f"at most {limit} bytes")
    if length.isdecimal() and int(length[:20]) > limit:
        raise too_large
    body = bytearray()
    try:
        with anyio.fail_after(seconds):
            async for block in request.stream():
                body += block
                if len(body) > limit:
                    raise too_large
    except TimeoutError as error:
        raise Refused(408, "the body took too long") from error
    except ClientDisconnect as error:
        raise Refused(400, "the body was cut off") from error
    return bytes(body)


def _tell_errors(app: FastAPI) -> None:
    """Errors as the protocol wants them, and without a word about what is inside."""

    def told(status: int, message: str) -> JSONResponse:
        return JSONResponse({"error": message}, status)

    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refused)
        return told(error.status, error.message)

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        response = told(error.status_code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    async def anything(_: Request, __: Exception) -> JSONResponse:
        return told(500, "internal error")

    handlers: dict[Any, Callable[[Request, Exception], Awaitable[JSONResponse]]]
    handlers = {Refused: refused, HTTPException: http, Exception: anything}
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _describe(app: FastAPI) -> None:
    """The OpenAPI document, with the request's schema, which FastAPI does not see since we read the body ourselves."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            _, extra = models_json_schema([(protocol.InferenceRequest, "validation")], ref_template=_REFS)
            document["components"]["schemas"].update(extra["$defs"])
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


class _Server(uvicorn.Server):
    """Says where it is as soon as it can be asked."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            print(f"serving at http://{_bracketed(host)}:{port} (Ctrl-C ends it)", flush=True)


def listen(host: str, port: int) -> socket.socket:
    """A socket that clients can connect to.

    Raises:
        UserError: if the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)  # asyncio answers at once only if the protocol is named
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except BaseException:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of a machine
        wrong = f"cannot listen at {_bracketed(host)[:100]}:{port} ({getattr(error, 'strerror', error)})"
        raise UserError("port", wrong, "another port, or another host") from error
    return listening


def run_server(app: FastAPI, host: str, port: int) -> None:
    """Serves until Ctrl-C.

    Raises:
        UserError: if the address cannot be had.
    """
    settings: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
    config = uvicorn.Config(app, limit_concurrency=256, timeout_graceful_shutdown=5, **settings)
    with listen(host, port) as listening:
        _Server(config).run(sockets=[listening])


def _bracketed(host: str) -> str:
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host
