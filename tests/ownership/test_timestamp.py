"""Trusted time stamps, against OpenSSL's authority: our requests, its responses, and what is wrong with some."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wmlightning.errors import UserError
from wmlightning.files import write_json
from wmlightning.ownership.__main__ import main
from wmlightning.ownership.timestamp import request_of, response_of, verified_time, write_request

pytest.importorskip("rfc3161_client")
OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="there is no openssl to be the authority")
NOW = datetime.now(timezone.utc)
YEAR = timedelta(days=365)

CONFIG = """
[tsa]
default_tsa = us
[us]
serial = {folder}/serial
crypto_device = builtin
signer_digest = sha256
default_policy = 1.2.3.4.1
other_policies = 1.2.3.4.5
digests = sha256, sha512
accuracy = secs:1
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


def key_pair() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    until: datetime = NOW + YEAR,
    usage: x509.ObjectIdentifier | None = None,
    serial: int | None = None,
) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(NOW - 2 * YEAR)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=usage is None, path_length=None), critical=True)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class Authority:
    """A time-stamping authority: OpenSSL with certificates of ours."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, until: datetime = NOW + YEAR) -> Authority:
        folder.mkdir()
        root, key = key_pair(), key_pair()
        (folder / "root.pem").write_bytes(certificate("Root", root, "Root", root))
        (folder / "tsa.pem").write_bytes(
            certificate("Honest Time", key, "Root", root, until, ExtendedKeyUsageOID.TIME_STAMPING)
        )
        plain = serialization.NoEncryption()
        form = serialization.PrivateFormat.PKCS8
        for name, pair in {"tsa": key, "root": root}.items():
            (folder / f"{name}.key").write_bytes(pair.private_bytes(serialization.Encoding.PEM, form, plain))
        (folder / "serial").write_text("01\n")
        (folder / "tsa.cnf").write_text(CONFIG.format(folder=folder))
        return cls(folder)

    @property
    def root(self) -> Path:
        return self.folder / "root.pem"

    def answer(self, request: Path, response: Path) -> Path:
        self._openssl("-reply", "-queryfile", request, "-out", response)
        return response

    def refusal(self, response: Path) -> Path:
        """What it answers to a request that it does not understand."""
        nonsense = self.folder / "nonsense.tsq"
        nonsense.write_bytes(b"no request")
        return self.answer(nonsense, response)

    def _openssl(self, *arguments: object) -> None:
        signer = ("-config", self.folder / "tsa.cnf", "-signer", self.folder / "tsa.pem")
        command = [OPENSSL, "ts", *arguments, *signer, "-inkey", self.folder / "tsa.key"]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("time") / "authority")


def write(path: Path, letter: str = "a", made: str = "2020-01-01T00:00:00+00:00") -> Path:
    content = {"kind": "commitment", "schema": 1, "of": "wmlightning key", "sha256": letter * 64, "made": made}
    write_json(path, content)
    return path


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return write(tmp_path / "owner.commitment.json")


@pytest.fixture
def answered(published: Path, authority: Authority) -> Path:
    """A commitment with its request and the response beside it."""
    authority.answer(write_request(published), response_of(published))
    return published


def test_from_request_to_verified_time(
    published: Path, authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stamp-request", str(published)]) == 0
    told = capsys.readouterr().out
    assert "curl" in told and "@" + str(request_of(published)) in told
    first = request_of(published).read_bytes()
    assert main(["stamp-request", str(published)]) == 0
    assert request_of(published).read_bytes() == first, "the request that was sent stays"

    sent = authority.answer(request_of(published), tmp_path / "mail.tsr")
    capsys.readouterr()
    assert main(["stamp-verify", str(published), str(sent), "--ca", str(authority.root)]) == 0
    assert "CN=Honest Time" in capsys.readouterr().out
    assert response_of(published).read_bytes() == sent.read_bytes()
    stamp = verified_time(published, sent, [authority.root])
    assert abs(stamp.time - datetime.now(timezone.utc)) < timedelta(minutes=5)
    assert stamp.time.utcoffset() == timedelta(0)
    assert stamp.authority == "CN=Honest Time"


def test_request_is_what_others_understand(published: Path) -> None:
    """Everything that the request says, as OpenSSL reads it."""
    assert OPENSSL is not None
    command = [OPENSSL, "ts", "-query", "-in", str(write_request(published)), "-text"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Hash Algorithm: sha256" in text
    assert "Certificate required: yes" in text
    assert "Nonce: 0x" in text


def test_others_can_check_it(answered: Path, authority: Authority) -> None:
    """The file as it was published, without a line of ours."""
    assert OPENSSL is not None
    files = ["-data", str(answered), "-in", str(response_of(answered)), "-CAfile", str(authority.root)]
    done = subprocess.run([OPENSSL, "ts", "-verify", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Verification: OK" in done.stdout


def test_a_copy_with_other_line_ends_is_still_stamped(answered: Path, authority: Authority) -> None:
    answered.write_bytes(answered.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert verified_time(answered, response_of(answered), [authority.root]).authority == "CN=Honest Time"


def test_it_holds_after_the_certificate_expired(published: Path, authority: Authority, tmp_path: Path) -> None:
    """What counts is the time of the stamp; roots may come in several files, others among them."""
    until = datetime.now(timezone.utc) + timedelta(seconds=2)
    soon = Authority.make(tmp_path / "soon", until=until)
    soon.answer(write_request(published), response_of(published))
    time.sleep(max(0, (until - datetime.now(timezone.utc)).total_seconds()) + 1)
    assert verified_time(published, response_of(published), [authority.root, soon.root]).authority == "CN=Honest Time"


def refused(published: Path, response: Path, *roots: Path) -> str:
    with pytest.raises(UserError) as caught:
        verified_time(published, response, roots)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_commitment(answered: Path, authority: Authority, tmp_path: Path) -> None:
    other = write(tmp_path / "other.commitment.json", "b")
    told = refused(other, response_of(answered), authority.root)
    assert told.startswith("timestamp: ") and "is for another commitment" in told
    shutil.copy(request_of(answered), request_of(other))
    assert "is a request for another commitment" in refused(other, response_of(answered), authority.root)
    assert main(["stamp-request", str(other)]) == 1, "it would not be answered by the response to come"


def test_earlier_date_written_into_a_stamped_commitment(answered: Path, authority: Authority) -> None:
    found = json.loads(answered.read_text())
    write_json(answered, {**found, "made": "2010-01-01T00:00:00+00:00"})
    request_of(answered).unlink()
    assert "this one was altered" in refused(answered, response_of(answered), authority.root)


def test_wrong_nonce(answered: Path, authority: Authority) -> None:
    """A response to another request over the same commitment: valid, but not to what was asked."""
    request_of(answered).unlink()
    assert verified_time(answered, response_of(answered), [authority.root])
    write_request(answered)
    assert "answers another request" in refused(answered, response_of(answered), authority.root)


def test_wrong_root(answered: Path, tmp_path: Path) -> None:
    """Also one of the same name."""
    other = Authority.make(tmp_path / "other")
    told = refused(answered, response_of(answered), other.root)
    assert told.startswith("timestamp: ") and "does not hold" in told


def test_expired_certificate(published: Path, tmp_path: Path) -> None:
    late = Authority.make(tmp_path / "late", until=NOW - YEAR)
    late.answer(write_request(published), response_of(published))
    told = refused(published, response_of(published), late.root)
    assert "does not hold" in told and "expired" in told


def test_certificate_for_another_purpose(published: Path, tmp_path: Path) -> None:
    """Whoever has a web server's certificate from the same root is no authority on time.

    OpenSSL does not sign with such a one, so it takes the place of an authority's certificate with the same key.
    """
    ours = Authority.make(tmp_path / "ours")
    ours.answer(write_request(published), response_of(published))
    honest = x509.load_pem_x509_certificate((ours.folder / "tsa.pem").read_bytes())
    der = honest.public_bytes(serialization.Encoding.DER)
    key = serialization.load_pem_private_key((ours.folder / "tsa.key").read_bytes(), None)
    root = serialization.load_pem_private_key((ours.folder / "root.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(root, ec.EllipticCurvePrivateKey)
    web, usage = b"", ExtendedKeyUsageOID.SERVER_AUTH
    while len(web) != len(der):  # signatures have 70 to 72 bytes
        pem = certificate("Honest Time", key, "Root", root, usage=usage, serial=honest.serial_number)
        web = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    whole = response_of(published).read_bytes()
    assert whole.count(der) == 1
    response_of(published).write_bytes(whole.replace(der, web))
    assert "does not hold" in refused(published, response_of(published), ours.root)


def test_refusal(published: Path, authority: Authority, tmp_path: Path) -> None:
    told = refused(published, authority.refusal(tmp_path / "no.tsr"), authority.root)
    assert "the authority refused, with status 2" in told


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x30\x00", b"\x30\x03\x02\x01\x00", b"<html>404</html>"])
def test_no_response(published: Path, authority: Authority, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.tsr").write_bytes(content)
    assert refused(published, tmp_path / "odd.tsr", authority.root).startswith("timestamp: ")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_altered_responses_are_refused_or_say_the_same(
    answered: Path, authority: Authority, data: st.DataObject
) -> None:
    """One byte anywhere: never another time or authority, and never more than one line."""
    whole = response_of(answered).read_bytes()
    truth = verified_time(answered, response_of(answered), [authority.root])
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[place] ^= data.draw(st.integers(1, 255))
    odd = answered.with_suffix(".odd.tsr")
    odd.write_bytes(bytes(changed) if data.draw(st.booleans()) else bytes(changed[:place]))
    try:
        assert verified_time(answered, odd, [authority.root]) == truth
    except UserError as error:
        assert error.key == "timestamp"


@pytest.mark.parametrize(
    ("root", "told"),
    [(None, "there is no root certificate"), (b"", "holds no certificate"), (b"-----BEGIN", "holds no certificate")],
)
def test_no_root(answered: Path, tmp_path: Path, root: bytes | None, told: str) -> None:
    roots = []
    if root is not None:
        (tmp_path / "odd.pem").write_bytes(root)
        roots = [tmp_path / "odd.pem"]
    line = refused(answered, response_of(answered), *roots)
    assert line.startswith("timestamp_ca: ") and told in line


def test_signers_own_certificate_is_no_root(answered: Path, authority: Authority) -> None:
    assert "no root certificate" in refused(answered, response_of(answered), authority.folder / "tsa.pem")


def test_files_that_are_not_there(published: Path, authority: Authority, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert refused(nowhere, nowhere, authority.root).startswith("commitment: cannot read")
    assert refused(published, nowhere, authority.root).startswith("timestamp: cannot read")
    assert refused(published, nowhere, nowhere).startswith("timestamp_ca: cannot read")
    request_of(published).write_bytes(b"odd")
    assert "is no request" in refused(published, nowhere, authority.root)


def test_without_the_extra(
    published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    assert main(["stamp-request", str(published)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: timestamp: it needs rfc3161-client; pip install 'wmlightning[timestamp]'"


@pytest.fixture
def compared(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    def go(*arguments: object) -> list[str]:
        assert main(["compare", *map(str, arguments)]) == 0
        return capsys.readouterr().out.splitlines()

    return go


def test_which_is_older(
    answered: Path, authority: Authority, tmp_path: Path, compared: Callable[..., list[str]]
) -> None:
    """A date that anybody could have written loses against one that an authority vouches for."""
    thiefs = write(tmp_path / "thief.commitment.json", "b", made="1999-01-01T00:00:00+00:00")
    assert compared(answered, thiefs)[-1] == "neither time is proven"
    told = compared(answered, thiefs, "--ca", authority.root)
    assert "proven to have existed" in told[0] and "1999" in told[1] and "not proven" in told[1]
    assert told[-1] == f"only the time of {answered} is proven"

    late = verified_time(answered, response_of(answered), [authority.root]).time
    time.sleep(max(0, (late + timedelta(seconds=1) - datetime.now(timezone.utc)).total_seconds()))
    authority.answer(write_request(thiefs), response_of(thiefs))
    assert compared(thiefs, answered, "--ca", authority.root)[-1] == f"stamped first: {answered}"
    response_of(thiefs).write_bytes(response_of(answered).read_bytes())
    assert main(["compare", str(answered), str(thiefs), "--ca", str(authority.root)]) == 1
