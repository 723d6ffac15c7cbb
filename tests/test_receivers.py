"""One attempt against real receivers, friendly and hostile."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate
from ipaddress import ip_network

import pytest
from aiohttp import web

from gateway.deliveries import Delivered, Failed, Gone, Outcome
from gateway.receivers import ATTEMPT_SECONDS, BODY_LIMIT, Receivers
from tests.conftest import VIRTUAL_TIME
from tests.fake_upstream import FakeUpstream, answering, faking

pytestmark = pytest.mark.anyio

NOW = 1_790_000_000.0
SECRET_PATH = "/hook/part-of-the-secret?token=hidden"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def anyio_backend() -> object:
    return VIRTUAL_TIME


@pytest.fixture
async def receivers() -> AsyncIterator[Receivers]:
    async with Receivers.open([ip_network("127.0.0.0/8")]) as receivers:
        yield receivers


@pytest.fixture
async def receiver() -> AsyncIterator[FakeUpstream]:
    async with faking() as fake:
        yield fake


@asynccontextmanager
async def raw(serve: Serve) -> AsyncIterator[str]:
    """A server that does with a connection whatever it likes."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(OSError):
                await serve(reader, writer)
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(run, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def post(receivers: Receivers, url: str) -> Outcome:
    outcome = await receivers.post(url + SECRET_PATH, {"webhook-id": "msg_1"}, b"{}", NOW)
    assert "secret" not in str(outcome)
    assert "hidden" not in str(outcome)
    return outcome


def coded(code: int, **headers: str) -> Callable[[], web.Response]:
    return lambda: web.Response(status=code, headers={name.replace("_", "-"): text for name, text in headers.items()})


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
async def test_any_2xx_is_delivered(receivers: Receivers, receiver: FakeUpstream, code: int) -> None:
    """What was posted is what came in, to the very path."""
    receiver.on_copy = answering(coded(code))
    assert await post(receivers, receiver.url) == Delivered()
    ((method, path, headers, body),) = receiver.asked
    assert (method, path, body) == ("POST", SECRET_PATH, b"{}")
    assert headers["Content-Type"] == "application/json"
    assert headers["webhook-id"] == "msg_1"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308, 300, 304])
async def test_redirects_are_not_followed(receivers: Receivers, receiver: FakeUpstream, code: int) -> None:
    """The place they name never hears of it."""
    async with faking() as elsewhere:
        receiver.on_copy = answering(coded(code, Location=f"{elsewhere.url}/x"))
        assert await post(receivers, receiver.url) == Failed(f"answered {code}; redirects are not followed")
        assert elsewhere.asked == []
    assert len(receiver.asked) == 1


async def test_410_is_gone(receivers: Receivers, receiver: FakeUpstream) -> None:
    """It wants no more."""
    receiver.on_copy = answering(coded(410))
    assert await post(receivers, receiver.url) == Gone()


@pytest.mark.parametrize(
    ("code", "text", "asked"),
    [
        (429, "7", 7),
        (503, "7", 7),
        (503, formatdate(NOW + 90, usegmt=True), 90),
        (429, "soon", None),
        (429, "-1", None),
        (500, "7", None),
        (404, "7", None),
    ],
)
async def test_retry_after(
    receivers: Receivers, receiver: FakeUpstream, code: int, text: str, asked: float | None
) -> None:
    """For 429 and 503, in seconds or as a date, which is read against the receiver's own clock."""
    receiver.on_copy = answering(coded(code, Retry_After=text, Date=formatdate(NOW, usegmt=True)))
    assert await post(receivers, receiver.url) == Failed(f"answered {code}", asked)


async def test_no_connection_serves_twice_and_no_cookie_is_kept(receivers: Receivers, receiver: FakeUpstream) -> None:
    """Each attempt is judged where it is dialled."""
    peers = []

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.append(request.transport.get_extra_info("peername"))
        return web.Response(headers={"Set-Cookie": "a=b"})

    receiver.on_copy = answer
    for _ in range(3):
        assert await post(receivers, receiver.url) == Delivered()
    assert len(set(peers)) == 3
    assert not any("Cookie" in headers for _, _, headers, _ in receiver.asked)


async def test_proxies_of_the_environment_are_not_used(
    receivers: Receivers, receiver: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would dial for it."""
    async with faking() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert await post(receivers, receiver.url) == Delivered()
        assert proxy.asked == []
        assert len(receiver.asked) == 1


async def test_a_compressed_answer_is_not_unpacked(receivers: Receivers, receiver: FakeUpstream) -> None:
    """However small it is on the wire."""
    bomb = gzip.compress(bytes(50 << 20))
    receiver.on_copy = answering(lambda: web.Response(body=bomb, headers={"Content-Encoding": "gzip"}))
    assert await post(receivers, receiver.url) == Delivered()


async def test_an_endless_answer_is_read_a_little_and_dropped(receivers: Receivers) -> None:
    """The code has told how it went; the connection is closed."""
    sent, closed = 0, asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n")
        try:
            while True:
                writer.write(b"." * 1024)
                await writer.drain()
                sent += 1024
                await asyncio.sleep(0.001)
        finally:
            closed.set()

    async with raw(serve) as url:
        assert await post(receivers, url) == Delivered()
        await asyncio.wait_for(closed.wait(), 5)
    assert sent < BODY_LIMIT + (1 << 20)


HEAD = b"HTTP/1.1 200 OK\r\n"


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def dropping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def dropping_after_the_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def gibberish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n" * 10)
    await writer.drain()


async def one_huge_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"X-Long: " + b"x" * (1 << 20) + b"\r\n\r\n")
    await writer.drain()


async def headers_without_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD)
    number = 0
    while True:
        number += 1
        writer.write(b"X-%d: x\r\n" % number)
        await writer.drain()
        await asyncio.sleep(0.01)


async def a_byte_at_a_time(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in HEAD * 100:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(1)


@pytest.mark.parametrize(
    ("serve", "reasons"),
    [
        (silent, {"no answer within 15 seconds"}),
        (a_byte_at_a_time, {"no answer within 15 seconds"}),
        (dropping, {"the connection broke before an answer"}),
        (dropping_after_the_request, {"the connection broke before an answer"}),
        (gibberish, {"its answer is not HTTP"}),
        (one_huge_header, {"its answer is not HTTP"}),
        (headers_without_end, {"its answer is not HTTP", "no answer within 15 seconds"}),
    ],
)
async def test_hostile_receivers(receivers: Receivers, serve: Serve, reasons: set[str]) -> None:
    """Each is a failed attempt of 15 seconds at most, with a plain reason."""
    begun = asyncio.get_running_loop().time()
    async with raw(serve) as url:
        outcome = await post(receivers, url)
    assert isinstance(outcome, Failed)
    assert outcome.reason in reasons
    assert asyncio.get_running_loop().time() - begun <= ATTEMPT_SECONDS + 1


async def test_an_answer_that_drips_counts_by_its_code(receivers: Receivers) -> None:
    """The body is nobody's business, and is not waited for longer than the attempt may take."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"Content-Length: 1000\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(1)

    async with raw(serve) as url:
        assert await post(receivers, url) == Delivered()


async def test_nobody_listens(receivers: Receivers) -> None:
    """Refused, or without a name."""
    async with raw(silent) as url:
        pass
    assert await post(receivers, url) == Failed("the connection was not accepted")
    async with Receivers.open([ip_network("127.0.0.0/8")]) as others:
        outcome = await others.post("https://nowhere.invalid/", {}, b"", NOW)
    assert outcome == Failed("its name does not resolve")
