"""Trusted time stamps (RFC 3161): an authority signs that a commitment existed at a certain time.

The owner sends a request, which holds nothing but a hash, to any time-stamping authority, and keeps the response. It is
checked without a network, against the authority's root certificate. Whether a certificate was revoked is not checked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wmlightning.errors import UserError
from wmlightning.files import beside, check_writable, json_bytes, write_bytes
from wmlightning.ownership.commitment import load_commitment

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from rfc3161_client import TimeStampRequest, TimeStampResponse

_LARGEST = 2**20
_RESPONSE = "the response to the request for this commitment, as the authority sent it"


@dataclass(frozen=True)
class Stamp:
    """A time that an authority vouches for.

    Attributes:
        time: when the commitment existed at the latest, in UTC.
        authority: name in the certificate that signed it.
    """

    time: datetime
    authority: str

    def __str__(self) -> str:
        return f"{self.time.isoformat(timespec='seconds')}, says {self.authority}"


def stamped(commitment: Path) -> bytes:
    """What is stamped: the commitment as it was written, also where its copy has other spaces or line ends.

    Raises:
        UserError: if there is no commitment.
    """
    return json_bytes(load_commitment(commitment))


def request_of(commitment: Path) -> Path:
    """Where the request is kept: beside the commitment."""
    return beside(commitment, ".json", ".tsq")


def response_of(commitment: Path) -> Path:
    """Where the response is kept."""
    return beside(commitment, ".json", ".tsr")


def write_request(commitment: Path) -> Path:
    """Writes a request for a time stamp, unless one is there: the response must be to the one that was sent.

    It is DER, over SHA-256, with a nonce, and asks for the authority's certificates.

    Returns:
        Its path.

    Raises:
        UserError: if there is no commitment, or the request that is there is for another one, or none can be written.
    """
    client = _client()
    content, path = stamped(commitment), request_of(commitment)
    if path.exists():
        _read_request(path, content)
        return path
    check_writable(path.parent, "commitment", needed_bytes=2**16)
    builder = client.TimestampRequestBuilder().data(content).hash_algorithm(client.HashAlgorithm.SHA256)
    write_bytes(path, builder.nonce(nonce=True).cert_request(cert_request=True).build().as_bytes())
    return path


def verified_time(commitment: Path, response: Path, roots: Sequence[Path]) -> Stamp:
    """Checks a time stamp: hash, signature, chain to a root at the stamped time and, if the request is there, nonce.

    Args:
        commitment: what was stamped.
        response: what the authority sent (DER).
        roots: PEM files with the root certificates that are trusted, and intermediate ones if the response lacks them.

    Raises:
        UserError: if anything of it does not hold.
    """
    client = _client()
    content = stamped(commitment)
    trusted = [certificate for path in roots for certificate in _certificates(path)]
    anchors = [certificate for certificate in trusted if certificate.issuer == certificate.subject]
    if not anchors:
        wrong = f"there is no root certificate in {', '.join(map(str, roots)) or 'no file'}"
        raise UserError("timestamp_ca", wrong, "the authority's root as PEM")
    asked = request_of(commitment)
    nonce = _read_request(asked, content).nonce if asked.exists() else None
    between = [certificate for certificate in trusted if certificate not in anchors]
    raw = _read(response, "timestamp")
    failures = set()
    try:
        found = client.decode_timestamp_response(raw)
        _check_answer(found, response, content, nonce)
        for root in anchors:  # one by one: of two with the same name, OpenSSL tries one
            try:
                verifier = client.VerifierBuilder(nonce=nonce, roots=[root], intermediates=between).build()
                verifier.verify_message(found, content)
                return Stamp(found.tst_info.gen_time.astimezone(timezone.utc), _signer(found))
            except client.VerificationError as error:
                failures.add(_reason(str(error)))
    except ValueError as error:
        reason = (str(error).splitlines() or [""])[0][:100]
        raise UserError("timestamp", f"{response} is no time stamp ({reason})", _RESPONSE) from error
    wrong = f"{response} does not hold: {', '.join(sorted(failures))}"
    raise UserError("timestamp", wrong, "the authority's own response, and its root in timestamp_ca")


def _reason(told: str) -> str:
    """What OpenSSL found, out of all that it tells."""
    found = re.search(r'Verify error: ([^"]+)', told) or re.search(r'reason: "([^"]+)"', told)
    return found[1] if found else told[:100]


def compare(commitments: Sequence[Path], roots: Sequence[Path]) -> str:
    """Which of two commitments is older, as far as that is proven.

    A time in a commitment is a claim: anybody can write any. One is proven by a response beside it, see
    :func:`response_of`, and ``roots``.

    Raises:
        UserError: if one is no commitment, or a time stamp does not hold.
    """
    lines = []
    proven: dict[Path, datetime] = {}
    for path in commitments:
        found = load_commitment(path)
        if roots and response_of(path).exists():
            stamp = verified_time(path, response_of(path), roots)
            proven[path] = stamp.time
            lines.append(f"{path}: proven to have existed at {stamp}")
        else:
            lines.append(f"{path}: claims to be made at {found.get('made')}; not proven")
    if len(proven) < len(commitments):
        names = " and ".join(map(str, proven))
        lines.append(f"only the time of {names} is proven" if proven else "neither time is proven")
    else:
        first, second = commitments
        if proven[first] == proven[second]:
            lines.append("both were stamped at the same time")
        else:
            lines.append(f"stamped first: {min(proven, key=lambda path: proven[path])}")
    return "\n".join(lines)


def _client() -> Any:
    try:
        import rfc3161_client
    except ImportError as error:
        raise UserError("timestamp", "it needs rfc3161-client", "pip install 'wmlightning[timestamp]'") from error
    return rfc3161_client


def _read(path: Path, key: str) -> bytes:
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(key, f"{path} is larger than {_LARGEST >> 20} MiB", "a time stamp or certificate")
        return path.read_bytes()
    except OSError as error:
        raise UserError(key, f"cannot read {path} ({error.strerror})", "a file that is there") from error


def _certificates(path: Path) -> list[Certificate]:
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(_read(path, "timestamp_ca"))
    except ValueError as error:
        raise UserError("timestamp_ca", f"{path} holds no certificate", "the authority's root as PEM") from error


def _read_request(path: Path, content: bytes) -> TimeStampRequest:
    # What VerifierBuilder.from_request wants; the package makes requests, and has no other door for reading one.
    from rfc3161_client._rust import parse_timestamp_request

    try:
        request = parse_timestamp_request(_read(path, "timestamp"))
    except ValueError as error:
        raise UserError("timestamp", f"{path} is no request", "the file that stamp-request wrote, or none") from error
    if request.message_imprint.message != hashlib.sha256(content).digest():
        raise UserError("timestamp", f"{path} is a request for another commitment", "its own, or none")
    return request


def _check_answer(found: TimeStampResponse, path: Path, content: bytes, nonce: int | None) -> None:
    """What can go wrong without anybody's malice, told before signatures are looked at."""
    if found.status != 0:
        why = json.dumps(", ".join(found.status_string))[:120]
        raise UserError("timestamp", f"{path}: the authority refused, with status {found.status}: {why}", _RESPONSE)
    hashes = [hashlib.new(name, content).digest() for name in ("sha256", "sha384", "sha512")]
    if found.tst_info.message_imprint.message not in hashes:
        raise UserError("timestamp", f"{path} is for another commitment, or this one was altered", _RESPONSE)
    if nonce is not None and found.tst_info.nonce != nonce:
        raise UserError("timestamp", f"{path} answers another request (its nonce is another)", _RESPONSE)


def _signer(found: TimeStampResponse) -> str:
    from cryptography.x509 import load_der_x509_certificate

    (signer,) = found.signed_data.signer_infos
    for raw in found.signed_data.certificates:
        certificate = load_der_x509_certificate(raw)
        if (certificate.issuer, certificate.serial_number) == (signer.issuer, signer.serial_number):
            return certificate.subject.rfc4514_string()
    raise ValueError("its signer's certificate is not in it")
