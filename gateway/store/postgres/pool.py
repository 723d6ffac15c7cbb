"""A bounded pool of PostgreSQL connections, and batches of statements.

A connection whose work was interrupted is closed, since its state is unknown. Work of several statements is one
transaction. The server aborts the transaction when this process hangs in the middle of it, since its locks would block
the live gateways.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeAlias, TypeVar

import anyio
import asyncpg

from gateway.core.errors import StoreUnavailable
from gateway.store.availability import CLOSED, Availability
from gateway.store.postgres.connecting import arguments

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

SIZE = 8
"""Most connections per process, besides the one for LISTEN and the one that renews the lease."""
MOST = 500
"""Most items per batch."""
PATIENCE = 5.0
"""Timeout of a statement or transaction in seconds, including the wait for a connection."""
FAULTS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""Exceptions of a connection. asyncpg raises InternalClientError when a connection breaks at an unexpected moment."""
SESSION = {
    # A generic plan is made for short arrays: with it, an append of 500 took 47 ms instead of 8.
    "plan_cache_mode": "force_custom_plan",
    # A statement abandoned here must end on the server too: otherwise each retry would occupy one more connection.
    "statement_timeout": "6000",
}
_BEGIN = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '3s';"
    " SET LOCAL statement_timeout = '6s'"
)
"""Each statement sees what was committed before it, whatever the server's default: what is locked is looked at anew."""
_PERMANENT = ("22", "23", "42")
"""SQLSTATE classes of mistakes in a statement or its values; all others mean that the database is unavailable."""
_INSUFFICIENT_PRIVILEGE = "42501"


class Pool:
    """`through_pooler` is for a pooler that may switch server connections between transactions (PgBouncer)."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], *, through_pooler: bool) -> None:
        self._pool = pool
        self._through_pooler = through_pooler
        self.availability = Availability("database")

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, through_pooler: bool, size: int = SIZE) -> AsyncIterator[Pool]:
        """A pool of up to `size` connections, which are opened when they are needed."""
        given = arguments(url)
        given["server_settings"] |= {} if through_pooler else SESSION
        pool = asyncpg.create_pool(
            **given,
            min_size=0,
            max_size=size,
            max_queries=1 << 40,  # never replace a connection after a number of queries
            statement_cache_size=0 if through_pooler else 100,
            reset=_no_reset,
        )
        async with _opened(pool):
            yield cls(pool, through_pooler=through_pooler)

    async def execute(self, sql: str, *values: Any, patience: float = PATIENCE) -> list[asyncpg.Record]:
        """Run one statement in a transaction of its own, within `patience` seconds, and return its rows.

        Raises StoreUnavailable.
        """
        if self._through_pooler:
            # One statement takes several protocol steps, between which a pooler may switch the connection.
            return await self.transaction(lambda connection: connection.fetch(sql, *values), patience=patience)
        return await self._run(lambda connection: connection.fetch(sql, *values), patience)

    async def transaction(self, work: Callable[[Connection], Awaitable[T]], *, patience: float = PATIENCE) -> T:
        """Run `work` in one transaction, within `patience` seconds, and return its result. Raises StoreUnavailable."""

        async def in_transaction(connection: Connection) -> T:
            await connection.execute(_BEGIN)
            try:
                result = await work(connection)
            except asyncpg.PostgresError:
                await connection.execute("ROLLBACK")
                raise
            await connection.execute("COMMIT")
            return result

        return await self._run(in_transaction, patience)

    async def _run(self, work: Callable[[Connection], Awaitable[T]], patience: float) -> T:
        try:
            with anyio.fail_after(patience):
                async with self._connection() as connection:
                    result = await work(connection)
        except FAULTS as error:
            if not is_temporary(error):
                if isinstance(error, asyncpg.PostgresError):
                    error.detail = None  # it holds the row's values, such as a job's id, and the error may be logged
                raise
            unavailable = StoreUnavailable(fault_text(error))
            self.availability.failed(unavailable)
            raise unavailable from None
        self.availability.worked()
        return result

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        connection = await self._pool.acquire()
        try:
            yield connection
        except BaseException as error:
            if not isinstance(error, asyncpg.PostgresError) or is_temporary(error):
                connection.terminate()
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await self._pool.release(connection)


def is_temporary(error: Exception) -> bool:
    """Whether the operation may succeed later."""
    state = getattr(error, "sqlstate", None)
    return state is None or state == _INSUFFICIENT_PRIVILEGE or not state.startswith(_PERMANENT)


def fault_text(error: Exception) -> str:
    """The error in one line, without the statement or its values."""
    if isinstance(error, asyncpg.PostgresError) and str(error):
        return f"The store: {str(error).splitlines()[0]}."
    return f"The store: {'it gave no answer in time' if isinstance(error, TimeoutError) else 'it cannot be reached'}."


def columns(rows: Sequence[Sequence[Any]], count: int) -> list[list[Any]]:
    """Rows as `count` arrays, one per column, from which `unnest` restores the rows."""
    return [[row[place] for row in rows] for place in range(count)]


@asynccontextmanager
async def _opened(pool: asyncpg.Pool[asyncpg.Record]) -> AsyncIterator[None]:
    await pool
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(1.0) as closing:
                await pool.close()
            if closing.cancelled_caught:
                pool.terminate()


async def _no_reset(_connection: Any) -> None:
    """Saves a round trip: a connection whose work completed needs no reset."""


class Batches(Generic[Item, Result]):
    """Collects items into batches. `do` returns the results of a batch in the order of its items.

    One batch runs at a time; the next one is collected meanwhile.
    """

    def __init__(self, do: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]) -> None:
        self._do = do
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._not_empty = asyncio.Event()
        self._is_closed = False

    def ask(self, item: Item) -> asyncio.Future[Result]:
        """Queue an item; the future holds its result, or the error that `do` raises for it.

        When a batch fails, except with StoreUnavailable, its items are retried one by one, so that an item's error
        affects no other item.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if self._is_closed:
            future.set_exception(StoreUnavailable(CLOSED))
            return future
        self._waiting.append((item, future))
        self._not_empty.set()
        return future

    async def run(self) -> None:
        """Serve until cancelled. What is queued then fails, and what is queued later."""
        batch: Sequence[tuple[Item, asyncio.Future[Result]]] = ()
        try:
            while True:
                await self._not_empty.wait()
                batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                if not self._waiting:
                    self._not_empty.clear()
                active = [entry for entry in batch if not entry[1].done()]
                if active:
                    await self._serve(active)
        finally:
            self._is_closed = True
            _fail([*batch, *self._waiting], StoreUnavailable(CLOSED))

    async def _serve(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._do([item for item, _ in batch])
        except StoreUnavailable as error:  # the queued items would only wait as long for the same error
            queued, self._waiting = self._waiting, []
            self._not_empty.clear()
            _fail([*batch, *queued], error)
        except Exception as error:  # noqa: BLE001 - any error belongs to the caller
            if len(batch) == 1:
                _fail(batch, error)
                return
            for entry in batch:
                await self._serve([entry])
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)


def _fail(batch: Sequence[tuple[Any, asyncio.Future[Any]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
