"""How far a second process on the same machine carries: `gateway serve --workers`, on one port and one PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp

from gateway.cli.demo.postgres import Server, temporary_folder
from tests.bench import load
from tests.bench.load import Load
from tests.bench.machine import cpu_seconds, on_cpu
from tests.bench.posts import post
from tests.bench.row import Case, Figures, Line, Row
from tests.bench.rows.appends import DURABLE, postgres_missing
from tests.bench.rows.copies import BODY
from tests.bench.rows.streams import ROOM
from tests.bench.servers import START_SECONDS, copy
from tests.bench.upstream import Upstream
from tests.support.harness import FOLDER, Process, free_ports

NUMBER, AT_ONCE = 3000, 100
STREAMS = 4000


@asynccontextmanager
async def serving(workers: int, folder: Path) -> AsyncIterator[tuple[Process, int]]:
    """So many workers, ready, and their database's process."""
    with temporary_folder() as place, Server(place, settings=DURABLE) as server:
        async with Upstream.start() as upstream:
            values = {"store_url": server.url(), "max_jobs": 10 * NUMBER, "poll_min": 30, "poll_max": 30, **ROOM}
            process = Process(upstream.url, folder, port=free_ports(), arguments=("--workers", str(workers)), **values)
            with on_cpu(server=None):
                process.spawn()
            async with process:
                for own in range(1, workers + 1) if workers > 1 else (0,):  # one alone has the shared port only
                    await process.ready(START_SECONDS, port=process.port + own)
                assert server._process is not None
                yield process, server._process.pid


async def copying(workers: int, folder: Path, _run: int) -> Figures:
    async with serving(workers, folder) as (process, database):
        path = f"{FOLDER}/copy"
        await post(process.port, path, BODY, number=AT_ONCE, at_once=AT_ONCE, status=202)
        used, stored = cpu_seconds(process.process.pid), cpu_seconds(database)
        done = await post(process.port, path, BODY, number=NUMBER, at_once=AT_ONCE, status=202)
        used, stored = cpu_seconds(process.process.pid) - used, cpu_seconds(database) - stored
    return {
        "a second": NUMBER / done.seconds,
        "cores": used / done.seconds,
        "database": stored / done.seconds,
    }


async def opening(workers: int, folder: Path, _run: int) -> Figures:
    program = load.compiled(folder.parent)
    async with serving(workers, folder) as (process, _), aiohttp.ClientSession() as session:
        job_id = await copy(process.url, session)
        async with Load.start(program, process.port, f"/jobs/{job_id}/events") as client:
            used, begun = cpu_seconds(process.process.pid), time.perf_counter()
            await client.open(STREAMS, at_once=STREAMS // 10, events=1)
            took = time.perf_counter() - begun
            used = cpu_seconds(process.process.pid) - used
    return {"a second": STREAMS / took, "cores": used / took}


ROW = Row(
    name="workers",
    about=(
        "`gateway serve --workers`, one and two of them, on one port and one PostgreSQL with fsync on. The workers may "
        "run on every CPU; the database, the upstream and the client have to run somewhere too, so that on two CPUs a "
        "second worker cannot double anything."
    ),
    cases=[
        Case(f"{count} {what}", partial(work, count), needs)
        for count in (1, 2)
        for what, work, needs in (
            ("copying", copying, (postgres_missing,)),
            ("opening", opening, (postgres_missing, load.missing)),
        )
    ],
    lines=[
        Line("copies a second, two workers", "", "2 copying", "a second", peer="1 copying"),
        Line("cores of the workers", "", "2 copying", "cores", peer="1 copying"),
        Line("cores of the database", "", "2 copying", "database", peer="1 copying"),
        Line("streams opened a second", "", "2 opening", "a second", peer="1 opening"),
        Line("cores of the workers", "", "2 opening", "cores", peer="1 opening"),
    ],
)
