"""The stores under test: each engine behind one face, with lives that follow each other."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg

from gateway.store import Store
from gateway.store.postgres import PostgresStore
from gateway.store.postgres.database import Database
from gateway.store.sqlite import SQLiteStore
from gateway.store.sqlite.file import StoreFile


class Lives:
    """`store` is the one of the gateway that lives now."""

    store: Store

    async def next(self) -> Store:
        """The store as the next gateway finds it after this one died: nothing is claimed yet."""
        raise NotImplementedError


def open_sqlite(path: Path, log_limit: int = 256) -> SQLiteStore:
    """A store of a file of its own, in the event loop that uses it."""
    return SQLiteStore(StoreFile.open(path, None, "tests", make_operator_key=False), log_limit=log_limit)


class SQLiteLives(Lives):
    def __init__(self, path: Path, log_limit: int) -> None:
        self._path = path
        self._log_limit = log_limit
        self.store: SQLiteStore = self._open()

    def _open(self) -> SQLiteStore:
        return open_sqlite(self._path, self._log_limit)

    async def next(self) -> SQLiteStore:
        await self.store.close()
        self.store = self._open()
        return self.store


class PostgresLives(Lives):
    store: PostgresStore

    def __init__(self, url: str, log_limit: int, stack: AsyncExitStack) -> None:
        self._url = url
        self._log_limit = log_limit
        self._stack = stack

    async def join(self, lease: float = 1000.0) -> PostgresStore:
        """One gateway more."""
        database = await Database.open(self._url, None, None)
        opening = PostgresStore.open(database, log_limit=self._log_limit, lease=lease, clock=time.time)
        self.store = await self._stack.enter_async_context(opening)
        return self.store

    async def expire(self, store: PostgresStore) -> None:
        """As if it had been silent for the time of its lease."""
        connection = await asyncpg.connect(self._url)
        await connection.execute("UPDATE gateways SET expires = '-infinity' WHERE id = $1", store.me)
        await connection.close()

    async def next(self) -> PostgresStore:
        dead = self.store
        store = await self.join()
        await self.expire(dead)
        assert await store.expire_members() == [dead.me]
        return store


@asynccontextmanager
async def sqlite_lives(path: Path, log_limit: int) -> AsyncIterator[SQLiteLives]:
    lives = SQLiteLives(path, log_limit)
    yield lives
    await lives.store.close()


@asynccontextmanager
async def postgres_lives(url: str, log_limit: int) -> AsyncIterator[PostgresLives]:
    async with AsyncExitStack() as stack:
        lives = PostgresLives(url, log_limit, stack)
        await lives.join()
        yield lives
