"""Readers that take nothing, in real time: the kernel's buffers and clocks are part of it."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import anyio
from aiohttp import web

from tests.support.fake_upstream import FakeUpstream, faking
from tests.support.harness import Running, events, serving
from tests.support.scraping import scraped, series, value


def chatty(upstream: FakeUpstream) -> None:
    """Every poll brings a new text of a thousand characters."""
    count = 0

    async def answer(_request: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        text = f"{count} " + "x" * 1000
        return web.json_response({"status": "inProgress", "statusDescription": text}, status=202)

    upstream.on_poll = answer


def stalled_reader(gateway: Running, path: str, buffer: int = 1024) -> socket.socket:
    """A client that asks for a stream and does not read, with a buffer of its own as small as that."""
    host, port = gateway.url.removeprefix("http://").split(":")
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    reader.connect((host, int(port)))
    reader.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    reader.setblocking(False)  # noqa: FBT003 - its signature
    return reader


async def test_a_reader_that_takes_nothing_is_cut_and_holds_up_nobody(tmp_path: Path) -> None:
    """Its connection is gone from the server within the send timeout; another reader gets every event meanwhile."""
    async with (
        faking() as upstream,
        serving(upstream.url, tmp_path, poll_min=0.005, poll_max=0.005, send_timeout=1, log_limit=5000) as gateway,
    ):
        chatty(upstream)
        job = await gateway.copy("/v1.0/me/drive/items/1")
        stalled = [stalled_reader(gateway, f"/jobs/{job['jobId']}/events") for _ in range(20)]
        tails = gateway.gateway.parts.tails
        connections = gateway.server.server_state.connections
        with anyio.fail_after(60):
            async with gateway.session.get(job["events"]) as response:
                expected = 1
                async for event in events(response):
                    assert int(event.id) == expected
                    expected += 1
                    if expected > 200 and tails.open == 1:
                        break
                assert tails.open == 1
                while len(connections) > 4:  # noqa: ASYNC110 - the server has no event for it
                    await anyio.sleep(0.05)
        for reader in stalled:
            reader.close()
        figures = series(await scraped(gateway))
        assert value(figures, "gateway_streams_ended_total", reason="stalled") == 20
        assert value(figures, "gateway_streams_ended_total", reason="left") <= 1  # the reader that was open meanwhile


async def test_a_slow_reader_catches_up_from_the_log(tmp_path: Path) -> None:
    """One that pauses and reads on gets every event once, in order, from the log and not from a queue."""
    async with (
        faking() as upstream,
        serving(upstream.url, tmp_path, poll_min=0.005, poll_max=0.005, send_timeout=30, log_limit=5000) as gateway,
    ):
        chatty(upstream)
        job = await gateway.copy("/v1.0/me/drive/items/1")
        slow = stalled_reader(gateway, f"/jobs/{job['jobId']}/events", buffer=32768)
        async with gateway.session.get(job["events"]) as response:
            async for event in events(response):
                if int(event.id) == 300:
                    break
        received = b""
        loop = asyncio.get_running_loop()
        with anyio.fail_after(60):
            while b"id: 300\n" not in received:
                received += await loop.sock_recv(slow, 65536)
        slow.close()
        ids = [int(line[4:]) for line in received.split(b"\n") if line.startswith(b"id: ")]
        assert ids == list(range(1, len(ids) + 1))


async def test_a_reader_that_is_gone_without_a_word(tmp_path: Path) -> None:
    """Streams opened and reset by the hundred leave no reader, no tail and no task behind."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        job = await gateway.copy("/v1.0/me/drive/items/1")
        before = len(asyncio.all_tasks())  # and a few of the fake upstream's, for the polls
        for _ in range(10):
            readers = [stalled_reader(gateway, f"/jobs/{job['jobId']}/events") for _ in range(30)]
            await anyio.sleep(0.02)
            for reader in readers:
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                reader.close()
        with anyio.fail_after(10):
            while gateway.gateway.parts.tails.open or len(asyncio.all_tasks()) > before + 5:  # noqa: ASYNC110 - no event for it
                await anyio.sleep(0.02)
        assert gateway.gateway.parts.tails._tails == {}
