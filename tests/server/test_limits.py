"""How long a request may take, and what becomes of a connection after an answer that came too early."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from gateway.server.connection import LINGER_LIMIT
from gateway.server.limits import HEAD_SECONDS, LINGER_SECONDS, Deadlines
from gateway.server.server import KEEP_ALIVE
from gateway.web.requests import BODY_SECONDS
from tests.support.fake_upstream import faking
from tests.support.harness import Running, serving

pytestmark = pytest.mark.virtual_time

Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
COPY = b"POST /v1.0/me/drive/items/1/copy HTTP/1.1\r\nHost: x\r\n"


@asynccontextmanager
async def dialled(folder: Path, **values: float) -> AsyncIterator[tuple[Running, Wire]]:
    async with faking() as upstream, serving(upstream.url, folder, **values) as gateway:
        host, _, port = gateway.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        yield gateway, (reader, writer)
        writer.transport.abort()


def now() -> float:
    return asyncio.get_running_loop().time()


async def answer(wire: Wire) -> tuple[int, bytes]:
    """The next answer's status and body."""
    head = await wire[0].readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    return int(head.split()[1]), await wire[0].readexactly(length)


async def send(wire: Wire, piece: bytes, times: int) -> None:
    for _ in range(times):
        wire[1].write(piece)
        await wire[1].drain()
        await anyio.lowlevel.checkpoint()


def code(body: bytes) -> str:
    found: str = json.loads(body)["error"]["code"]
    return found


@pytest.mark.parametrize("sent", [1, 10, 20, len(GET) - 1])
@pytest.mark.parametrize("before", [b"", GET], ids=["on a new connection", "on a kept one"])
async def test_a_head_that_does_not_end(before: bytes, sent: int, tmp_path: Path) -> None:
    """It is refused in time, counted from its first byte, and the connection is closed."""
    async with dialled(tmp_path) as (_, wire):
        if before:
            wire[1].write(before)
            await answer(wire)
        await anyio.sleep(HEAD_SECONDS - 5)
        begun = now()
        wire[1].write(GET[:sent])
        status, body = await answer(wire)
        assert (status, code(body)) == (408, "requestTimeout")
        assert now() - begun == pytest.approx(HEAD_SECONDS, abs=0.1)
        assert await wire[0].read() == b""


async def test_a_head_that_comes_byte_by_byte(tmp_path: Path) -> None:
    """What drips on does not lengthen its time; one that is whole in time is answered."""
    async with dialled(tmp_path) as (_, wire):
        for each in GET[:-1]:
            wire[1].write(bytes([each]))
            await anyio.sleep(0.8)
        wire[1].write(GET[-1:])
        assert (await answer(wire))[0] == 200
        begun = now()
        for each in GET:
            wire[1].write(bytes([each]))
            await anyio.sleep(1)
            if now() - begun > HEAD_SECONDS:
                break
        assert code((await answer(wire))[1]) == "requestTimeout"


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"\r\n\r\n\r\n"], ids=["nothing", "a line", "lines"])
async def test_a_new_connection_on_which_nothing_comes(sent: bytes, tmp_path: Path) -> None:
    """It is closed without a word: there is no request to answer."""
    async with dialled(tmp_path) as (_, wire):
        begun = now()
        wire[1].write(sent)
        assert await wire[0].read() == b""
        assert now() - begun == pytest.approx(HEAD_SECONDS, abs=0.1)


async def test_a_kept_connection_on_which_nothing_comes(tmp_path: Path) -> None:
    """It stays longer than clients and proxies keep it; empty lines do not lengthen that."""
    async with dialled(tmp_path) as (_, wire):
        wire[1].write(GET)
        await answer(wire)
        begun = now()
        await anyio.sleep(KEEP_ALIVE - 5)
        wire[1].write(b"\r\n")
        assert await wire[0].read() == b""
        assert now() - begun == pytest.approx(KEEP_ALIVE, abs=0.1)


@pytest.mark.parametrize(
    "head", [b"Content-Length: 9\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n9\r\n"], ids=["length", "chunks"]
)
async def test_a_body_that_does_not_end(head: bytes, tmp_path: Path) -> None:
    """It is refused in time, however it drips, and what comes later is not taken for a request."""
    async with dialled(tmp_path) as (_, wire):
        begun = now()
        wire[1].write(COPY + head)
        for _ in range(8):
            wire[1].write(b"x")
            await anyio.sleep(3.9)
        status, body = await answer(wire)
        assert (status, code(body)) == (408, "requestTimeout")
        assert now() - begun == pytest.approx(BODY_SECONDS, abs=2)
        wire[1].write(GET)
        assert await wire[0].read() == b""


async def test_streams_and_waits_have_no_such_limit(tmp_path: Path) -> None:
    """They are open for as long as they last, also with half a request behind them."""
    async with dialled(tmp_path) as (gateway, wire):
        job = await gateway.copy()
        wire[1].write(f"GET /jobs/{job['jobId']} HTTP/1.1\r\nHost: x\r\nPrefer: wait=50\r\n\r\n".encode() + GET[:9])
        begun = now()
        assert (await answer(wire))[0] == 202
        assert now() - begun == pytest.approx(50, abs=1)
        wire[1].write(GET[9:])
        assert (await answer(wire))[0] == 200
        wire[1].write(f"GET /jobs/{job['jobId']}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode() + GET[:9])
        await wire[0].readuntil(b"retry: 2000\n\n")
        await anyio.sleep(200)
        assert gateway.gateway.parts.tails.open == 1


async def test_who_stays_after_a_refusal_is_cut(tmp_path: Path) -> None:
    """Its answer has come, and with it the end of the other side's; the socket is gone soon after."""
    async with dialled(tmp_path) as (gateway, wire):
        connections = gateway.server.server_state.connections
        begun = now()
        wire[1].write(COPY + b"Content-Length: 99999999\r\n\r\n")
        assert (await answer(wire))[0] == 413
        assert await wire[0].read() == b""
        assert now() - begun < 0.1
        await anyio.sleep(LINGER_SECONDS / 2)
        wire[1].write(b"x" * 1000)
        await anyio.sleep(LINGER_SECONDS / 4)
        assert len(connections) == 1
        await anyio.sleep(LINGER_SECONDS / 2)
        assert not connections


async def test_who_sends_on_after_a_refusal_is_cut(tmp_path: Path) -> None:
    """Not before a bounded amount: a client that reads when it has sent all gets its answer."""
    async with dialled(tmp_path) as (gateway, wire):
        connections = gateway.server.server_state.connections
        wire[1].write(COPY + b"Content-Length: 99999999\r\n\r\n")
        piece = b"x" * (1 << 20)
        await send(wire, piece, LINGER_LIMIT // len(piece))
        assert (await answer(wire))[0] == 413
        begun = now()
        with pytest.raises(ConnectionError):
            await send(wire, piece, LINGER_LIMIT // len(piece))
        assert now() - begun < LINGER_SECONDS
        assert not connections


async def test_deadlines() -> None:
    """Each is called once, in its time; what is removed or added twice is not called twice."""
    called: list[tuple[str, float]] = []

    def late(name: str) -> None:
        called.append((name, now()))

    calls = {name: lambda name=name: late(name) for name in "abcd"}
    deadlines = Deadlines(asyncio.get_running_loop(), 10)
    begun = now()
    deadlines.add(calls["a"])
    deadlines.add(calls["b"])
    await anyio.sleep(4)
    deadlines.add(calls["c"])
    deadlines.add(calls["b"])
    deadlines.remove(calls["a"])
    deadlines.remove(calls["d"])
    await anyio.sleep(30)
    deadlines.add(calls["d"])
    await anyio.sleep(30)
    assert [(name, round(at - begun)) for name, at in called] == [("b", 10), ("c", 14), ("d", 44)]
