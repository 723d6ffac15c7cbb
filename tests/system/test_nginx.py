"""deploy/proxies/nginx.conf in a real nginx, before two gateways that share a database."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from aiohttp import web
from httpx_sse import EventSource, ServerSentEvent

from tests.support.fake_upstream import FakeUpstream, faking
from tests.support.harness import COPY_BODY, FOLDER, TOKEN, Process, free_port
from tests.support.proxies import Nginx

SECONDS = 40
LONG_KEY = "k" * 15_000  # as long as a token may get


class Site:
    """An upstream whose copies stand at `percentage`, two gateways, and nginx before them."""

    def __init__(self, upstream: FakeUpstream, nginx: Nginx, gateways: list[Process]) -> None:
        self.upstream = upstream
        self.nginx = nginx
        self.gateways = gateways
        self.percentage = 0
        upstream.on_poll = self._poll

    async def _poll(self, _request: web.Request) -> web.StreamResponse:
        if self.percentage < 100:
            return web.json_response({"status": "inProgress", "percentageComplete": self.percentage}, status=202)
        return web.json_response({"status": "completed", "percentageComplete": 100, "resourceId": "01"})


@asynccontextmanager
async def site(
    folder: Path, database_url: str, changes: dict[str, str] | None = None, **values: Any
) -> AsyncIterator[Site]:
    values = {"store_url": database_url, "lease": 1, **values}
    ports = free_port(), free_port()
    with Nginx(folder, ports[0], changes, other=ports[1]) as nginx:
        async with faking() as upstream:
            gateways = [Process(upstream.url, folder, port=port, public_url=nginx.url, **values) for port in ports]
            for gateway in gateways:
                gateway.spawn()
            async with gateways[0], gateways[1]:
                for gateway in gateways:
                    await gateway.ready()
                with anyio.fail_after(SECONDS):
                    yield Site(upstream, nginx, gateways)


async def copy(client: httpx.AsyncClient, item: str = FOLDER, **options: Any) -> dict[str, Any]:
    answer = await client.post(f"{item}/copy", json=COPY_BODY, headers=TOKEN, **options)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


class Reader:
    """As EventSource would: it reconnects with the last id until the terminal event has come."""

    def __init__(self, nginx: Nginx, job: dict[str, Any]) -> None:
        self.ids: list[int] = []
        self.names: list[str] = []
        self.connections = 0
        self.job: str = job["jobId"]
        self._nginx = nginx
        self._url = job["events"]

    async def read(self) -> None:
        """Over a connection of its own: on one that streams share, this client lets one that waits hold up the rest."""
        async with self._nginx.client(http2=True) as client:
            while "completed" not in self.names:
                self.connections += 1
                with_last = {"Last-Event-ID": str(self.ids[-1])} if self.ids else {}
                try:
                    async with client.stream("GET", self._url, headers=with_last) as response:
                        assert response.status_code == 200
                        async for event in EventSource(response).aiter_sse():
                            if event.data:
                                self.ids.append(int(event.id))
                                self.names.append(event.event)
                except (httpx.RemoteProtocolError, httpx.ReadError):
                    pass
                await anyio.sleep(0.1)


async def following(events: AsyncIterator[ServerSentEvent]) -> dict[str, Any]:
    """The data of the next event."""
    async for event in events:
        if event.data:
            data: dict[str, Any] = json.loads(event.data)
            return data
    raise AssertionError("the stream has ended")


async def test_events_come_as_they_happen(tmp_path: Path, database_url: str) -> None:
    """Upstream goes on only after the event before has come through nginx, so nothing is held back on the way; by both
    versions of HTTP.
    """
    async with site(tmp_path, database_url) as here:
        for http2 in (False, True):
            here.percentage = 0
            async with here.nginx.client(http2=http2) as client:
                await follow(here, client, "HTTP/2" if http2 else "HTTP/1.1")


async def follow(here: Site, client: httpx.AsyncClient, version: str) -> None:
    job = await copy(client)
    async with client.stream("GET", job["events"]) as response:
        assert response.http_version == version
        assert response.headers["content-type"].startswith("text/event-stream")
        events = EventSource(response).aiter_sse()
        assert (await following(events))["status"] == "notStarted"
        for here.percentage in range(10, 101, 10):
            while (now := (await following(events))["percentageComplete"]) != here.percentage:
                assert now < here.percentage
        with pytest.raises(AssertionError, match="ended"):
            await following(events)
    answer = await client.get(job["events"], headers={"Last-Event-ID": "99"})
    assert answer.status_code == 200
    answer = await client.get(f"/jobs/{job['jobId']}")
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")


async def test_a_stream_goes_on_at_another_gateway(tmp_path: Path, database_url: str) -> None:
    """One gateway is killed and started again, then the other is drained: every reader gets every id once, in order."""
    async with site(tmp_path, database_url) as here, here.nginx.client() as client:
        readers = [Reader(here.nginx, await copy(client)) for _ in range(6)]
        first, second = here.gateways
        async with asyncio.TaskGroup() as tasks:
            for reader in readers:
                tasks.create_task(reader.read())

            async def all_reach(percentage: int) -> None:
                here.percentage = percentage
                seen = [len(reader.ids) for reader in readers]
                while any(len(reader.ids) == count for reader, count in zip(readers, seen, strict=True)):  # noqa: ASYNC110 - readers have no event
                    await anyio.sleep(0.02)

            await all_reach(10)
            assert [await streams(gateway) for gateway in here.gateways] == [3, 3]
            first.kill()
            await all_reach(30)
            await first.start()
            await all_reach(50)
            second.signal(signal.SIGTERM)
            assert await second.exited() == 0
            await all_reach(70)
            await second.start()
            await all_reach(100)
    for reader in readers:
        assert reader.ids == list(range(1, len(reader.ids) + 1))
        assert reader.names == ["progress"] * (len(reader.names) - 1) + ["completed"]
        assert reader.connections >= 2
        assert reader.job not in here.nginx.logged()
    assert here.upstream.copies() == len(readers)


async def streams(gateway: Process) -> int:
    """How many it has open."""
    async with httpx.AsyncClient() as client:
        figures = (await client.get(f"{gateway.url}/metrics")).text
    found = re.search(r"^gateway_streams_open (\d+)", figures, re.MULTILINE)
    assert found is not None
    return int(found[1])


async def test_a_gateway_that_drains(tmp_path: Path, database_url: str) -> None:
    """New streams go to the other one; what it says itself to a copy passes as it is."""
    let_go = asyncio.Event()

    async with site(tmp_path, database_url) as here, here.nginx.client() as client, httpx.AsyncClient() as beside:

        async def slow(request: web.Request) -> web.StreamResponse:
            await let_go.wait()
            return await here.upstream.accept(request)

        job = await copy(client)
        here.upstream.on_copy = slow
        draining = here.gateways[0]
        in_flight = asyncio.create_task(copy(beside, f"{draining.url}{FOLDER}"))
        while here.upstream.copies() < 2:  # noqa: ASYNC110 - until it is upstream
            await anyio.sleep(0.01)
        draining.signal(signal.SIGTERM)
        while (await beside.get(f"{draining.url}/readyz")).status_code != 503:
            pass
        here.upstream.on_copy = here.upstream.accept
        for _ in range(4):
            async with client.stream("GET", job["events"]) as response:
                assert response.status_code == 200
                assert await following(EventSource(response).aiter_sse())
        answers = [await client.post(f"{FOLDER}/copy", json=COPY_BODY, headers=TOKEN) for _ in range(4)]
        refused = [answer.json()["error"] for answer in answers if answer.status_code == 503]
        assert {answer.status_code for answer in answers} == {202, 503}
        assert all("shutting down" in error["message"] and "innerError" in error for error in refused)
        let_go.set()
        await in_flight
        assert await draining.exited() == 0


async def test_a_copy_is_never_sent_twice(tmp_path: Path, database_url: str) -> None:
    """Its gateway dies while upstream is at it: 502 in Graph's shape, which no SDK repeats by itself; so a gateway that
    takes too long.
    """
    changes = {"proxy_read_timeout 90s": "proxy_read_timeout 1s"}
    async with site(tmp_path, database_url, changes) as here, here.nginx.client() as client:

        async def never(_request: web.Request) -> web.StreamResponse:
            await asyncio.sleep(SECONDS)
            return web.Response()

        here.upstream.on_copy = never
        unknown(await client.post(f"{FOLDER}/copy", json=COPY_BODY, headers=TOKEN))
        assert here.upstream.copies() == 1
        in_flight = asyncio.create_task(client.post(f"{FOLDER}/copy", json=COPY_BODY, headers=TOKEN))
        while here.upstream.copies() < 2:  # noqa: ASYNC110 - until it is upstream
            await anyio.sleep(0.01)
        for gateway in here.gateways:
            gateway.kill()
        unknown(await in_flight)
        assert here.upstream.copies() == 2


def unknown(answer: httpx.Response) -> None:
    """What nginx says when it cannot know what became of a POST."""
    assert answer.status_code == 502
    error = answer.json()["error"]
    assert error["code"] == "outcomeUnknown"
    assert "may be running" in error["message"]
    assert set(error["innerError"]) == {"date", "request-id", "client-request-id"}
    assert answer.headers["request-id"] == error["innerError"]["request-id"]


@pytest.mark.parametrize("http2", [False, True])
async def test_no_gateway_answers(http2: bool, tmp_path: Path) -> None:
    """A stream is told to come back, whatever it was opened with; POST and PATCH get 502, anything else 503; and of the
    paths, which are capabilities, nothing is in the logs.
    """
    with Nginx(tmp_path, free_port(), other=free_port()) as nginx:
        async with nginx.client(http2=http2) as client:
            waits = set()
            for path in ("/jobs/secret-job/events", "/jobs/secret-job/events?lastEventId=3", "/events?job=secret-job"):
                for headers in ({}, {"Last-Event-ID": "3"}):
                    waits.add(come_back(await client.get(path, headers=headers)))
            stream = {"Accept": "text/event-stream"}
            while len(waits) < 3:
                waits.add(come_back(await client.get("/jobs/secret-job", headers=stream)))
            answer = await client.head("/jobs/secret-job/events")
            assert (answer.status_code, answer.content) == (200, b"")
            unknown(await client.post(f"{FOLDER}/copy", json=COPY_BODY, headers=TOKEN))
            unknown(await client.patch(FOLDER, json=COPY_BODY, headers=TOKEN))
            unknown(await client.post("/jobs/secret-job/callbacks", json={}))
            for method, path in (("GET", "/jobs/secret-job"), ("DELETE", "/jobs/secret-job"), ("GET", FOLDER)):
                answer = await client.request(method, path)
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
                assert answer.json()["error"]["code"] == "serviceNotAvailable"
            await client.get("/jobs/../jobs/secret-job/events")
            await client.get("//jobs//secret-job/events")
    assert nginx.logged().count(" gateway=") > 10
    assert "secret-job" not in nginx.logged()


def come_back(answer: httpx.Response) -> int:
    """Milliseconds after which a stream is to come back."""
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["access-control-allow-origin"] == "*"  # EventSource of another origin would give up too
    found = re.fullmatch(r"retry: (\d+)\n\n: .*\n\n", answer.text)
    assert found is not None
    assert 4000 <= int(found[1]) <= 6000
    return int(found[1])


async def test_what_is_asked_arrives_as_it_was(tmp_path: Path, database_url: str) -> None:
    """Paths byte for byte, a token of many kilobytes, a body up to the gateway's limit; an answer's long headers."""
    async with site(tmp_path, database_url, operator_key=LONG_KEY) as here:
        for http2 in (False, True):
            async with here.nginx.client(http2=http2) as client:
                for path in (
                    "/v1.0/drives/b!x,y/items/01%21A%2CB",
                    "/v1.0/me/drive/root:/a%20b/%C3%A4%25,!(1)'~;&=+$@:",
                    "/beta/users/a%40b.example/drive/items/01%2a%2A?$select=id,name&x=%2F%2f!",
                ):
                    answer = await client.get(httpx.URL(client.base_url).copy_with(raw_path=path.encode()))
                    assert answer.status_code == 200, answer.text
                    assert here.upstream.asked[-1][1] == path
                answer = await client.get("/jobs", headers={"Authorization": f"Bearer {LONG_KEY}"})
                assert answer.status_code == 200
                assert (await client.get("/healthz")).status_code == 200
                assert (await client.get("/metrics")).status_code == 404
                assert (await client.get("/v1.0/me//drive/items/1")).status_code == 404
                # Refused by the gateway; by nginx, before all is sent, which this client does not expect over HTTP/2.
                for size in (70_000,) if http2 else (70_000, 200_000):
                    answer = await client.post(f"{FOLDER}/copy", content=b"x" * size, headers=TOKEN)
                    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "requestTooLarge")

        async def refuse(_request: web.Request) -> web.StreamResponse:
            return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer claims="{"c" * 7_000}"'})

        here.upstream.on_item = refuse
        async with here.nginx.client() as client:
            answer = await client.get(FOLDER)
            assert (answer.status_code, len(answer.headers["www-authenticate"])) == (401, 7_016)


async def test_one_address_has_its_limit(tmp_path: Path, database_url: str) -> None:
    """429 for what was not sent on; a stream is told to come back."""
    changes = {"limit_conn clients 256": "limit_conn clients 1"}
    async with site(tmp_path, database_url, changes) as here, here.nginx.client() as client:
        job = await copy(client)
        async with client.stream("GET", job["events"]) as response:
            events = EventSource(response).aiter_sse()
            assert await following(events)
            come_back(await client.get(job["events"]))
            answer = await client.get(f"/jobs/{job['jobId']}")
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
            assert answer.json()["error"]["code"] == "tooManyRequests"
            answer = await client.post(f"{FOLDER}/copy", json=COPY_BODY, headers=TOKEN)
            assert answer.status_code == 429
        assert here.upstream.copies() == 1
    assert job["jobId"] not in here.nginx.logged()
