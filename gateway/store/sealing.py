"""Secrets at rest: encrypted with AES-256-GCM under a key derived from `GATEWAY_SECRET_KEY`, or plain without it."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from gateway.core.errors import StoreUnavailable

_PLAIN, _SEALED = b"\x00", b"\x01"
_NONCE = 12


class DecryptionFailed(StoreUnavailable):
    """The value was encrypted with another key or for another row, or was modified."""

    def __init__(self) -> None:
        super().__init__("The store: a value of it was sealed with another GATEWAY_SECRET_KEY.")


class Cipher:
    """Encrypts values with a key derived from `secret_key`, or marks them as plain when that is None.

    `salt` belongs to the store. The operator's `secret_key` may have any length, so a slow derivation (scrypt) is used.
    """

    def __init__(self, secret_key: str | None, salt: bytes) -> None:
        self._aead = None
        if secret_key is not None:
            key = Scrypt(salt=salt, length=32, n=2**14, r=8, p=1).derive(secret_key.encode())
            self._aead = AESGCM(key)

    @property
    def has_key(self) -> bool:
        return self._aead is not None

    def encrypt(self, value: bytes, place: str) -> bytes:
        """The bytes to store; `place` binds them to their row."""
        if self._aead is None:
            return _PLAIN + value
        nonce = os.urandom(_NONCE)
        return _SEALED + nonce + self._aead.encrypt(nonce, value, place.encode())

    def decrypt(self, stored: bytes, place: str) -> bytes:
        """The value that was encrypted for `place`. Raises DecryptionFailed."""
        if stored[:1] == _PLAIN:
            return stored[1:]
        if self._aead is None:
            raise DecryptionFailed
        try:
            return self._aead.decrypt(stored[1 : 1 + _NONCE], stored[1 + _NONCE :], place.encode())
        except (InvalidTag, ValueError):  # ValueError: truncated within the nonce
            raise DecryptionFailed from None

    def is_plain(self, stored: bytes) -> bool:
        return stored[:1] == _PLAIN
