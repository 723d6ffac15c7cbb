"""What becomes of a connection that a stream has taken over, seen from the wire."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aiohttp import web

from gateway.core.job import chunk
from gateway.server.connection import READ_AHEAD_LIMIT
from tests.support.fake_upstream import FakeUpstream, faking
from tests.support.harness import OPERATOR, Running, serving, tail

WATCH = (
    f"POST /jobs HTTP/1.1\r\nHost: x\r\nAuthorization: {OPERATOR['Authorization']}\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
)
LAST = "0\r\n\r\n"
MANY = ["1\r\n[\r\n"] * 20_000
"""Chunks of a body, more than are parsed in one turn of the loop."""

Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def ending(upstream: FakeUpstream) -> asyncio.Event:
    """The copy has ended once this is set."""
    end = asyncio.Event()

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "completed" if end.is_set() else "inProgress"}, status=202)

    upstream.on_poll = answer
    return end


@asynccontextmanager
async def dialled(gateway: Running) -> AsyncIterator[Wire]:
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    yield reader, writer
    writer.close()


def get(path: str, version: str = "1.1") -> bytes:
    return f"GET {path} HTTP/{version}\r\nHost: x\r\n\r\n".encode()


async def head(wire: Wire) -> bytes:
    return await wire[0].readuntil(b"\r\n\r\n")


async def body(wire: Wire) -> bytes:
    """What comes in chunks, to the last of them."""
    reader, _ = wire
    found = b""
    while size := int(await reader.readline(), 16):
        found += await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    assert await reader.readexactly(2) == b"\r\n"
    return found


async def state(wire: Wire) -> bytes:
    """The start of the answer to a GET of the job."""
    said = await head(wire)
    length = next(int(line.split(b":")[1]) for line in said.split(b"\r\n") if line.startswith(b"content-length"))
    await wire[0].readexactly(length)
    return said[:12]


@pytest.mark.parametrize("when", ["at once", "meanwhile", "afterwards"])
async def test_the_next_request_is_answered_when_the_stream_has_ended(when: str, tmp_path: Path) -> None:
    """Whether it came in one piece with the stream's own, while that ran, or later."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway, dialled(gateway) as wire:
        end = ending(upstream)
        path = f"/jobs/{(await gateway.copy())['jobId']}"
        following = get(path) + get(path + "/events") + get(path)
        with anyio.fail_after(20):
            wire[1].write(get(path + "/events") + (following if when == "at once" else b""))
            await head(wire)
            wire[1].write(following if when == "meanwhile" else b"")
            end.set()
            assert (await body(wire)).endswith(b"}\n\n")
            wire[1].write(following if when == "afterwards" else b"")
            assert await state(wire) == b"HTTP/1.1 200"
            await head(wire)
            assert b"event: completed" in await body(wire)
            assert await state(wire) == b"HTTP/1.1 200"
        assert gateway.gateway.parts.tails.open == 0


OLD = {
    "a stream": ("GET", "/jobs/{job}/events", 200, b"retry: 2000\n\nid: 1\n", b"}\n\n"),
    "a stream of many": ("GET", "/events?job={job}&job=nobody", 200, b"retry: 2000\n\nid: 0,-\n", b"}\n\n"),
    "a stream's head": ("HEAD", "/jobs/{job}/events", 200, b"", b""),
    "a stream that was seen": ("GET", "/jobs/{job}/events?lastEventId=2", 204, b"", b""),
    "a state": ("GET", "/jobs/{job}", 200, b'{"jobId"', b"}"),
    "an error": ("GET", "/jobs/nobody/events", 404, b'{"error"', b"}"),
    "an item": ("GET", "/v1.0/me/drive/root", 200, b'{"id": "1"}', b"}"),
    "an item's head": ("HEAD", "/v1.0/me/drive/root", 200, b"", b""),
}
"""Requests of a client older than HTTP/1.1: method, path, and the status, the start and the end of the answer."""


@pytest.mark.parametrize("asked", ["1.0", "1.0\r\nConnection: keep-alive", "0.9\r\nConnection: keep-alive"])
@pytest.mark.parametrize("name", OLD)
async def test_a_client_older_than_http_1_1(name: str, asked: str, tmp_path: Path) -> None:
    """It gets the plain body without chunks, is told once that the connection closes, and is closed to at its end."""
    method, path, status, start, end = OLD[name]
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway, dialled(gateway) as wire:
        ending(upstream).set()
        job = await gateway.copy()
        await tail(gateway.session, job["events"])
        with anyio.fail_after(20):
            wire[1].write(f"{method} {path.format(job=job['jobId'])} HTTP/{asked}\r\nHost: x\r\n\r\n".encode())
            said = (await head(wire)).lower().split(b"\r\n")
            found = await wire[0].read()
    assert int(said[0].split()[1]) == status
    assert [line for line in said if line.startswith((b"connection:", b"transfer-encoding:"))] == [b"connection: close"]
    assert (found[: len(start)], found[len(found) - len(end) :]) == (start, end)
    lengths = [int(line.split(b":")[1]) for line in said if line.startswith(b"content-length:")]
    assert method == "HEAD" or lengths in ([], [len(found)])


async def test_a_client_of_http_1_0_follows_to_the_end(tmp_path: Path) -> None:
    """It sees each event when it comes, with the heartbeats between, as any other reader does."""
    async with (
        faking() as upstream,
        serving(upstream.url, tmp_path, heartbeat=0.05) as gateway,
        dialled(gateway) as wire,
    ):
        end = ending(upstream)
        job = await gateway.copy()
        with anyio.fail_after(20):
            wire[1].write(get(f"/jobs/{job['jobId']}/events", "1.0"))
            await head(wire)
            seen = await wire[0].readuntil(b"}\n\n")
            seen += await wire[0].readuntil(b"\n\n:\n\n")
            end.set()
            seen += await wire[0].read()
            async with gateway.session.get(job["events"]) as response:
                other = await response.read()
    assert seen.replace(b":\n\n", b"") == other.replace(b":\n\n", b"")
    assert b"event: completed\n" in seen


@pytest.mark.parametrize("asked", ["", "keep-alive", "close"])
async def test_the_connection_header_of_a_stream(asked: str, tmp_path: Path) -> None:
    """It is the server's own: none, or `close` to who asks for that."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway, dialled(gateway) as wire:
        ending(upstream).set()
        path = f"/jobs/{(await gateway.copy())['jobId']}/events"
        line = f"Host: x\r\nConnection: {asked}" if asked else "Host: x"
        with anyio.fail_after(20):
            wire[1].write(get(path).replace(b"Host: x", line.encode()))
            said = (await head(wire)).split(b"\r\n")
            await body(wire)
            assert [one for one in said if one.lower().startswith(b"connection:")] == (
                [b"connection: close"] if asked == "close" else []
            )


@pytest.mark.parametrize("sent", [b"x", get("/healthz")], ids=["noise", "requests"])
async def test_who_sends_without_end_behind_a_stream_is_cut(sent: bytes, tmp_path: Path) -> None:
    """Nothing reads it before the stream is over, so it is not kept."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway, dialled(gateway) as wire:
        ending(upstream)
        path = f"/jobs/{(await gateway.copy())['jobId']}/events"
        with anyio.fail_after(20):
            wire[1].write(get(path))
            await wire[0].readuntil(b"retry: 2000\n\n")
            wire[1].write(sent * (READ_AHEAD_LIMIT // len(sent) + 1))
            assert not (await wire[0].read()).endswith(b"0\r\n\r\n")
            assert gateway.gateway.parts.tails.open == 0


async def test_a_client_that_left_before_its_stream_began_leaves_nothing(tmp_path: Path) -> None:
    """Each of many that ask and close at once is forgotten."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        ending(upstream)
        path = f"/jobs/{(await gateway.copy())['jobId']}/events"
        with anyio.fail_after(20):
            for _ in range(50):
                async with dialled(gateway) as (_, writer):
                    writer.write(get(path))
            async with dialled(gateway) as wire:  # accepted after them
                wire[1].write(get("/healthz"))
                await state(wire)
            while len(gateway.server.server_state.connections) > 1:  # noqa: ASYNC110 - the server has no event for it
                await anyio.sleep(0.02)
        assert gateway.gateway.parts.tails.open == 0


@pytest.mark.parametrize("cut", [1, 20, 30, 45])
async def test_the_next_request_may_come_in_pieces(cut: int, tmp_path: Path) -> None:
    """One with the stream's own, the rest when that has begun, or when it has ended."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway, dialled(gateway) as wire:
        end = ending(upstream)
        path = f"/jobs/{(await gateway.copy())['jobId']}"
        following = get(path)
        with anyio.fail_after(20):
            wire[1].write(get(path + "/events") + following[:cut])
            await head(wire)
            wire[1].write(following[cut : cut + 10])
            end.set()
            await body(wire)
            wire[1].write(following[cut + 10 :])
            assert await state(wire) == b"HTTP/1.1 200"


@pytest.mark.parametrize("sent", [0, 1, 2])
async def test_a_request_of_a_stream_may_have_a_body(sent: int, tmp_path: Path) -> None:
    """Which nobody reads, and which is not taken for the next request: what has not come yet ends the connection."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway, dialled(gateway) as wire:
        end = ending(upstream)
        path = f"/jobs/{(await gateway.copy())['jobId']}"
        with anyio.fail_after(20):
            wire[1].write(get(path + "/events").replace(b"Host: x", b"Host: x\r\nContent-Length: 2") + b"{}"[:sent])
            said = await head(wire)
            assert (b"\r\nconnection: close" in said) == (sent < 2)
            end.set()
            await body(wire)
            wire[1].write(b"{}"[sent:] + get(path))
            if sent < 2:
                assert await wire[0].read() == b""
            else:
                assert await state(wire) == b"HTTP/1.1 200"


@pytest.mark.parametrize("close", [True, False])
async def test_who_stalls_at_the_end_is_cut(close: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the kernel has no clock of its own for that."""
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT", raising=False)
    async with faking() as upstream, serving(upstream.url, tmp_path, send_timeout=1) as gateway:
        end = ending(upstream)
        path = f"/jobs/{(await gateway.copy())['jobId']}/events"
        host, _, port = gateway.url.removeprefix("http://").partition(":")
        stalled = socket.socket()
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect((host, int(port)))
        stalled.sendall(get(path).replace(b"Host: x", b"Host: x\r\nConnection: close" if close else b"Host: x"))
        connections = gateway.server.server_state.connections
        with anyio.fail_after(20):
            while gateway.gateway.parts.tails.open == 0 or not (found := _hijacked(connections)):  # noqa: ASYNC110
                await anyio.sleep(0.01)
            while not found.transport.get_write_buffer_size():
                found.write(chunk(b":" + b"x" * 2000 + b"\n\n"))
                await anyio.lowlevel.checkpoint()
            end.set()
            while found in connections:  # noqa: ASYNC110 - the server has no event for it
                await anyio.sleep(0.05)
        stalled.close()


def _hijacked(connections: Any) -> Any:
    return next((one for one in connections if one._owner is not None), None)


async def test_many_that_come_at_once_are_held_to_the_limit(tmp_path: Path) -> None:
    """No more than it says are open, and the rest are told to come back."""
    async with faking() as upstream, serving(upstream.url, tmp_path, max_streams=5) as gateway:
        ending(upstream)
        url = f"{gateway.url}/jobs/{(await gateway.copy())['jobId']}/events"
        answers = await asyncio.gather(*(gateway.session.get(url) for _ in range(40)))
        assert gateway.gateway.parts.tails.open == 5
        assert [answer.status for answer in answers].count(503) == 35
        for answer in answers:
            answer.close()


@pytest.mark.parametrize(
    ("asked", "statuses"),
    [
        (["GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"], [202]),
        (["HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n"], [202]),
        (["GET {path} HTTP/1.0\r\n\r\n"], [202]),
        (["DELETE {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n", "ab"], [401]),
        (["GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"] * 3, [202, 202, 202]),
        (["GET {path} HTTP/1.1\r\nHost: x\r\nPrefer: wait=1\r\n\r\n"], [202]),
        (["GET {path} HTTP/1.1\r\nHost: x\r\n\r\n", "GET {path} HT"], [202]),
        (["GET {path} HTTP/1.1\r\nHo"], []),
        ([WATCH, *MANY, LAST], [400]),
        (["GET {path} HTTP/1.1\r\nHost: x\r\n\r\n", WATCH, *MANY, LAST], [202, 400]),
    ],
    ids=[
        "GET",
        "HEAD",
        "HTTP/1.0",
        "with a body",
        "three",
        "a wait",
        "one and a half",
        "half a head",
        "many chunks",
        "many chunks behind a GET",
    ],
)
async def test_a_client_that_ends_its_side(asked: list[str], statuses: list[int], tmp_path: Path) -> None:
    """It is answered what it has asked for, and then the connection is closed; half a request is none."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        ending(upstream)
        job = await gateway.copy()
        async with dialled(gateway) as (reader, writer):
            writer.write("".join(asked).format(path=f"/jobs/{job['jobId']}").encode())
            writer.write_eof()
            with anyio.fail_after(10):
                answer = await reader.read()
    assert [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", answer)] == statuses
