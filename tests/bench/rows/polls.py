"""What a poll costs the gateway, beside a loop that does nothing but poll with the same client."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp

from tests.bench import bare
from tests.bench.bare import EVERY
from tests.bench.machine import cpu_seconds, on_cpu
from tests.bench.row import Case, Figures, Line, Row, Target
from tests.bench.servers import copies, gateway
from tests.bench.upstream import Doing, Upstream

JOBS = 1000
SETTLE = 3.0
SECONDS = 6.0


@asynccontextmanager
async def polling(upstream: Upstream, folder: Path) -> AsyncIterator[int]:
    async with gateway(upstream.url, folder, poll_min=EVERY, poll_max=EVERY, poll_rate=10 * JOBS) as process:
        async with aiohttp.ClientSession() as session:
            await copies(process.url, JOBS, session)
        yield process.process.pid


@asynccontextmanager
async def looping(upstream: Upstream, _folder: Path) -> AsyncIterator[int]:
    with on_cpu(server=True):
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", bare.__name__, upstream.url, str(JOBS))
    try:
        yield process.pid
    finally:
        process.kill()
        await process.wait()


CONTENDERS = {"gateway": polling, "bare loop": looping}


async def count(name: str, folder: Path, _run: int) -> Figures:
    async with Upstream.start() as upstream, CONTENDERS[name](upstream, folder) as pid:
        await asyncio.sleep(SETTLE)
        used, idle = cpu_seconds(pid), cpu_seconds(upstream.pid)
        await upstream.set(Doing())
        await asyncio.sleep(SECONDS)
        polls = len((await upstream.seen()).polls)
        used, idle = cpu_seconds(pid) - used, cpu_seconds(upstream.pid) - idle
    assert polls > 0.5 * JOBS * SECONDS / EVERY, f"{polls} polls: the machine has other work"
    return {"us a poll": used / polls * 1e6, "polls a second": polls / SECONDS, "upstream CPU": idle / SECONDS}


ROW = Row(
    name="polls",
    about=(
        f"{JOBS:,} jobs, one poll a second each, answers without change: schedule, request, parse, no event. "
        "Beside it a loop with the same client session, loop and collector, which reads the answers and drops "
        "them."
    ),
    cases=[Case(name, partial(count, name)) for name in CONTENDERS],
    lines=[
        Line("CPU of a poll", "us", "gateway", "us a poll", peer="bare loop", target=Target(1.25)),
        Line("polls a second", "", "gateway", "polls a second", peer="bare loop"),
        Line("CPU of the upstream", "of a core", "gateway", "upstream CPU", peer="bare loop"),
    ],
)
