"""Gateways that reach PostgreSQL through a real PgBouncer, which gives each transaction another connection."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
import anyio
import asyncpg

from gateway.cli.demo.postgres import UNPRIVILEGED, temporary_folder
from gateway.simulator import Simulator, running
from tests.support.harness import COPY_BODY, FOLDER, TOKEN, Process, free_port, tail
from tests.support.programs import program

POOL = 2
COPIES = 50


@contextmanager
def pgbouncer(database_url: str) -> Iterator[str]:
    """The database's URL through a pooler in transaction mode, with two connections for everybody."""
    path = program("pgbouncer", package="pgbouncer")
    parts = urlsplit(database_url)
    name, port = parts.path.strip("/"), free_port()
    to = {"host": parts.hostname, "port": parts.port or 5432, "dbname": name, "user": parts.username}
    if parts.password:
        to["password"] = unquote(parts.password)
    settings = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": "transaction",
        "default_pool_size": POOL,
    }
    with temporary_folder() as folder:
        conf = folder / "pgbouncer.ini"
        there = " ".join(f"{key}={value}" for key, value in to.items())
        lines = ["[databases]", f"{name} = {there}", "[pgbouncer]", *(f"{key} = {settings[key]}" for key in settings)]
        conf.write_text("\n".join(lines) + "\n")
        as_other: dict[str, Any] = {}
        if os.geteuid() == 0:  # it does not run as root
            as_other = {"user": UNPRIVILEGED, "group": pwd.getpwnam(UNPRIVILEGED).pw_gid, "extra_groups": ()}
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([path, str(conf)], stdout=log, stderr=log, cwd=folder, **as_other)
        try:
            answering(process, port, folder / "log")
            yield parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}").geturl()
        finally:
            process.kill()
            process.wait()


def answering(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError(log.read_text())


async def copy(session: aiohttp.ClientSession, gateway: Process) -> dict[str, Any]:
    query = {"simulate": "copy", "seconds": "2", "steps": "10"}
    async with session.post(f"{gateway.url}{FOLDER}/copy", json=COPY_BODY, headers=TOKEN, params=query) as response:
        assert response.status == 202, await response.text()
        job: dict[str, Any] = await response.json()
        return job


async def test_many_copies_through_few_connections(tmp_path: Path, database_url: str) -> None:
    """Each is started at one gateway and followed at the other; wake-ups come by the direct connection."""
    with pgbouncer(database_url) as pooled:
        async with (
            running(Simulator()) as upstream,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            gateways = [
                Process(upstream.url, tmp_path, store_url=pooled, listen_url=database_url, port=free_port(), lease=2)
                for _ in range(2)
            ]
            for gateway in gateways:
                gateway.spawn()
            async with gateways[0] as one, gateways[1] as other:
                with anyio.fail_after(30):
                    await one.ready()
                    await other.ready()
                    alone = await copy(session, one)
                    assert (await tail(session, events(other, alone)))[-1].name == "completed"
                    jobs = await asyncio.gather(*(copy(session, gateway) for gateway in gateways * (COPIES // 2)))
                    others = gateways[::-1] * (COPIES // 2)
                    follow = [tail(session, events(gateway, job)) for gateway, job in zip(others, jobs, strict=True)]
                    reading = asyncio.gather(*follow)
                    most = 0
                    while not reading.done():
                        most = max(most, await connections(database_url))
                        await anyio.sleep(0.2)
                    logs = await reading
                for gateway in gateways:
                    gateway.signal()
                    assert await gateway.exited() == 0
                    assert '"level":"error"' not in gateway.output(), gateway.output()
    for log in logs:
        assert [int(event.id) for event in log] == list(range(1, len(log) + 1))
        assert log[-1].name == "completed"
        assert len(log) >= 3  # how many more depends on how busy the machine is
    assert len(upstream.asked("copy")) == COPIES + 1
    assert most <= POOL + len(gateways)


def events(gateway: Process, job: dict[str, Any]) -> str:
    """A job's stream at this gateway."""
    return f"{gateway.url}/jobs/{job['jobId']}/events"


async def connections(database_url: str) -> int:
    """How many the database has, this one left out."""
    connection = await asyncpg.connect(database_url)
    asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    count: int = await connection.fetchval(asked)
    await connection.close()
    return count
