"""Upstream's responses cost their limit, however they are made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count

import pytest

from gateway.graph.dialects import NoAnswer
from gateway.outbound.reply import Reply
from gateway.outbound.sessions import (
    BODY_LIMIT,
    MOST_HEADERS,
    MOST_INTERIM,
    POLL_SECONDS,
    UPSTREAM_HEAD_LIMIT,
    BoundedAnswer,
)
from tests.support.fake_receiver import Serve, silent
from tests.support.raw_hosts import OK, RUNNING, Host, answer, polled, polling, reason

pytestmark = [pytest.mark.virtual_time, pytest.mark.usefixtures("way")]


def endless(first: bytes, more: Callable[[int], bytes]) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(first)
        for number in count():
            writer.write(more(number))
            await writer.drain()

    return serve


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
FLOODS: dict[str, tuple[bytes, Callable[[int], bytes]]] = {
    "102": (b"", lambda _: b"HTTP/1.1 102 Processing\r\n\r\n" * 1000),
    "103": (b"", lambda number: b"HTTP/1.1 103 Early Hints\r\nLink: <%d>\r\n\r\n" % number * 1000),
    "headers": (OK, lambda number: b"X-%d: x\r\n" % number * 1000),
    "one header": (OK + b"X: ", lambda _: b"x" * 65536),
    "one name": (OK, lambda _: b"x" * 65536),
    "status line": (b"HTTP/1.1 200 ", lambda _: b"x" * 65536),
    "body": (OK + b"\r\n", lambda _: b"x" * 65536),
    "chunks": (CHUNKED, lambda _: b"1\r\nx\r\n" * 10_000),
    "extension": (CHUNKED + b"1;", lambda _: b"x" * 65536),
    "extensions": (CHUNKED, lambda _: b"1;a=b;c=d;e=f\r\nx\r\n" * 10_000),
    "trailer": (CHUNKED + b"0\r\n", lambda number: b"X-%d: x\r\n" % number * 1000),
    "one trailer": (CHUNKED + b"0\r\nX: ", lambda _: b"x" * 65536),
    "answers": (b"", lambda _: answer() * 1000),
    "answers of nothing": (b"", lambda _: b"HTTP/1.1 204 No Content\r\n\r\n" * 1000),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_costs_its_limit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes that are taken in are bounded, and so is what is made of them; the connection is cut."""
    taken, heads, cut = 0, 0, asyncio.Event()
    received, fed = BoundedAnswer.data_received, BoundedAnswer.feed_data

    def counted(self: BoundedAnswer, data: bytes) -> None:
        nonlocal taken
        taken += len(data)
        received(self, data)

    def counted_head(self: BoundedAnswer, data: object, size: int = 0) -> None:
        nonlocal heads
        heads += 1
        fed(self, data, size)  # type: ignore[arg-type]

    monkeypatch.setattr(BoundedAnswer, "data_received", counted)
    monkeypatch.setattr(BoundedAnswer, "feed_data", counted_head)
    flood = endless(*FLOODS[name])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await flood(reader, writer)
        finally:
            cut.set()

    async with polling(serve) as poll:
        outcome = await poll()
        await asyncio.wait_for(cut.wait(), POLL_SECONDS)
        assert isinstance(outcome, NoAnswer) != name.startswith("answers")
    assert taken < 2 * BODY_LIMIT
    assert heads <= MOST_INTERIM + 1000


@pytest.mark.parametrize("name", ["102", "headers", "one header", "status line"])
async def test_a_head_costs_its_limit(name: str) -> None:
    """Far less than a body may."""
    sent = 0
    first, more = FLOODS[name]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(first)
        for number in count():
            piece = more(number)[:4096]
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.001)
            sent += len(piece)

    async with polling(serve) as poll:
        assert reason(await poll()) in ("too long", "not HTTP")
    assert sent <= UPSTREAM_HEAD_LIMIT + 16384


async def test_a_head_as_long_as_it_may_be() -> None:
    """Many headers, a long one, some interim answers."""
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * MOST_INTERIM
    head = b"".join(b"X-%d: x\r\n" % number for number in range(MOST_HEADERS - 2)) + b"Y: " + b"y" * 90_000 + b"\r\n"
    outcome = await polled(interim + answer(RUNNING, "200 OK", head.rstrip()))
    assert isinstance(outcome, Reply)
    assert outcome.body == RUNNING
    assert len(outcome.headers["Y"]) == 90_000


@pytest.mark.parametrize(
    ("size", "reads"), [(1, False), (4, False), (64, True), (4096, True)], ids=["1", "4", "64", "4096"]
)
async def test_chunks_cost_what_they_hold(size: int, reads: bool) -> None:
    """A body in chunks of a few bytes is cut off before its parsing takes time from others."""
    body = RUNNING.ljust(100_000)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces(body, size))
    outcome = await polled(CHUNKED + chunks + b"0\r\n\r\n")
    if reads:
        assert isinstance(outcome, Reply)
        assert outcome.body == body
    else:
        assert outcome == NoAnswer("too long")


def pieces(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone", "429 Too Many", "503 Busy", "303 See Other"])
@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 500\r\n\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Content-Length: 2000000\r\n\r\n" + bytes(2_000_000),
        b"Content-Length: 9\r\nContent-Encoding: br\r\n\r\nwhatever.",
    ],
    ids=["broken", "no chunk", "long", "br"],
)
async def test_a_code_counts_without_its_body(status: str, rest: bytes) -> None:
    """And so does what its head asks for."""
    head = f"HTTP/1.1 {status}\r\nRetry-After: 20\r\nLocation: /x\r\n".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + rest)
        with suppress(OSError):
            await writer.drain()

    async with polling(serve) as poll:
        outcome = await poll()
    assert isinstance(outcome, Reply)
    assert (str(outcome.code), outcome.headers["Retry-After"]) == (status[:3], "20")
    assert outcome.headers["Location"] == "/x"


@pytest.mark.parametrize("size", [1, 7])
async def test_a_head_in_small_pieces(size: int) -> None:
    """It is the same head."""
    sent = b"HTTP/1.1 102 Processing\r\n\r\n" + answer(RUNNING, "202 Accepted", b"Retry-After: 3")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for at in range(0, len(sent), size):
            writer.write(sent[at : at + size])
            await asyncio.sleep(0.001)

    async with polling(serve) as poll:
        outcome = await poll()
    assert isinstance(outcome, Reply)
    assert (outcome.code, outcome.body, outcome.headers["Retry-After"]) == (202, RUNNING, "3")


async def test_a_head_is_heard_though_nonsense_follows_it() -> None:
    """A body where none was announced: the code and the headers have told all."""
    outcome = await polled(b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\nslow down!")
    assert isinstance(outcome, Reply)
    assert (outcome.code, outcome.headers["Retry-After"]) == (429, "7")


@pytest.mark.parametrize("rest", [b"", OK, OK + b"Content-Length: 9\r\n\r\n{", CHUNKED + b"5\r\n{"])
async def test_a_host_that_falls_silent(rest: bytes) -> None:
    """It has the poll's time."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(rest)
        await silent(reader, writer)

    async with polling(serve) as poll:
        outcome = await poll()
    assert outcome == NoAnswer("timed out", hung=True)


async def test_a_drip_ends_with_the_polls_time() -> None:
    """Each byte is news, and yet it is no answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"\r\n")
        while True:
            writer.write(b" ")
            await asyncio.sleep(1)

    async with polling(serve) as poll:
        begun = asyncio.get_running_loop().time()
        assert reason(await poll()) == "timed out"
        assert asyncio.get_running_loop().time() - begun < POLL_SECONDS + 1.1


async def test_each_answer_of_a_kept_connection_has_its_limit() -> None:
    """A connection serves many polls, of more than a limit together."""
    host = Host(answer(bytes(BODY_LIMIT // 2), "200 OK", b"X: " + b"x" * 60_000))
    async with polling(host) as poll:
        for _ in range(8):
            assert isinstance(await poll(), Reply)
    assert (len(host.asked), host.connections) == (8, 1)


async def test_an_answer_that_nobody_asked_for() -> None:
    """It does not become the answer to the next poll."""
    forged = answer(b'{"status":"failed"}')

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer())
        await asyncio.sleep(1)
        writer.write(forged)
        await silent(reader, writer)

    async with polling(serve) as poll:
        for _ in range(3):
            outcome = await poll()
            assert isinstance(outcome, Reply)
            assert outcome.body == RUNNING
            await asyncio.sleep(2)
