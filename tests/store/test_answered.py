"""Whoever asks a store is answered: also when it is closed, or when what hears of a change fails."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.core.errors import StoreUnavailable
from gateway.core.job import Answer, Event, Target, accepted, advance
from gateway.store.postgres.pool import Batches
from gateway.store.sqlite.thread import SQLiteThread
from tests.store.test_store import NOW, log, made
from tests.support.stores import open_sqlite, postgres_lives, sqlite_lives


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_a_closed_store(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A request may outlive the store, as after a crash of the gateway: it must not wait for ever."""
    shared = engine == "postgres"
    opening = (
        postgres_lives(request.getfixturevalue("database_url"), 5) if shared else sqlite_lives(tmp_path / "s.db", 5)
    )
    async with opening as lives:
        store = lives.store
        job = await made(store)
    for asked in (
        store.get("j"),
        store.read([("j", 0)], 1),
        store.heads(["j"]),
        store.append(*advance(job, Answer(status="inProgress"), NOW)),
        store.stop("j", NOW),
        store.ping(),
    ):
        with anyio.fail_after(5), pytest.raises(StoreUnavailable):
            await asked


@pytest.mark.parametrize("fails", [False, True])
async def test_those_in_a_batch_when_the_store_closes(fails: bool) -> None:
    """All of them: those that are asked for, those of a batch that is taken one by one, and those behind it."""

    async def serve(asked: Sequence[int]) -> Sequence[int]:
        if fails and len(asked) > 1:
            raise ValueError(asked)
        await anyio.sleep_forever()
        return asked

    batches: Batches[int, int] = Batches(serve)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batches.run)
        first = [batches.ask(number) for number in range(3)]
        await anyio.wait_all_tasks_blocked()
        asked = [*first, batches.ask(4)]
        tasks.cancel_scope.cancel()
    asked.append(batches.ask(5))
    with anyio.fail_after(5):
        found = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(one, StoreUnavailable) for one in found)


async def test_one_whose_news_cannot_be_told() -> None:
    """What is stored is stored, for it and for those who share its commit."""
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, found: told.append(str(found["exception"])))

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)

    def fail(_result: Any) -> None:
        raise RuntimeError("no")

    thread = SQLiteThread(connect, writes=True, name="writer")
    asked = [thread.submit(lambda _db: 1, fail), thread.submit(lambda _db: 2), thread.submit(lambda _db: 3, fail)]
    with anyio.fail_after(5):
        assert await asyncio.gather(*asked) == [1, 2, 3]
    await thread.close()
    assert told == ["no"] * 2


async def test_an_append_whose_readers_cannot_be_told(tmp_path: Path) -> None:
    """It is not taken for one that failed, which would be repeated."""
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _found: None)
    store = open_sqlite(tmp_path / "s.db")

    def fail(_job_id: str, _events: Sequence[Event]) -> None:
        raise RuntimeError("no")

    store.on_change = fail
    job, events = accepted("j", monitor="https://h/m", target=Target(), now=NOW)
    with anyio.fail_after(5):
        await store.create(job, events, None)
        assert await store.append(*advance(job, Answer(status="inProgress"), NOW))
    assert await log(store) == [1, 2]
    await store.close()
