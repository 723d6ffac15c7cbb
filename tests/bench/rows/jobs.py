"""Ten thousand running jobs in one process: what they hold, and how it starts with them."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from gateway.core.job import Target as CopyTarget
from gateway.core.job import accepted
from gateway.jobs.schedule import UNSEEN, Bounds, next_wait
from tests.bench.machine import MIB, cpu_seconds, resident
from tests.bench.row import Case, Figures, Line, Row, Target
from tests.bench.servers import gateway
from tests.bench.upstream import Doing, Upstream
from tests.support.stores import open_sqlite

JOBS = 10_000
LONGEST = 4 * 3600.0
BOUNDS = Bounds(0.5, 30.0)
SETTLE = 5.0
BUSIEST = 1.0
"""Seconds of which the fullest is compared with the mean."""


async def idle(folder: Path, _run: int) -> Figures:
    async with Upstream.start() as upstream, gateway(upstream.url, folder) as process:
        await asyncio.sleep(SETTLE)
        return {"MiB": resident(process.process.pid) / MIB}


async def running(folder: Path, run: int) -> Figures:
    """All unfinished from an earlier life, their ages even over four hours, at the default settings."""
    rng = random.Random(run)
    async with Upstream.start() as upstream:
        ages = {str(number): rng.uniform(0, LONGEST) for number in range(1, JOBS + 1)}
        await _fill(folder / "gateway.db", upstream.url, ages)
        await upstream.set(Doing())
        begun = time.monotonic()
        settings = {"poll_min": BOUNDS.shortest, "poll_max": BOUNDS.longest}
        async with gateway(upstream.url, folder, **settings) as process:
            ready = time.monotonic()
            pid = process.process.pid
            used = cpu_seconds(pid)
            await asyncio.sleep(BOUNDS.longest + SETTLE)
            used = cpu_seconds(pid) - used
            held = resident(pid)
            polls = (await upstream.seen()).polls
    first: dict[str, float] = {}
    for monitor, at in polls:
        first.setdefault(monitor, at)
    assert len(first) == JOBS, len(first)
    late = [first[name] - ready - _wait(age + ready - begun) for name, age in ages.items()]
    shares = [(first[name] - ready) / _wait(age + ready - begun) for name, age in ages.items()]
    seconds = [0] * int(BOUNDS.longest / BUSIEST)
    for at in first.values():
        seconds[min(max(int((at - ready) / BUSIEST), 0), len(seconds) - 1)] += 1
    return {
        "MiB": held / MIB,
        "ready": ready - begun,
        "share": max(shares),
        "late": max(0.0, *late),
        "busiest": max(seconds) / (JOBS / len(seconds)),
        "CPU": used / (BOUNDS.longest + SETTLE),
    }


async def _fill(path: Path, url: str, ages: dict[str, float]) -> None:
    store = open_sqlite(path)
    now = time.time()
    new = [
        accepted(f"job-{name}", monitor=f"{url}/monitor/{name}", target=CopyTarget(), now=now - age)
        for name, age in ages.items()
    ]
    for first in range(0, len(new), 500):
        await asyncio.gather(*(store.create(job, events, None) for job, events in new[first : first + 500]))
    await store.close()


def _wait(age: float) -> float:
    """The longest that a job of such an age goes unasked while nothing is known of its progress."""
    return next_wait(age=age, progress=UNSEEN, now=0.0, failures=0, retry_after=None, bounds=BOUNDS, rng=_Longest())


class _Longest(random.Random):
    """Chance at its upper end."""

    def uniform(self, a: float, b: float) -> float:
        return b


ROW = Row(
    name="jobs",
    about=(
        f"{JOBS:,} jobs unfinished in the store, their ages even over {LONGEST / 3600:g} hours, default settings. "
        "A first poll is in time if it comes before its own wait since ready is over. The fullest second is that "
        "with the most first polls."
    ),
    cases=[Case("jobs", running), Case("idle", idle)],
    lines=[
        Line("memory above idle", "MiB", "jobs", "MiB", peer="idle", compared="difference", target=Target(120.0)),
        Line("from start to ready", "s", "jobs", "ready", target=Target(2.0)),
        Line("latest first poll", "own waits", "jobs", "share", target=Target(1.0)),
        Line("by how much it is late", "s", "jobs", "late"),
        Line("fullest second", "of an even one", "jobs", "busiest"),
        Line("CPU while they are polled", "of a core", "jobs", "CPU"),
    ],
)
