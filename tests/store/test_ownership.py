"""Many gateways on one database: who has what, and what a gateway that lost it can still do."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from functools import partial

import anyio
import asyncpg
import pytest

from gateway.core.errors import StoreUnavailable
from gateway.core.job import Answer, Event, Target, Trouble, accepted, advance, iso, troubled
from gateway.store.postgres import PostgresStore
from gateway.store.postgres.database import Database
from gateway.store.postgres.ownership import PORTION
from tests.store.test_store import NOW, log, made, moved, wanting
from tests.support.stores import PostgresLives, postgres_lives
from tests.support.wire import Direction, wired


async def renewed(store: PostgresStore, jobs: int = 0, callbacks: int = 0) -> tuple[int, int, int] | None:
    standing = await store.renew(jobs, callbacks, patience=5)
    return None if standing is None else (standing.members, standing.jobs, standing.callbacks)


async def test_what_each_gateway_hears_of_the_others(lives: PostgresLives) -> None:
    """How many live, and how much there is in all, what is free included."""
    one = lives.store
    assert await renewed(one) == (1, 0, 0)
    two = await lives.join()
    await made(one, "a")
    await made(one, "b")
    await one.add_callback(wanting(job_id="a"))
    assert await renewed(one, 2, 1) == (2, 2, 1)
    assert await renewed(two) == (2, 2, 1)
    await one.release("jobs", ["a"])
    await one.release("callbacks", ["c"])
    assert await renewed(two) == (2, 2, 1)
    assert [job.id for job in await two.claim(5)] == ["a"]
    assert [callback.id for callback in await two.claim_callbacks(5)] == ["c"]
    assert await renewed(one, 1, 0) == (2, 2, 1)
    assert await one.holdings("jobs") == {"b"}
    assert await two.holdings("jobs") == {"a"}
    assert await two.holdings("callbacks") == {"c"}
    assert await two.epochs("jobs", ["a", "b", "none"]) == {"a": 2, "b": 1}
    assert await one.epochs("callbacks", ["c"]) == {"c": 2}


async def test_a_claim_takes_what_is_free_and_no_more(lives: PostgresLives) -> None:
    """Many at once share it without taking one twice."""
    one = lives.store
    jobs = [await made(one, f"j{number}") for number in range(20)]
    assert await one.claim() == []
    rivals = [await lives.join() for _ in range(3)]
    await one.release("jobs", [job.id for job in jobs[:15]])
    claimed = await asyncio.gather(*(rival.claim(6) for rival in rivals))
    ids = [job.id for jobs in claimed for job in jobs]
    assert sorted(ids) == sorted(job.id for job in jobs[:15])
    assert max(len(jobs) for jobs in claimed) == 6
    assert all(job.epoch == 2 for jobs in claimed for job in jobs)


async def test_an_ended_job_has_no_owner(lives: PostgresLives) -> None:
    """Nor has a callback that is settled; nobody claims them."""
    one = lives.store
    job = await moved(one, await made(one), "completed")
    await one.add_callback(wanting(state="delivered", finished_at=NOW))
    assert await one.holdings("jobs") == set()
    assert await one.holdings("callbacks") == set()
    two = await lives.next()
    assert await two.claim() == []
    assert await two.claim_callbacks() == []
    assert await two.get(job.id) is not None


async def test_one_that_is_leaving_takes_no_share_and_keeps_its_keys(lives: PostgresLives) -> None:
    """Its rows are free at once, all of them for the others; it is a member until it leaves."""
    one, two = lives.store, await lives.join()
    await made(one)
    await one.add_callback(wanting())
    await one.reserve(b"k", b"f", NOW)
    await one.release_all()
    assert await renewed(one, 5, 5) is not None
    assert await renewed(two) == (1, 1, 1)
    assert len(await two.claim()) == len(await two.claim_callbacks()) == 1
    assert await two.expire_members() == []
    known = await two.reserve(b"k", b"f", NOW)
    assert known is not None
    assert (known.outcome, known.elsewhere) == ("inFlight", True)
    await made(one, "late")
    await one.leave()
    assert [job.id for job in await two.claim()] == ["late"]


async def test_leaving(lives: PostgresLives) -> None:
    """All that it had is free at once, and what it stores after that too."""
    one, two = lives.store, await lives.join()
    await made(one)
    await one.add_callback(wanting())
    await one.leave()
    assert len(await two.claim()) == 1
    assert len(await two.claim_callbacks()) == 1
    await made(one, "late")
    assert await two.claim() == []
    assert await two.expire_members() == []
    assert [job.id for job in await two.claim()] == ["late"]


async def test_a_stop_at_any_gateway(lives: PostgresLives) -> None:
    """The owner hears of it and can write no more."""
    one, two = lives.store, await lives.join()
    stopped: list[str] = []
    heard = anyio.Event()

    def on_stop(job_id: str) -> None:
        stopped.append(job_id)
        heard.set()

    one.on_stop = on_stop
    job = await made(one)
    assert await two.stop("j", NOW) is not None
    with anyio.fail_after(5):
        await heard.wait()
    assert stopped == ["j"]
    late, events = advance(job, Answer(status="inProgress"), NOW)
    assert not await one.append(late, events)
    assert await log(two) == [1, 2]


async def test_a_job_that_is_taken_over_at_any_gateway(lives: PostgresLives) -> None:
    """Its owner hears of it, with the epoch: late word ends no newer watch. A gateway that leaves takes none."""
    one, two = lives.store, await lives.join()
    taken: list[tuple[str, int]] = []
    heard = anyio.Event()

    def on_take(job_id: str, epoch: int) -> None:
        taken.append((job_id, epoch))
        heard.set()

    one.on_take = on_take
    job = await made(one)
    found = await two.take("j")
    assert found is not None
    with anyio.fail_after(5):
        await heard.wait()
    assert taken == [("j", job.epoch + 1)]
    assert (await one.holdings("jobs"), await two.holdings("jobs")) == (set(), {"j"})
    await two.release_all()
    with pytest.raises(StoreUnavailable):
        await two.take("j")
    assert await two.holdings("jobs") == set()


@pytest.mark.parametrize("first", ["take", "release"])
async def test_a_job_that_is_taken_over_while_it_is_released(first: str, lives: PostgresLives) -> None:
    """It stays with the gateway that was handed its token, which no other has."""
    one = lives.store
    await made(one)
    both = [one.take("j"), one.release("jobs", ["j"])]
    taken = (await asyncio.gather(*(both if first == "take" else reversed(both))))[first != "take"]
    assert taken is not None
    assert await one.holdings("jobs") == {"j"}


async def test_word_of_a_callback_that_was_removed_or_taken_over(lives: PostgresLives) -> None:
    """Whoever delivers it must not go on."""
    one, two = lives.store, await lives.join()
    heard: list[tuple[str, int | None]] = []
    news = anyio.Event()

    def on_change(callback_id: str, epoch: int | None = None) -> None:
        heard.append((callback_id, epoch))
        if len(heard) == 2:
            news.set()

    one.on_callback_remove = one.on_callback_take = on_change
    await made(one)
    for callback_id in ("a", "b"):
        await one.add_callback(wanting(callback_id))
    assert await two.remove_callback("j", "a")
    assert await two.revive_callback("j", "b") is not None
    with anyio.fail_after(5):
        await news.wait()
    assert sorted(heard) == [("a", None), ("b", 2)]
    assert await one.holdings("callbacks") == set()
    assert await two.holdings("callbacks") == {"b"}


async def test_a_gateway_that_hangs_in_a_transaction_holds_up_nobody(lives: PostgresLives) -> None:
    """Its rows are passed over, then taken: the database ends what it left open."""
    one, two = lives.store, await lives.join()
    job = await made(one)
    hanging = anyio.Event()

    async def hang(connection: object) -> None:
        await connection.execute("SELECT 1 FROM jobs WHERE id = 'j' FOR UPDATE")  # type: ignore[attr-defined]
        hanging.set()
        await anyio.sleep(4)

    async def hangs() -> None:
        with pytest.raises(StoreUnavailable):
            await one._pool.transaction(hang)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hangs)
        await hanging.wait()
        await lives.expire(one)
        with anyio.fail_after(1):
            assert await two.expire_members() == [one.me]
            assert await two.claim() == []
        with anyio.fail_after(4):
            while True:
                await two.expire_members()
                if claimed := await two.claim():
                    break
                await anyio.sleep(0.05)
    assert [job.epoch for job in claimed] == [job.epoch + 1]


async def unsure(doing: Awaitable[object]) -> bool:
    """Whether its outcome is unknown."""
    try:
        await doing
    except StoreUnavailable:
        return True
    return False


@pytest.mark.parametrize(
    ("direction", "log_limit"),
    [
        ("asked", 5),
        ("answered", 100),
        pytest.param("asked", 100, marks=pytest.mark.thorough),
        pytest.param("answered", 5, marks=pytest.mark.thorough),
    ],
)
async def test_a_gateway_that_dies_at_any_message(database_url: str, direction: Direction, log_limit: int) -> None:
    """Whatever it was just asking, and whether or not that was done: the next one finds each job whole, with every
    event that was acknowledged and that the log has room for, and ends it once.
    """
    async with wired(database_url) as wire, postgres_lives(database_url, log_limit=log_limit) as lives:
        known: list[Event] = []
        for messages in itertools.count():
            if len(known) == 7:
                break
            job_id = f"j{messages}"
            wire.mend()
            async with AsyncExitStack() as stack:
                database = await Database.open(wire.url, database_url, None)
                dying = await stack.enter_async_context(
                    PostgresStore.open(database, log_limit=log_limit, lease=1000, clock=time.time)
                )
                wire.cut_after(direction, messages)
                known = await live(dying, job_id)
                wire.mend()
                await lives.expire(dying)
            successor = lives.store
            await successor.expire_members()
            claimed = await successor.claim()
            job = await successor.get(job_id)
            if job is None:
                assert known == []
                assert claimed == []
                assert await successor.callbacks(job_id) == []
                continue
            if not job.state.ended:
                assert [one.id for one in claimed] == [job_id]
                await moved(successor, claimed[0], "completed")
            (piece,) = await successor.read([(job_id, 0)], 100)
            assert piece is not None
            assert piece.ended
            assert [event.terminal for event in piece.events] == [False] * (len(piece.events) - 1) + [True]
            numbers = [event.seq for event in piece.events]
            assert numbers[-1] == piece.head >= len(known)
            assert numbers == sorted(set(numbers))
            if log_limit > piece.head:
                assert numbers == list(range(1, piece.head + 1))
                assert list(piece.events[: len(known)]) == known
            assert len(await successor.callbacks(job_id)) == 1
        assert messages > 20


async def live(store: PostgresStore, job_id: str) -> list[Event]:
    """A job's life with a callback; what was acknowledged of its log before something could not be done."""
    job, events = accepted(job_id, monitor="https://h/m", target=Target(), now=NOW)
    known: list[Event] = []
    if await unsure(store.create(job, events, None, wanting(f"c{job_id}", job_id))):
        return known
    known += events
    for step in range(1, 7):
        answer = Answer(status="inProgress", percentage=step) if step < 6 else Answer(status="completed")
        following, events = advance(job, answer, NOW)
        try:
            assert await store.append(following, events)
        except StoreUnavailable:
            return known
        known += events
        job = following
    return known


async def test_an_append_whose_answer_was_lost_may_be_repeated(database_url: str) -> None:
    """It is kept once, and found to be kept; not so after somebody else has taken over."""
    kept_before = 0
    async with wired(database_url) as wire, postgres_lives(database_url, log_limit=100) as lives:
        database = await Database.open(wire.url, database_url, None)
        async with PostgresStore.open(database, log_limit=100, lease=1000, clock=time.time) as store:
            # A wake-up is answered in between, or not yet: only by its words is the append's own commit found for sure.
            cuts = [partial(wire.cut_after, "answered", messages) for messages in range(25)]
            cuts.append(partial(wire.cut_at_answer_to, b"inProgress", b"COMMIT"))
            for number, cut in enumerate(cuts):
                old = await made(store, f"j{number}")
                job, events = advance(old, Answer(status="inProgress", percentage=1), NOW)
                cut()
                lost = await unsure(store.append(job, events))
                wire.mend()
                kept_before += lost and await log(lives.store, job.id) == [1, 2]
                assert await store.append(job, events)
                assert await log(lives.store, job.id) == [1, 2]
            assert kept_before > 0
            await lives.expire(store)
            await lives.store.expire_members()
            await lives.store.claim()
            assert not await store.append(job, events)


async def test_much_changes_hands_in_portions(lives: PostgresLives) -> None:
    """A claim takes a portion; leaving and a burial free all, however much it is."""
    dead, two = lives.store, await lives.join()
    many = 2 * PORTION + 5
    for first in range(0, many, 100):
        await asyncio.gather(*(made(dead, f"j{number}") for number in range(first, min(first + 100, many))))
    await lives.expire(dead)
    await two.expire_members()
    sizes = []
    while jobs := await two.claim(many):
        sizes.append(len(jobs))
    assert sizes == [PORTION, PORTION, 5]
    await two.release("jobs", [f"j{number}" for number in range(PORTION + 1)])
    await two.leave()
    assert len(await (await lives.join()).holdings("jobs")) == 0
    third = lives.store
    assert sum([len(await third.claim(many)) for _ in range(3)]) == many


async def test_what_is_given_up_here_ends_there(lives: PostgresLives) -> None:
    """A statement may take little longer than it is waited for, in a transaction or not."""
    limit = "SELECT current_setting('statement_timeout')"
    assert (await lives.store._pool.execute(limit))[0][0] == "6s"
    (row,) = await lives.store._pool.transaction(lambda connection: connection.fetch(limit))
    assert row[0] == "6s"


async def test_a_row_under_another_key_stops_no_claim(lives: PostgresLives, database_url: str) -> None:
    """It is left to a gateway that can read it; the rest is taken."""
    one = lives.store
    await made(one, "good")
    await made(one, "bad")
    await one.release("jobs", ["good", "bad"])
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE jobs SET monitor = decode('01ff', 'hex') WHERE id = 'bad'")
    await connection.close()
    assert [job.id for job in await one.claim()] == ["good"]
    with pytest.raises(StoreUnavailable, match="GATEWAY_SECRET_KEY"):
        await one.get("bad")


async def test_the_trouble_of_a_hosts_jobs(lives: PostgresLives) -> None:
    """Whoever polls them; of the running ones, and whatever else the state and the target hold."""
    one, two = lives.store, await lives.join()
    for number, (store, host) in enumerate(
        [(one, "m"), (one, "m"), (two, "m"), (two, "other"), (one, None), (one, "m")]
    ):
        target = Target(drive_id='"host":"m"\x00', host=host)
        job, events = accepted(f"j{number}", monitor="https://h/m", target=target, now=NOW, label='"trouble":{}')
        await store.create(job, events, None)
        if number % 2:
            job, events = troubled(job, Trouble(code="doubted", since=iso(NOW)), NOW)
            assert await store.append(job, events)
    await moved(one, job, "completed")
    assert await two.troubled("m") == (3, 1)
    assert await one.troubled("other") == (1, 1)
    assert await one.troubled("none") == (0, 0)
