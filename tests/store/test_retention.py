"""A callback that is registered or retried in the moment its job is deleted: it is told no, or the job stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest

from gateway.core.callback import Callback
from gateway.store import Store
from gateway.store.postgres import PostgresStore
from tests.store.test_store import NOW, kept, made, moved, wanting
from tests.support.stores import postgres_lives, sqlite_lives

SWEPT = NOW + 50
LOCK = 7

GATE = f"""
CREATE FUNCTION gate() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  IF current_setting('application_name') = 'sweeper' THEN PERFORM pg_advisory_xact_lock_shared({LOCK}); END IF;
  RETURN true;
END $$;
CREATE FUNCTION gate_rows() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM gate(); RETURN OLD; END $$;
"""
IN_ITS_LOOK = """
ALTER TABLE jobs RENAME TO all_jobs;
CREATE VIEW jobs AS SELECT * FROM all_jobs WHERE gate();
"""
"""The sweep halts while it looks for jobs: its statement sees what was there when it began, no job is locked yet."""
IN_ITS_WORK = "CREATE TRIGGER gated BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION gate_rows()"
"""The sweep halts while it deletes."""


class Meeting:
    """A sweep of one gateway that halts on its way, and another gateway."""

    def __init__(self, url: str, sweeper: PostgresStore, other: PostgresStore) -> None:
        self._url = url
        self._sweeper = sweeper
        self.other = other

    @asynccontextmanager
    async def halted(self, where: str) -> AsyncIterator[Callable[[], Awaitable[int]]]:
        """The block runs while the sweep stands; what it gets lets the sweep go on, and returns its result."""
        connection = await asyncpg.connect(self._url)
        await connection.execute(GATE + where)
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        sweep = asyncio.create_task(self._sweeper.delete_expired(SWEPT))
        await waiting(connection, "advisory")

        async def go_on() -> int:
            await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)
            return await sweep

        try:
            yield go_on
        finally:
            await connection.close()
            await asyncio.wait([sweep])


async def waiting(connection: Any, *kinds: str) -> None:
    """Until somebody waits for a lock of one of these kinds."""
    with anyio.fail_after(4):
        sql = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = ANY($1::text[])"
        while not await connection.fetchval(sql, list(kinds)):  # noqa: ASYNC110 - the server tells nobody
            await anyio.sleep(0.01)


@pytest.fixture
async def meeting(database_url: str) -> AsyncIterator[Meeting]:
    url = f"{database_url}&application_name=sweeper"
    async with postgres_lives(url, 100) as sweeping, postgres_lives(database_url, 100) as lives:
        yield Meeting(database_url, sweeping.store, lives.store)


async def ended(store: Store) -> Callback:
    """An ended job with a callback that was exhausted long ago."""
    await moved(store, await made(store), "completed")
    return await kept(store, wanting("old", state="exhausted", finished_at=NOW + 1))


async def register(store: Store) -> bool:
    return await store.add_callback(wanting("new")) == "added"


async def retry(store: Store) -> bool:
    return await store.revive_callback("j", "old") is not None


WAYS = pytest.mark.parametrize("way", [register, retry])


@WAYS
async def test_a_callback_that_comes_before_the_lock_keeps_its_job(way: Any, meeting: Meeting) -> None:
    """The sweep has looked and found nothing to deliver; it looks again once it has the job."""
    await ended(meeting.other)
    async with meeting.halted(IN_ITS_LOOK) as go_on:
        assert await way(meeting.other)
        assert await go_on() == 0
    assert await meeting.other.get("j") is not None
    assert "active" in {callback.state for callback in await meeting.other.callbacks("j")}


@WAYS
async def test_a_callback_that_comes_after_the_lock_is_told_that_the_job_is_gone(way: Any, meeting: Meeting) -> None:
    """It waits for the sweep, and then finds no job."""
    await ended(meeting.other)
    async with meeting.halted(IN_ITS_WORK) as go_on:
        coming = asyncio.create_task(way(meeting.other))
        connection = await asyncpg.connect(meeting._url)
        await waiting(connection, "transactionid", "tuple")
        await connection.close()
        assert await go_on() == 1
        assert not await coming
    assert await meeting.other.get("j") is None
    assert await meeting.other.callbacks("j") == []


async def test_a_removal_that_meets_the_sweep(meeting: Meeting) -> None:
    """It waits, and then there is nothing to remove."""
    await ended(meeting.other)
    async with meeting.halted(IN_ITS_WORK) as go_on:
        removal = asyncio.create_task(meeting.other.remove_callback("j", "old"))
        connection = await asyncpg.connect(meeting._url)
        await waiting(connection, "transactionid", "tuple")
        await connection.close()
        assert await go_on() == 1
        assert not await removal


async def test_a_job_whose_callback_is_being_stored_is_passed_over(meeting: Meeting) -> None:
    """The sweep waits for nobody: the next one has it."""
    await ended(meeting.other)
    held = await asyncpg.connect(meeting._url)
    async with held.transaction():
        await held.execute("SELECT 1 FROM jobs WHERE id = 'j' FOR KEY SHARE")
        with anyio.fail_after(2):
            assert await meeting.other.delete_expired(SWEPT) == 0
    await held.close()
    assert await meeting.other.delete_expired(SWEPT) == 1


@WAYS
@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_all_at_once(engine: str, way: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """However they meet: who was told yes has an active callback of a job that is there, who was told no has none."""
    opening: Any = (
        sqlite_lives(tmp_path / "s.db", 100)
        if engine == "sqlite"
        else postgres_lives(request.getfixturevalue("database_url"), 100)
    )
    async with opening as lives:
        store: Store = lives.store
        for _ in range(20):
            await ended(store)
            told, deleted = await asyncio.gather(way(store), store.delete_expired(SWEPT))
            active = [callback for callback in await store.callbacks("j") if callback.state == "active"]
            assert (await store.get("j") is not None) == bool(active) == told
            assert deleted == (not told)
            for callback in await store.callbacks("j"):
                await store.remove_callback("j", callback.id)
            await store.delete_expired(SWEPT)
