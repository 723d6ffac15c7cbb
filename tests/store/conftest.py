"""The gateways of one database, for the tests of what they share; and keys of stores, derived once each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cache

import pytest
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from gateway.store import sealing
from tests.support.stores import PostgresLives, postgres_lives


@pytest.fixture
async def lives(database_url: str) -> AsyncIterator[PostgresLives]:
    async with postgres_lives(database_url, log_limit=100) as lives:
        yield lives


@cache
def _derived(key: bytes, salt: bytes, options: tuple[tuple[str, int], ...]) -> bytes:
    return Scrypt(salt=salt, **dict(options)).derive(key)


class _DerivedOnce:
    """Scrypt, which takes 40 ms of CPU by design, run once for each key and salt."""

    def __init__(self, *, salt: bytes, **options: int) -> None:
        self._given = salt, tuple(options.items())

    def derive(self, key: bytes) -> bytes:
        return _derived(key, *self._given)


@pytest.fixture(autouse=True)
def _keys_are_derived_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "Scrypt", _DerivedOnce)
