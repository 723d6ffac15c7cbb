"""A gateway's part of what is stored, alone: jobs that change, and every change appended to a store.

`python -m tests.bench.appending URL JOBS SECONDS RATE` says when its jobs are there, begins when it is told a line, and
tells what became of it as JSON.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from gateway.core.job import Answer, Target, accepted, advance
from gateway.store import Store
from gateway.store.postgres import PostgresStore
from gateway.store.postgres.database import Database
from tests.bench.row import Figures
from tests.support.stores import open_sqlite

SQLITE = "sqlite:///"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Store, str]]:
    """The store, and how jobs of this gateway are told from those of others."""
    if url.startswith(SQLITE):
        store = open_sqlite(Path(url.removeprefix(SQLITE)))
        yield store, "job"
        await store.close()
        return
    database = await Database.open(url, None, None)
    async with PostgresStore.open(database, log_limit=256, lease=10, clock=time.time) as shared:
        yield shared, shared.me


async def append(url: str, jobs: int, seconds: float, rate: float) -> Figures:
    """As a gateway with so many jobs; each changes `rate` times a second, or as often as it can when that is 0."""
    waits: list[float] = []
    async with opened(url) as (store, me):
        known = [accepted(f"{me}-{number}", monitor="https://h/m", target=Target(), now=1.0) for number in range(jobs)]
        for first in range(0, jobs, 100):
            await asyncio.gather(*(store.create(job, events, None) for job, events in known[first : first + 100]))
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)  # until all are
        begun, used = time.perf_counter(), _cpu()

        async def change(number: int) -> None:
            job = known[number][0]
            await asyncio.sleep(number / jobs / rate if rate else 0)
            for step in range(1, 1 << 30):
                asked = time.perf_counter()
                if asked - begun > seconds:
                    return
                following, events = advance(job, Answer(status="inProgress", percentage=step / 1e6), float(step))
                assert await store.append(following, events)
                job = following
                waits.append(time.perf_counter() - asked)
                if rate:
                    await asyncio.sleep(max(0.0, step / rate + number / jobs / rate - (time.perf_counter() - begun)))

        await asyncio.gather(*(change(number) for number in range(jobs)))
        took = time.perf_counter() - begun
        cpu = _cpu() - used
    waits.sort()
    return {
        "appends": len(waits),
        "seconds": took,
        "cpu": cpu,
        "p50": waits[len(waits) // 2],
        "p99": waits[int(len(waits) * 0.99)],
    }


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    asked_url, asked_jobs, asked_seconds, asked_rate = sys.argv[1:]
    print(json.dumps(uvloop.run(append(asked_url, int(asked_jobs), float(asked_seconds), float(asked_rate)))))
