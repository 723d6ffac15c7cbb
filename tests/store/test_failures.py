"""A store that is full, locked or broken under a running gateway, and at its start."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import aiohttp
import anyio
import pytest
from aiohttp import web

from gateway.store.sqlite.file import StoreFile
from tests.support.fake_upstream import answering, faking
from tests.support.harness import Process, events, tail
from tests.system.test_process import copy, refused, serve


async def figures(session: aiohttp.ClientSession, gateway: Process) -> str:
    async with session.get(f"{gateway.url}/metrics") as response:
        return await response.text()


async def readiness(session: aiohttp.ClientSession, gateway: Process) -> int:
    async with session.get(f"{gateway.url}/readyz") as response:
        return response.status


@contextmanager
def locked(_gateway: Process, folder: Path) -> Iterator[None]:
    """Another program writes, for as long as the block runs."""
    with closing(sqlite3.connect(folder / "gateway.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def full(gateway: Process, _folder: Path) -> Iterator[None]:
    """No file of the gateway's can grow, for as long as the block runs."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    yield
    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, unlimited)


async def test_nothing_seen_is_lost_while_the_store_takes_nothing(tmp_path: Path) -> None:
    """A verdict is held and its monitor not asked again; a copy accepted upstream is outcomeUnknown after 5 s, a new
    one is refused before it goes there; streams stay open, and get the verdict when the store is back.

    Two gateways at once, since all of it is waiting: one whose store is locked, one whose store is full.
    """
    async with anyio.create_task_group() as tasks:
        for trouble in (locked, full):
            folder = tmp_path / trouble.__name__
            folder.mkdir()
            tasks.start_soon(nothing_seen_is_lost, trouble, folder)


async def nothing_seen_is_lost(
    trouble: Callable[[Process, Path], AbstractContextManager[None]], tmp_path: Path
) -> None:
    async with (
        faking() as upstream,
        Process(upstream.url, tmp_path) as gateway,
        aiohttp.ClientSession() as session,
    ):
        job = await copy(session, gateway)
        let_go = asyncio.Event()

        async def slow(request: web.Request) -> web.StreamResponse:
            await let_go.wait()
            return await upstream.accept(request)

        upstream.on_copy = slow
        in_flight = asyncio.create_task(refused(session, gateway, "in-flight"))
        while upstream.copies() < 2:  # noqa: ASYNC110 - until it is upstream
            await anyio.sleep(0.01)
        async with session.get(job["events"]) as response:
            stream = events(response)
            assert [(await anext(stream)).id for _ in range(2)] == ["1", "2"]
            with trouble(gateway, tmp_path):
                upstream.on_poll = answering(lambda: web.json_response({"status": "completed"}))
                with anyio.fail_after(20):
                    while "gateway_verdicts_held 1.0" not in await figures(session, gateway):  # noqa: ASYNC110 - a gauge has no event
                        await anyio.sleep(0.05)
                asked = upstream.polls()
                assert await readiness(session, gateway) == 503
                let_go.set()
                accepted = time.monotonic()
                assert await in_flight == (502, "outcomeUnknown")
                assert time.monotonic() - accepted > 4
                assert await refused(session, gateway, "new") == (503, "serviceNotAvailable")
                async with session.get(f"{gateway.url}/jobs/{job['jobId']}") as state:
                    assert state.status == 202
                assert upstream.polls() == asked
            with anyio.fail_after(20):
                rest = [event async for event in stream]
        assert [event.name for event in rest] == ["completed"]
        assert await readiness(session, gateway) == 200
        assert await refused(session, gateway, "in-flight") == (502, "outcomeUnknown")
        assert (upstream.polls(), upstream.copies()) == (asked, 2)
        await copy(session, gateway)
        assert "Traceback" not in gateway.output()


async def test_an_exit_while_a_verdict_is_held(tmp_path: Path) -> None:
    """The store's trouble does not hold the exit up, and the next start sees the verdict for itself."""
    async with faking() as upstream, aiohttp.ClientSession() as session:
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed"}))
        async with Process(upstream.url, tmp_path, poll_min=1, poll_max=1) as gateway:
            job = await copy(session, gateway)
            with locked(gateway, tmp_path):
                with anyio.fail_after(20):
                    while "gateway_verdicts_held 1.0" not in await figures(session, gateway):  # noqa: ASYNC110 - a gauge has no event
                        await anyio.sleep(0.05)
                gateway.signal()
                assert await gateway.exited() == 0
            assert "Traceback" not in gateway.output()
        async with Process(upstream.url, tmp_path, port=gateway.port):
            assert [event.name for event in await tail(session, job["events"])] == ["progress", "completed"]


def no_store(path: Path) -> None:
    path.write_text("a letter\n" * 999)


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE mine (x)")


def newer(path: Path) -> None:
    StoreFile.open(path, None, "tests", make_operator_key=False).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


def damaged(path: Path) -> None:
    StoreFile.open(path, None, "tests", make_operator_key=False).close()
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 4] = os.urandom(8192)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        pytest.param(no_store, "file is not a database", marks=pytest.mark.thorough),
        (foreign, "not a gateway's store"),
        pytest.param(newer, "has version 99", marks=pytest.mark.thorough),
        (damaged, "damaged|malformed"),
    ],
)
def test_a_start_on_what_is_no_store_of_ours(make: Callable[[Path], None], told: str, tmp_path: Path) -> None:
    """Exit 1, one line, the file as it was."""
    path = tmp_path / "s.db"
    make(path)
    before = path.read_bytes()
    ended = serve(environment={"GATEWAY_PORT": "0", "GATEWAY_STORE_URL": f"sqlite:///{path}"})
    assert ended.returncode == 1
    assert re.search(told, ended.stderr)
    assert len(ended.stderr.strip().splitlines()) == 1
    assert path.read_bytes() == before
