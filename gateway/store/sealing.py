"""Secrets at rest: sealed with AES-256-GCM under a key derived from `GATEWAY_SECRET_KEY`, or plain without one."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from gateway.core.errors import StoreUnavailable

_PLAIN, _SEALED = b"\x00", b"\x01"
_NONCE = 12


class DecryptionFailed(StoreUnavailable):
    """The value was sealed with another key, for another place, or was changed."""

    def __init__(self) -> None:
        super().__init__("The store: a value of it was sealed with another GATEWAY_SECRET_KEY.")


class Cipher:
    """`salt` belongs to the store; `secret_key` is the operator's, of any length, hence the slow derivation."""

    def __init__(self, secret_key: str | None, salt: bytes) -> None:
        self._aead = None
        if secret_key is not None:
            key = Scrypt(salt=salt, length=32, n=2**14, r=8, p=1).derive(secret_key.encode())
            self._aead = AESGCM(key)

    @property
    def has_key(self) -> bool:
        return self._aead is not None

    def encrypt(self, value: bytes, place: str) -> bytes:
        """The value to store; `place` binds it to its row."""
        if self._aead is None:
            return _PLAIN + value
        nonce = os.urandom(_NONCE)
        return _SEALED + nonce + self._aead.encrypt(nonce, value, place.encode())

    def decrypt(self, stored: bytes, place: str) -> bytes:
        """Raises DecryptionFailed."""
        if stored[:1] == _PLAIN:
            return stored[1:]
        if self._aead is None:
            raise DecryptionFailed
        try:
            return self._aead.decrypt(stored[1 : 1 + _NONCE], stored[1 + _NONCE :], place.encode())
        except (InvalidTag, ValueError):  # ValueError: cut so short that no nonce is left
            raise DecryptionFailed from None

    def is_plain(self, stored: bytes) -> bool:
        return stored[:1] == _PLAIN
