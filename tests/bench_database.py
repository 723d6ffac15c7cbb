"""How far one database goes: appends a second, and what each costs the gateway and the database.

`python -m tests.bench_database` runs it; its figures stand in deploy/README.md. fsync is on, as in an installation.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time

import psutil

from gateway.cli_database import Server, temporary_folder
from gateway.jobs import Answer, Target, accepted, advance
from gateway.store.database import Database
from gateway.store.postgres import PostgresStore

DURABLE = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB", "max_wal_size": "4GB"}


async def append(url: str, jobs: int, seconds: float, rate: float) -> dict[str, float]:
    """As a gateway with so many jobs; each changes `rate` times a second, or as often as it can when that is 0."""
    database = await Database.open(url, None, None)
    waits: list[float] = []
    async with PostgresStore.open(database, log_limit=256, lease=10, clock=time.time) as store:
        known = [
            accepted(f"{store.me}-{number}", monitor="https://h/m", target=Target(), now=1.0) for number in range(jobs)
        ]
        for first in range(0, jobs, 100):
            await asyncio.gather(*(store.create(job, events, None) for job, events in known[first : first + 100]))
        print("ready", flush=True)
        sys.stdin.readline()  # until all are
        begun, used = time.perf_counter(), _cpu()

        async def change(number: int) -> None:
            job = known[number][0]
            await asyncio.sleep(number / jobs / rate if rate else 0)
            for step in range(1, 1 << 30):
                asked = time.perf_counter()
                if asked - begun > seconds:
                    return
                following, events = advance(job, Answer(status="inProgress", percentage=step / 1e6), float(step))
                assert await store.append(following, events)
                job = following
                waits.append(time.perf_counter() - asked)
                if rate:
                    await asyncio.sleep(max(0.0, step / rate + number / jobs / rate - (time.perf_counter() - begun)))

        await asyncio.gather(*(change(number) for number in range(jobs)))
        took = time.perf_counter() - begun
        cpu = _cpu() - used
    waits.sort()
    return {
        "appends": len(waits),
        "seconds": took,
        "cpu": cpu,
        "p50": waits[len(waits) // 2],
        "p99": waits[int(len(waits) * 0.99)],
    }


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measured(server: Server, gateways: int, jobs: int, seconds: float, rate: float) -> str:
    """A row of the table: so many gateways at once, with so many jobs each."""
    command = [sys.executable, "-m", "tests.bench_database", "--as-gateway"]
    command += ["--jobs", str(jobs), "--seconds", str(seconds), "--rate", str(rate)]
    environment = os.environ | {"GATEWAY_STORE_URL": server.url()}
    running = [
        subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(gateways)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    before = _database_cpu(server)
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [json.loads(process.communicate()[0]) for process in running]
    used = _database_cpu(server) - before
    appends = sum(one["appends"] for one in found)
    took = max(one["seconds"] for one in found)
    return (
        f"| {gateways} | {jobs} | {f'{rate:g} a second' if rate else 'as often as it can'} | {appends / took:,.0f} "
        f"| {max(one['p50'] for one in found) * 1e3:.1f} / {max(one['p99'] for one in found) * 1e3:.1f} "
        f"| {sum(one['cpu'] for one in found) / appends * 1e6:.0f} | {used / appends * 1e6:.0f} |"
    )


def _database_cpu(server: Server) -> float:
    assert server._process is not None
    process = psutil.Process(server._process.pid)
    own = [process, *process.children(recursive=True)]
    times = [one.cpu_times() for one in own]
    ended = process.cpu_times()
    return sum(one.user + one.system for one in times) + ended.children_user + ended.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-gateway", action="store_true")
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=0.0)
    asked = parser.parse_args()
    if asked.as_gateway:
        print(json.dumps(asyncio.run(append(os.environ["GATEWAY_STORE_URL"], asked.jobs, asked.seconds, asked.rate))))
        return
    print(
        "| gateways | jobs each | each changes | appends a second | p50 / p99, ms"
        " | a gateway's CPU, us an append | the database's |"
    )
    print("|---|---|---|---|---|---|---|")
    with temporary_folder() as folder, Server(folder, settings=DURABLE) as server:
        for gateways, jobs, rate in ((1, 500, 0.0), (2, 500, 0.0), (4, 500, 0.0), (8, 500, 0.0), (1, 5000, 1.0)):
            print(measured(server, gateways, jobs, asked.seconds, rate), flush=True)


if __name__ == "__main__":
    main()
