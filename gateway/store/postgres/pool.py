"""Connections to PostgreSQL: a bounded number, each for one piece of work at a time.

A connection whose work did not come to its end is thrown away: nobody knows what it still has open. Work in several
steps is one transaction, which the server itself ends when this process stops answering in the middle of it, since its
locks would hold up the gateways that live.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeAlias, TypeVar

import anyio
import asyncpg

from gateway.core.errors import StoreUnavailable
from gateway.store.availability import Availability

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

SIZE = 8
"""Most connections of a process, besides the listening one and the one that renews its lease."""
MOST = 500
"""Most items of one batch."""
PATIENCE = 5.0
"""Seconds that a piece of work may take, the wait for a connection included."""
CONNECT_SECONDS = 4.0
FAULTS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""What a connection raises. asyncpg calls it internal when one breaks at a moment that it did not foresee."""
SESSION = {
    # A plan made once for arrays of any length is one for short ones: an append of 500 took 47 ms by it instead of 8.
    "plan_cache_mode": "force_custom_plan",
    # What was given up here must not go on there, with its connection: the next try would take one more.
    "statement_timeout": "6000",
}
_BEGIN = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '3s'; SET LOCAL statement_timeout = '6s'"
_OURS = ("22", "23", "42")
"""Classes of SQLSTATE that tell of a mistake in what was asked; the rest tell of a database that cannot do it now."""
_NO_RIGHTS = "42501"


class Pool:
    """`through_pooler` is for a connection that a pooler hands to others between transactions (PgBouncer)."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], *, through_pooler: bool) -> None:
        self._pool = pool
        self._through_pooler = through_pooler
        self.availability = Availability("database")

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, through_pooler: bool, size: int = SIZE) -> AsyncIterator[Pool]:
        """Connects when there is work, not before."""
        pool = asyncpg.create_pool(
            url,
            min_size=0,
            max_size=size,
            max_queries=1 << 40,  # a connection does not wear out
            timeout=CONNECT_SECONDS,
            statement_cache_size=0 if through_pooler else 100,
            server_settings={} if through_pooler else SESSION,
            reset=_nothing,
        )
        async with _opened(pool):
            yield cls(pool, through_pooler=through_pooler)

    async def execute(self, sql: str, *values: Any, patience: float = PATIENCE) -> list[asyncpg.Record]:
        """The rows of one statement, which is a transaction of its own. Raises StoreUnavailable."""
        if self._through_pooler:
            # Between its steps, which are several even for one statement, a pooler may change the connection.
            return await self.transaction(lambda connection: connection.fetch(sql, *values), patience=patience)
        return await self._done(lambda connection: connection.fetch(sql, *values), patience)

    async def transaction(self, work: Callable[[Connection], Awaitable[T]], *, patience: float = PATIENCE) -> T:
        """What the work returns, done as one transaction. Raises StoreUnavailable."""

        async def in_transaction(connection: Connection) -> T:
            await connection.execute(_BEGIN)
            try:
                result = await work(connection)
            except asyncpg.PostgresError:
                await connection.execute("ROLLBACK")
                raise
            await connection.execute("COMMIT")
            return result

        return await self._done(in_transaction, patience)

    async def _done(self, work: Callable[[Connection], Awaitable[T]], patience: float) -> T:
        try:
            with anyio.fail_after(patience):
                async with self._borrowed() as connection:
                    result = await work(connection)
        except FAULTS as error:
            if not is_passing(error):
                raise
            unavailable = StoreUnavailable(fault_text(error))
            self.availability.failed(unavailable)
            raise unavailable from None
        self.availability.worked()
        return result

    @asynccontextmanager
    async def _borrowed(self) -> AsyncIterator[Connection]:
        connection = await self._pool.acquire()
        try:
            yield connection
        except BaseException as error:
            if not isinstance(error, asyncpg.PostgresError) or is_passing(error):
                connection.terminate()
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await self._pool.release(connection)


def is_passing(error: Exception) -> bool:
    """Whether the database cannot do it now, and may later."""
    state = getattr(error, "sqlstate", None)
    return state is None or state == _NO_RIGHTS or not state.startswith(_OURS)


def fault_text(error: Exception) -> str:
    """In one line, and without what was asked."""
    if isinstance(error, asyncpg.PostgresError) and str(error):
        return f"The store: {str(error).splitlines()[0]}."
    return f"The store: {'it gave no answer in time' if isinstance(error, TimeoutError) else 'it cannot be reached'}."


def columns(rows: Sequence[Sequence[Any]], count: int) -> list[list[Any]]:
    """Rows as the arrays that `unnest` puts together again."""
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


async def _nothing(_connection: Any) -> None:
    """A connection has nothing to be reset after work that came to its end: that spares a round trip."""


class Batches(Generic[Item, Result]):
    """`do` gives the result of each item, in their order. While it works, the next batch gathers."""

    def __init__(self, do: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]) -> None:
        self._do = do
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._news = asyncio.Event()

    def ask(self, item: Item) -> asyncio.Future[Result]:
        """Fails with what `do` raises for it; others in its batch are not harmed by an error that is its own."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._news.set()
        return future

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            await self._news.wait()
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            if not self._waiting:
                self._news.clear()
            wanted = [one for one in batch if not one[1].done()]
            if wanted:
                await self._serve(wanted)

    async def _serve(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._do([item for item, _ in batch])
        except StoreUnavailable as error:  # those behind would only wait as long for the same
            behind, self._waiting = self._waiting, []
            self._news.clear()
            _fail([*batch, *behind], error)
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to the one that waits for it
            if len(batch) == 1:
                _fail(batch, error)
                return
            for one in batch:
                await self._serve([one])
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)


def _fail(batch: Sequence[tuple[Any, asyncio.Future[Any]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
