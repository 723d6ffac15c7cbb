"""One job's events to many streams: what a delivery costs the server, how long it takes, and what a stream holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median

import aiohttp
import msgspec

from gateway.core.job import iso
from tests.bench import load
from tests.bench.chart import Axis, Chart
from tests.bench.load import Load
from tests.bench.machine import KIB, cpu_seconds, resident
from tests.bench.row import Case, Figures, Line, Row, Runs, Target
from tests.bench.servers import Served, copy, gateway, nchan, nchan_missing, sse_starlette
from tests.bench.upstream import Doing, Upstream

COUNTS = (500, 2000, 5000)
EVERY = 0.2
EVENTS = 25
DELIVERIES = "deliveries a CPU s"
PATIENCE = 30.0
"""Seconds for the events of a window: a server that cannot keep up has fewer of them."""
ROOM = {"max_streams": 60_000, "heartbeat": 300}
"""Settings so that neither a limit nor a heartbeat comes in between."""

Contender = Callable[[Path], AbstractAsyncContextManager[Served]]


@asynccontextmanager
async def changing(folder: Path) -> AsyncIterator[Served]:
    """The gateway with a job that changes with each of its polls, five a second."""
    async with (
        Upstream.start() as upstream,
        gateway(upstream.url, folder, poll_min=EVERY, poll_max=EVERY, **ROOM) as process,
        aiohttp.ClientSession() as session,
    ):
        job_id = await copy(process.url, session)
        move = partial(upstream.set, Doing(moving=True))
        yield Served(process.process.pid, process.port, f"/jobs/{job_id}/events", move)


async def publish(url: str) -> None:
    """The same states as often, where there is no gateway that makes them."""
    headers = {"X-EventSource-Event": "progress", "Content-Type": "application/json"}
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with aiohttp.ClientSession() as session:
        for number in range(1, 1 << 30):
            state = {
                "jobId": "XeaTDC76yA_LocS2N93-w24t",
                "operation": "ItemCopy",
                "status": "inProgress",
                "percentageComplete": round(number / 100, 2),
                "at": iso(time.time()),
            }
            async with session.post(url, data=msgspec.json.encode(state), headers=headers, raise_for_status=True):
                pass
            await asyncio.sleep(begun + number * EVERY - loop.time())


async def deliver(contender: Contender, count: int, folder: Path, _run: int) -> Figures:
    program = load.compiled(folder.parent)
    async with contender(folder) as server, Load.start(program, server.port, server.path) as client:
        await client.open(1)
        await client.close()
        before = resident(server.pid)
        await client.open(count)
        used = 0.0

        def begun() -> None:
            nonlocal used
            used = cpu_seconds(server.pid)

        changes = asyncio.create_task(server.begin())
        try:
            window = await client.measure(EVENTS, seconds=PATIENCE, begun=begun)
        finally:
            changes.cancel()
        used = cpu_seconds(server.pid) - used
        held = resident(server.pid) - before
        assert window.deliveries, window
        assert not window.lost, window
    return {
        DELIVERIES: window.deliveries / used,
        "KiB a stream": held / count / KIB,
        "p50": window.p50,
        "p99": window.p99,
        "max": window.max,
        "p99 to the last": window.last_p99,
        "bytes": window.bytes / window.deliveries,
        "server CPU": used / window.seconds,
        "client CPU": window.cpu / window.seconds,
    }


CONTENDERS: dict[str, Contender] = {
    "gateway": changing,
    "nchan": partial(nchan, publish=publish),
    "sse-starlette": partial(sse_starlette, publish=publish),
}


def _lines() -> list[Line]:
    def line(
        title: str, unit: str, figure: str, count: int, peer: str | None = None, target: Target | None = None
    ) -> Line:
        beside = None if peer is None else f"{peer} {count}"
        return Line(f"{title}, {count:,} streams", unit, f"gateway {count}", figure, peer=beside, target=target)

    lines = []
    for count, share in ((2000, 1.0), (500, 0.9), (5000, 0.9)):
        lines.append(line("deliveries a CPU second", "", DELIVERIES, count, "nchan", Target(share, "at least")))
    for count in (2000, 500, 5000):
        target = Target(2.5, "at least") if count == 2000 else None
        lines.append(line("deliveries a CPU second", "", DELIVERIES, count, "sse-starlette", target))
    lines.append(line("memory of a stream", "KiB", "KiB a stream", 5000, target=Target(12)))
    lines += [line("memory of a stream", "KiB", "KiB a stream", 5000, peer) for peer in ("nchan", "sse-starlette")]
    lines.append(line("p99 from append to the last reader", "ms", "p99 to the last", 2000, "nchan", Target(1.1)))
    lines += [line(f"{name} from append to reader", "ms", name, 2000, "nchan") for name in ("p50", "p99", "max")]
    lines.append(line("bytes of a delivery", "", "bytes", 2000, "nchan"))
    lines += [line("CPU of the server", "of a core", "server CPU", count, "nchan") for count in COUNTS]
    lines += [line("CPU of the load client", "of a core", "client CPU", count, "nchan") for count in COUNTS]
    return lines


def _chart(runs: Runs) -> Chart:
    """Of those that could be measured."""
    series = {}
    for name in CONTENDERS:
        seen = {count: runs[f"{name} {count}"] for count in COUNTS if f"{name} {count}" in runs}
        if seen:
            series[name] = [(float(count), median(run[DELIVERIES] for run in one)) for count, one in seen.items()]
    return Chart(
        "deliveries",
        "Events delivered per CPU second of the server, one job, 5 events a second",
        Axis("streams"),
        Axis("deliveries per CPU second"),
        series,
    )


ROW = Row(
    name="streams",
    about=(
        "One job with 5 events a second to all streams; server on one core, load client on another. nchan keeps "
        "256 messages in memory, as many as the gateway; sse-starlette has a queue for each client, as its "
        "example of broadcasting."
    ),
    cases=[
        Case(
            f"{name} {count}",
            partial(deliver, contender, count),
            (load.missing, nchan_missing) if name == "nchan" else (load.missing,),
        )
        for name, contender in CONTENDERS.items()
        for count in COUNTS
    ],
    lines=_lines(),
    chart=_chart,
)
