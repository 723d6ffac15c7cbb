"""In which order gateways lock the rows of jobs: else two that want the same would wait for each other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import anyio
import asyncpg
import pytest

from gateway.core.job import Answer, Event, Job, advance
from tests.store.test_store import NOW, log, made
from tests.support.stores import PostgresLives

BYSTANDERS = "INSERT INTO jobs SELECT 'z' || n, 0, '', NULL, '', '', 1, 1, NULL, 'nobody' FROM generate_series(1, $1) n"

WAITING = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def step(job: Job, percentage: float) -> tuple[Job, Sequence[Event]]:
    return advance(job, Answer(status="inProgress", percentage=percentage), NOW)


@pytest.mark.parametrize("bystanders", [0, 3000])
async def test_an_append_locks_in_the_order_of_the_ids(
    lives: PostgresLives, database_url: str, bystanders: int
) -> None:
    """Whatever the order in which it was asked for, and in which the rows were written, in small and large tables."""
    store = lives.store
    jobs = {name: await made(store, name) for name in "eacdb"}
    one, two = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    try:
        await one.execute(BYSTANDERS.replace("$1", str(bystanders)))
        await one.execute("ANALYZE")
        for asked in ("edcba", "cebda"):
            begun = one.transaction()
            await begun.start()
            await one.execute("SELECT 1 FROM jobs WHERE id = 'c' FOR UPDATE")
            async with asyncio.TaskGroup() as tasks:
                steps = {name: step(jobs[name], jobs[name].seq) for name in asked}
                appends = [tasks.create_task(store.append(*steps[name])) for name in asked]
                with anyio.fail_after(5):
                    while not await two.fetchval(WAITING):  # noqa: ASYNC110 - the server tells of it only when asked
                        await anyio.sleep(0.005)
                free = await two.fetch("SELECT id FROM jobs WHERE id < 'z' FOR UPDATE SKIP LOCKED")
                await begun.rollback()
            assert sorted(row["id"] for row in free) == ["d", "e"]
            assert all(append.result() for append in appends)
            jobs = {name: steps[name][0] for name in asked}
    finally:
        await one.close()
        await two.close()


async def test_a_gateway_that_lost_jobs_and_their_owner_do_not_deadlock(lives: PostgresLives) -> None:
    """The owner appends, and two others that believe to own the same jobs, all at once, again and again, each in an
    order of its own: a deadlock would fail an append. Each of the owner's is stored, once, and nobody else's.
    """
    chance = random.Random(1)
    losers = [lives.store, await lives.join()]
    old = {name: await made(losers[0], name) for name in (f"j{number}" for number in range(40))}
    owner = await lives.join()
    await lives.expire(losers[0])
    await owner.expire_members()
    jobs = {job.id: job for job in await owner.claim(len(old))}
    assert jobs.keys() == old.keys()
    rounds = 15
    for number in range(1, rounds + 1):
        steps = {name: step(job, number) for name, job in jobs.items()}
        late = [step(job, number) for job in old.values()]
        asked = [chance.sample(list(steps.values()), len(steps)), *(chance.sample(late, 30) for _ in losers)]
        stored, *refused = await asyncio.gather(
            *(
                asyncio.gather(*(store.append(*one) for one in wanted))
                for store, wanted in zip((owner, *losers), asked, strict=True)
            )
        )
        assert all(stored)
        assert not any(any(one) for one in refused)
        jobs = {name: job for name, (job, _) in steps.items()}
    for name in jobs:
        assert await log(owner, name) == list(range(1, rounds + 2))
