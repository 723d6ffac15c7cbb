"""SQLite's files removed, moved or replaced under the running gateway: what it promises then, and what it does not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import anyio
from aiohttp import web

from gateway.store.sqlite import SQLiteStore
from tests.store.test_failures import figures, readiness
from tests.store.test_store import made
from tests.support.fake_upstream import FakeUpstream, answering, faking
from tests.support.harness import FOLDER, TOKEN, Process, events, tail
from tests.support.stores import open_sqlite
from tests.system.test_process import copy, refused

NAME = "gateway.db"
FILES = (NAME, f"{NAME}-wal", f"{NAME}-shm")


def moved(*names: str) -> Callable[[Path, Path], None]:
    def move(store: Path, aside: Path) -> None:
        aside.mkdir(parents=True)
        for name in names:
            (store / name).rename(aside / name)

    return move


def folder_moved(store: Path, aside: Path) -> None:
    aside.parent.mkdir(exist_ok=True)
    store.rename(aside)


def replaced(store: Path, aside: Path) -> None:
    """By a copy of itself, as a tool does that restores or rewrites a file."""
    moved(*FILES)(store, aside)
    for name in FILES:
        shutil.copy(aside / name, store / name)


def put_back(store: Path, aside: Path) -> None:
    if not store.exists():
        aside.rename(store)
        return
    for path in aside.iterdir():
        path.rename(store / path.name)


TROUBLES = {
    "all": moved(*FILES),
    "database": moved(NAME),
    "log": moved(FILES[1]),
    "index": moved(FILES[2]),
    "replaced": replaced,
    "folder": folder_moved,
}


async def test_what_the_next_start_would_not_find_is_not_promised(tmp_path: Path) -> None:
    """Not ready; no copy goes upstream, nothing is registered or stopped; what runs is followed to its end. With the
    right files back all goes on, and the next start has all of it. One gateway meets every trouble.
    """
    store, aside = tmp_path / "store", tmp_path / "aside"
    store.mkdir()
    async with (
        faking() as upstream,
        Process(upstream.url, tmp_path, store_url=f"sqlite:///{store}/{NAME}") as gateway,
        aiohttp.ClientSession() as session,
    ):
        jobs: list[dict[str, Any]] = []
        for what in TROUBLES:
            jobs += await troubled(what, store, aside / what, upstream, gateway, session)
        gateway.kill()
        output = gateway.output()
        assert output.count("store_file_gone") == output.count("store_file_back") == len(TROUBLES)
        assert "Traceback" not in output
        await gateway.start()
        async with gateway:
            for one in jobs:
                assert (await tail(session, f"{gateway.url}/jobs/{one['jobId']}/events"))[-1].name == "completed"
        assert upstream.copies() == len(jobs) == 3 * len(TROUBLES)


async def troubled(
    what: str, store: Path, aside: Path, upstream: FakeUpstream, gateway: Process, session: aiohttp.ClientSession
) -> list[dict[str, Any]]:
    """The jobs from before, during and after a trouble of that name; what was not as promised has its name."""
    good, before = upstream.on_poll, upstream.copies()
    job, kept = await copy(session, gateway), await copy(session, gateway)
    async with session.get(job["events"]) as response:
        stream = events(response)
        await anext(stream)
        TROUBLES[what](store, aside)
        assert await readiness(session, gateway) == 503, what
        for _ in range(3):
            assert await refused(session, gateway, what) == (503, "serviceNotAvailable"), what
            async with session.post(f"{gateway.url}{FOLDER}/copy", json={}, headers=TOKEN) as answer:
                assert answer.status == 503, what
        assert upstream.copies() == before + 2, what
        mine = {"Authorization": f"Bearer {job['jobKey']}"}
        url = f"{gateway.url}/jobs/{job['jobId']}"
        async with session.delete(url, headers=mine) as answer:
            assert answer.status == 503, what
        async with session.post(f"{url}/callbacks", headers=mine, json={"url": "https://1.1.1.1/"}) as answer:
            assert answer.status == 503, what
        assert "gateway_store_up 0.0" in await figures(session, gateway), what
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed"}))
        assert [event async for event in stream][-1].name == "completed", what
        await tail(session, kept["events"])
    put_back(store, aside)
    assert await readiness(session, gateway) == 200, what
    later = await copy(session, gateway)
    await tail(session, later["events"])
    upstream.on_poll = good
    return [job, kept, later]


async def test_a_log_that_is_lost_is_made_good_by_a_clean_end(tmp_path: Path) -> None:
    """As the line in the log says: what was in it is written into the database at SIGTERM."""
    async with faking() as upstream, aiohttp.ClientSession() as session:
        async with Process(upstream.url, tmp_path) as gateway:
            job = await copy(session, gateway)
            (tmp_path / FILES[1]).unlink()
            (tmp_path / FILES[2]).unlink()
            assert await readiness(session, gateway) == 503
            gateway.signal()
            assert await gateway.exited() == 0
            assert "with SIGTERM" in gateway.output()
        async with Process(upstream.url, tmp_path) as gateway:
            upstream.on_poll = answering(lambda: web.json_response({"status": "completed"}))
            seen = await tail(session, f"{gateway.url}/jobs/{job['jobId']}/events")
            assert [event.name for event in seen][-1] == "completed"


async def test_what_was_put_in_its_place_is_left_alone(tmp_path: Path) -> None:
    """A store that was restored under the running gateway has all that it had, its log included, after the end."""
    async with faking() as upstream, aiohttp.ClientSession() as session:
        async with Process(upstream.url, tmp_path) as gateway:
            await copy(session, gateway)
            moved(*FILES)(tmp_path, tmp_path / "aside")
            other = await restored(tmp_path / "open" / NAME)
            for name in FILES:
                shutil.copy(tmp_path / "open" / name, tmp_path / name)
            await other.close()
            assert await readiness(session, gateway) == 503
            gateway.signal()
            assert await gateway.exited() == 0
        left = open_sqlite(tmp_path / NAME)
        assert await left.get("restored") is not None
        await left.close()


async def restored(path: Path) -> SQLiteStore:
    path.parent.mkdir()
    store = open_sqlite(path)
    await made(store, "restored")
    return store


async def test_a_copy_in_flight_when_the_file_goes(tmp_path: Path) -> None:
    """It was accepted upstream and cannot be kept: the caller is told that it may be running."""
    async with (
        faking() as upstream,
        Process(upstream.url, tmp_path) as gateway,
        aiohttp.ClientSession() as session,
    ):

        async def gone(request: web.Request) -> web.StreamResponse:
            moved(*FILES)(tmp_path, tmp_path / "aside")
            return await upstream.accept(request)

        upstream.on_copy = gone
        with anyio.fail_after(20):
            assert await refused(session, gateway, "k") == (502, "outcomeUnknown")
        put_back(tmp_path, tmp_path / "aside")
        assert await refused(session, gateway, "k") == (502, "outcomeUnknown")
        assert upstream.copies() == 1
