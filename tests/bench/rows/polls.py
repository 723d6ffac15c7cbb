"""What a poll costs the gateway, beside a loop that does nothing but poll with the same client.

`python -m tests.bench.rows.polls URL JOBS` is that loop.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import uvloop
from yarl import URL

from gateway.upstream import POLL_SECONDS, _session
from tests.bench.machine import cpu_seconds, on_cpu
from tests.bench.row import Case, Figures, Line, Row, Target
from tests.bench.servers import copies, gateway
from tests.bench.upstream import Doing, Upstream

JOBS = 1000
EVERY = 1.0
SETTLE = 3.0
SECONDS = 6.0


async def poll(url: str, jobs: int) -> None:
    """Poll so many monitors for ever, each a second after its last answer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 1000)  # as the gateway has it
    async with _session(POLL_SECONDS, aiohttp.TCPConnector(limit=0)) as session:

        async def follow(monitor: int) -> None:
            target = URL(f"{url}/monitor/{monitor}", encoded=True)
            await asyncio.sleep(random.uniform(0, EVERY))
            while True:
                async with session.get(target, allow_redirects=False) as response:
                    await response.read()
                await asyncio.sleep(EVERY)

        await asyncio.gather(*(follow(number) for number in range(1, jobs + 1)))


@asynccontextmanager
async def polling(upstream: Upstream, folder: Path) -> AsyncIterator[int]:
    async with gateway(upstream.url, folder, poll_min=EVERY, poll_max=EVERY, poll_rate=10 * JOBS) as process:
        async with aiohttp.ClientSession() as session:
            await copies(process.url, JOBS, session)
        yield process.process.pid


@asynccontextmanager
async def bare(upstream: Upstream, _folder: Path) -> AsyncIterator[int]:
    with on_cpu(server=True):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, upstream.url, str(JOBS), stdin=PIPE
        )
    try:
        yield process.pid
    finally:
        process.kill()
        await process.wait()


CONTENDERS = {"gateway": polling, "bare loop": bare}


async def count(name: str, folder: Path, _run: int) -> Figures:
    async with Upstream.start() as upstream, CONTENDERS[name](upstream, folder) as pid:
        await asyncio.sleep(SETTLE)
        used, idle = cpu_seconds(pid), cpu_seconds(upstream.pid)
        await upstream.set(Doing())
        await asyncio.sleep(SECONDS)
        polls = len((await upstream.seen()).polls)
        used, idle = cpu_seconds(pid) - used, cpu_seconds(upstream.pid) - idle
    assert polls > 0.8 * JOBS * SECONDS / EVERY, polls
    return {"us a poll": used / polls * 1e6, "polls a second": polls / SECONDS, "upstream CPU": idle / SECONDS}


ROW = Row(
    name="polls",
    about=(
        f"{JOBS:,} jobs, one poll a second each, answers without change: schedule, request, parse, no event. Beside it a loop "
        "with the same client session, loop and collector, which reads the answers and drops them."
    ),
    cases=[Case(name, partial(count, name)) for name in CONTENDERS],
    lines=[
        Line("CPU of a poll", "us", "gateway", "us a poll", peer="bare loop", target=Target(1.25)),
        Line("polls a second", "", "gateway", "polls a second", peer="bare loop"),
        Line("CPU of the upstream", "of a core", "gateway", "upstream CPU", peer="bare loop"),
    ],
)

if __name__ == "__main__":
    uvloop.run(poll(sys.argv[1], int(sys.argv[2])))
