"""What is left of streams that are gone."""

from __future__ import annotations

from pathlib import Path

import aiohttp

from tests.bench import load
from tests.bench.load import Load
from tests.bench.machine import MIB, resident
from tests.bench.row import Case, Figures, Line, Row, Target
from tests.bench.rows.streams import ROOM
from tests.bench.servers import copy, gateway
from tests.bench.upstream import Upstream

STREAMS = 100_000
AT_ONCE = 2000


async def come_and_go(folder: Path, _run: int) -> Figures:
    program = load.compiled(folder.parent)
    async with (
        Upstream.start() as upstream,
        gateway(upstream.url, folder, **ROOM) as process,
        aiohttp.ClientSession() as session,
    ):
        pid = process.process.pid
        job_id = await copy(process.url, session)
        idle = resident(pid)
        after: list[int] = []
        async with Load.start(program, process.port, f"/jobs/{job_id}/events") as client:
            for _ in range(STREAMS // AT_ONCE):
                await client.open(AT_ONCE)
                await client.close()
                await _all_gone(session, process.url)
                after.append(resident(pid))
    return {
        "idle": idle / MIB,
        "first": after[0] / MIB,
        "last": after[-1] / MIB,
        "growth": (after[-1] - after[0]) / MIB,
    }


async def _all_gone(session: aiohttp.ClientSession, url: str) -> None:
    for _ in range(1000):
        async with session.get(f"{url}/metrics") as response:
            if "gateway_streams_open 0.0\n" in await response.text():
                return
    raise AssertionError("streams that were closed stay open")


ROW = Row(
    name="memory",
    about=(
        f"{STREAMS:,} streams opened and closed, {AT_ONCE:,} at a time, half of them properly and half cut off. It "
        "is held against what the first of these batches left: allocators keep what they once had."
    ),
    cases=[Case("gateway", come_and_go, (load.missing,))],
    lines=[
        Line("growth after the first batch", "MiB", "gateway", "growth", target=Target(5.0)),
        Line("idle", "MiB", "gateway", "idle"),
        Line("after the first batch", "MiB", "gateway", "first"),
        Line("after the last one", "MiB", "gateway", "last"),
    ],
)
