"""Each file of deploy/proxies/ in its real proxy: no event late, no byte of a path changed, no copy sent twice.

A browser goes on after the only gateway was away; a reader that takes nothing is cut.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import httpx
import pytest
from aiohttp import web
from playwright.async_api import Browser

from gateway.settings import Settings
from tests.support.browser import tab
from tests.support.fake_upstream import FakeUpstream, faking, reset
from tests.support.front_end import front_end, site
from tests.support.harness import COPY_BODY, FOLDER, TOKEN, Process, events, free_port
from tests.support.proxies import FOLDER as FILES
from tests.support.proxies import (
    PROXIES,
    Apache,
    Caddy,
    Envoy,
    HAProxy,
    HAProxyWithoutTLS,
    Nginx,
    Proxy,
    Varnish,
    started,
)

pytestmark = pytest.mark.timeout(600)  # in CI the proxies may have to be installed first

AWAY = 6.0
"""Seconds for which the gateway is away."""
DELAY = 0.1
"""Seconds that a proxy may add to the way of an event."""
KEPT = 32 << 20
"""Bytes of a stream that may lie between its origin and a reader that takes nothing."""
COMMENT = b": %s\n\n" % (b"x" * (1 << 17))
SECONDS = 60
JOB = "/jobs/a-job-nobody-may-know"
FOLLOW = """
(url) => {
  globalThis.seen = [];
  globalThis.opened = 0;
  globalThis.gaveUp = false;
  const events = new EventSource(url);
  events.onopen = () => opened += 1;
  events.onerror = () => gaveUp ||= events.readyState === EventSource.CLOSED;
  for (const name of ["progress", "completed", "failed"]) {
    events.addEventListener(name, (event) => {
      seen.push([Number(event.lastEventId), name]);
      if (name !== "progress") events.close();
    });
  }
}
"""
SOON: dict[type[Proxy], dict[str, str]] = {
    Nginx: {"send_timeout 30s": "send_timeout 1s", "proxy_read_timeout 90s": "proxy_read_timeout 1s"},
    HAProxy: {"timeout client 30s": "timeout client 1s", "timeout server 90s": "timeout server 1s"},
    HAProxyWithoutTLS: {"timeout client 30s": "timeout client 1s", "timeout server 90s": "timeout server 1s"},
    Caddy: {"write 3700s": "write 2s", "response_header_timeout 90s": "response_header_timeout 1s"},
    Apache: {"Timeout 30": "Timeout 1", "timeout=90": "timeout=1"},
    Varnish: {"send_timeout = 3700s": "send_timeout = 2s", "first_byte_timeout = 90s": "first_byte_timeout = 1s"},
    Envoy: {"stream_idle_timeout: 90s": "stream_idle_timeout: 1s", "gateway, timeout: 90s": "gateway, timeout: 0.5s"},
}
"""Its limits on a reader that takes nothing, and on a copy, shortened."""

LONGEST: dict[type[Proxy], str] = {
    Nginx: r"proxy_read_timeout (\d+)s",
    HAProxy: r"timeout server (\d+)s",
    Caddy: r"write (\d+)s",
    Apache: r"/events nocanon .* timeout=(\d+)",
    Varnish: r"(?:between_bytes|send)_timeout = (\d+)s",
    Envoy: r"\(/events\)\?.*\n.* timeout: (\d+)s",
}
"""Where a file says for how many seconds a stream may live; 0 is for ever."""

every_proxy = pytest.mark.parametrize("kind", PROXIES, ids=lambda kind: kind.__name__)


class Site:
    """An upstream whose copies stand at `percentage`, a gateway, and before it each proxy that there is."""

    def __init__(self, upstream: FakeUpstream, gateway: Process, origin: str, proxies: list[Proxy]) -> None:
        self.upstream = upstream
        self.gateway = gateway
        self.origin = origin
        self.proxies = {type(proxy): proxy for proxy in proxies}
        self.percentage = 0
        upstream.on_poll = self._poll

    async def _poll(self, _request: web.Request) -> web.StreamResponse:
        if self.percentage < 100:
            return web.json_response({"status": "inProgress", "percentageComplete": self.percentage}, status=202)
        return web.json_response({"status": "completed", "percentageComplete": 100, "resourceId": "01"})

    async def copy(self, percentage: int) -> str:
        """The id of a new job."""
        self.percentage = percentage
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.gateway.url}{FOLDER}/copy", json=COPY_BODY, headers=TOKEN) as response,
        ):
            return str((await response.json())["jobId"])


def present(folder: Path, port: int, changes: dict[type[Proxy], dict[str, str]] | None = None) -> list[Proxy]:
    """One of each kind whose program is there; in CI all are."""
    proxies: list[Proxy] = []
    for kind in PROXIES:
        with suppress(pytest.skip.Exception):
            proxies.append(kind(folder, port, (changes or {}).get(kind)))
    return proxies


@pytest.fixture(scope="module")
async def proxied(tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    async with front_end() as origin, faking() as upstream:
        gateway = Process(upstream.url, folder, cors_origins=origin)
        proxies = present(folder, gateway.port)
        with started(proxies):
            async with gateway:
                yield Site(upstream, gateway, origin, proxies)


@pytest.fixture(scope="module")
async def absence(proxied: Site, browser: Browser) -> dict[type[Proxy], Any]:
    """What a page behind each proxy has seen, that was open while the gateway was killed, away, and started again."""
    job = await proxied.copy(30)
    async with AsyncExitStack() as stack:
        pages = {}
        for kind, proxy in proxied.proxies.items():
            opened = await stack.enter_async_context(tab(browser, ignore_https_errors=True))
            opened.expects("net::ERR_")  # the broken streams
            await opened.page.goto(proxied.origin)
            await opened.page.evaluate(FOLLOW, f"{proxy.url}/jobs/{job}/events")
            pages[kind] = opened.page
        for page in pages.values():
            await page.wait_for_function("seen.length >= 2")
        proxied.gateway.kill()
        begun = time.monotonic()
        with anyio.move_on_after(SECONDS):  # a page that has given up opens no more; its test says so
            for page in pages.values():
                await page.wait_for_function("opened >= 3 || gaveUp")
        assert time.monotonic() - begun > AWAY
        await proxied.gateway.start()
        proxied.percentage = 100
        for page in pages.values():
            await page.wait_for_function("seen.at(-1)[1] === 'completed' || gaveUp")
        return {kind: await page.evaluate("({ seen, gaveUp, opened })") for kind, page in pages.items()}


@every_proxy
def test_a_browser_goes_on_after_the_gateway_was_away(kind: type[Proxy], absence: dict[type[Proxy], Any]) -> None:
    """Twice it is told to come back; then it has each event once."""
    kind.find()
    page = absence[kind]
    assert not page["gaveUp"]
    assert page["opened"] >= 4
    ids = [number for number, _ in page["seen"]]
    assert ids == list(range(1, len(ids) + 1))
    assert [name for _, name in page["seen"]] == ["progress"] * (len(ids) - 1) + ["completed"]


@pytest.fixture(scope="module")
async def delays(proxied: Site) -> dict[type[Proxy], list[float]]:
    """Seconds by which each event is later through a proxy than directly; it happens when all have the one before."""
    job = await proxied.copy(0)
    readers: list[tuple[Any, str, Any]] = [(None, proxied.gateway.url, True)]
    readers += [(kind, proxy.url, proxy.trust) for kind, proxy in proxied.proxies.items()]
    came: dict[Any, dict[str, float]] = {kind: {} for kind, *_ in readers}

    async def read(kind: Any, url: str, trust: Any) -> None:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session,
            session.get(f"{url}/jobs/{job}/events", ssl=trust) as response,
        ):
            async for event in events(response):
                came[kind][event.id] = time.monotonic()

    with anyio.fail_after(SECONDS):
        async with asyncio.TaskGroup() as tasks:
            for reader in readers:
                tasks.create_task(read(*reader))
            for proxied.percentage in range(10, 101, 5):
                before = len(came[None])
                while any(len(times) == before for times in came.values()):  # noqa: ASYNC110 - readers have no event
                    await anyio.sleep(0.005)
    direct = came.pop(None)
    return {kind: [times[number] - direct[number] for number in direct] for kind, times in came.items()}


@every_proxy
def test_events_come_as_they_happen(kind: type[Proxy], delays: dict[type[Proxy], list[float]]) -> None:
    kind.find()
    assert len(delays[kind]) >= 10
    assert statistics.median(delays[kind]) < DELAY


@pytest.mark.parametrize("kind", LONGEST, ids=lambda kind: kind.__name__)
def test_a_stream_may_live_as_long_as_the_gateway_lets_it(kind: type[Proxy]) -> None:
    longest = [int(seconds) for seconds in re.findall(LONGEST[kind], (FILES / kind.conf).read_text())]
    assert longest == [0] or max(longest) > Settings.model_fields["stream_max_age"].default
    if kind is Varnish:
        assert len(longest) == 2
        assert min(longest) == max(longest)


@every_proxy
async def test_a_path_arrives_as_it_was(kind: type[Proxy], proxied: Site) -> None:
    """Byte for byte, whatever has a meaning elsewhere; what the gateway refuses, it refuses itself."""
    kind.find()
    async with proxied.proxies[kind].client() as client:
        for path in (
            "/v1.0/drives/b!x,y/items/01%21A%2CB",
            "/v1.0/me/drive/root:/a%20b/%C3%A4%25,!(1)'~;&=+$@:",
            "/beta/users/a%40b.example/drive/items/01%2a%2A?$select=id,name&x=%2F%2f!",
        ):
            answer = await client.get(raw(client, path))
            assert (answer.status_code, proxied.upstream.asked[-1][1]) == (200, path)
        for path, status in (
            ("/v1.0/drives/b%2Fx/items/1", 400),
            ("/v1.0/me/drive/items/%2e%2E", 400),
            ("/v1.0/me//drive/items/1", 404),
            ("/jobs/a%2Fb/events", 404),
            ("/jobs//events", 404),
        ):
            answer = await client.get(raw(client, path))
            assert (answer.status_code, "innerError" in answer.text) == (status, True), path


def raw(client: httpx.AsyncClient, path: str) -> httpx.URL:
    """Its URL with this path as it is, which the client would otherwise normalize."""
    return httpx.URL(client.base_url).copy_with(raw_path=path.encode())


@every_proxy
async def test_no_gateway_answers(kind: type[Proxy], tmp_path: Path) -> None:
    """A stream is told to come back, whatever it was opened with; any other request is not; no path is logged."""
    with kind(tmp_path, free_port()) as proxy:
        for http2 in {False, proxy.http2}:
            async with proxy.client(http2=http2) as client:
                stream = {"Accept": "text/event-stream", "Origin": "https://app.example.com"}
                for path in (f"{JOB}/events", f"{JOB}/events?lastEventId=3", f"/events?job={JOB[6:]}", JOB):
                    come_back(await client.get(path, headers=stream))
                come_back(await client.get(f"{JOB}/events"))
                answer = await client.head(f"{JOB}/events")
                assert (answer.status_code, answer.content) == (200, b"")
                for method, path in (
                    ("GET", JOB),
                    ("GET", "/jobs"),
                    ("GET", f"{JOB}/callbacks"),
                    ("DELETE", JOB),
                    ("GET", FOLDER),
                    ("GET", "/eventsx"),
                ):
                    answer = await client.request(method, path)
                    assert answer.status_code in (502, 503), path
                for method, path in (("POST", f"{FOLDER}/copy"), ("PATCH", FOLDER), ("POST", f"{JOB}/events")):
                    unknown(await client.request(method, path, headers=stream))
    assert JOB[6:] not in proxy.logged()


def come_back(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
    assert answer.headers["access-control-allow-origin"] == "*"  # EventSource of another origin would give up too
    assert answer.headers["cache-control"] == "no-store"
    found = re.fullmatch(r"retry: (\d+)\n\n: .*\n\n", answer.text)
    assert found is not None
    assert 4000 <= int(found[1]) <= 6000


def unknown(answer: httpx.Response) -> None:
    """What became of the request is not known, and no SDK repeats a 502 by itself."""
    assert answer.status_code == 502
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.json()["error"]["code"] == "outcomeUnknown"


@every_proxy
async def test_large_tokens_pass(kind: type[Proxy], tmp_path: Path) -> None:
    """Those of people in many groups have 12 KB."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as gateway:
        with kind(tmp_path, gateway.sockets[0].getsockname()[1]) as proxy:
            for http2 in {False, proxy.http2}:
                async with proxy.client(http2=http2) as client:
                    large = {"Authorization": "Bearer " + "t" * 12_000}
                    assert (await client.get(FOLDER, headers=large)).status_code == 200


async def break_off(proxy: Proxy, gateway: FakeUpstream, *, http2: bool) -> None:
    """The gateway breaks off, on a kept connection, or takes too long: one request, and 502."""
    async with proxy.client(http2=http2) as client:

        async def never(_request: web.Request) -> web.StreamResponse:
            await asyncio.sleep(SECONDS)
            return web.Response()

        for copies, answer in enumerate((reset, never), start=1):
            assert (await client.get(FOLDER)).status_code == 200
            gateway.on_copy = answer
            unknown(await client.post(f"{FOLDER}/copy", json=COPY_BODY))
            assert gateway.copies() == copies
        gateway.on_item = reset
        assert (await client.get(FOLDER)).status_code >= 500
        come_back(await client.get(f"{JOB}/events"))


@pytest.fixture(scope="module")
async def broken_off(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: object
) -> dict[tuple[type[Proxy], bool], BaseException | None]:
    """What was wrong at each proxy by each version of HTTP, if anything; all wait for their limits at the same time."""
    proxies: list[tuple[Proxy, FakeUpstream, bool]] = []
    async with AsyncExitStack() as stack:
        for http2 in (False, True):
            folder = tmp_path_factory.mktemp("broken")
            for kind in PROXIES:
                if http2 <= kind.http2:
                    gateway = await stack.enter_async_context(faking())
                    with suppress(pytest.skip.Exception):
                        proxies.append((kind(folder, port_of(gateway.url), SOON[kind]), gateway, http2))
        stack.enter_context(started([proxy for proxy, *_ in proxies]))
        found = await asyncio.gather(
            *(break_off(proxy, gateway, http2=http2) for proxy, gateway, http2 in proxies), return_exceptions=True
        )
    return {(type(proxy), http2): wrong for (proxy, _, http2), wrong in zip(proxies, found, strict=True)}


@pytest.mark.parametrize("http2", [False, True])
@every_proxy
def test_a_copy_is_never_sent_twice(
    kind: type[Proxy], http2: bool, broken_off: dict[tuple[type[Proxy], bool], BaseException | None]
) -> None:
    if http2 and not kind.http2:
        return
    kind.find()
    wrong = broken_off[kind, http2]
    if wrong is not None:
        raise wrong


class Endless:
    """A stream without end or pause, for a reader that takes nothing."""

    def __init__(self) -> None:
        self.sent = 0
        self.ended = asyncio.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            while self.sent < 2 * KEPT:
                await response.write(COMMENT)
                self.sent += len(COMMENT)
        finally:
            self.ended.set()
        return response


@asynccontextmanager
async def endless() -> AsyncIterator[tuple[int, dict[str, Endless]]]:
    """A port, and its streams by the id of the job that is asked for."""
    streams: dict[str, Endless] = {}

    async def serve(request: web.Request) -> web.StreamResponse:
        return await streams.setdefault(request.match_info["job"], Endless()).serve(request)

    async with site({"/jobs/{job}/events": serve}) as port:
        yield port, streams


@pytest.fixture(scope="module")
async def stopped(tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> dict[type[Proxy], int]:
    """For each proxy that has cut a reader that took nothing: how much its origin had sent by then."""
    cut: dict[type[Proxy], int] = {}

    async def read(proxy: Proxy, streams: dict[str, Endless]) -> None:
        trust = proxy.trust if proxy.scheme == "https" else None
        reader, writer = await asyncio.open_connection("localhost", proxy.port, ssl=trust, limit=1024)
        name = type(proxy).__name__
        writer.write(f"GET /jobs/{name}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readline()
        await streams[name].ended.wait()
        with suppress(ConnectionError, ssl.SSLError):
            while await reader.read(1 << 16):
                pass
        cut[type(proxy)] = streams[name].sent
        writer.transport.abort()

    async with endless() as (port, streams):
        proxies = present(tmp_path_factory.mktemp("stopped"), port, SOON)
        with started(proxies), anyio.move_on_after(20):
            await asyncio.gather(*(read(proxy, streams) for proxy in proxies))
    return cut


@every_proxy
def test_a_reader_that_stops_is_cut(kind: type[Proxy], stopped: dict[type[Proxy], int]) -> None:
    """Its connection and the gateway's end, and no more than a bounded part of the stream is kept meanwhile."""
    kind.find()
    assert 0 < stopped[kind] < KEPT


def port_of(url: str) -> int:
    port = httpx.URL(url).port
    assert port is not None
    return port
