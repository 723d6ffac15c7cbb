"""A store that is full, locked or broken under a running gateway, and at its start."""

from __future__ import annotations

import resource
import sqlite3
from contextlib import closing
from pathlib import Path

import aiohttp
import anyio
import pytest
from aiohttp import web

from tests.fake_upstream import FakeUpstream, answering, faking
from tests.harness import Process, events
from tests.test_process import copy, serve

pytestmark = pytest.mark.anyio


async def figures(session: aiohttp.ClientSession, gateway: Process) -> str:
    async with session.get(f"{gateway.url}/metrics") as response:
        return await response.text()


async def verdict_while(upstream: FakeUpstream, gateway: Process, trouble: str, folder: Path) -> None:
    """The monitor completes while the store takes nothing: the verdict is held, the monitor is not asked again, and
    the open stream gets it when the store is back.
    """
    async with aiohttp.ClientSession() as session:
        job = await copy(session, gateway)
        async with session.get(job["events"]) as response:
            stream = events(response)
            assert (await anext(stream)).id == "1"
            assert (await anext(stream)).id == "2"
            with closing(sqlite3.connect(folder / "gateway.db", isolation_level=None)) as other:
                if trouble == "locked":
                    other.execute("BEGIN IMMEDIATE")
                else:
                    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
                async with session.get(f"{gateway.url}/readyz") as ready:
                    assert ready.status == 503
                upstream.on_poll = answering(lambda: web.json_response({"status": "completed"}))
                with anyio.fail_after(20):
                    while "gateway_verdicts_held 1.0" not in await figures(session, gateway):  # noqa: ASYNC110 - a gauge has no event
                        await anyio.sleep(0.05)
                asked = upstream.polls()
                await anyio.sleep(2)
                assert upstream.polls() == asked
                async with session.get(f"{gateway.url}/jobs/{job['jobId']}") as state:
                    assert state.status == 202
                if trouble == "locked":
                    other.execute("ROLLBACK")
                else:
                    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, unlimited)
            with anyio.fail_after(20):
                rest = [event async for event in stream]
        assert [event.name for event in rest] == ["completed"]
        assert upstream.polls() == asked
        async with session.get(f"{gateway.url}/readyz") as ready:
            assert ready.status == 200
        assert "Traceback" not in gateway.output()


@pytest.mark.parametrize("trouble", ["locked", "full"])
async def test_a_verdict_is_held_until_it_is_stored(trouble: str, tmp_path: Path) -> None:
    """Locked by another program, or out of room: nothing that was seen is lost."""
    async with faking() as upstream, Process(upstream.url, tmp_path) as gateway:
        await verdict_while(upstream, gateway, trouble, tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [("a letter\n" * 999, "file is not a database"), (None, "not a gateway's store")],
    ids=["text", "foreign"],
)
def test_a_start_on_what_is_no_store(content: str | None, told: str, tmp_path: Path) -> None:
    """Exit 1, one line, the file as it was."""
    path = tmp_path / "s.db"
    if content is None:
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE mine (x)")
    else:
        path.write_text(content)
    before = path.read_bytes()
    ended = serve(environment={"GATEWAY_PORT": "0", "GATEWAY_STORE_URL": f"sqlite:///{path}"})
    assert ended.returncode == 1
    assert told in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert path.read_bytes() == before
