"""The gateways of one database, for the tests of what they share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.stores import PostgresLives, postgres_lives


@pytest.fixture
async def lives(database_url: str) -> AsyncIterator[PostgresLives]:
    async with postgres_lives(database_url, log_limit=100) as lives:
        yield lives
