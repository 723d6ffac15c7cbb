"""A poll on the wire: the same whichever way it goes."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from aiohttp import ClientRequest

from gateway.core.addresses import MonitorRule
from gateway.graph.client import Upstream
from gateway.graph.dialects import NoAnswer
from gateway.outbound import exchange
from gateway.outbound.exchange import Client
from gateway.outbound.reply import Reply
from tests.support.fake_receiver import raw
from tests.support.raw_hosts import RUNNING, Host, answer, polling

pytestmark = pytest.mark.virtual_time

PATHS = ["/m/1", "/m/a%2Fb;c=d?x=%20&y='(1)'", "/", "/m?", "/m/%C3%A9?%E2%82%AC"]


@pytest.mark.parametrize("path", PATHS)
async def test_both_ways_send_the_same(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte, with headers of a trace or without."""
    host = Host(answer())
    async with raw(host) as url:
        for direct in (True, False):
            monkeypatch.setattr(exchange, "IS_DIRECT", direct)
            async with Upstream.open(url=url, rule=MonitorRule(url, ()), copy_timeout=60) as upstream:
                monitor = upstream.monitor(url + path)
                assert monitor is not None
                for headers in ({}, {"traceparent": "00-1-2-01"}):
                    assert isinstance(await upstream.poll(monitor, headers), Reply)
    direct_plain, direct_traced, plain, traced = host.asked
    assert direct_plain == plain
    assert sorted(direct_traced.split(b"\r\n")) == sorted(traced.split(b"\r\n"))


@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    [
        ("POST", "/v1.0/me/drive/items/1/copy?a=%2F", b'{"name": "b"}', {"Authorization": "Bearer t", "accept": "a/b"}),
        ("PATCH", "/v1.0/me/drive/items/a\xe9:/b", b"x" * 100_000, {"Content-Type": "c/d", "traceparent": "e\xe9"}),
        ("POST", "/v1.0/me/drive/root/archive", None, {}),
    ],
)
async def test_a_start_is_sent_the_same_both_ways(
    method: str, path: str, body: bytes | None, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte but for the order of its fields, with the caller's in place of those of the session."""
    sent = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        sent.append((head[0], sorted(head), await reader.readexactly(len(body or b""))))
        writer.write(answer())

    async with raw(serve) as url:
        for direct in (True, False):
            monkeypatch.setattr(exchange, "IS_DIRECT", direct)
            async with Upstream.open(url=url, rule=MonitorRule(url, ()), copy_timeout=60) as upstream:
                await upstream.start(method, path, body, headers)
    assert sent[0] == sent[1]
    assert sent[0][2] == (body or b"")


async def test_a_poll_is_sent_under_the_bytes_of_its_start() -> None:
    """A token beyond ASCII is the same to upstream both times."""
    host = Host(answer())
    async with raw(host) as url, Upstream.open(url=url, rule=MonitorRule(url, ()), copy_timeout=60) as upstream:
        monitor = upstream.monitor(f"{url}/m/1")
        assert monitor is not None
        await upstream.start("POST", "/v1.0/teams", None, {"Authorization": "Bearer caf\xe9"})
        await upstream.poll(monitor, {}, "Bearer caf\xe9")
    assert len(host.asked) == 2
    assert all(b"\r\nAuthorization: Bearer caf\xe9\r\n" in head for head in host.asked)


async def test_a_header_cannot_end_its_line() -> None:
    """The poll is not sent."""
    host = Host(answer())
    async with raw(host) as url, Upstream.open(url=url, rule=MonitorRule(url, ()), copy_timeout=60) as upstream:
        monitor = upstream.monitor(f"{url}/m/1")
        assert monitor is not None
        assert await upstream.poll(monitor, {"tracestate": "a\r\nX: y"}) == NoAnswer("not HTTP")
    assert host.asked == []


@pytest.mark.usefixtures("way")
async def test_a_connection_is_kept_and_one_that_has_gone_is_replaced() -> None:
    """A host that closes each connection after its second answer is polled five times without a failure."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with suppress(asyncio.IncompleteReadError):
            for _ in range(2):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer())
            await reader.readuntil(b"\r\n\r\n")  # and hangs up on the third

    async with polling(serve) as poll:
        for _ in range(5):
            outcome = await poll()
            assert isinstance(outcome, Reply)
            assert outcome.body == RUNNING
    assert connections == 3


async def test_the_jobs_of_a_host_share_what_finds_its_connections() -> None:
    """And it goes with the last of them."""
    async with (
        raw(Host(answer())) as url,
        Upstream.open(url=url, rule=MonitorRule(url, ()), copy_timeout=60) as upstream,
    ):
        monitors = [upstream.monitor(f"{url}/m/{number}") for number in range(3)]
        first = monitors[0]
        assert first is not None
        own = first.client
        assert isinstance(own, Client)
        (origin,) = own._origins.values()
        assert isinstance(origin.request, ClientRequest)
        assert all(monitor is not None and monitor.address.origin is origin for monitor in monitors)
        del first, origin
        monitors.clear()
        assert len(own._origins) == 0
