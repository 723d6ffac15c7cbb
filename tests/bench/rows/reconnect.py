"""All streams of a process come back at once with their last id, while other jobs want to be polled."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from pathlib import Path

import aiohttp

from tests.bench import load
from tests.bench.load import Load
from tests.bench.row import Case, Figures, Line, Row, Target
from tests.bench.rows.streams import EVERY, ROOM
from tests.bench.servers import copies, copy, gateway
from tests.bench.upstream import MOVING, Doing, Seen, Upstream
from tests.support.harness import Event, events

STREAMS = 5000
OTHERS = 20
MISSED = 3
"""Events while nobody is connected."""
QUIET = 2.0


async def reconnect(folder: Path, _run: int) -> Figures:
    program = load.compiled(folder.parent)
    async with (
        Upstream.start() as upstream,
        gateway(upstream.url, folder, poll_min=EVERY, poll_max=EVERY, **ROOM) as process,
        aiohttp.ClientSession() as session,
    ):
        job_id = await copy(process.url, session)
        await copies(process.url, OTHERS, session)
        path = f"/jobs/{job_id}/events"
        async with Load.start(program, process.port, path) as client:
            await client.open(STREAMS)
            last = await _newest(session, process.url + path)
            await client.close()
            await upstream.set(Doing(moving=True))
            newest = last
            async with session.get(process.url + path, headers={"Last-Event-ID": last.id}) as response:
                seen = events(response)
                while int(newest.id) < int(last.id) + MISSED:
                    newest = await anext(seen)
            await upstream.set(Doing())
            quiet = await _gaps(upstream, QUIET)
            missed = int((await _newest(session, process.url + path)).id) - int(last.id)
            await upstream.set(Doing())
            came = await client.open(STREAMS, at_once=STREAMS, last_id=last.id, events=missed)
            assert came.level == STREAMS, came
            await asyncio.sleep(2 * EVERY)  # so that what was held up is seen
            during = _worst(await upstream.seen())
    return {"served": came.seconds, "late": max(0.0, during - EVERY) * 1e3, "late in peace": (quiet - EVERY) * 1e3}


async def _gaps(upstream: Upstream, seconds: float) -> float:
    await upstream.set(Doing())
    await asyncio.sleep(seconds)
    return _worst(await upstream.seen())


def _worst(seen: Seen) -> float:
    """The longest time between two polls of a job that is not the one that is read, up to now."""
    times: dict[str, list[float]] = {}
    for monitor, at in seen.polls:
        times.setdefault(monitor, []).append(at)
    assert len(times) == OTHERS + 1, len(times)
    now = time.monotonic()
    return max(
        b - a
        for name, all_ in times.items()
        if name != MOVING
        for a, b in pairwise([*all_, min(now, all_[-1] + EVERY)])
    )


async def _newest(session: aiohttp.ClientSession, url: str) -> Event:
    """The newest event of a log that does not grow: what has come by the time that nothing more comes at once."""
    async with session.get(url) as response:
        seen = events(response)
        newest = await anext(seen)
        while True:
            try:
                newest = await asyncio.wait_for(anext(seen), 2 * EVERY)
            except TimeoutError:
                return newest


ROW = Row(
    name="reconnect",
    about=(
        f"{STREAMS:,} streams of one job are cut, miss some events, and all connect in the same moment with their "
        f"last id; served is who has its 200 and is level. {OTHERS} other jobs are polled each {EVERY} s "
        "meanwhile."
    ),
    cases=[Case("gateway", reconnect, (load.missing,))],
    lines=[
        Line("until all are served", "s", "gateway", "served", target=Target(2.0)),
        Line("the latest poll of another job", "ms", "gateway", "late", target=Target(200.0)),
        Line("the same while nobody reconnects", "ms", "gateway", "late in peace"),
    ],
)
