"""The event stream: frames, resuming, ends, limits."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn
from sse_starlette import EventSourceResponse
from sse_starlette.sse import AppStatus, _get_shutdown_state

from gateway.server.server import Server
from gateway.simulator import Simulator, running
from gateway.streams.stream import Stream
from gateway.telemetry.metrics import Metrics
from tests.support.harness import OPERATOR, Event, Running, events, serving, tail

pytestmark = pytest.mark.virtual_time


@asynccontextmanager
async def gateway_with(folder: Path, seconds: float = 20, steps: int = 10, **settings: Any) -> AsyncIterator[Running]:
    simulator = Simulator(seconds=seconds, steps=steps, clock=asyncio.get_running_loop().time)
    async with running(simulator) as upstream, serving(upstream.url, folder, **settings) as gateway:
        yield gateway


async def raw(
    url: str, path: str, *headers: str, method: str = "GET"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}:{port}", *headers]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    return reader, writer


HEAD = (
    "content-type: text/event-stream; charset=utf-8",
    "cache-control: no-store, no-transform",
    "x-accel-buffering: no",
    "incremental: ?1",
    "x-content-type-options: nosniff",
    "referrer-policy: no-referrer",
)
"""What the head of a stream says, also of one that only tells its reader to come back."""


def path_of(job: dict[str, Any]) -> str:
    return f"/jobs/{job['jobId']}/events"


async def test_the_bytes_of_a_stream(tmp_path: Path) -> None:
    """Headers, `retry:`, frames as the contract shows them, a proper last chunk; the connection lives on."""
    async with gateway_with(tmp_path, seconds=2, steps=2) as gateway:
        job = await gateway.copy()
        reader, writer = await raw(gateway.url, path_of(job))
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("http/1.1 200 ok")
        assert set(HEAD) <= set(head.split("\r\n"))
        assert "content-encoding" not in head
        assert "connection:" not in head
        body = b""
        while True:
            size = int(await reader.readline(), 16)
            body += (await reader.readexactly(size + 2))[:-2]
            if size == 0:
                break
        assert body.startswith(b"retry: 2000\n\nid: 1\nevent: progress\ndata: {")
        assert b"\n\nid: 2\nevent: " in body
        assert body.endswith(b"}\n\n")
        assert b"event: completed\n" in body
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_hundred_streams_see_the_same(tmp_path: Path) -> None:
    """Whenever they joined: the same ids in the same order, none lost, none doubled."""
    async with gateway_with(tmp_path, seconds=30, steps=60) as gateway:
        job = await gateway.copy()
        seen: list[list[Event]] = []

        async def follow(delay: float) -> None:
            await anyio.sleep(delay)
            seen.append(await tail(gateway.session, job["events"]))

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(follow, number * 0.33)
        assert len(seen) == 100
        assert all(one == seen[0] for one in seen)
        assert [int(event.id) for event in seen[0]] == list(range(1, len(seen[0]) + 1))


async def test_resuming(tmp_path: Path) -> None:
    """By the header, either parameter, and the header first unless it is empty; a strange id starts anew."""
    async with gateway_with(tmp_path) as gateway:
        job = await gateway.copy()
        whole = [event.id for event in await tail(gateway.session, job["events"])]
        last = whole[-1]

        async def ids(query: str = "", header: str | None = None) -> list[str]:
            headers = {} if header is None else {"Last-Event-ID": header}
            return [event.id for event in await tail(gateway.session, job["events"] + query, headers=headers)]

        assert await ids(header="3") == whole[3:]
        assert await ids("?lastEventId=4") == whole[4:]
        assert await ids("?last_event_id=5") == whole[5:]
        assert await ids("?lastEventId=2", header="6") == whole[6:]
        assert await ids("?lastEventId=2", header="") == whole[2:]
        for strange in ("0", str(int(last) + 1), "-1", "abc", "1,2", "1.5", "9" * 30):
            assert await ids(header=strange) == whole, strange
        async with gateway.session.get(job["events"], headers={"Last-Event-ID": last}) as response:
            assert response.status == 204
            assert await response.read() == b""


async def test_a_resumed_stream_goes_on_live(tmp_path: Path) -> None:
    """Replay and live are one read: a client that drops after every event misses and repeats nothing."""
    async with gateway_with(tmp_path, seconds=10, steps=10) as gateway:
        job = await gateway.copy()
        seen: list[Event] = []
        while not seen or seen[-1].name == "progress":
            headers = {"Last-Event-ID": seen[-1].id} if seen else {}
            async with gateway.session.get(job["events"], headers=headers) as response:
                async for event in events(response):
                    seen.append(event)
                    break
        assert [int(event.id) for event in seen] == list(range(1, len(seen) + 1))
        assert seen == await tail(gateway.session, job["events"])


async def test_a_trimmed_log_has_gaps_and_nothing_else(tmp_path: Path) -> None:
    """A reader gets all that is kept; an id that is not kept any more is known all the same."""
    async with gateway_with(tmp_path, seconds=30, steps=30, log_limit=5) as gateway:
        job = await gateway.copy()
        live = [int(event.id) for event in await tail(gateway.session, job["events"])]
        assert live == list(range(1, len(live) + 1))
        newest = live[-1]
        kept = [int(event.id) for event in await tail(gateway.session, job["events"])]
        assert kept == [1, 2, newest - 2, newest - 1, newest] or (
            len(kept) == 5 and kept[0] == 1 and kept[-1] == newest
        )
        resumed = await tail(gateway.session, job["events"], headers={"Last-Event-ID": "4"})
        assert [int(event.id) for event in resumed] == [number for number in kept if number > 4]


async def test_heartbeats_while_nothing_happens(tmp_path: Path) -> None:
    """A comment each heartbeat, and only then."""
    async with gateway_with(tmp_path, seconds=1000, steps=1, heartbeat=10) as gateway:
        job = await gateway.copy()
        now = asyncio.get_running_loop().time
        beats: list[float] = []
        async with gateway.session.get(job["events"]) as response:
            async for line in response.content:
                if line == b":\n":
                    beats.append(now())
                if len(beats) == 5:
                    break
        gaps = [later - earlier for earlier, later in pairwise(beats)]
        assert all(9.9 <= gap <= 12 for gap in gaps), gaps


async def test_head_has_headers_and_no_stream(tmp_path: Path) -> None:
    """HEAD ends at once."""
    async with gateway_with(tmp_path) as gateway:
        job = await gateway.copy()
        for url in (job["events"], f"{gateway.url}/events?job={job['jobId']}"):
            async with gateway.session.head(url) as response:
                assert response.status == 200
                assert {f"{name}: {value}".lower() for name, value in response.headers.items()} >= set(HEAD)
                assert "Connection" not in response.headers
                assert await response.read() == b""


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_the_librarys_exit_flag_ends_no_stream(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sse-starlette sets it for the whole process when any server in it was told to exit."""
    async with gateway_with(tmp_path) as gateway:
        job = await gateway.copy()
        monkeypatch.setattr(AppStatus, "should_exit", when == "before")
        async with gateway.session.get(job["events"]) as response, gateway.session.head(job["events"]) as head:
            assert response.headers["Content-Type"] == head.headers["Content-Type"]
            stream = events(response)
            seen = [await anext(stream)]
            monkeypatch.setattr(AppStatus, "should_exit", True)
            await anyio.sleep(5)
            assert gateway.gateway.parts.tails.open == 1
            seen += [event async for event in stream]
        assert [int(event.id) for event in seen] == list(range(1, len(seen) + 1))
        assert seen[-1].name == "completed"
        async with gateway.session.get(job["events"], headers={"Last-Event-ID": "1"}) as response:
            assert [event async for event in events(response)] == seen[1:]


async def test_a_gateways_exit_sets_nothing_in_the_library(tmp_path: Path) -> None:
    """Nor does a stream start its watcher, though sse-starlette replaces the handler of every uvicorn."""
    assert uvicorn.Server.handle_exit is AppStatus.handle_exit
    async with gateway_with(tmp_path) as gateway:
        job = await gateway.copy()
        async with gateway.session.get(job["events"]) as response:
            await anext(events(response))
            gateway.server.handle_exit(signal.SIGTERM, None)
            assert await response.read()
    assert Server.handle_exit is vars(Server)["handle_exit"]
    assert not AppStatus.should_exit
    assert not _get_shutdown_state().watcher_started
    assert not _get_shutdown_state().events


async def test_each_stream_has_its_own_head(tmp_path: Path) -> None:
    """It has all attributes of an EventSourceResponse, and what is done to its headers concerns no other."""
    async with gateway_with(tmp_path) as gateway:
        tails = gateway.gateway.parts.tails
        one, other = (Stream(tails, Metrics(), ["j"], [None], [0], send_timeout=1, max_age=1) for _ in range(2))
    assert isinstance(one, EventSourceResponse)
    assert vars(one).keys() > vars(EventSourceResponse(iter(()))).keys()
    one.headers["X-Of-One"] = "1"
    assert one.raw_headers == [*other.raw_headers, (b"x-of-one", b"1")]


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ("text/event-stream", True),
        ("text/event-stream, application/json;q=0.9", True),
        ("text/event-stream, */*", True),
        ("application/json, text/event-stream;q=0.9", False),
        ("application/json, text/event-stream", False),
        ("application/json", False),
        ("*/*", False),
        ("text/event-stream;q=0", False),
        ("", False),
        ("text/html,;;q=x", False),
    ],
)
async def test_accept_chooses_at_the_jobs_own_url(accept: str, *, streams: bool, tmp_path: Path) -> None:
    """The state as JSON, or the stream when that is preferred."""
    async with gateway_with(tmp_path) as gateway:
        job = await gateway.copy()
        url = f"{gateway.url}/jobs/{job['jobId']}"
        async with gateway.session.get(url, headers={"Accept": accept}) as response:
            assert response.headers["Content-Type"].startswith("text/event-stream" if streams else "application/json")
            assert response.status == (200 if streams else 202)


async def test_a_stream_has_a_largest_age(tmp_path: Path) -> None:
    """It ends properly between events, a little earlier than the limit, and can be resumed."""
    async with gateway_with(tmp_path, seconds=200, steps=100, stream_max_age=50) as gateway:
        job = await gateway.copy()
        now = asyncio.get_running_loop().time
        begun = now()
        first = await tail(gateway.session, job["events"])
        assert 40 <= now() - begun <= 50
        assert first[-1].name == "progress"
        second = await tail(gateway.session, job["events"], headers={"Last-Event-ID": first[-1].id})
        assert int(second[0].id) == int(first[-1].id) + 1


async def come_back(gateway: Running, url: str) -> bytes:
    async with gateway.session.get(url, headers={"Last-Event-ID": "1"}) as response:
        assert response.status == 200
        assert {f"{name}: {value}".lower() for name, value in response.headers.items()} >= set(HEAD)
        body = await response.read()
    retry = int(body.removeprefix(b"retry: ").split(b"\n")[0])
    assert 3000 <= retry <= 7000
    assert b"\n:" in body
    return body


async def test_too_many_streams(tmp_path: Path) -> None:
    """A new one is refused with 503; one with a last id is asked to come back, with 200."""
    async with gateway_with(tmp_path, max_streams=2) as gateway:
        job = await gateway.copy()
        async with gateway.session.get(job["events"]) as one, gateway.session.get(job["events"]) as two:
            await anext(events(one))
            await anext(events(two))
            async with gateway.session.get(job["events"]) as response:
                assert response.status == 503
                assert int(response.headers["Retry-After"]) > 0
                assert (await response.json())["error"]["code"] == "serviceNotAvailable"
            await come_back(gateway, job["events"])
            one.close()
            two.close()
        await all_left(gateway)
        async with gateway.session.get(job["events"]) as response:
            assert response.status == 200


async def test_the_store_is_away(tmp_path: Path) -> None:
    """A new stream is told so; one with a last id comes back; an open one stays, and goes on when the store is back."""
    async with gateway_with(tmp_path, seconds=60, steps=30) as gateway:
        job = await gateway.copy()
        async with gateway.session.get(job["events"]) as response:
            stream = events(response)
            seen = [await anext(stream)]
            with closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as other:
                other.execute("ALTER TABLE jobs RENAME TO jobs_away")
                async with gateway.session.get(job["events"]) as refused:
                    assert refused.status == 503
                await come_back(gateway, job["events"])
                await anyio.sleep(20)
                other.execute("ALTER TABLE jobs_away RENAME TO jobs")
            seen += [event async for event in stream]
        assert [int(event.id) for event in seen] == list(range(1, len(seen) + 1))
        assert seen[-1].name == "completed"


async def all_left(gateway: Running) -> None:
    with anyio.fail_after(5):
        while gateway.gateway.parts.tails.open:  # noqa: ASYNC110 - the gateway has no event for it
            await anyio.sleep(0.01)


async def test_a_reader_that_leaves_leaves_nothing_behind(tmp_path: Path) -> None:
    """Its tail is dropped, and the count of streams falls to nought."""
    async with gateway_with(tmp_path) as gateway:
        job = await gateway.copy()
        tails = gateway.gateway.parts.tails
        for _ in range(20):
            async with gateway.session.get(job["events"]) as response:
                await anext(events(response))
                assert tails.open == 1
                response.close()
            await all_left(gateway)
        assert tails._tails == {}
        async with gateway.session.get(f"{gateway.url}/metrics") as response:
            figures = await response.text()
        assert "gateway_streams_open 0.0" in figures
        assert 'gateway_streams_ended_total{reason="left"} 20.0' in figures


async def test_stopping_a_job_ends_its_streams(tmp_path: Path) -> None:
    """DELETE is told to those who watch."""
    async with gateway_with(tmp_path, seconds=1000) as gateway:
        job = await gateway.copy()
        async with gateway.session.get(job["events"]) as response:
            stream = events(response)
            await anext(stream)
            async with gateway.session.delete(f"{gateway.url}/jobs/{job['jobId']}", headers=OPERATOR) as stopped:
                assert stopped.status == 204
            rest = [event async for event in stream]
        assert rest[-1].name == "failed"
        assert rest[-1].data["error"]["code"] == "watchStopped"


async def test_a_job_nobody_knows(tmp_path: Path) -> None:
    """404 with the gateway's error, with and without a last id."""
    async with gateway_with(tmp_path) as gateway:
        for path in ("/jobs/nobody", "/jobs/nobody/events", "/events?job=nobody&job=noone"):
            for headers in ({}, {"Last-Event-ID": "3"}):
                async with gateway.session.get(gateway.url + path, headers=headers) as response:
                    assert response.status == 404
                    assert (await response.json())["error"]["code"] == "jobNotFound"
