"""Requests that wait for news of a job (`Prefer: wait=N`) beside streams of it: their memory and CPU."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import aiohttp

from tests.bench.machine import KIB, cpu_seconds, resident
from tests.bench.row import Case, Figures, Line, Row, Target
from tests.bench.rows.streams import ROOM
from tests.bench.servers import copy, gateway
from tests.bench.upstream import Upstream
from tests.support.harness import OPERATOR

READERS = 5000
AT_ONCE = 50
REQUESTS = {
    "waits": "GET /jobs/{job} HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\nPrefer: wait=60\r\n\r\n",
    "streams": "GET /jobs/{job}/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n",
}
LAST = {"waits": b'"watchStopped"', "streams": b"0\r\n\r\n"}
"""What an answer has in its last piece."""


async def hold(kind: str, folder: Path, _run: int) -> Figures:
    async with Upstream.start() as upstream, gateway(upstream.url, folder, **ROOM) as process:
        async with aiohttp.ClientSession() as session:
            job_id = await copy(process.url, session)
            await asyncio.sleep(1)
            pid = process.process.pid
            memory, cpu = resident(pid), cpu_seconds(pid)
            readers = []
            for first in range(0, READERS, AT_ONCE):
                readers += await asyncio.gather(*(_ask(kind, process.port, job_id) for _ in range(AT_ONCE)))
                await _open(session, process.url, first + AT_ONCE)
            held = resident(pid) - memory
            async with session.delete(f"{process.url}/jobs/{job_id}", headers=OPERATOR) as response:
                assert response.status == 204
            await asyncio.gather(*(reader.readuntil(LAST[kind]) for reader, _ in readers))
            await _open(session, process.url, 0)
            spent = cpu_seconds(pid) - cpu
        for _, writer in readers:
            writer.close()
    return {"memory": held / READERS / KIB, "cpu": spent / READERS * 1e6}


async def _ask(kind: str, port: int, job_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUESTS[kind].format(job=job_id).encode())
    return reader, writer


async def _open(session: aiohttp.ClientSession, url: str, count: int) -> None:
    """Wait until the gateway counts so many readers."""
    for _ in range(1000):
        async with session.get(f"{url}/metrics") as response:
            if f"gateway_streams_open {float(count)}\n" in await response.text():
                return
    raise AssertionError(f"there are not {count} readers")


ROW = Row(
    name="waits",
    about=(
        f"{READERS:,} requests that wait for the end of one job, beside as many streams of it; CPU from their arrival "
        "to their end."
    ),
    cases=[Case(kind, partial(hold, kind)) for kind in REQUESTS],
    lines=[
        Line("memory of a wait", "KiB", "waits", "memory", "streams", target=Target(1.0)),
        Line("CPU of a wait", "us", "waits", "cpu", "streams", target=Target(1.0)),
    ],
)
