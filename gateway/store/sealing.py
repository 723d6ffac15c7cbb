"""Secrets at rest: encrypted with AES-256-GCM under a key derived from `GATEWAY_SECRET_KEY`, or plain without it.

While the key is changed there are several: the first encrypts, each decrypts. The store's own secret is the last value
that is encrypted anew, so that a gateway with the new key alone does not start before.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from gateway.core.errors import StoreUnavailable
from gateway.core.keys import key_list

_PLAIN, _SEALED = b"\x00", b"\x01"
_NONCE = 12


class DecryptionFailed(StoreUnavailable):
    """The value was encrypted with another key or for another row, or was modified."""

    def __init__(self) -> None:
        super().__init__("The store: a value of it was sealed with another GATEWAY_SECRET_KEY.")


class Resealed(msgspec.Struct):
    """How many values were sealed anew, how many needed no change, and how many no key opens."""

    changed: int = 0
    current: int = 0
    unreadable: int = 0


class Cipher:
    """Encrypts values with a key derived from the first of `secret_key`, or marks them as plain when that is None.

    `salt` belongs to the store. The operator's `secret_key` may have any length, so a slow derivation (scrypt) is used.
    """

    def __init__(self, secret_key: str | None, salt: bytes) -> None:
        keys = [Scrypt(salt=salt, length=32, n=2**14, r=8, p=1).derive(key.encode()) for key in key_list(secret_key)]
        self._aeads = [AESGCM(key) for key in keys]
        self.mark = hashlib.sha256(b"mark" + keys[0]).hexdigest()[:16] if keys else ""
        """Tells gateways of one store that encrypt with one key from others; it discloses nothing of the key."""

    @property
    def has_key(self) -> bool:
        return bool(self._aeads)

    def encrypt(self, value: bytes, place: str) -> bytes:
        """The bytes to store; `place` binds them to their row."""
        if not self._aeads:
            return _PLAIN + value
        nonce = os.urandom(_NONCE)
        return _SEALED + nonce + self._aeads[0].encrypt(nonce, value, place.encode())

    def decrypt(self, stored: bytes, place: str) -> bytes:
        """The value that was encrypted for `place`. Raises DecryptionFailed."""
        if stored[:1] == _PLAIN:
            return stored[1:]
        for aead in self._aeads:
            if (value := _opened(aead, stored, place)) is not None:
                return value
        raise DecryptionFailed

    def resealed(self, stored: bytes, place: str) -> bytes | None:
        """The value encrypted with the first key, None when it is already. Raises DecryptionFailed."""
        if self._aeads and not self.is_plain(stored) and _opened(self._aeads[0], stored, place) is not None:
            return None
        return self.encrypt(self.decrypt(stored, place), place)

    def stale(self, rows: Iterable[tuple[str, bytes]], counted: Resealed) -> list[tuple[str, bytes, bytes]]:
        """Of rows (id and value), those to be sealed anew: id, old and new value. Counts the others."""
        found = []
        for place, stored in rows:
            try:
                new = self.resealed(stored, place)
            except DecryptionFailed:
                counted.unreadable += 1
                continue
            if new is None:
                counted.current += 1
            else:
                found.append((place, stored, new))
        return found

    def is_plain(self, stored: bytes) -> bool:
        return stored[:1] == _PLAIN


def _opened(aead: AESGCM, stored: bytes, place: str) -> bytes | None:
    try:
        return aead.decrypt(stored[1 : 1 + _NONCE], stored[1 + _NONCE :], place.encode())
    except (InvalidTag, ValueError):  # ValueError: truncated within the nonce
        return None
