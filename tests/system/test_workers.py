"""Several gateways behind one port of one machine, as processes."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Any, Self

import aiohttp
import anyio
import psutil
import pytest
from aiohttp import web

from tests.support.fake_upstream import answering, faking
from tests.support.harness import COPY_BODY, FOLDER, TOKEN, Process, events, free_ports


class Several(Process):
    """`gateway serve --workers 2` on a database."""

    def __init__(self, upstream: str, database_url: str, folder: Path, **values: Any) -> None:
        values = {"port": free_ports(), "store_url": database_url, "lease": 2, **values}
        super().__init__(upstream, folder, arguments=("--workers", "2"), **values)

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    async def all_ready(self) -> None:
        """Each of them, on its own port."""
        for own in (self.port + 1, self.port + 2):
            await self.ready(40, port=own)

    async def __aenter__(self) -> Self:
        self.spawn()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.poll() is None:
            for one in self.workers():
                one.kill()
        await super().__aexit__()


async def requests_of(session: aiohttp.ClientSession, port: int) -> float:
    """How many requests a worker was asked on the port they share or its own."""
    async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("gateway_requests_total{"))


async def test_the_connections_are_dealt_out_and_one_that_dies_is_replaced(database_url: str, tmp_path: Path) -> None:
    """A job goes on whoever polled it, and its stream has every event; SIGTERM ends all, with 0."""
    async with (
        faking() as upstream,
        aiohttp.ClientSession() as session,
        Several(upstream.url, database_url, tmp_path) as gateways,
    ):
        await gateways.all_ready()
        for _ in range(40):
            async with aiohttp.ClientSession() as other, other.get(f"{gateways.url}/healthz") as response:
                assert response.status == 200
        assert all([await requests_of(session, gateways.port + worker) > 5 for worker in (1, 2)])
        async with session.post(f"{gateways.url}{FOLDER}/copy", json=COPY_BODY, headers=TOKEN) as response:
            assert response.status == 202
            job = await response.json()
        first, second = gateways.workers()
        first.kill()
        await gateways.all_ready()
        assert second.is_running()
        assert first.pid not in {one.pid for one in gateways.workers()}
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed"}))
        async with session.get(job["events"]) as response:
            with anyio.fail_after(20):
                names = [event.name async for event in events(response)]
        assert names[-1] == "completed"
        gateways.signal(signal.SIGTERM)
        assert await gateways.exited() == 0
        assert not second.is_running()


async def test_they_end_with_the_one_that_started_them(database_url: str, tmp_path: Path) -> None:
    """However it ends: none is left behind on the port."""
    async with faking() as upstream, Several(upstream.url, database_url, tmp_path) as gateways:
        await gateways.all_ready()
        workers = gateways.workers()
        gateways.process.kill()
        gone, alive = await anyio.to_thread.run_sync(psutil.wait_procs, workers, 15)
        assert len(gone) == 2
        assert not alive


@pytest.mark.parametrize(
    ("wrong", "status", "words"),
    [
        ({"store_url": "sqlite:///workers.db"}, 2, "--workers: the workers share the jobs through PostgreSQL."),
        ({"poll_rate": "none"}, 2, "GATEWAY_POLL_RATE: "),
        ({"host": "192.0.2.1", "public_url": "https://g"}, 1, "this machine has no such address"),
        ({"store_url": "absent"}, 1, "does not exist"),
    ],
)
async def test_what_keeps_them_from_starting(
    wrong: dict[str, str], status: int, words: str, database_url: str, tmp_path: Path
) -> None:
    """Told in a sentence, with the exit status of a single gateway."""
    if wrong.get("store_url") == "absent":
        wrong = {"store_url": database_url.replace("?", "_absent?")}
    async with Several("http://127.0.0.1:9", database_url, tmp_path, **wrong) as gateways:
        assert await gateways.exited(60) == status
        assert words in gateways.output()


async def test_a_port_that_is_taken(database_url: str, tmp_path: Path) -> None:
    """Theirs, or one worker's own."""
    port = free_ports() + 1
    with socket.create_server(("127.0.0.1", port)):
        for theirs in (port, port - 1):
            async with Several("http://127.0.0.1:9", database_url, tmp_path, port=theirs) as gateways:
                assert await gateways.exited(60) == 1
                assert f"port {port}: the port is taken" in gateways.output()
