"""What starting a copy through the gateway takes, beside straight to upstream."""

from __future__ import annotations

import sqlite3
import time
from functools import partial
from pathlib import Path
from statistics import median, quantiles

from tests.bench.machine import cpu_seconds
from tests.bench.posts import Answered, post
from tests.bench.row import Case, Figures, Line, Row, Target
from tests.bench.servers import gateway
from tests.bench.upstream import Doing, Upstream
from tests.support.harness import FOLDER

AT_ONCE = 50
WARM = 200
NUMBER = 5000
GRAPH_TAKES = 0.1
"""Seconds upstream takes for a copy where the wait is measured; Graph takes longer."""
BODY = b'{"name":"a copy","parentReference":{"path":"/drive/root:/Documents"}}'


async def straight(delay: float, _folder: Path, _run: int) -> Figures:
    async with Upstream.start() as upstream:
        await upstream.set(Doing(delay=delay))
        return await _posted(upstream.port, upstream.pid)


async def through(delay: float, folder: Path, _run: int) -> Figures:
    """Nothing that was answered may be missing from the file once the gateway is killed."""
    async with Upstream.start() as upstream:
        await upstream.set(Doing(delay=delay))
        async with gateway(upstream.url, folder, poll_min=30, poll_max=30, max_jobs=10 * NUMBER) as process:
            answers: list[Answered] = []
            figures = await _posted(process.port, process.process.pid, answers)
            process.kill()
        promised = {location.rpartition("/")[2] for one in answers for location in one.locations}
        store = sqlite3.connect(folder / "gateway.db")
        kept = {job_id for (job_id,) in store.execute("SELECT id FROM jobs")}
        store.close()
        assert len(promised) == WARM + NUMBER, len(promised)
        assert promised <= kept, f"{len(promised - kept)} copies were answered with 202 and are not in the store"
    return figures


async def _posted(port: int, pid: int, answers: list[Answered] | None = None) -> Figures:
    path = f"{FOLDER}/copy"
    warm = await post(port, path, BODY, number=WARM, at_once=AT_ONCE, status=202)
    used, own = cpu_seconds(pid), time.process_time()
    timed = await post(port, path, BODY, number=NUMBER, at_once=AT_ONCE, status=202)
    used, own = cpu_seconds(pid) - used, time.process_time() - own
    if answers is not None:
        answers += [warm, timed]
    return {
        "median": median(timed.waits) * 1e3,
        "p99": quantiles(timed.waits, n=100)[98] * 1e3,
        "a second": NUMBER / timed.seconds,
        "us": used / NUMBER * 1e6,
        "client CPU": own / timed.seconds,
    }


ROW = Row(
    name="copies",
    about=(
        f"POST …/copy, {AT_ONCE} at a time, on SQLite. The wait is measured with an upstream that takes "
        f"{GRAPH_TAKES * 1e3:.0f} ms, the rate with one that answers at once. Afterwards the gateway is killed, "
        "and its file must have every copy that was answered."
    ),
    cases=[
        Case("gateway", partial(through, GRAPH_TAKES)),
        Case("straight", partial(straight, GRAPH_TAKES)),
        Case("gateway, full", partial(through, 0.0)),
        Case("straight, full", partial(straight, 0.0)),
    ],
    lines=[
        Line("median wait", "ms", "gateway", "median", peer="straight", compared="difference", target=Target(3.0)),
        Line("p99 of the wait", "ms", "gateway", "p99", peer="straight", compared="difference"),
        Line("copies a second", "", "gateway, full", "a second", target=Target(1500, "at least")),
        Line("the same, compared", "", "gateway, full", "a second", peer="straight, full"),
        Line("median wait at that rate", "ms", "gateway, full", "median", peer="straight, full", compared="difference"),
        Line("CPU of a copy", "us", "gateway, full", "us"),
        Line("CPU of the client", "of a core", "gateway, full", "client CPU", peer="straight, full"),
    ],
)
