"""The usual load: many jobs with one reader each, and each poll a change. What does a change cost?"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp

from tests.bench import load
from tests.bench.load import Load
from tests.bench.machine import cpu_seconds
from tests.bench.row import Case, Figures, Line, Row, Target
from tests.bench.rows.streams import ROOM
from tests.bench.servers import copies, gateway, plain_app
from tests.bench.upstream import Doing, Upstream

JOBS = 1000
EVERY = 1.0
SETTLE = 3.0
SECONDS = 10.0
_PUSHES = re.compile(r"^gateway_push_latency_seconds_(sum|count) (\S+)$", re.MULTILINE)

Server = Callable[[str, Path], AbstractAsyncContextManager[tuple[int, int]]]
"""Runs a server for the upstream at a URL; its process and its port."""


@asynccontextmanager
async def polling(upstream: str, folder: Path) -> AsyncIterator[tuple[int, int]]:
    async with gateway(upstream, folder, poll_min=EVERY, poll_max=EVERY, poll_rate=10 * JOBS, **ROOM) as process:
        yield process.process.pid, process.port


async def change(server: Server, folder: Path, _run: int) -> Figures:
    program = load.compiled(folder.parent)
    async with (
        Upstream.start() as upstream,
        server(upstream.url, folder) as (pid, port),
        aiohttp.ClientSession() as one,
    ):
        url = f"http://127.0.0.1:{port}"
        paths = folder / "paths"
        paths.write_text("".join(f"/jobs/{job_id}/events\n" for job_id in await copies(url, JOBS, one)))
        async with Load.start(program, port, f"@{paths}") as client:
            await client.open(JOBS)
            await upstream.set(Doing(all_move=True))
            await asyncio.sleep(SETTLE)
            before = await _pushes(url, one)
            used = 0.0

            def begun() -> None:
                nonlocal used
                used = cpu_seconds(pid)

            window = await client.count(SECONDS, begun=begun)
            used = cpu_seconds(pid) - used
            after = await _pushes(url, one)
    assert not window.lost, window
    assert window.deliveries > 0.5 * JOBS * SECONDS / EVERY, f"{window}: the machine has other work"
    pushed = {name: after[name] - before[name] for name in after}
    return {
        "us": used / window.deliveries * 1e6,
        "changes a second": window.deliveries / window.seconds,
        "p50": window.p50,
        "p99": window.p99,
        "push": pushed["sum"] / pushed["count"] * 1e3 if pushed else 0.0,
        "client CPU": window.cpu / window.seconds,
    }


async def _pushes(url: str, session: aiohttp.ClientSession) -> dict[str, float]:
    """The seconds and the number of the gateway's pushes so far; nothing of a server without metrics."""
    async with session.get(f"{url}/metrics") as response:
        return {name: float(value) for name, value in _PUSHES.findall(await response.text())}


ROW = Row(
    name="usual",
    about=(
        f"{JOBS:,} jobs with one reader each, one poll a second each, and each answer a change; server on one core, "
        "load client and upstream on another. The gateway stores each change in SQLite before it tells it; fsync is "
        "on. The plain app has a task a job and a queue a reader, and stores nothing."
    ),
    cases=[
        Case("gateway", partial(change, polling), (load.missing,)),
        Case("plain app", partial(change, plain_app), (load.missing,)),
    ],
    lines=[
        Line("CPU of a change", "us", "gateway", "us", peer="plain app", target=Target(0.8)),
        Line("changes a second", "", "gateway", "changes a second", peer="plain app"),
        Line("from the answer to the reader, p50", "ms", "gateway", "p50", target=Target(25.0)),
        Line("from the answer to the reader, p99", "ms", "gateway", "p99"),
        Line("from the commit to the reader, mean", "ms", "gateway", "push"),
        Line("CPU of the load client", "of a core", "gateway", "client CPU", peer="plain app"),
    ],
)
