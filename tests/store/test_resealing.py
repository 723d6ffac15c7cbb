"""Values encrypted anew with the first of several keys, while gateways use the store."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Literal

import asyncpg
import pytest

from gateway.core.callback import Callback
from gateway.core.errors import StoreRefused
from gateway.core.job import Answer, Job, Target, accepted, advance
from gateway.store import Store
from gateway.store.postgres import PostgresStore, resealing
from gateway.store.postgres.database import Database
from gateway.store.rows import SEALED
from gateway.store.sealing import Resealed
from gateway.store.sqlite import SQLiteStore
from gateway.store.sqlite import resealing as sqlite_resealing
from gateway.store.sqlite.file import RESEAL_PATIENCE, StoreFile

OLD, NEW = "the-old-key-of-the-store", "the-new-key-of-the-store"
BOTH, ROLLING = f"{NEW},{OLD}", f"{OLD},{NEW}"
NOW = 1_790_000_000.0
JOBS = 12


class Engine:
    """One store, opened by one gateway after the other, or beside each other."""

    def __init__(self, url: str, *, shared: bool) -> None:
        self.url = url
        self.shared = shared

    @asynccontextmanager
    async def open(self, key: str | None) -> AsyncIterator[Store]:
        if self.shared:
            database = await Database.open(self.url, None, key)
            async with PostgresStore.open(database, log_limit=9, lease=60, clock=time.time) as store:
                yield store
                await store.leave()
        else:
            own = SQLiteStore(StoreFile.open(Path(self.url), key, "tests", make_operator_key=False), log_limit=9)
            yield own
            await own.close()

    async def reseal(self, key: str) -> Resealed:
        if self.shared:
            return await (await Database.open(self.url, None, key)).reseal()
        return await asyncio.to_thread(StoreFile.reseal, Path(self.url), key)

    async def reseal_beside(self, key: str) -> Resealed:
        """Without asking what the running gateways encrypt with."""
        if self.shared:
            database = await Database.open(self.url, None, key)
            connection = await asyncpg.connect(self.url)
            try:
                return await resealing.reseal_rows(connection, database.cipher)
            finally:
                await connection.close()
        file = StoreFile._beside(Path(self.url), key)

        def work() -> Resealed:
            with closing(file.connect(RESEAL_PATIENCE)) as db:
                return sqlite_resealing.reseal_rows(db, file.cipher)

        return await asyncio.to_thread(work)

    async def execute(self, sql: str) -> list[Any]:
        if self.shared:
            connection = await asyncpg.connect(self.url)
            try:
                return [tuple(row) for row in await connection.fetch(sql)]
            finally:
                await connection.close()
        with closing(sqlite3.connect(self.url, isolation_level=None)) as db:
            return db.execute(sql).fetchall()


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    if request.param == "sqlite":
        return Engine(str(tmp_path / "s.db"), shared=False)
    return Engine(request.getfixturevalue("database_url"), shared=True)


def numbered(number: int, kind: Literal["job", "callback"] = "job") -> str:
    return f"{kind}-{number:04}"


async def fill(store: Store, first: int = 0, count: int = JOBS) -> list[Job]:
    """Jobs with a callback each."""
    jobs = []
    for number in range(first, first + count):
        job, events = accepted(numbered(number), monitor=f"https://h/{number}", target=Target(), now=NOW)
        callback = Callback(
            id=numbered(number, "callback"),
            job_id=job.id,
            url=f"https://receiver.example.com/{number}",
            events=("completed",),
            secret="whsec_c2VjcmV0LXBhcnQtc2VjcmV0LXBhcnQ=",
            created=NOW,
        )
        await store.create(job, events, None, callback)
        jobs.append(job)
    return jobs


async def legible(store: Store, count: int = JOBS) -> None:
    for number in range(count):
        job = await store.get(numbered(number))
        assert job is not None
        assert job.monitor == f"https://h/{number}"
        (callback,) = await store.callbacks(job.id)
        assert callback.url.endswith(f"/{number}")


async def test_the_whole_change_of_a_key(engine: Engine) -> None:
    """Each step finds what the steps before it have left; in the end the new key alone opens all of it."""
    async with engine.open(OLD) as store:
        await fill(store)
        secret = store.secret
    for key, first in ((ROLLING, JOBS), (BOTH, JOBS + 1)):
        async with engine.open(key) as store:
            await fill(store, first, 1)
            await legible(store, first + 1)
    with pytest.raises(StoreRefused, match="GATEWAY_SECRET_KEY"):
        await engine.reseal(NEW)
    for keyless in (NEW, None):
        with pytest.raises(StoreRefused, match="GATEWAY_SECRET_KEY"):
            await engine.open(keyless).__aenter__()
    total = 2 * (JOBS + 2) + 1
    assert await engine.reseal(BOTH) == Resealed(changed=total - 2, current=2)
    assert await engine.reseal(BOTH) == Resealed(changed=0, current=total)
    assert await engine.reseal(NEW) == Resealed(changed=0, current=total)
    async with engine.open(NEW) as store:
        await legible(store, JOBS + 2)
        assert store.secret == secret
    with pytest.raises(StoreRefused, match="another GATEWAY_SECRET_KEY"):
        await engine.open(OLD).__aenter__()


async def test_a_key_set_later_is_finished_by_it(engine: Engine) -> None:
    """What a gateway without the key wrote meanwhile is plain; ended jobs have no monitor left to encrypt."""
    async with engine.open(None) as store:
        (job, *_) = await fill(store)
        assert await store.stop(job.id, NOW) is not None
    async with engine.open(NEW):
        pass
    (value,) = (await engine.execute("SELECT receiver FROM callbacks WHERE id = 'callback-0003'"))[0]
    assert b"receiver.example.com" not in value
    assert await engine.reseal(NEW) == Resealed(changed=0, current=2 * JOBS)


async def test_what_no_key_opens_is_left(engine: Engine) -> None:
    """And counted; the rest is done."""
    async with engine.open(OLD) as store:
        await fill(store)
    cut = "substr(monitor, 1, 20)" if engine.shared is False else "substring(monitor from 1 for 20)"
    await engine.execute(f"UPDATE jobs SET monitor = {cut} WHERE id = 'job-0007'")
    assert await engine.reseal(BOTH) == Resealed(changed=2 * JOBS, current=0, unreadable=1)
    assert await engine.reseal(BOTH) == Resealed(changed=0, current=2 * JOBS, unreadable=1)


async def spoil(engine: Engine, what: str, value: str) -> None:
    """One job and one callback of another."""
    places = {"sealed": ("monitor", "receiver"), "plain": ("target", "tries")}[what]
    rows = ("job-0007", "callback-0003")
    for table, column, row in zip(("jobs", "callbacks"), places, rows, strict=True):
        new = value.format(table=table, column=column)
        await engine.execute(f"UPDATE {table} SET {column} = {new} WHERE id = '{row}'")


@pytest.mark.parametrize(
    ("what", "value"), [("sealed", "(SELECT {column} FROM {table} ORDER BY id LIMIT 1)"), ("plain", "'{{'")]
)
async def test_what_cannot_be_read_stops_no_start(engine: Engine, what: str, value: str) -> None:
    """Since no key opens it, or since it is damaged: the others are gone on with."""
    async with engine.open(OLD) as store:
        await fill(store)
    await spoil(engine, what, value)
    async with engine.open(OLD) as store:
        jobs, callbacks = await store.claim(), await store.claim_callbacks()
    numbers = range(JOBS)
    assert {job.id for job in jobs} == {numbered(number) for number in numbers if number != 7}
    assert {one.id for one in callbacks} == {numbered(number, "callback") for number in numbers if number != 3}


async def test_what_no_key_opens_is_listed_and_can_be_ended(engine: Engine) -> None:
    """Neither needs its monitor."""
    async with engine.open(OLD) as store:
        await fill(store)
    await spoil(engine, "sealed", "(SELECT {column} FROM {table} ORDER BY id LIMIT 1)")
    async with engine.open(OLD) as store:
        listed, _ = await store.page(limit=JOBS, status=None, before=None)
        assert len(listed) == JOBS
        assert await store.stop("job-0007", NOW) is not None
        stopped = await store.get("job-0007")
        assert stopped is not None
        assert stopped.ended == NOW


async def test_an_interrupted_run_is_completed_by_the_next(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's own secret is last: until then both keys are asked for."""
    async with engine.open(OLD) as store:
        await fill(store)
    for module in (resealing, sqlite_resealing):
        monkeypatch.setattr(module, "AT_ONCE", 5)
        monkeypatch.setattr(module, "SEALED", (*SEALED, ("no_such_table", "value")))
    with pytest.raises(StoreRefused, match="no_such_table"):
        await engine.reseal(BOTH)
    with pytest.raises(StoreRefused, match="GATEWAY_SECRET_KEY"):
        await engine.open(NEW).__aenter__()
    for module in (resealing, sqlite_resealing):
        monkeypatch.setattr(module, "SEALED", SEALED)
    assert await engine.reseal(BOTH) == Resealed(changed=1, current=2 * JOBS)


async def test_it_waits_for_gateways_with_another_first_key(engine: Engine) -> None:
    """They would write what it has just replaced; with the new key first they may go on beside it."""
    for key in (OLD, ROLLING):
        async with engine.open(key) as store:
            if key == OLD:
                await fill(store)
            with pytest.raises(StoreRefused, match=r"another key than the first.*Nothing was changed"):
                await engine.reseal(BOTH)
    async with engine.open(BOTH) as store:
        assert (await engine.reseal(BOTH)).changed == 2 * JOBS + 1
        await legible(store)


async def test_gateways_of_the_version_before_count_as_others(engine: Engine, tmp_path: Path) -> None:
    """They do not tell which key they encrypt with."""
    async with engine.open(BOTH):
        if engine.shared:
            await engine.execute("UPDATE gateways SET mark = NULL")
        else:
            lock = tmp_path / "s.db.lock"
            lock.write_text(lock.read_text().splitlines()[0] + "\n")
        with pytest.raises(StoreRefused, match="another key than the first"):
            await engine.reseal(BOTH)


async def test_a_gateway_that_is_dead_is_not_waited_for(database_url: str) -> None:
    """Only until its lease has ended."""
    engine = Engine(database_url, shared=True)
    async with engine.open(OLD) as store:
        await fill(store)
        await engine.execute("UPDATE gateways SET expires = clock_timestamp() - interval '1 second'")
        assert (await engine.reseal(BOTH)).changed == 2 * JOBS + 1


async def test_no_write_is_lost_beside_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are made, moved and ended, callbacks saved, while all of it is encrypted anew over and over."""
    for module in (resealing, sqlite_resealing):
        monkeypatch.setattr(module, "AT_ONCE", 7)
    ended = asyncio.Event()

    async def reseal() -> int:
        changed = 0
        while not ended.is_set():
            for key in (BOTH, ROLLING):
                counted = await engine.reseal_beside(key)
                assert counted.unreadable == 0
                changed += counted.changed
        return changed

    async def move(store: Store, job: Job) -> None:
        for step in range(30):
            job, events = advance(job, Answer(status="inProgress", percentage=step), NOW + step)
            assert await store.append(job, events)
            (callback,) = await store.callbacks(job.id)
            assert await store.save_callback(callback)
        job, events = advance(job, Answer(status="completed"), NOW + 99)
        assert await store.append(job, events)

    async with engine.open(BOTH) as store:
        jobs = await fill(store, 0, 40)
        running = asyncio.create_task(reseal())
        await asyncio.gather(fill(store, 40, 20), *(move(store, job) for job in jobs))
        ended.set()
        assert await running > 200
        for number in range(60):
            kept = await store.get(numbered(number))
            assert kept is not None
            assert kept.monitor == (None if number < 40 else f"https://h/{number}")
            assert kept.seq == (32 if number < 40 else 1)
            (callback,) = await store.callbacks(kept.id)
            assert callback.url.endswith(f"/{number}")
