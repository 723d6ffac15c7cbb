"""PostgreSQL for tests: the server at GATEWAY_TEST_POSTGRES, or one of our own; a fresh database for each test."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Literal, Protocol
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest

from gateway.cli.demo.postgres import Server, _children, _send, temporary_folder


class Databases(Protocol):
    """A server: `url` is where a database of it is, by default one to make others from."""

    def url(self, database: str = ...) -> str: ...


class PausableServer(Server):
    """One of our own, whose processes can be held."""

    _held: tuple[int, ...] = ()

    def pause(self) -> None:
        """Hold all its processes: connections stay open and new ones are not refused, but nothing answers."""
        process = self._process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        self._held = (process.pid,)
        with suppress(psutil.NoSuchProcess):
            while psutil.Process(process.pid).status() not in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}:
                time.sleep(0.001)  # from then on it has no new children
        children = _children(process)
        self._held += tuple(children)
        _send(signal.SIGSTOP, children)

    def resume(self) -> None:
        """Let the held processes go on, those that are still there."""
        _send(signal.SIGCONT, self._held)
        self._held = ()

    def stop(self, how: Literal["smart", "fast", "immediate"] = "fast") -> None:
        self.resume()
        super().stop(how)


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
        with temporary_folder() as folder, PausableServer(folder) as server:
            yield server


@pytest.fixture
def database_url(postgres_server: Databases) -> Iterator[str]:
    """An empty database, dropped at the end whoever is connected."""
    name = f"gateway_{secrets.token_hex(6)}"
    quickly = " STRATEGY file_copy" if isinstance(postgres_server, Server) else ""  # none before PostgreSQL 15
    _execute(postgres_server.url(), f"CREATE DATABASE {name}{quickly}")
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
