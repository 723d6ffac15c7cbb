"""Receivers whose answers have no end, or are none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from gateway.callbacks.receivers import Receivers
from gateway.core.callback import Delivered, Failed, Gone, Outcome
from gateway.outbound.sessions import ANSWER_LIMIT, ATTEMPT_SECONDS, RECEIVER_BODY_LIMIT, BoundedResponse
from tests.support.fake_receiver import Serve, raw, silent

pytestmark = pytest.mark.virtual_time


@pytest.fixture
async def receivers() -> AsyncIterator[Receivers]:
    async with Receivers.open([ip_network("127.0.0.0/8")]) as receivers:
        yield receivers


async def post(receivers: Receivers, url: str) -> Outcome:
    return await receivers.post(url + "/hook", {"webhook-id": "msg_1"}, b"{}", 0.0)


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
    assert sent < RECEIVER_BODY_LIMIT + (1 << 20)


HEAD = b"HTTP/1.1 200 OK\r\n"


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
        (headers_without_end, {"its answer is not HTTP", "no answer within 15 seconds", "its answer is too long"}),
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


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
HEADERS = b"".join(b"X-%d: x\r\n" % number for number in range(6000))
NO_HTTP, TOO_LONG = Failed("its answer is not HTTP"), Failed("its answer is too long")
MOST = 16 << 20
"""Bytes that sockets may hold on the way, several times over."""


@pytest.mark.parametrize(
    ("begin", "flood", "outcomes"),
    [
        (b"", b"HTTP/1.1 102 P\r\n\r\n" * 4000, {TOO_LONG}),
        (
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 103 E\r\nLink: x\r\n\r\n" * 4000,
            {TOO_LONG},
        ),
        (HEAD, HEADERS, {NO_HTTP}),
        (HEAD + b"X: ", b"x" * 65536, {NO_HTTP}),
        (b"HTTP/1.1 200 ", b"x" * 65536, {NO_HTTP}),
        (b"", b"x" * 65536, {NO_HTTP}),
        (CHUNKED + b"1;", b"x" * 65536, {Delivered()}),
        (CHUNKED, b"1\r\na\r\n" * 10000, {Delivered()}),
        (CHUNKED + b"0\r\n", HEADERS, {Delivered(), NO_HTTP}),
        (HEAD + b"\r\n", b"x" * 65536, {Delivered()}),
        (b"HTTP/1.1 410 G\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 65536, {Gone()}),
        (b"HTTP/1.1 102 P\r\n\r\n" * 9 + b"HTTP/1.1 204 N\r\n\r\n", b"HTTP/1.1 102 P\r\n\r\n" * 4000, {Delivered()}),
    ],
    ids=[
        "1xx",
        "more 1xx",
        "headers",
        "a header",
        "a reason",
        "no HTTP",
        "extension",
        "chunks",
        "trailers",
        "body",
        "gone",
        "after",
    ],
)
async def test_floods(receivers: Receivers, begin: bytes, flood: bytes, outcomes: set[Outcome]) -> None:
    """At the rate of the line, of whatever has no end: cut off after a moment, a head that came before it counts."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(begin)
        while sent <= MOST:
            writer.write(flood)
            sent += len(flood)
            await writer.drain()
        await asyncio.sleep(3600)

    begun = asyncio.get_running_loop().time()
    async with raw(serve) as url:
        assert await post(receivers, url) in outcomes
    assert sent <= MOST
    assert asyncio.get_running_loop().time() - begun < 1


async def test_what_lies_beyond_the_limit_is_not_read() -> None:
    """Also when it comes in one piece with what lies before it."""
    interim = b"HTTP/1.1 102 P\r\n\r\n"
    exchange = BoundedResponse(asyncio.get_running_loop())
    exchange.set_response_params()
    exchange.data_received(interim * 14_000)
    assert len(exchange) == ANSWER_LIMIT // len(interim)
    assert exchange.exception() is not None


async def test_a_head_with_all_that_may_be_in_it(receivers: Receivers) -> None:
    """It is no flood."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            HEAD + b"".join(b"X-%d: %b\r\n" % (n, b"x" * 4000) for n in range(8)) + b"\r\n" + b"x" * RECEIVER_BODY_LIMIT
        )
        await writer.drain()

    async with raw(serve) as url:
        assert await post(receivers, url) == Delivered()


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
