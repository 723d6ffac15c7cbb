"""Which writes share a commit on SQLite: those for which no caller waits, when others came just before."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from gateway.store.sqlite.thread import ENOUGH, GATHER, GATHER_LONGEST, SQLiteThread

pytestmark = pytest.mark.virtual_time

Submit = Callable[[], asyncio.Future[float]]


@asynccontextmanager
async def writing() -> AsyncIterator[tuple[Submit, Submit, list[str]]]:
    """Functions that submit a write which may be gathered, and one which may not; and the transactions so far.

    The futures hold the time of the loop at which their write was durable.
    """
    loop = asyncio.get_running_loop()
    begun: list[str] = []

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        connection.set_trace_callback(lambda sql: begun.append(sql) if sql.startswith("BEGIN") else None)
        return connection

    thread = SQLiteThread(connect, writes=True, name="writer")

    def submit(*, gather: bool) -> asyncio.Future[float]:
        done: asyncio.Future[float] = loop.create_future()
        thread.submit(lambda _db: None, lambda _: done.set_result(loop.time()), gather=gather)
        return done

    yield partial(submit, gather=True), partial(submit, gather=False), begun
    await thread.close()


async def test_a_lone_write_is_not_delayed() -> None:
    """Nor is the first after a pause."""
    async with writing() as (gathered, _, begun):
        assert await gathered() == 0
        await asyncio.sleep(1)
        assert await gathered() == pytest.approx(1)
        assert len(begun) == 2


async def test_those_that_come_just_after_share_a_commit() -> None:
    """At the latest when the longest wait is over."""
    async with writing() as (gathered, _, begun):
        await gathered()
        first = gathered()
        await asyncio.sleep(GATHER)
        second = gathered()
        assert [await first, await second] == [pytest.approx(GATHER_LONGEST)] * 2
        assert len(begun) == 2


async def test_enough_of_them_wait_less() -> None:
    """Most of a commit's cost is shared already."""
    async with writing() as (gathered, _, begun):
        await gathered()
        many = [gathered() for _ in range(ENOUGH)]
        assert [await one for one in many] == [pytest.approx(GATHER)] * ENOUGH
        assert len(begun) == 2


async def test_a_write_that_a_caller_waits_for_takes_them_along() -> None:
    """At once, in one transaction."""
    async with writing() as (gathered, awaited, begun):
        await gathered()
        first, second, third = gathered(), awaited(), gathered()
        assert [await first, await second, await third] == [0, 0, 0]
        assert len(begun) == 2


async def test_closing_writes_what_was_gathered() -> None:
    """Without waiting for more."""
    loop = asyncio.get_running_loop()
    async with writing() as (gathered, _, _begun):
        await gathered()
        last = gathered()
    await asyncio.sleep(0)
    assert await last == loop.time() == 0
