"""The leases of gateways on one database: who is considered dead, and when."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial

import anyio
import asyncpg
import pytest

from gateway.core.job import Answer, advance
from gateway.store.postgres import PostgresStore
from gateway.store.postgres.database import Database
from gateway.store.postgres.pool import SIZE
from tests.store.test_locks import WAITING
from tests.store.test_ownership import renewed
from tests.store.test_store import NOW, log, made, moved
from tests.support.stores import PostgresLives


async def test_a_gateway_that_was_silent_for_too_long_has_nothing(lives: PostgresLives) -> None:
    """It hears so with its next renewal, cannot claim before it joins anew, and its writes are refused."""
    dead = lives.store
    job = await made(dead)
    await dead.reserve(b"k", b"f", NOW)
    two = await lives.join()
    assert await two.expire_members() == []
    await lives.expire(dead)
    assert await dead.expire_members() == [dead.me]
    assert await renewed(dead) is None
    assert await dead.claim() == []
    (claimed,) = await two.claim()
    late, events = advance(job, Answer(status="completed"), NOW)
    assert not await dead.append(late, events)
    assert await log(two) == [1]
    known = await two.reserve(b"k", b"f", NOW)
    assert known is not None
    assert known.outcome == "unknown"
    await dead.join()
    assert await renewed(dead) == (2, 1, 0)
    await moved(two, claimed, "completed")


async def test_a_lease_from_before_the_databases_clock_was_set_back(lives: PostgresLives, database_url: str) -> None:
    """Whoever lives has renewed since; the rows of one that is dead do not wait until the clock is there again."""
    dead, two = lives.store, await lives.join()
    await made(dead)
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE gateways SET expires = expires + interval '2 hours'")
    await connection.close()
    seen = await two.renew(0, 0, patience=5)
    assert seen is not None
    assert (seen.members, seen.silent) == (1, 1)
    assert await two.expire_members() == [dead.me]
    assert [job.id for job in await two.claim()] == ["j"]


async def test_a_renewal_comes_before_a_burial_or_not_at_all(lives: PostgresLives) -> None:
    """However they meet, the gateway and the others agree on whether it lives."""
    watcher = lives.store
    for _ in range(20):
        store = await lives.join()
        await made(store, store.me)
        await lives.expire(store)
        standing, buried = await asyncio.gather(renewed(store), watcher.expire_members())
        assert (standing is None) == (store.me in buried)
        assert (await store.holdings("jobs") == set()) == (store.me in buried)
        await store.leave()
        await watcher.expire_members()


async def test_a_clock_that_is_wrong(database_url: str) -> None:
    """By minutes: all gateways go by the database's."""
    async with AsyncExitStack() as stack:
        for wrong in (-300.0, 300.0):
            database = await Database.open(database_url, None, None)
            opening = PostgresStore.open(database, log_limit=9, lease=10, clock=partial(_off_by, wrong))
            store = await stack.enter_async_context(opening)
            await store.renew(0, 0, patience=5)
            assert store.clock() == pytest.approx(time.time(), abs=1)


def _off_by(seconds: float) -> float:
    return time.time() + seconds


async def test_a_row_that_somebody_holds_stops_no_burial(lives: PostgresLives, database_url: str) -> None:
    """As of a gateway that froze in the middle of a claim: it is buried later, the others now."""
    frozen, dead, three = lives.store, await lives.join(), await lives.join()
    await made(dead, "j")
    await lives.expire(frozen)
    await lives.expire(dead)
    connection = await asyncpg.connect(database_url)
    async with connection.transaction():
        await connection.execute("SELECT 1 FROM gateways WHERE id = $1 FOR UPDATE", frozen.me)
        assert await three.expire_members() == [dead.me]
        assert [job.id for job in await three.claim()] == ["j"]
    await connection.close()
    assert await three.expire_members() == [frozen.me]


async def test_renewals_wait_for_no_job(lives: PostgresLives, database_url: str) -> None:
    """Not even for one that is to be taken over here while somebody else has its row locked."""
    one = lives.store
    await made(one)
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction(), anyio.create_task_group() as tasks:
            await connection.execute("SELECT 1 FROM jobs FOR UPDATE")
            tasks.start_soon(one.take, "j")
            with anyio.fail_after(20):
                # Not in that transaction, which would be told the same each time.
                while not await one._pool.execute(WAITING):  # noqa: ASYNC110 - the server tells of it only when asked
                    await anyio.sleep(0.005)
                assert await renewed(one, 1) == (1, 1, 0)
            tasks.cancel_scope.cancel()
    finally:
        await connection.close()


async def test_renewals_wait_for_no_request(lives: PostgresLives) -> None:
    """They have a connection of their own."""
    async with anyio.create_task_group() as tasks:
        for _ in range(SIZE + 5):
            tasks.start_soon(lives.store._pool.execute, "SELECT pg_sleep(3)")
        await anyio.sleep(0.5)
        with anyio.fail_after(1):
            assert await renewed(lives.store) == (1, 0, 0)
        tasks.cancel_scope.cancel()
