"""Starts and reads on the wire: what goes up byte for byte, when a POST counts as sent, and what decides."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trustme

from gateway.core.addresses import HostPattern, MonitorRule
from gateway.graph.client import Broken, NotSent, Upstream
from gateway.graph.operations import parse
from gateway.outbound.reply import Reply
from gateway.outbound.sessions import BODY_LIMIT
from tests.support.fake_receiver import Serve, raw, silent
from tests.support.raw_hosts import OK, Host, answer

pytestmark = [pytest.mark.virtual_time, pytest.mark.usefixtures("way")]

PATH = "/v1.0/me/drive/items/1/copy"
MONITOR = b"Location: /m/1"


@asynccontextmanager
async def reaching(serve: Serve, *patterns: HostPattern, seconds: float = 60) -> AsyncIterator[Upstream]:
    async with (
        raw(serve) as url,
        Upstream.open(url=url, rule=MonitorRule(url, patterns), copy_timeout=seconds, user_agent="A|b|C/1") as upstream,
    ):
        yield upstream


async def started(*answers: bytes, body: bytes = b"{}") -> Reply:
    async with reaching(Host(*answers)) as upstream:
        return await upstream.start("POST", PATH, body, {})


def lines(head: bytes) -> list[bytes]:
    return head.rstrip(b"\r\n").split(b"\r\n")


# --- what goes up ---


async def test_a_head_goes_up_byte_for_byte() -> None:
    """Path and header values are Latin-1 on their way through the gateway, whatever bytes the caller sent."""
    host = Host(answer(b"{}"))
    for value in (b"caf\xe9", "café €".encode(), b"\x80\xff", b'a "b"; c=\t d'):
        text = value.decode("latin-1")
        path = "/v1.0/me/drive/root:/" + text.replace("\t", "").replace(" ", "").replace('"', "") + ":"
        headers = {"Authorization": f"Bearer {text}", "Prefer": text, "client-request-id": text}
        async with reaching(host) as upstream:
            await upstream.start("POST", path + "/copy", b"{}", headers)
            async with upstream.read_item(path, headers):
                pass
        start, read = host.asked[-2:]
        raw_path = path.encode("latin-1")
        assert lines(start)[0] == b"POST " + raw_path + b"/copy HTTP/1.1"
        assert lines(read)[0] == b"GET " + raw_path + b" HTTP/1.1"
        for head in (start, read):
            assert b"Authorization: Bearer " + value in lines(head)
            assert b"Prefer: " + value in lines(head)
            assert b"client-request-id: " + value in lines(head)


@pytest.mark.parametrize("value", ["a\r\nX: b", "a\nX: b", "a\rb", "a\0b", "\x7f", "\x01"])
async def test_a_value_with_control_characters_does_not(value: str) -> None:
    """Nothing is sent."""
    host = Host(answer(b"{}"))
    async with reaching(host) as upstream:
        with pytest.raises(NotSent):
            await upstream.start("POST", PATH, b"{}", {"Prefer": value})
        with pytest.raises((NotSent, Broken)):
            async with upstream.read_item("/v1.0/me/drive/root", {"Prefer": value}):
                pass
    assert host.asked == []


async def test_a_start_without_a_body() -> None:
    """It has no type either, and counts as sent like any other."""
    host = Host(answer(b"", "204 No Content"))
    async with reaching(host) as upstream:
        assert (await upstream.start("POST", "/v1.0/me/drive/root/archive", None, {})).code == 204
        assert (await upstream.start("PATCH", "/v1.0/me/drive/items/1", b"{}", {"Content-Type": "a/b"})).code == 204
    archive, move = host.asked
    assert lines(archive)[0] == b"POST /v1.0/me/drive/root/archive HTTP/1.1"
    assert b"Content-Length: 0" in lines(archive)
    assert b"content-type" not in archive.lower()
    assert lines(move)[0] == b"PATCH /v1.0/me/drive/items/1 HTTP/1.1"
    assert b"Content-Type: a/b" in lines(move)
    async with reaching(dropped) as upstream:
        with pytest.raises(Broken, match="connection broke"):
            await upstream.start("POST", "/v1.0/me/drive/root/archive", None, {})


async def test_who_asks() -> None:
    """The same on starts, reads and polls, and no header of aiohttp's own."""
    host = Host(answer(b"{}"))
    async with reaching(host) as upstream:
        await upstream.start("POST", PATH, b"{}", {})
        async with upstream.read_item("/v1.0/me/drive/root", {}):
            pass
        monitor = upstream.monitor(f"{upstream.origin}/m/1")
        assert monitor is not None
        await upstream.poll(monitor, {})
    for head in host.asked:
        assert b"User-Agent: A|b|C/1" in lines(head)
        assert b"Accept-Encoding: identity" in lines(head)


# --- one POST, one connection ---


async def test_each_start_has_a_connection_of_its_own() -> None:
    """Reads and polls share theirs."""
    host = Host(answer(b"{}", "202 Accepted", MONITOR))
    async with reaching(host) as upstream:
        for _ in range(3):
            await upstream.start("POST", PATH, b"{}", {})
        assert host.connections == 3
        for _ in range(3):
            async with upstream.read_item("/v1.0/me/drive/root", {}) as reply:
                assert [chunk async for chunk in reply.chunks()] == [b"{}"]
        assert host.connections == 4


async def test_a_host_that_ends_each_connection() -> None:
    """With its answer, and without a word: no start is lost to it, and none goes up twice."""
    heads = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heads
        await reader.readuntil(b"\r\n\r\n")
        heads += 1
        writer.write(answer(b"{}", "202 Accepted", MONITOR))

    async with reaching(serve) as upstream:
        for _ in range(5):
            assert (await upstream.start("POST", PATH, b"{}", {})).code == 202
    assert heads == 5


async def dropped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()


async def closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("serve", "why"),
    [
        (dropped, "connection broke"),
        (closed, "connection broke"),
        (silent, "timed out"),
        (Host(b"SSH-2.0\r\n\r\n"), "not HTTP"),
        (Host(b"HTTP/1.1 102 Processing\r\n\r\n" * 1000), "too long"),
        (Host(OK + b"X: y\r\n" * 20_000), "not HTTP"),
        *((Host(answer(b"", f"{status} X")), "not HTTP") for status in ("099", "101", "600", "999")),
    ],
)
async def test_it_may_have_been_read(serve: Serve, why: str) -> None:
    """The outcome is unknown, and the POST is not repeated."""
    heads = 0

    async def counting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heads
        heads += 1
        await serve(reader, writer)

    async with reaching(counting, seconds=30) as upstream:
        with pytest.raises(Broken, match=why):
            await upstream.start("POST", PATH, b"{}", {})
    assert heads == 1


async def test_it_was_never_sent() -> None:
    """Nobody listens, or no secure connection comes about."""
    async with raw(silent) as gone:
        pass
    async with Upstream.open(url=gone, rule=MonitorRule(gone, ()), copy_timeout=60) as upstream:
        with pytest.raises(NotSent, match="refused"):
            await upstream.start("POST", PATH, b"{}", {})
        with pytest.raises(NotSent, match="refused"):
            async with upstream.read_item("/v1.0/me/drive/root", {}):
                pass

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(theirs)
    for serve, tls in ((plain, None), (silent, None), (silent, theirs)):
        async with raw(serve, tls) as address:
            url = address.replace("http:", "https:")
            async with Upstream.open(url=url, rule=MonitorRule(url, ()), copy_timeout=20) as upstream:
                with pytest.raises(NotSent, match=r"TLS: |timed out"):
                    await upstream.start("POST", PATH, b"{}", {})


async def test_a_connection_that_is_gone_before_the_first_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was made and ended in the same moment: nothing went out on it."""
    host = Host(answer(b"{}"))
    async with reaching(host) as upstream:
        connector = upstream._starts._connector
        connect = connector.connect

        async def made_and_gone(*args: object, **options: object) -> object:
            connection = await connect(*args, **options)
            assert connection.transport is not None
            connection.transport.abort()
            return connection

        monkeypatch.setattr(connector, "connect", made_and_gone)
        with pytest.raises(NotSent, match="connection broke"):
            await upstream.start("POST", PATH, b"{}", {})
    assert host.asked == []


# --- the head decides ---


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 50\r\n\r\n{",
        b"Content-Length: 0\r\n\r\nmore than was told",
        b"Content-Length: 99999999\r\n\r\n" + b"x" * 2_000_000,
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"Content-Encoding: gzip\r\n\r\nnonsense",
        b"Content-Encoding: br, br\r\nContent-Length: 2\r\n\r\nxx",
        b"\r\n",
    ],
)
async def test_a_202_is_one_whatever_its_body(rest: bytes) -> None:
    """It is not waited for, even if it never ends."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 202 Accepted\r\nLocation: /m/1\r\n" + rest)
        await silent(reader, writer)

    async with reaching(serve) as upstream:
        begun = asyncio.get_running_loop().time()
        reply = await upstream.start("POST", PATH, b"{}", {})
        assert asyncio.get_running_loop().time() == begun
    assert (reply.code, reply.headers["Location"], reply.body) == (202, "/m/1", b"")


@pytest.mark.parametrize("name", ["Location", "Operation-Location", "Azure-AsyncOperation"])
async def test_the_headers_that_hold_a_status_url(name: str) -> None:
    """With any of them a 202 has told all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 202 Accepted\r\n%b: /m/1\r\n\r\n" % name.encode())
        await silent(reader, writer)

    async with reaching(serve) as upstream:
        begun = asyncio.get_running_loop().time()
        assert (await upstream.start("POST", PATH, b"{}", {})).headers[name] == "/m/1"
        assert asyncio.get_running_loop().time() == begun


async def test_a_202_after_interim_answers() -> None:
    """As they come before it."""
    reply = await started(b"HTTP/1.1 103 Early\r\nLocation: /no\r\n\r\n" * 3 + answer(b"", "202 Accepted", MONITOR))
    assert (reply.code, reply.headers["Location"]) == (202, "/m/1")


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 50\r\n\r\n{",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"Content-Length: 2000000\r\n\r\n" + b"x" * 2_000_000,
    ],
)
async def test_a_refusal_is_one_whatever_its_body(rest: bytes) -> None:
    """The copy was refused: its outcome is known. Half a body is not passed off as a whole one."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 409 Conflict\r\nContent-Type: application/json\r\nRetry-After: 3\r\n" + rest)
        await writer.drain()

    async with reaching(serve) as upstream:
        reply = await upstream.start("POST", PATH, b"{}", {})
    assert (reply.code, reply.body, reply.headers["Retry-After"]) == (409, b"", "3")
    assert "Content-Type" not in reply.headers
    assert "Content-Encoding" not in reply.headers


@pytest.mark.parametrize("coding", ["gzip", "br", "gzip, gzip"])
async def test_a_refusal_whose_coding_is_not_read(coding: str) -> None:
    """It comes back as it came: the caller may read it."""
    body = b"\x1f\x8bnonsense"
    async with reaching(Host(answer(body, "409 Conflict", b"Content-Encoding: " + coding.encode()))) as upstream:
        reply = await upstream.start("POST", PATH, b"{}", {})
    assert (reply.code, reply.body, reply.headers["Content-Encoding"]) == (409, body, coding)


async def test_a_compressed_refusal() -> None:
    """Its body comes back as the caller can read it: nobody asked for a compressed one."""
    error = b'{"error":{"code":"nameAlreadyExists"}}'
    sent = answer(gzip.compress(error), "409 Conflict", b"Content-Encoding: gzip", b"Content-Type: application/json")
    reply = await started(sent)
    assert (reply.code, reply.body, reply.headers["Content-Type"]) == (409, error, "application/json")
    assert "Content-Encoding" not in reply.headers
    assert (await started(answer(bytes(BODY_LIMIT), "400 Bad Request"))).body == bytes(BODY_LIMIT)


@pytest.mark.parametrize(
    "header",
    [
        b"X-Long: " + b"x" * 65536,
        b"X-Control: a\x01b",
        b"X-Latin: \xe9",
        b"X-Utf: \xe2\x82\xac",
        b"Location: /m/2",
        b"request-id: 1\r\nrequest-id: 2",
        b"Content-Type: text/html\r\nContent-Type: application/json",
        b"X-Folded: a\r\n b",
    ],
)
async def test_a_202_with_odd_headers(header: bytes) -> None:
    """It is read all the same; of two Locations the first counts."""
    reply = await started(answer(b"", "202 Accepted", MONITOR, header))
    assert (reply.code, reply.headers["Location"]) == (202, "/m/1")


# --- Location ---


@pytest.mark.parametrize(
    ("location", "url"),
    [
        (b"https://h.example/m?a=1", "https://h.example/m?a=1"),
        ("https://h.example/dépôt €".encode(), "https://h.example/d%C3%A9p%C3%B4t%20%E2%82%AC"),
        ("https://h.example/dépôt".encode("latin-1"), "https://h.example/d%E9p%F4t"),
        (b"https://h.example/a%20b%C3%A9?c=d e", "https://h.example/a%20b%C3%A9?c=d%20e"),
        (b"/m/a b", "{base}/m/a%20b"),
        (b"//h.example/m", "http://h.example/m"),
        (b"m/../n", "{base}/n"),
        (b"?x=1", "{base}/?x=1"),
        (b"https://h.example/\x80\xff", "https://h.example/%80%FF"),
        (b"https://h.example/\xed\xb3\xa9", "https://h.example/%ED%B3%A9"),
        (b"https://h.example/a\tb", None),
        (b"https://h.example/a\x01b", None),
        (b"https://h.example/a\x7fb", None),
        (b"https://h.example/a\\b", None),
        (b"https://[h/m", None),
        ("https://dépôt.example/m".encode(), None),
        (b"https://h.example:x/m", None),
        (b"mailto:a@b", None),
    ],
)
async def test_a_location_in_any_bytes(location: bytes, url: str | None) -> None:
    """Spaces, and what is not ASCII, are percent-encoded; what has control characters is no URL."""
    async with reaching(Host(answer(b"", "202 Accepted", b"Location: " + location))) as upstream:
        reply = await upstream.start("POST", PATH, b"{}", {})
        expected = url and url.replace("{base}", upstream.origin)
        assert upstream.resolve(reply.headers["Location"], parse("POST", PATH)) == expected


async def test_which_urls_are_allowed() -> None:
    """By their host, as monitors are."""
    async with reaching(silent, HostPattern("*.sharepoint.com")) as upstream:
        assert upstream.allows(f"{upstream.origin}/x")
        assert upstream.allows("https://contoso.sharepoint.com/x")
        for url in ("http://contoso.sharepoint.com/x", "https://evil.example/x", "/x", "", "https://["):
            assert not upstream.allows(url)


@pytest.mark.parametrize(
    ("status", "location", "url"),
    [
        (302, "/v1.0/other", "{base}/v1.0/other"),
        (302, "https://contoso.sharepoint.com/a b", "https://contoso.sharepoint.com/a%20b"),
        (307, "https://evil.example/x", None),
        (301, "https://user:pw@contoso.sharepoint.com/x", None),
        (200, "/v1.0/other", None),
        (201, "/v1.0/other", None),
    ],
)
async def test_the_location_of_an_item(status: int, location: str, url: str | None) -> None:
    """Of a redirect to an allowed host; it is not followed."""
    host = Host(answer(b"", f"{status} X", b"Location: " + location.encode()))
    async with reaching(host, HostPattern("*.sharepoint.com")) as upstream:
        async with upstream.read_item("/v1.0/me/drive/root", {}) as reply:
            assert (reply.code, reply.location) == (status, url and url.replace("{base}", upstream.origin))
        assert len(host.asked) == 1


@pytest.mark.parametrize("status", ["099", "101", "600", "999"])
async def test_a_read_with_a_status_that_cannot_be_passed_on(status: str) -> None:
    """No server writes it."""
    async with reaching(Host(answer(b"", f"{status} X"))) as upstream:
        with pytest.raises(Broken, match="not HTTP"):
            async with upstream.read_item("/v1.0/me/drive/root", {}):
                pass


async def test_a_read_is_streamed_without_limit() -> None:
    """Its head is bounded."""
    big = bytes(4 * BODY_LIMIT)
    async with (
        reaching(Host(answer(big))) as upstream,
        upstream.read_item("/v1.0/me/drive/root", {}) as reply,
    ):
        assert sum([len(chunk) async for chunk in reply.chunks()]) == len(big)
    async with reaching(Host(OK + b"X: " + b"x" * 300_000 + b"\r\n\r\n")) as upstream:
        with pytest.raises(Broken, match=r"not HTTP|too long"):
            async with upstream.read_item("/v1.0/me/drive/root", {}):
                pass


@pytest.mark.parametrize("rest", [b"Content-Length: 9\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\nzz\r\n"])
async def test_a_read_that_breaks_off(rest: bytes) -> None:
    """It says so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + rest)
        await writer.drain()

    async with reaching(serve) as upstream, upstream.read_item("/v1.0/me/drive/root", {}) as reply:
        with pytest.raises(Broken):
            assert [chunk async for chunk in reply.chunks()]
