"""What every store promises, whatever engine keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gateway.jobs import Answer, Job, Target, accepted, advance
from gateway.store.file import StoreFile
from gateway.store.sqlite import SQLiteStore

pytestmark = pytest.mark.anyio

NOW = 1_790_000_000.0


def opened(folder: Path, log_limit: int = 256) -> SQLiteStore:
    file = StoreFile.open(folder / "s.db", None, "tests", make_operator_key=False)
    return SQLiteStore(file, log_limit=log_limit)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    kept = opened(tmp_path, log_limit=5)
    yield kept
    await kept.close()


async def made(store: SQLiteStore, job_id: str = "j", now: float = NOW, key: bytes | None = None) -> Job:
    job, events = accepted(job_id, monitor=f"https://h/m/{job_id}", target=Target(prefix="me/drive"), now=now)
    await store.create(job, events, key)
    return job


async def moved(store: SQLiteStore, job: Job, status: str, percentage: float = 0.0, now: float = NOW) -> Job:
    job, events = advance(job, Answer(status=status, percentage=percentage), now)
    assert await store.append(job, events)
    return job


async def log(store: SQLiteStore, job_id: str = "j", after: int = 0) -> list[int]:
    (piece,) = await store.read([(job_id, after)], 1000)
    assert piece is not None
    return [event.seq for event in piece.events]


async def test_a_job_and_its_log_come_back_as_they_were(store: SQLiteStore) -> None:
    """The row, the state and the events, in order."""
    job = await made(store)
    assert await store.get("j") == job
    job = await moved(store, job, "inProgress", 10)
    assert await store.get("j") == job
    (piece, unknown) = await store.read([("j", 1), ("nobody", 0)], 10)
    assert piece is not None
    assert (piece.head, piece.ended, [event.seq for event in piece.events]) == (2, False, [2])
    assert piece.events[0].data == msgspec.json.encode(job.state)
    assert unknown is None
    assert await store.get("nobody") is None


async def test_the_terminal_event_ends_it_and_empties_the_monitor(store: SQLiteStore) -> None:
    """Nothing can be appended after it, and the credential is gone."""
    job = await moved(store, await made(store), "completed")
    kept = await store.get("j")
    assert kept is not None
    assert kept.monitor is None
    assert kept.ended == NOW
    late, events = advance(await made(store, "other"), Answer(status="failed"), NOW)
    late = msgspec.structs.replace(late, id="j", seq=job.seq + 1)
    assert not await store.append(late, [msgspec.structs.replace(events[0], seq=late.seq)])
    assert await log(store) == [1, 2]


async def test_a_job_that_changed_hands_cannot_be_written_under_its_old_epoch(store: SQLiteStore) -> None:
    """A claim raises the epoch; the old owner's write changes nothing."""
    old = await made(store)
    (claimed,) = await store.claim()
    assert claimed.epoch == old.epoch + 1
    job, events = advance(old, Answer(status="completed"), NOW)
    assert not await store.append(job, events)
    assert await log(store) == [1]
    await moved(store, claimed, "completed")


async def test_stopping(store: SQLiteStore) -> None:
    """DELETE ends a job as watchStopped, once; its poller can write no more; an ended or unknown one stays as it is."""
    job = await made(store)
    stopped = await store.stop("j", NOW + 1)
    assert stopped is not None
    assert stopped.state.error is not None
    assert stopped.state.error.code == "watchStopped"
    late, events = advance(job, Answer(status="completed"), NOW)
    assert not await store.append(late, events)
    assert await store.stop("j", NOW + 2) is not None
    assert await log(store) == [1, 2]
    assert await store.stop("nobody", NOW) is None


async def test_a_long_log_loses_mere_progress_first(store: SQLiteStore) -> None:
    """The oldest that only moved progress, then the oldest change of status; the ends stay."""
    job = await made(store)
    for step in range(1, 8):
        job = await moved(store, job, "inProgress", step)
    assert await log(store) == [1, 2, 6, 7, 8]
    for status in ("waiting", "updating", "waiting"):
        job = await moved(store, job, status, 7)
    assert await log(store) == [1, 2, 9, 10, 11]
    job = await moved(store, job, "updating", 7)
    assert await log(store) == [1, 9, 10, 11, 12]
    await moved(store, job, "completed")
    assert await log(store) == [1, 10, 11, 12, 13]


async def test_a_read_is_bounded_and_tells_the_head(store: SQLiteStore) -> None:
    """A piece of the log, and how far the log goes."""
    job = await made(store)
    for step in range(1, 4):
        job = await moved(store, job, "inProgress", step)
    (piece,) = await store.read([("j", 1)], 2)
    assert piece is not None
    assert ([event.seq for event in piece.events], piece.head) == ([2, 3], 4)
    (nothing,) = await store.read([("j", 99)], 2)
    assert nothing is not None
    assert (list(nothing.events), nothing.head) == ([], 4)


async def test_pages_are_newest_first_even_at_equal_times(store: SQLiteStore) -> None:
    """Every job once, in a stable order, whatever the page size; a filter by status; a made-up cursor is refused."""
    for number in range(7):
        await made(store, f"j{number}", NOW + number // 3)
    await moved(store, await made(store, "done", NOW - 1), "completed")
    seen: list[str] = []
    cursor = None
    while True:
        jobs, cursor = await store.page(limit=2, status=None, before=cursor)
        seen += [job.id for job in jobs]
        if cursor is None:
            break
    assert seen == ["j6", "j5", "j4", "j3", "j2", "j1", "j0", "done"]
    jobs, cursor = await store.page(limit=5, status="completed", before=None)
    assert ([job.id for job in jobs], cursor) == (["done"], None)
    for wrong in ("x", "eA==", "é", "MSAy IDM="):
        with pytest.raises(ValueError, match="cursor"):
            await store.page(limit=2, status=None, before=wrong)


async def test_idempotency_keys(store: SQLiteStore) -> None:
    """In flight, then a job's, in doubt, or free again."""
    assert await store.reserve(b"k", b"f", NOW) is None
    known = await store.reserve(b"k", b"other", NOW)
    assert known is not None
    assert (known.fingerprint, known.outcome, known.job_id) == (b"f", "inFlight", None)
    await made(store, key=b"k")
    known = await store.reserve(b"k", b"f", NOW)
    assert known is not None
    assert (known.outcome, known.job_id) == ("job", "j")
    await store.release(b"k")
    await store.doubt(b"k")
    known = await store.reserve(b"k", b"f", NOW)
    assert known is not None
    assert known.outcome == "job"
    assert await store.reserve(b"free", b"f", NOW) is None
    await store.release(b"free")
    assert await store.reserve(b"free", b"f", NOW) is None
    await store.doubt(b"free")
    known = await store.reserve(b"free", b"f", NOW)
    assert known is not None
    assert known.outcome == "unknown"


async def test_a_claim_puts_what_was_in_flight_in_doubt(store: SQLiteStore) -> None:
    """Nobody answers for a request that died with its gateway."""
    await store.reserve(b"k", b"f", NOW)
    await store.claim()
    known = await store.reserve(b"k", b"f", NOW)
    assert known is not None
    assert known.outcome == "unknown"


async def test_forgetting(store: SQLiteStore) -> None:
    """Ended jobs go with their logs and keys; running ones and younger ones stay; keys in doubt go by their age."""
    await store.reserve(b"k", b"f", NOW)
    await moved(store, await made(store, "old", key=b"k"), "completed", now=NOW)
    await moved(store, await made(store, "young"), "completed", now=NOW + 100)
    await made(store, "running")
    await store.reserve(b"doubt", b"f", NOW)
    await store.doubt(b"doubt")
    assert await store.forget(NOW + 50) == 1
    assert await store.get("old") is None
    assert await store.get("young") is not None
    assert await store.get("running") is not None
    assert await store.reserve(b"k", b"new", NOW) is None
    assert await store.reserve(b"doubt", b"new", NOW) is None


async def test_a_change_is_told_after_it_can_be_read(store: SQLiteStore) -> None:
    """The wake-up comes in the loop, and what it speaks of is durable."""
    woken: list[str] = []
    store.on_change = woken.append
    job = await made(store)
    job = await moved(store, job, "inProgress", 1)
    await store.stop("j", NOW)
    assert woken == ["j", "j", "j"]


async def test_many_at_once_are_kept_together(store: SQLiteStore) -> None:
    """Concurrent writers do not disturb each other, and a broken one harms nobody else in its batch."""
    first = await made(store, "twice")
    results = await asyncio.gather(
        *(made(store, f"c{number}") for number in range(200)), made(store, "twice"), return_exceptions=True
    )
    assert sum(isinstance(result, BaseException) for result in results) == 1
    assert await store.get("twice") == first
    assert all([await store.get(f"c{number}") for number in range(200)])


async def test_everything_survives_reopening(tmp_path: Path) -> None:
    """Numbers go on rising, secrets stay the same."""
    store = opened(tmp_path)
    job = await moved(store, await made(store), "inProgress", 10)
    secret = store.secret
    await store.close()
    store = opened(tmp_path)
    assert store.secret == secret
    (claimed,) = await store.claim()
    assert (claimed.seq, claimed.state, claimed.monitor) == (job.seq, job.state, job.monitor)
    await moved(store, claimed, "completed")
    assert await log(store) == [1, 2, 3]
    await store.ping()
    await store.close()
