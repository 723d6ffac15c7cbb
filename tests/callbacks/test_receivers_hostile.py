"""Receivers whose answers have no end, or are none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from gateway.callbacks.receivers import Receivers
from gateway.core.callback import Delivered, Failed, Gone, Outcome
from gateway.outbound.sessions import ANSWER_LIMIT, ATTEMPT_SECONDS, HEAD_LIMIT, RECEIVER_BODY_LIMIT, BoundedResponse
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
        (one_huge_header, {"the head of its answer is too long"}),
        (headers_without_end, {"no answer within 15 seconds"}),
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
HEAD_TOO_LONG = Failed("the head of its answer is too long")
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
        (HEAD, HEADERS, {HEAD_TOO_LONG}),
        (HEAD + b"X: ", b"x" * 65536, {HEAD_TOO_LONG}),
        (b"HTTP/1.1 200 ", b"x" * 65536, {HEAD_TOO_LONG}),
        (b"", b"x" * 65536, {NO_HTTP}),
        (CHUNKED + b"1;", b"x" * 65536, {Delivered()}),
        (CHUNKED, b"1\r\na\r\n" * 10000, {Delivered()}),
        (CHUNKED + b"0\r\n", HEADERS, {Delivered()}),
        (HEAD + b"\r\n", b"x" * 65536, {Delivered()}),
        (b"HTTP/1.1 410 G\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 65536, {Gone()}),
        (b"HTTP/1.1 102 P\r\n\r\n" * 9 + b"HTTP/1.1 204 N\r\n\r\n", b"HTTP/1.1 102 P\r\n\r\n" * 4000, {Delivered(204)}),
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


def head_of(size: int, *headers: bytes) -> bytes:
    """A head of so many bytes: the headers in turn, then one that fills it up."""
    lines, number = [b"HTTP/1.1 200 OK"], 0
    while headers and sum(map(len, lines)) + 2 * len(lines) + 64 < size - len(headers[0]):
        lines.append(headers[number % len(headers)])
        number += 1
    rest = size - len(b"\r\n".join(lines)) - len(b"\r\nX-Last: \r\n\r\n")
    return b"\r\n".join([*lines, b"X-Last: " + b"x" * rest, b"", b""])


@pytest.mark.parametrize("headers", [(), (b"X-Long: " + b"x" * 9000,), (b"a:b",), (b"Set-Cookie: a=b", b"Link: <x>")])
@pytest.mark.parametrize("piece", [997, 7000, 1 << 20])
async def test_the_largest_head(receivers: Receivers, headers: tuple[bytes, ...], piece: int) -> None:
    """32 KiB, however many and however long its headers are and in whatever pieces it comes, with interim heads before
    it and a body behind it; one byte more is too long.
    """
    interim, body = b"HTTP/1.1 103 E\r\nLink: x\r\n\r\n" * 100, b"x" * RECEIVER_BODY_LIMIT

    async def answered(size: int) -> Outcome:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            answer = interim + head_of(size, *headers) + body
            for begin in range(0, len(answer), piece):
                writer.write(answer[begin : begin + piece])
                await writer.drain()

        async with raw(serve) as url:
            return await post(receivers, url)

    assert await answered(HEAD_LIMIT) == Delivered()
    assert await answered(HEAD_LIMIT + 1) == HEAD_TOO_LONG


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
async def test_where_a_head_ends(line_end: bytes) -> None:
    """At its empty line, wherever the segments cut it: each head has its own bytes, and a body is none."""
    interim = line_end.join([b"HTTP/1.1 103 E", b"X: " + b"x" * 9000, b"", b""])
    final = line_end.join([b"HTTP/1.1 204 N", b"X: " + b"x" * 30_000, b"", b""])
    for size in (1, 2, 3, 1000):
        exchange = BoundedResponse(asyncio.get_running_loop())
        exchange.set_response_params(max_line_size=HEAD_LIMIT, max_field_size=HEAD_LIMIT, max_headers=HEAD_LIMIT)
        text = interim * 3 + final
        for begin in range(0, len(text), size):
            exchange.data_received(text[begin : begin + size])
        assert exchange.exception() is None
        assert [(await exchange.read())[0].code for _ in range(len(exchange))] == [103, 103, 103, 204]


async def test_a_head_that_comes_before_the_request() -> None:
    """It is counted once: when there is a parser for it."""
    exchange = BoundedResponse(asyncio.get_running_loop())
    head = head_of(HEAD_LIMIT)
    exchange.data_received(head[:-1])
    exchange.set_response_params(max_line_size=HEAD_LIMIT, max_field_size=HEAD_LIMIT, max_headers=HEAD_LIMIT)
    exchange.data_received(head[-1:])
    assert exchange.exception() is None
    assert (await exchange.read())[0].code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"Transfer-Encoding: chunked\r\n\r\nno size\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0\r\nno trailer\r\n\r\n",
        b"Content-Length: 0\r\n\r\nwhat is this?\r\n\r\n",
        b"Content-Length: 9\r\n\r\nx",
        b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nxxx",
        b"\r\nHTTP/1.1 500 no\r\n\r\n",
    ],
)
@pytest.mark.parametrize("together", [True, False])
async def test_no_body_spoils_a_head(receivers: Receivers, body: bytes, together: bool) -> None:
    """In the same segment as the head or behind it, cut off or wrong: the status has told how it went."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head, _, rest = (HEAD + body).partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n" + (rest if together else b""))
        await asyncio.sleep(0.1)
        writer.write(b"" if together else rest)
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
