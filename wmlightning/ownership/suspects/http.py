"""One HTTP exchange with somebody who may be slow, broken or hostile: bounded in time and size, never an exception.

Every exchange has one deadline for all of it, so that a service that sends a byte a second cannot hold us. Answers are
cut off while they arrive, come uncompressed (a small archive cannot become a large answer) and are never followed to
another address. Nothing that the service or a library says reaches an error message before secrets are taken out of it.
"""

from __future__ import annotations

import logging
import re
import ssl
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np

from wmlightning.config import setting
from wmlightning.errors import UserError
from wmlightning.ownership.suspects.base import LOST, REDIRECTED, REFUSED, SERVER_ERROR, TIMEOUT, TOO_LARGE
from wmlightning.ownership.suspects.replies import PROXIES, Reply, retry_after, tls_refusal

#: Seconds or MiB: a day, and more than memory holds.
_MOST = 86_400
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
#: Any other Content-Encoding on an answer ("none", "utf-8") is a mistake, and the answer plain.
_COMPRESSION = frozenset(("gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"))
#: Long runs that could be an image, a token or numbers.
_BULK = re.compile(r"[A-Za-z0-9+/=_-]{25,}|[\[\]\d\s.,eE+-]{25,}")


@dataclass(frozen=True)
class Http:
    """How a service is asked.

    Attributes:
        headers: sent along; take tokens from the environment: ``{Authorization: "Bearer ${oc.env:TOKEN}"}``. Their
            values are never logged, written or shown.
        timeout: seconds that one exchange may take, from connecting to the answer's last byte.
        connect_timeout: seconds of them for connecting.
        retries: how often images are sent again after 408, 429, 5xx, a lost connection or a timeout.
        backoff: seconds before the first retry, more or less; doubled for each further one.
        max_wait: most seconds to wait, whatever the service's Retry-After says.
        rate: requests a second; ``None``: as many as ``concurrency`` allows.
        concurrency: requests at the same time.
        max_answer_mb: a larger answer is cut off, and counts as none.
        verify: check TLS certificates: ``True``, or a file of certificates to trust. ``False`` lets anyone in between
            answer in the suspect's place, and read the token.
        patience: after so many requests in a row without an answer, the suspect counts as unreachable.
        seed: of the random part of waiting times.
    """

    headers: Mapping[str, str] | None = field(default=None, repr=False)
    timeout: float = 30
    connect_timeout: float = 10
    retries: int = 3
    backoff: float = 0.5
    max_wait: float = 60
    rate: float | None = None
    concurrency: int = 4
    max_answer_mb: float = 16
    verify: bool | str = True
    patience: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("timeout", "connect_timeout", "max_answer_mb"):
            setting(getattr(self, name), f"suspect.http.{name}", float, 0.001, _MOST)
        for name in ("backoff", "max_wait"):
            setting(getattr(self, name), f"suspect.http.{name}", float, 0, _MOST)
        for name, low in (("retries", 0), ("concurrency", 1), ("patience", 1)):
            setting(getattr(self, name), f"suspect.http.{name}", int, low, 1000)
        setting(self.seed, "suspect.http.seed", int, 0)
        if self.rate is not None:
            setting(self.rate, "suspect.http.rate", float, 1e-6)
        if not isinstance(self.verify, (bool, str)):
            raise UserError(
                "suspect.http.verify", f"{self.verify!r} is neither", "true, false or a file of certificates"
            )
        self._check_headers()

    def _check_headers(self) -> None:
        if not isinstance(self.headers, Mapping | None):  # it may be a token: not shown
            raise UserError("suspect.http.headers", f"a {type(self.headers).__name__} is no mapping", "{NAME: VALUE}")
        for name, value in (self.headers or {}).items():
            text = isinstance(name, str) and isinstance(value, str)
            if not text or not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                wrong = f"the header {str(name)[:40]!r} or its value has characters that no header may have"
                raise UserError("suspect.http.headers", wrong, "printable ASCII, in quotes")
            if value != value.strip():
                wrong = f"the value of {name} begins or ends with a blank"
                raise UserError("suspect.http.headers", wrong, "no blank there; is the token after it empty?")
            if name.lower() in ("content-length", "transfer-encoding"):
                raise UserError("suspect.http.headers", f"{name} follows from the body", "without it")

    def trusted(self) -> ssl.SSLContext | bool:
        """What httpx takes for ``verify``.

        Raises:
            UserError: if the file of certificates cannot be read.
        """
        if isinstance(self.verify, bool):
            return self.verify
        try:
            return ssl.create_default_context(cafile=str(Path(self.verify).expanduser()))
        except (OSError, ssl.SSLError) as error:
            wrong = f"cannot read {self.verify} ({error.strerror or error})"
            raise UserError("suspect.http.verify", wrong, "a file of certificates in PEM") from error


@dataclass
class Progress:
    """How far an exchange came: httpx calls it at each step.

    Attributes:
        sent: whether the request may have left, by any step that is not known to come before.
        by: says that a proxy is between, if there is one.
    """

    sent: bool = False
    by: str = ""

    async def __call__(self, url: httpx.URL, step: str, about: Mapping[str, Any]) -> None:
        """Connecting, TLS and what opens a tunnel through a proxy tell nothing of the image."""
        if step.endswith("connect_tcp.started"):
            port = url.port or (443 if url.scheme == "https" else 80)
            direct = (about.get("host"), about.get("port")) == (url.raw_host.decode("ascii"), port)
            self.by = "" if direct else " through the proxy"
        request = about.get("request")
        if step.startswith("http") and request is not None and request.method != b"CONNECT":
            self.sent = True


class Channel:
    """Exchanges with one service: paced, bounded, and silent about secrets.

    Args:
        url: any address of the service; what it holds beside host and path is kept secret.
        http: how to ask.

    Attributes:
        secrets: what else must not be seen in what the service says.
    """

    def __init__(self, url: str, http: Http) -> None:
        try:
            self.url = httpx.URL(str(url))
        except httpx.InvalidURL:
            raise UserError("suspect.url", "cannot be read", "http://HOST:PORT/PATH") from None
        if self.url.scheme not in ("http", "https") or not self.url.host or not 0 < (self.url.port or 80) < 2**16:
            raise UserError("suspect.url", f"{self.shown(self.url)!r} is no web address", "http://HOST:PORT/PATH")
        self.http = http
        self.secrets: list[str] = []
        self._next = 0.0
        self._draw = np.random.default_rng(http.seed)
        for name in ("httpx", "httpcore"):  # they log whole addresses, and addresses may hold tokens
            logging.getLogger(name).setLevel(logging.WARNING)

    @staticmethod
    def shown(url: httpx.URL) -> str:
        """An address without user, password and query. Without a path it is that of ``/``."""
        text = str(url.copy_with(userinfo=b"", query=None, fragment=None))
        return text.removesuffix("/") if url.path == "/" else text

    def client(self) -> httpx.AsyncClient:
        """Connections that are kept between exchanges."""
        http = self.http
        trusted = http.trusted()
        headers = httpx.Headers({"Accept": "application/json"})
        headers.update(http.headers)
        headers["Accept-Encoding"] = "identity"
        self._queue = anyio.Lock()  # belongs to an event loop, like the connections
        try:
            return httpx.AsyncClient(
                headers=headers,
                verify=trusted,
                timeout=httpx.Timeout(http.timeout, connect=min(http.timeout, http.connect_timeout), pool=None),
                limits=httpx.Limits(max_connections=http.concurrency, max_keepalive_connections=http.concurrency),
                follow_redirects=False,
            )
        except OSError as error:  # httpx reads certificates for addresses without TLS too
            wrong = f"cannot read the certificates that SSL_CERT_FILE names ({error.strerror or error})"
            raise UserError("suspect.http.verify", wrong, "a file of certificates in PEM, there or here") from error
        except (ValueError, ImportError, httpx.InvalidURL):  # it may hold a password: not shown
            wrong = "a proxy, or a host without one, that the environment names cannot be used"
            raise UserError("suspect.url", wrong, f"check {PROXIES}") from None

    async def turn(self) -> None:
        """Waits until the next request may leave."""
        async with self._queue:
            while (seconds := self._next - time.monotonic()) > 0:  # a Retry-After may move it while we sleep
                await anyio.sleep(seconds)
            self._next = time.monotonic() + (1 / self.http.rate if self.http.rate else 0.0)

    async def rest(self, attempt: int, reply: Reply) -> None:
        """Waits before a retry: as long as the service says, else twice as long each time, and never all at once."""
        jitter = 0.5 + self._draw.random()
        seconds = max(reply.wait, self.http.backoff * 2 ** (attempt - 1) * jitter)
        seconds = min(seconds, self.http.max_wait)
        if reply.wait:  # it asked all of us to wait, not only this request
            self._next = max(self._next, time.monotonic() + seconds)
        await anyio.sleep(seconds)

    async def exchange(
        self,
        client: httpx.AsyncClient,
        method: str,
        url: httpx.URL,
        body: bytes | None,
        progress: Progress | None = None,
    ) -> Reply:
        """Sends one request and reads what comes back. Whatever happens, there is a reply.

        ``progress`` tells a caller that is cancelled meanwhile how far it came.
        """
        progress = progress or Progress()
        typed = body is None or "content-type" in client.headers
        headers = {} if typed else {"Content-Type": "application/json"}
        ours = client.stream(method, url, content=body, headers=headers, extensions={"trace": partial(progress, url)})
        try:
            with anyio.fail_after(self.http.timeout):
                async with ours as response:
                    return await self._read(response)
        except (httpx.ConnectError, httpx.ProxyError) as error:
            refused = tls_refusal(error)
            detail = f"TLS refused: {refused}" if refused else f"no connection{progress.by}"
            return Reply(failure=LOST, detail=detail, sent=False, again=not refused)
        except (TimeoutError, httpx.TimeoutException):
            if not progress.sent:
                return Reply(failure=LOST, detail=f"no connection{progress.by} in time", sent=False, again=True)
            return Reply(failure=TIMEOUT, detail=f"no answer in {self.http.timeout:g} seconds", again=True)
        except httpx.LocalProtocolError:  # refused on this side, before anything is written
            return Reply(failure=LOST, detail="HTTP forbids what would be sent", sent=False)
        except (httpx.HTTPError, httpx.StreamError, ssl.SSLError, OSError, ValueError):
            return Reply(failure=LOST, detail=f"the connection{progress.by} broke", sent=progress.sent, again=True)

    async def _read(self, response: httpx.Response) -> Reply:
        status = response.status_code
        if 300 <= status < 400:
            return Reply(status, failure=REDIRECTED, detail=f"HTTP {status}: sends us to {self._target(response)}")
        limit = int(self.http.max_answer_mb * 2**20)
        body = bytearray()
        codings = re.split(r"[\s,]+", response.headers.get("content-encoding", "").lower())
        encoded = not _COMPRESSION.isdisjoint(codings)
        unread = ""
        async for block in response.aiter_raw():
            body += block
            if len(body) > limit or encoded:
                unread = "compressed, against our wish" if encoded else f"more than {self.http.max_answer_mb:g} MiB"
                break
        if 200 <= status < 300:
            if unread:
                return Reply(status, failure=TOO_LARGE, detail=f"the answer is {unread}")
            return Reply(status, bytes(body))
        said = "" if unread else self.clean(body[:2000].decode("utf-8", "replace"))
        detail = f"HTTP {status}" + (f": {said}" if said else "")
        if status in (408, 429) or status >= 500:
            wait = retry_after(response.headers.get("retry-after", ""))
            why = REFUSED if status == 429 else SERVER_ERROR if status >= 500 else TIMEOUT
            return Reply(status, failure=why, detail=detail, again=True, wait=wait)
        return Reply(status, failure=REFUSED, detail=detail)

    def _target(self, response: httpx.Response) -> str:
        try:
            return self.clean(self.shown(self.url.join(response.headers.get("location", ""))))
        except httpx.InvalidURL:
            return "nowhere"

    def clean(self, text: str) -> str:
        """What a service said, short, in one line, and without what must not be seen."""
        for form in (str, _plain):  # as it is, and as it was before somebody made JSON of it
            text = form(text)
            for secret in filter(None, map(form, self._all_secrets())):
                text = text.replace(secret, "***")
        text = _BULK.sub("...", text)
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:150]

    def _all_secrets(self) -> list[str]:
        whole = [
            *self.secrets,
            *(self.http.headers or {}).values(),
            self.url.userinfo.decode(),
            self.url.query.decode(),
        ]
        whole += [value for _, value in self.url.params.multi_items()]
        user, password = self.url.username, self.url.password  # without %40 and the like, and so they are sent
        whole += [user, password, b64encode(f"{user}:{password}".encode()).decode()]
        parts = {part for text in whole for part in (text, *re.split(r"[\s:;,&=]+", text)) if len(part) > 3}
        return sorted(parts, key=len, reverse=True)


def _plain(text: str) -> str:
    """Without JSON's ways to write characters, however often they were applied."""
    text = re.sub(r"\\+u([0-9A-Fa-f]{4})", lambda found: chr(int(found[1], 16)), text)
    return re.sub(r"\\+[nrt]", " ", text).replace("\\", "")
