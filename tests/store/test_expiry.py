"""The retention when the wall clock is set, and the clock that gateways of a database share."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gateway.store.postgres import PostgresStore
from gateway.store.postgres.database import Database
from gateway.store.retention import Retention
from tests.conftest import Clock
from tests.store.test_store import NOW, made, moved
from tests.support.stores import open_sqlite

HOUR, DAY = 3600.0, 86400.0


def limits(retention: Retention, jumps: dict[float, float], until: float) -> list[tuple[float, float]]:
    """The wall clock and the limit, each half minute from 0 to `until`; `jumps`: when the clock is set, and by what."""
    found = []
    for step in range(int(until / 30) + 1):
        now = step * 30.0
        wall = NOW + now + sum(by for at, by in jumps.items() if now >= at)
        found.append((wall, retention.limit(wall, now)))
    return found


@pytest.mark.parametrize(
    ("jumps", "early"),
    [
        ({}, 0.0),
        ({HOUR: HOUR}, 0.0),
        ({HOUR: 30 * DAY}, 0.0),
        ({HOUR: -HOUR}, HOUR),
        ({HOUR: 2 * DAY, 2 * HOUR: -2 * DAY}, 0.0),
        ({HOUR: HOUR, 2 * HOUR: HOUR, 3 * HOUR: -3 * HOUR}, HOUR),
    ],
)
def test_a_job_is_kept_for_as_long_as_it_was_promised(jumps: dict[float, float], early: float) -> None:
    """One that ended at any moment before the last jump back, whatever the clock was set to since; one that ended after
    all jumps is kept no longer than that.
    """
    ends = limits(Retention(DAY), jumps, 4 * DAY)
    for ended in range(0, len(ends), 7):
        stamp = ends[ended][0]
        deleted = next((at for at, (_, limit) in enumerate(ends) if at > ended and stamp < limit), None)
        kept = None if deleted is None else (deleted - ended) * 30.0
        if kept is not None:
            assert kept > DAY - early
        if ended * 30.0 > max(jumps, default=0.0) and ended * 30.0 < 2.5 * DAY:
            assert kept is not None
            assert kept <= DAY + 60


def test_a_clock_that_drifts_is_followed() -> None:
    """As time servers correct it: a little with each look."""
    retention = Retention(DAY)
    for step in range(1000):
        wall = NOW + step * 30.5
        assert retention.limit(wall, step * 30.0) == wall - DAY


async def test_jobs_outlive_a_clock_that_is_set_forward(tmp_path: Path) -> None:
    """In a real store: what ended a moment ago is there a day longer."""
    store = open_sqlite(tmp_path / "s.db")
    retention = Retention(DAY)
    assert retention.limit(NOW, 0) == NOW - DAY
    await moved(store, await made(store), "completed")
    assert await store.delete_expired(retention.limit(NOW + 30 * DAY, 30)) == 0
    assert await store.delete_expired(retention.limit(NOW + 31 * DAY + 30, DAY + 31)) == 1
    await store.close()


async def test_the_shared_clock_does_not_jump_with_the_machines(database_url: str, clock: Clock) -> None:
    """It is the database's as of the last renewal, and goes on by the monotonic clock."""
    clock.now = time.time()
    database = await Database.open(database_url, None, None)
    async with PostgresStore.open(database, log_limit=9, lease=10, clock=clock) as store:
        for jump in (-HOUR, 5 * HOUR):
            clock.now += jump
            assert store.clock() == pytest.approx(time.time(), abs=1)
            await store.renew(0, 0, patience=5)
            assert store.clock() == pytest.approx(time.time(), abs=1)
