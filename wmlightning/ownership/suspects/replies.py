"""What an exchange with a service came to, and what that says of the config."""

from __future__ import annotations

import re
import ssl
import time
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime

from wmlightning.errors import UserError
from wmlightning.ownership.suspects.base import REDIRECTED

#: 400 and 422 are not among them: a service may refuse some images that way, and answer others.
_HOPELESS = (401, 403, 404, 405, 406, 407, 410, 411, 413, 414, 415, 431)
PROXIES = "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY"


@dataclass(frozen=True)
class Reply:
    """What came of one exchange.

    Attributes:
        status: of HTTP, if it came to that.
        body: all of it, if ``failure`` is ``None``.
        failure: why there is no answer.
        detail: the same for people, without secrets.
        sent: whether the request may have left this machine.
        again: whether another try may help.
        wait: seconds that the service wants us to wait.
    """

    status: int | None = None
    body: bytes = b""
    failure: str | None = None
    detail: str = ""
    sent: bool = True
    again: bool = False
    wait: float = 0.0

    @property
    def hopeless(self) -> bool:
        """As a first reply, this says that the address, the rights or the certificate are wrong."""
        return not self.sent or self.failure == REDIRECTED or self.status in _HOPELESS


def refusal(name: str, reply: Reply) -> UserError:
    """The error for a first reply that shows that the config is wrong."""
    wrong = f"{name}: {reply.detail}"
    if reply.status == 407 or (not reply.sent and "through the proxy" in reply.detail):
        return UserError("suspect.url", wrong, f"a proxy that lets us through: check {PROXIES}")
    if reply.status in (401, 403):
        return UserError("suspect.http.headers", wrong, "a token that may ask")
    if reply.status == 413:
        return UserError("suspect.batch_size", wrong, "fewer images at once")
    if not reply.sent and "TLS" in reply.detail:
        right = "a certificate that this machine trusts, or verify=FILE with the one to trust"
        return UserError("suspect.http.verify", wrong, right)
    return UserError("suspect.url", wrong, "the address of a service that is running")


def tls_refusal(error: BaseException | None) -> str:
    """Why the certificate was refused, if it was that."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        if isinstance(error, ssl.SSLError):
            return (error.reason or "handshake failed").lower().replace("_", " ")
        error = error.__cause__ or error.__context__
    return ""


def retry_after(text: str) -> float:
    """Seconds, whether it is given as seconds or as a date; 0 if it is neither."""
    text = text.strip()[:40]
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        date = date if date.tzinfo else date.replace(tzinfo=timezone.utc)  # HTTP knows no other zone
        return max(0.0, date.timestamp() - time.time())
    except (TypeError, ValueError, OverflowError, OSError):
        return 0.0
