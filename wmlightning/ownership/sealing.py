"""The container of what an owner keeps secret: a checksum, and encryption if there is a passphrase."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import Any

from wmlightning.errors import UserError

PASSPHRASE = "WML_KEY_PASSPHRASE"  # noqa: S105 (the name of an environment variable)
_PLAIN, _SEALED = b"WMLKEY1\n", b"WMLKEY1E"
_SALT, _NONCE, _TAG = 16, 12, 16


def sealed(body: bytes) -> bytes:
    """A file's content: encrypted if there is a passphrase in the environment."""
    magic = _PLAIN
    if passphrase := os.environ.get(PASSPHRASE):
        magic, body = _SEALED, _encrypt(body, passphrase)
    return magic + hashlib.sha256(magic + body).digest() + body


def opened(content: bytes, path: Path) -> bytes:
    """What :func:`sealed` was given.

    Raises:
        UserError: if it is damaged, or the passphrase is missing or wrong.
    """
    magic, digest, body = content[:8], content[8:40], content[40:]
    if magic not in (_PLAIN, _SEALED):
        raise UserError("key", f"{path} is no key", "the file that training wrote")
    if hashlib.sha256(magic + body).digest() != digest:
        raise UserError("key", f"{path} is damaged: its checksum does not fit", "a copy that is whole")
    return _decrypt(body, os.environ.get(PASSPHRASE), path) if magic == _SEALED else body


def _encrypt(body: bytes, passphrase: str) -> bytes:
    """AES-256-GCM under a key that scrypt makes of the passphrase."""
    salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(_NONCE)
    sealed: bytes = _cipher(passphrase, salt).encrypt(nonce, body, _SEALED)
    return salt + nonce + sealed


def _decrypt(body: bytes, passphrase: str | None, path: Path) -> bytes:
    if not passphrase:
        raise UserError("key", f"{path} is encrypted", f"its passphrase in the environment variable {PASSPHRASE}")
    if len(body) < _SALT + _NONCE + _TAG:
        raise UserError("key", f"{path} is too short for an encrypted key", "a copy that is whole")
    cipher = _cipher(passphrase, body[:_SALT])
    from cryptography.exceptions import InvalidTag

    try:
        found: bytes = cipher.decrypt(body[_SALT : _SALT + _NONCE], body[_SALT + _NONCE :], _SEALED)
    except InvalidTag as error:
        raise UserError("key", f"the passphrase does not open {path}", f"the right one in {PASSPHRASE}") from error
    return found


def _cipher(passphrase: str, salt: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise UserError("key", "a passphrase needs cryptography", "pip install 'wmlightning[encryption]'") from error
    return AESGCM(
        hashlib.scrypt(
            passphrase.encode(errors="surrogateescape"), salt=salt, dklen=32, n=2**15, r=8, p=1, maxmem=2**26
        )
    )
