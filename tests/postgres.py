"""PostgreSQL for tests: the server at GATEWAY_TEST_POSTGRES, or one of our own; a fresh database for each test."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol
from urllib.parse import urlsplit

import asyncpg
import pytest

from gateway.cli.demo.postgres import Server, temporary_folder


class Databases(Protocol):
    """A server: `url` is where a database of it is, by default one to make others from."""

    def url(self, database: str = ...) -> str: ...


class Elsewhere:
    """A server that somebody else runs, on which databases may be made."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)

    def url(self, database: str = "") -> str:
        return self._url._replace(path=f"/{database}" if database else self._url.path).geturl()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Databases]:
    if elsewhere := os.environ.get("GATEWAY_TEST_POSTGRES"):
        yield Elsewhere(elsewhere)
    else:
        with temporary_folder() as folder, Server(folder) as server:
            yield server


@pytest.fixture
def database_url(postgres_server: Databases) -> Iterator[str]:
    """An empty database, dropped at the end whoever is connected."""
    name = f"gateway_{secrets.token_hex(6)}"
    _execute(postgres_server.url(), f"CREATE DATABASE {name}")
    # Without asking for TLS first: when that question is broken off, asyncpg leaves an error behind that nobody hears.
    yield f"{postgres_server.url(name)}?sslmode=disable"
    _execute(postgres_server.url(), f"DROP DATABASE {name} WITH (FORCE)")


def _execute(url: str, statement: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    # In a thread of its own, since the loop of the tests may be running.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, execute()).result()
