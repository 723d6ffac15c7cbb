"""What every store promises, whatever engine keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.core.callback import Attempt, Callback, CallbackState, DeliveryProgress
from gateway.core.job import Answer, Event, Job, Target, accepted, advance
from gateway.store import CALLBACKS_PER_JOB, Store
from tests.support.stores import Lives, postgres_lives, sqlite_lives

NOW = 1_790_000_000.0


@pytest.fixture(params=["sqlite", "postgres"])
async def lives(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lives]:
    if request.param == "sqlite":
        async with sqlite_lives(tmp_path / "s.db", log_limit=5) as lives:
            yield lives
    else:
        async with postgres_lives(request.getfixturevalue("database_url"), log_limit=5) as lives:
            yield lives


@pytest.fixture
def store(lives: Lives) -> Store:
    return lives.store


async def made(store: Store, job_id: str = "j", now: float = NOW, key: bytes | None = None) -> Job:
    job, events = accepted(job_id, monitor=f"https://h/m/{job_id}", target=Target(prefix="me/drive"), now=now)
    await store.create(job, events, key)
    return job


async def moved(store: Store, job: Job, status: str, percentage: float = 0.0, now: float = NOW) -> Job:
    job, events = advance(job, Answer(status=status, percentage=percentage), now)
    assert await store.append(job, events)
    return job


async def log(store: Store, job_id: str = "j", after: int = 0) -> list[int]:
    (piece,) = await store.read([(job_id, after)], 1000)
    assert piece is not None
    return [event.seq for event in piece.events]


async def test_a_job_and_its_log_come_back_as_they_were(store: Store) -> None:
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


async def test_the_terminal_event_ends_it_and_empties_the_monitor(store: Store) -> None:
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


async def test_a_job_that_changed_hands_cannot_be_written_under_its_old_epoch(lives: Lives) -> None:
    """A claim raises the epoch; the old owner's write changes nothing."""
    old = await made(lives.store)
    store = await lives.next()
    (claimed,) = await store.claim()
    assert claimed.epoch == old.epoch + 1
    job, events = advance(old, Answer(status="completed"), NOW)
    assert not await store.append(job, events)
    assert await log(store) == [1]
    await moved(store, claimed, "completed")


async def test_taking_a_job_over(store: Store) -> None:
    """Under a new epoch, whoever polls it; one that has ended or is unknown cannot be taken."""
    old = await made(store)
    taken = await store.take("j")
    assert taken == msgspec.structs.replace(old, epoch=old.epoch + 1)
    job, events = advance(old, Answer(status="completed"), NOW)
    assert not await store.append(job, events)
    await moved(store, taken, "completed")
    assert await store.take("j") is None
    assert await store.take("nobody") is None


async def test_stopping(store: Store) -> None:
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


async def test_a_long_log_loses_mere_progress_first(store: Store) -> None:
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


async def test_a_read_is_bounded_and_tells_the_head(store: Store) -> None:
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


async def test_pages_are_newest_first_even_at_equal_times(store: Store) -> None:
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


async def test_idempotency_keys(store: Store) -> None:
    """In flight, then a job's, in doubt, or free again."""
    assert await store.reserve(b"k", b"f", NOW) is None
    known = await store.reserve(b"k", b"other", NOW)
    assert known is not None
    assert (known.fingerprint, known.outcome, known.job_id) == (b"f", "inFlight", None)
    await made(store, key=b"k")
    known = await store.reserve(b"k", b"f", NOW)
    assert known is not None
    assert (known.outcome, known.job_id) == ("job", "j")
    await store.release_key(b"k", NOW)
    await store.mark_unknown(b"k", NOW)
    known = await store.reserve(b"k", b"f", NOW)
    assert known is not None
    assert known.outcome == "job"
    assert await store.reserve(b"free", b"f", NOW) is None
    await store.release_key(b"free", NOW)
    assert await store.reserve(b"free", b"f", NOW + 1) is None
    await store.release_key(b"free", NOW)  # late, for the attempt before
    await store.mark_unknown(b"free", NOW)
    known = await store.reserve(b"free", b"f", NOW + 2)
    assert known is not None
    assert known.outcome == "inFlight"
    await store.mark_unknown(b"free", NOW + 1)
    await store.release_key(b"free", NOW + 1)
    known = await store.reserve(b"free", b"f", NOW)
    assert known is not None
    assert known.outcome == "unknown"


async def test_what_was_in_flight_is_in_doubt_for_the_next(lives: Lives) -> None:
    """Nobody answers for a request that died with its gateway."""
    await lives.store.reserve(b"k", b"f", NOW)
    store = await lives.next()
    await store.claim()
    known = await store.reserve(b"k", b"f", NOW)
    assert known is not None
    assert known.outcome == "unknown"


async def test_forgetting(store: Store) -> None:
    """Ended jobs go with their logs and keys; running ones and younger ones stay; keys in doubt go by their age."""
    await store.reserve(b"k", b"f", NOW)
    await moved(store, await made(store, "old", key=b"k"), "completed", now=NOW)
    await moved(store, await made(store, "young"), "completed", now=NOW + 100)
    await made(store, "running")
    await store.reserve(b"doubt", b"f", NOW)
    await store.mark_unknown(b"doubt", NOW)
    assert await store.delete_expired(NOW + 50) == 1
    assert await store.get("old") is None
    assert await store.get("young") is not None
    assert await store.get("running") is not None
    assert await store.reserve(b"k", b"new", NOW) is None
    assert await store.reserve(b"doubt", b"new", NOW) is None


async def test_a_change_is_told_after_it_can_be_read(store: Store) -> None:
    """The wake-up comes in the loop, and what it speaks of is durable; the events it brings are those of the log."""
    woken: list[tuple[str, list[Event]]] = []
    store.on_change = lambda job_id, events: woken.append((job_id, list(events)))
    job = await moved(store, await made(store), "inProgress", 1)
    await store.stop("j", NOW)
    brought = [event for _, events in woken for event in events]
    (log,) = await store.read([("j", 0)], 100)
    assert log is not None
    assert brought == list(log.events)[: job.seq]
    assert [job_id for job_id, _ in woken] == ["j"] * len(woken)
    assert woken[-1] == ("j", [])


async def test_many_at_once_are_kept_together(store: Store) -> None:
    """Concurrent writers do not disturb each other, and a broken one harms nobody else in its batch."""
    first = await made(store, "twice")
    results = await asyncio.gather(
        *(made(store, f"c{number}") for number in range(200)), made(store, "twice", NOW + 1), return_exceptions=True
    )
    assert sum(isinstance(result, BaseException) for result in results) == 1
    assert await store.get("twice") == first
    assert all([await store.get(f"c{number}") for number in range(200)])


async def test_everything_survives_reopening(lives: Lives) -> None:
    """Numbers go on rising, secrets stay the same."""
    store = lives.store
    job = await moved(store, await made(store), "inProgress", 10)
    secret = store.secret
    store = await lives.next()
    assert store.secret == secret
    (claimed,) = await store.claim()
    assert (claimed.seq, claimed.state, claimed.monitor) == (job.seq, job.state, job.monitor)
    await moved(store, claimed, "completed")
    assert await log(store) == [1, 2, 3]
    await store.ping()


def wanting(callback_id: str = "c", job_id: str = "j", created: float = NOW, **fields: Any) -> Callback:
    callback = Callback(
        id=callback_id,
        job_id=job_id,
        url=f"https://example.com/{callback_id}",
        events=("progress", "failed"),
        secret="whsec_" + "c2VjcmV0" * 4,
        created=created,
    )
    return msgspec.structs.replace(callback, **fields)


async def kept(store: Store, callback: Callback) -> Callback:
    assert await store.add_callback(callback) == "added"
    return callback


async def test_callbacks_come_back_as_they_were(store: Store) -> None:
    """Every field, oldest first even at equal times; each job has its own, and the job's own request may bring one."""
    job, events = accepted("j", monitor="https://h/m", target=Target(), now=NOW)
    first = wanting("z", with_copy=True, own_secret=True)
    await store.create(job, events, None, first)
    await made(store, "other")
    progress = DeliveryProgress(
        cursor=2,
        tried=3,
        attempts=4,
        failures=3,
        since=NOW,
        due=NOW + 0.25,
        last_error="answered 500",
        history=(Attempt(NOW + 0.125, 7, None, "the connection was refused"), Attempt(NOW + 5.5, 130, 500)),
    )
    third = await kept(
        store, wanting("b", created=NOW + 2, state="exhausted", finished_at=NOW + 9.5, progress=progress)
    )
    second = await kept(store, wanting("a", created=NOW + 1))
    fourth = await kept(store, wanting("c", created=NOW + 2))
    others = await kept(store, wanting("o", "other"))
    assert await store.callbacks("j") == [first, second, third, fourth]
    assert await store.callbacks("other") == [others]
    assert await store.callbacks("nobody") == []


async def test_a_job_that_is_not_kept_brings_no_callback(store: Store) -> None:
    """One transaction: both or neither. Its id is a secret, so that no error tells it, which might be logged."""
    job, events = accepted("a-secret", monitor="https://h/m", target=Target(), now=NOW)
    await store.create(job, events, None)
    other, events = accepted("a-secret", monitor="https://h/m", target=Target(), now=NOW + 1)
    with pytest.raises(Exception) as refused:  # noqa: PT011 - which one is the engine's own
        await store.create(other, events, None, wanting(job_id="a-secret"))
    assert await store.callbacks("a-secret") == []
    assert "a-secret" not in str(refused.value)


async def test_a_creation_whose_answer_was_lost_may_be_repeated(store: Store) -> None:
    """It changes nothing more, and does not fail."""
    job, events = accepted("j", monitor="https://h/m", target=Target(), now=NOW)
    for _ in range(2):
        await store.create(job, events, None, wanting())
    assert await log(store) == [1]
    assert len(await store.callbacks("j")) == 1
    job = await moved(store, job, "inProgress", 10)
    assert await store.get("j") == job


async def test_what_no_id_can_be_is_unknown(store: Store) -> None:
    """Whatever a path may hold."""
    await made(store)
    for odd in ("", "\ufffd", "j" * 5000, "'; DROP TABLE jobs"):
        assert await store.get(odd) is None
        assert await store.read([(odd, 0)], 1) == [None]
        assert await store.stop(odd, NOW) is None
        assert await store.callbacks(odd) == []
        assert await store.add_callback(wanting(job_id=odd)) == "unknownJob"
        assert not await store.remove_callback("j", odd)
        assert await store.revive_callback("j", odd) is None
        assert await store.page(limit=1, status=odd, before=None) == ([], None)


async def test_as_many_callbacks_as_a_job_may_have(store: Store) -> None:
    """However many come at once; another job has room, and a removal makes some; a job must be known."""
    await made(store)
    await made(store, "other")
    more = CALLBACKS_PER_JOB + 4
    results = await asyncio.gather(*(store.add_callback(wanting(f"c{number}")) for number in range(more)))
    assert sorted(results) == ["added"] * CALLBACKS_PER_JOB + ["tooMany"] * 4
    assert len(await store.callbacks("j")) == CALLBACKS_PER_JOB
    await kept(store, wanting("o", "other"))
    assert await store.remove_callback("j", (await store.callbacks("j"))[0].id)
    await kept(store, wanting("again"))
    assert await store.add_callback(wanting("one more")) == "tooMany"
    assert await store.add_callback(wanting("c", "nobody")) == "unknownJob"


async def test_a_callback_is_removed_once_and_by_its_job_alone(store: Store) -> None:
    """What was removed cannot be saved or revived."""
    await made(store)
    await made(store, "other")
    callback = await kept(store, wanting())
    assert not await store.remove_callback("other", "c")
    assert await store.remove_callback("j", "c")
    assert not await store.remove_callback("j", "c")
    assert not await store.save_callback(callback)
    assert await store.revive_callback("j", "c") is None
    assert await store.callbacks("j") == []


async def test_how_far_a_callback_is(lives: Lives) -> None:
    """Its state and tries are kept under its epoch; an older epoch, after a claim or a revival, changes nothing."""
    store = lives.store
    await made(store)
    first = await kept(store, wanting())
    told = msgspec.structs.replace(first, progress=DeliveryProgress(cursor=1, tried=1, attempts=1))
    assert await store.save_callback(told)
    assert await store.callbacks("j") == [told]
    store = await lives.next()
    (claimed,) = await store.claim_callbacks()
    assert claimed == msgspec.structs.replace(told, epoch=first.epoch + 1)
    assert not await store.save_callback(msgspec.structs.replace(first, state="delivered", finished_at=NOW))
    assert await store.callbacks("j") == [claimed]
    revived = await store.revive_callback("j", "c")
    assert revived is not None
    assert not await store.save_callback(msgspec.structs.replace(claimed, state="gone", finished_at=NOW))
    assert await store.save_callback(msgspec.structs.replace(revived, state="delivered", finished_at=NOW))
    (settled,) = await store.callbacks("j")
    assert (settled.state, settled.finished_at) == ("delivered", NOW)


async def test_reviving_a_callback(store: Store) -> None:
    """Active again, due now and with all its tries, from where it was; one that was delivered stays so."""
    await made(store)
    failed = DeliveryProgress(
        cursor=3, tried=5, attempts=10, failures=10, since=NOW, due=NOW + 9, last_error="answered 500"
    )
    states: tuple[CallbackState, ...] = ("active", "exhausted", "gone")
    for state in states:
        finished_at = None if state == "active" else NOW + 1
        old = await kept(store, wanting(state, state=state, finished_at=finished_at, progress=failed))
        revived = await store.revive_callback("j", state)
        fresh = DeliveryProgress(cursor=3, last_error="answered 500")
        assert revived == msgspec.structs.replace(old, state="active", finished_at=None, progress=fresh, epoch=2)
        assert revived in await store.callbacks("j")
    delivered = await kept(store, wanting("delivered", state="delivered", finished_at=NOW))
    assert await store.revive_callback("j", "delivered") == delivered
    assert await store.revive_callback("other", "gone") is None
    assert await store.revive_callback("j", "nobody") is None


async def test_claiming_callbacks(lives: Lives) -> None:
    """The active ones of every job under a new epoch, and no other."""
    states: tuple[CallbackState, ...] = ("active", "delivered", "exhausted", "gone")
    for job_id in ("j", "i"):
        await made(lives.store, job_id)
        for state in states:
            await kept(lives.store, wanting(f"{state} {job_id}", job_id, state=state))
    store = await lives.next()
    claimed = await store.claim_callbacks()
    assert sorted((callback.id, callback.epoch) for callback in claimed) == [("active i", 2), ("active j", 2)]
    assert {callback.epoch for callback in await store.callbacks("j")} == {1, 2}


async def test_callbacks_go_with_their_job_and_may_spare_it(store: Store) -> None:
    """An ended job stays while one is active, or was exhausted too short a time ago; then all of it goes."""
    spared: dict[str, dict[str, Any]] = {
        "active": {"state": "active"},
        "exhausted lately": {"state": "exhausted", "finished_at": NOW + 60},
        "exhausted": {"state": "exhausted", "finished_at": NOW + 40},
        "delivered lately": {"state": "delivered", "finished_at": NOW + 60},
        "gone lately": {"state": "gone", "finished_at": NOW + 60},
    }
    for job_id, fields in spared.items():
        await moved(store, await made(store, job_id), "completed")
        await kept(store, wanting(f"c {job_id}", job_id, **fields))
    assert await store.delete_expired(NOW + 50) == 3
    left = [job_id for job_id in spared if await store.get(job_id)]
    assert left == ["active", "exhausted lately"]
    assert [job_id for job_id in spared if await store.callbacks(job_id)] == left
    assert not await store.save_callback(wanting("c exhausted", "exhausted"))
    assert await store.add_callback(wanting("new", "exhausted")) == "unknownJob"
    assert await store.remove_callback("active", "c active")
    assert await store.delete_expired(NOW + 70) == 2


async def test_callbacks_survive_reopening(lives: Lives) -> None:
    """With their cursor, and when they are due."""
    await made(lives.store)
    progress = DeliveryProgress(cursor=1, tried=2, attempts=1, due=NOW + 5, last_error="no")
    callback = await kept(lives.store, wanting(progress=progress))
    store = await lives.next()
    assert await store.callbacks("j") == [callback]
