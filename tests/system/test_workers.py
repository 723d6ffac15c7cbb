"""Several gateways behind one port of one machine, as processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import aiohttp
import anyio
import msgspec
import psutil
import pytest
from aiohttp import web

from gateway.server import heartbeat, workers
from gateway.store.postgres import database
from tests.support.fake_upstream import answering, faking
from tests.support.harness import COPY_BODY, FOLDER, TOKEN, Process, events, free_ports
from tests.support.wire import wired

HANG = "import signal, time; signal.signal(signal.SIGUSR1, lambda *_: time.sleep(3600))\n"
"""At SIGUSR1 the main thread stands still, and other threads go on."""
QUICK_SIGNS = """
from gateway.server import heartbeat
heartbeat.EVERY = 0.375
"""
QUICK_RETRIES = """
import sys
if "--workers" in sys.orig_argv:
    from gateway.server import workers
    workers.FIRST_DELAY = 0.375
"""
QUICK_SURRENDER = """
from gateway.store.postgres import database
database.PATIENCE = 3.0
"""
"""Intervals of the same proportions, or a fraction of the time: `test_the_intervals` holds the lengths."""


def test_the_intervals() -> None:
    """In seconds: a worker that hangs is found after 8, and one that cannot start is tried again after 1, 2, 4 … 30."""
    assert (heartbeat.EVERY, workers.HUNG) == (1, 8)
    assert (workers.FIRST_DELAY, workers.LONGEST_DELAY, workers.STEADY) == (1, 30, 60)
    assert database.PATIENCE == 30
    worker = workers.Worker(1)
    assert [workers._delay(worker) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]


class Several(Process):
    """`gateway serve --workers 2` on a database. `first` is what each Python runs at its start."""

    def __init__(self, upstream: str, database_url: str, folder: Path, *, first: str = "", **values: Any) -> None:
        values = {"port": free_ports(), "store_url": database_url, "lease": 2, **values}
        super().__init__(upstream, folder, arguments=("--workers", "2"), **values)
        (folder / "sitecustomize.py").write_text(first)
        self._environment["PYTHONPATH"] = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    async def all_ready(self) -> None:
        """Each of them, on its own port."""
        for own in (self.port + 1, self.port + 2):
            await self.ready(40, port=own)

    async def begun(self) -> list[psutil.Process]:
        """Both, as soon as they run."""
        with anyio.fail_after(20):
            while True:
                with suppress(psutil.Error):  # one that has just ended
                    running = [one for one in self.workers() if "--worker" in one.cmdline()]
                    if len(running) == 2:
                        return running
                await anyio.sleep(0.01)

    async def serving(self) -> list[psutil.Process]:
        """Both, once they serve."""
        await self.all_ready()
        return self.workers()

    async def answers(self) -> None:
        """On the port that they share, at once."""
        for _ in range(12):
            timeout = aiohttp.ClientTimeout(total=5)
            async with aiohttp.ClientSession(timeout=timeout) as one, one.get(f"{self.url}/healthz") as response:
                assert response.status == 200

    async def logged(self, event: str, count: int, *, seconds: float = 20) -> list[dict[str, Any]]:
        """Wait for that many lines of an event, and return them."""
        with anyio.fail_after(seconds):
            while True:
                lines = [line for line in self.output().splitlines() if f'"event":"{event}"' in line]
                if len(lines) >= count:
                    return [msgspec.json.decode(line) for line in lines]
                await anyio.sleep(0.05)

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
        assert "  workers       2\n" in gateways.output()
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


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_signal_that_reaches_all_of_them(signals: int, database_url: str, tmp_path: Path) -> None:
    """As of a service manager: each counts it once, and finishes what is in flight; a second one ends all at once."""
    async with faking() as upstream, Several(upstream.url, database_url, tmp_path, drain=60) as gateways:
        accepted = anyio.Event()

        async def late(request: web.Request) -> web.StreamResponse:
            await accepted.wait()
            return await upstream.accept(request)

        upstream.on_copy = late
        await gateways.all_ready()
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:

            async def copy() -> int:
                url = f"{gateways.url}{FOLDER}/copy"
                async with session.post(url, json=COPY_BODY, headers=TOKEN) as response:
                    return response.status

            copying = tasks.create_task(copy())
            while upstream.copies() < 1:  # noqa: ASYNC110 - until it is upstream
                await anyio.sleep(0.01)
            for one in gateways.workers():
                one.send_signal(signal.SIGTERM)
            gateways.signal(signal.SIGTERM)
            with anyio.fail_after(20):
                while len(gateways.workers()) == 2:  # noqa: ASYNC110 - until the one without the copy has ended: both were told
                    await anyio.sleep(0.01)
            if signals == 1:
                accepted.set()
            else:
                gateways.signal(signal.SIGTERM)
            assert await copying == (202 if signals == 1 else 502)
        assert await gateways.exited(20) == 0


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


async def test_a_shared_port_that_is_taken(database_url: str, tmp_path: Path) -> None:
    """No worker can listen on it."""
    port = free_ports()
    with socket.create_server(("127.0.0.1", port)):
        async with Several("http://127.0.0.1:9", database_url, tmp_path, port=port) as gateways:
            assert await gateways.exited(60) == 1
            assert f"port {port}: the port is taken" in gateways.output()


async def test_one_that_cannot_start_is_tried_again(database_url: str, tmp_path: Path) -> None:
    """Its own port is taken, at the first start and at a later one: the other serves on, and it starts once the port is
    free. A signal during the wait ends all at once.
    """
    async with Several("http://127.0.0.1:9", database_url, tmp_path, first=QUICK_RETRIES) as gateways:
        with socket.create_server(("127.0.0.1", gateways.port + 1)):
            await gateways.ready(40, port=gateways.port + 2)
            told = await gateways.logged("worker_not_started", 3)
            assert [one.get("again_in") for one in told[1:]] == [0.75, 1.5]
            assert {(one["worker"], one["status"]) for one in told} == {(1, 1)}
            await gateways.answers()
        await gateways.all_ready()
        (served,) = (one for one in gateways.workers() if one.cmdline()[-1] == "1")
        served.kill()
        served.wait(10)
        with socket.create_server(("127.0.0.1", gateways.port + 1)):
            await gateways.logged("worker_not_started", 4)
            await gateways.answers()
            gateways.signal(signal.SIGTERM)
            assert await gateways.exited(5) == 0  # before the next start, which is due in 6 s


async def test_killed_before_they_serve(database_url: str, tmp_path: Path) -> None:
    """At the first start and as a replacement, with a growing wait."""
    async with Several("http://127.0.0.1:9", database_url, tmp_path, first=QUICK_RETRIES) as gateways:
        for one in await gateways.begun():
            one.kill()
        await gateways.all_ready()
        first = gateways.workers()[0]
        number = first.cmdline()[-1]
        for _ in range(3):
            first.kill()
            first.wait(10)
            (first,) = [one for one in await gateways.begun() if one.cmdline()[-1] == number]
            await gateways.answers()
        told = [one["again_in"] for one in await gateways.logged("worker_died", 5) if one["worker"] == int(number)]
        assert told == [0.375, 0.75, 1.5, 3.0]
        await gateways.all_ready()
        gateways.signal(signal.SIGINT)
        assert await gateways.exited() == 0


async def test_killed_in_the_middle_of_a_request_and_then_with_their_parent(database_url: str, tmp_path: Path) -> None:
    """Its copy is lost with it, the other serves on. However the parent ends, none is left behind on the port."""
    async with (
        faking() as upstream,
        aiohttp.ClientSession() as session,
        Several(upstream.url, database_url, tmp_path) as gateways,
    ):
        await gateways.all_ready()
        asked, never = anyio.Event(), anyio.Event()

        async def unanswered(_request: web.Request) -> web.StreamResponse:
            asked.set()
            await never.wait()
            return web.Response()

        upstream.on_copy = unanswered
        (first,) = (one for one in gateways.workers() if one.cmdline()[-1] == "1")
        async with anyio.create_task_group() as tasks:

            async def copy() -> None:
                with pytest.raises(aiohttp.ClientError):
                    await session.post(f"http://127.0.0.1:{gateways.port + 1}{FOLDER}/copy", json={}, headers=TOKEN)

            tasks.start_soon(copy)
            with anyio.fail_after(10):
                await asked.wait()
            first.kill()
        await gateways.answers()
        never.set()
        await gateways.all_ready()
        left = gateways.workers()
        gateways.process.kill()
        gone, alive = await anyio.to_thread.run_sync(psutil.wait_procs, left, 15)
        assert len(gone) == 2
        assert not alive


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGUSR1])
@pytest.mark.parametrize("every", [0.375, pytest.param(1, marks=pytest.mark.thorough)])
async def test_one_that_hangs(every: float, how: int, database_url: str, tmp_path: Path) -> None:
    """Starting, serving, ending: it is found within 10 signs of life that are missing, and killed; it is replaced, and
    at the end it holds up nobody.
    """
    first = HANG + (QUICK_SIGNS if every < 1 else "")
    async with Several("http://127.0.0.1:9", database_url, tmp_path, first=first) as gateways:
        # A loop that hangs is found once the worker serves.
        for found in (gateways.begun, gateways.serving) if how == signal.SIGSTOP else (gateways.serving,):
            hung = (await found())[0]
            hung.send_signal(how)
            await anyio.to_thread.run_sync(hung.wait, 12)
            await gateways.all_ready()
            await gateways.answers()
        gateways.workers()[0].send_signal(how)
        gateways.signal(signal.SIGTERM)
        assert await gateways.exited(12) == 0
        told = await gateways.logged("worker_hung", 3 if how == signal.SIGSTOP else 2)
        assert all(8 * every <= one["seconds"] < 10 * every for one in told)


async def test_all_are_suspended_together(database_url: str, tmp_path: Path) -> None:
    """As a machine that sleeps: nobody is taken for hung afterwards, since the parent did not run either."""
    async with Several("http://127.0.0.1:9", database_url, tmp_path, first=QUICK_SIGNS) as gateways:
        await gateways.all_ready()
        before = gateways.workers()
        for one in (psutil.Process(gateways.process.pid), *before):
            one.suspend()
        await anyio.sleep(4.5)  # one that hangs is found after 3
        for one in (psutil.Process(gateways.process.pid), *before):
            one.resume()
        await gateways.all_ready()
        await gateways.answers()
        assert {one.pid for one in gateways.workers()} == {one.pid for one in before}
        assert "worker_hung" not in gateways.output()


async def test_one_is_killed_while_the_database_is_away(database_url: str, tmp_path: Path) -> None:
    """The replacement gives up after a while and is tried again, until the database is back; the other serves on
    all the while.
    """
    first = QUICK_RETRIES + QUICK_SURRENDER
    async with wired(database_url) as wire, Several("http://127.0.0.1:9", wire.url, tmp_path, first=first) as gateways:
        await gateways.all_ready()
        await wire.down()
        gateways.workers()[0].kill()
        await gateways.logged("store_awaited", 1)
        await gateways.answers()
        (told,) = await gateways.logged("worker_not_started", 1, seconds=45)
        assert told["again_in"] == 0.75
        await gateways.answers()
        await gateways.logged("store_awaited", 2)
        await wire.up()
        await gateways.all_ready()
        assert not [one for one in await gateways.logged("worker_died", 1) if one["status"] != -signal.SIGKILL]
