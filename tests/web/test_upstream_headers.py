"""What upstream's headers do to the gateway's answers, and the caller's to upstream: byte for byte, or not at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.support.fake_receiver import Serve, raw, silent
from tests.support.harness import Running, serving
from tests.support.raw_hosts import OK, Host, answer

pytestmark = pytest.mark.virtual_time

COPY = "/v1.0/me/drive/items/1/copy"
ITEM = "/v1.0/me/drive/root"
MONITOR = b"Location: /m/1"
ODD = {
    "beyond ASCII": "é".encode(),
    "Latin-1": b"\xe9",
    "beyond Latin-1": "€".encode(),
    "a control character": b"a\x01b",
    "a tab": b"a\tb",
    "a space": b"a b",
    "long": b"x" * 129,
    "very long": b"x" * 65_536,
    "empty": b"",
}


@asynccontextmanager
async def before(serve: Serve, folder: Path, **settings: Any) -> AsyncIterator[Running]:
    async with raw(serve) as url, serving(url, folder, **settings) as gateway:
        yield gateway


async def post(gateway: Running, path: str = COPY, **headers: str) -> tuple[int, Any, Any]:
    async with gateway.session.post(gateway.url + path, data=b"{}", headers=headers) as response:
        return response.status, response.headers, await response.read()


@pytest.mark.parametrize("odd", ODD)
async def test_an_odd_request_id_of_a_started_copy(odd: str, tmp_path: Path) -> None:
    """The copy is started, and the gateway's own id stands in its place: once, whole."""
    accepted = answer(b"", "202 Accepted", MONITOR, b"request-id: " + ODD[odd], b"client-request-id: " + ODD[odd])
    async with before(Host(accepted, answer()), tmp_path) as gateway:
        status, headers, _ = await post(gateway)
    assert status == 202
    for name in ("request-id", "client-request-id", "Location"):
        (value,) = headers.getall(name)
        assert value.isascii()
        assert value.isprintable()
    assert len(headers["request-id"]) == 36


async def test_two_request_ids(tmp_path: Path) -> None:
    """The first one counts, and no second header comes of it."""
    accepted = answer(b"", "202 Accepted", MONITOR, b"request-id: one", b"request-id: two")
    async with before(Host(accepted, answer()), tmp_path) as gateway:
        _, headers, _ = await post(gateway)
    assert headers.getall("request-id") == ["one"]


@pytest.mark.parametrize("odd", ["beyond ASCII", "Latin-1", "beyond Latin-1", "a control character", "very long"])
@pytest.mark.parametrize("name", ["Content-Type", "Retry-After", "WWW-Authenticate", "request-id", "ETag"])
async def test_odd_headers_of_refusals_and_reads(name: str, odd: str, tmp_path: Path) -> None:
    """They are dropped; the rest comes back."""
    error = b'{"error":{"code":"nameAlreadyExists"}}'
    refusal = answer(error, "409 Conflict", name.encode() + b": " + ODD[odd])
    async with before(Host(refusal), tmp_path) as gateway:
        status, headers, body = await post(gateway)
        assert (status, body) == (409, error)
        assert not any(value.encode("utf-8", "surrogateescape") == ODD[odd] for value in headers.values())
        async with gateway.session.get(gateway.url + ITEM) as response:
            assert (response.status, await response.read()) == (409, error)
            assert all(value.isascii() for value in response.headers.values())


async def test_clean_headers_come_back(tmp_path: Path) -> None:
    """As they are, with spaces and tabs, up to 8 KiB."""
    clean = 'Bearer realm="a b",\tclient_id="' + "x" * 8000 + '"'
    refusal = answer(b"{}", "401 Unauthorized", b"WWW-Authenticate: " + clean.encode())
    async with before(Host(refusal), tmp_path) as gateway:
        _, headers, _ = await post(gateway)
    assert headers["WWW-Authenticate"] == clean


async def test_the_languages_of_the_caller_go_along(tmp_path: Path) -> None:
    """On starts and reads; nothing is made up for callers that name none."""
    host = Host(answer(b"{}", "409 Conflict"))
    async with before(host, tmp_path) as gateway:
        for headers in ({"Accept-Language": "de-CH, fr;q=0.5"}, {}):
            await post(gateway, **headers)
            async with gateway.session.get(gateway.url + ITEM, headers=headers):
                pass
    named = [b"Accept-Language: de-CH, fr;q=0.5\r\n" in head for head in host.asked]
    assert named == [True, True, False, False]
    assert b"accept-language" not in host.asked[-1].lower()


async def test_a_callers_bytes_go_along(tmp_path: Path) -> None:
    """Through the gateway's own parser too, in values and in the path."""
    host = Host(answer(b"{}", "409 Conflict"))
    values = {b"Authorization": b"Bearer \xe9", b"Prefer": "é€".encode(), b"client-request-id": b"\x80\xff"}
    head = b"".join(b"%b: %b\r\n" % line for line in values.items())
    async with before(host, tmp_path) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(gateway.url).port)
        path = b"/v1.0/me/drive/root:/%E9%20:/copy"
        writer.write(b"POST %b HTTP/1.1\r\nHost: h\r\n%bContent-Length: 2\r\n\r\n{}" % (path, head))
        assert b" 409 " in await reader.readline()
        writer.close()
    (asked,) = host.asked
    assert asked.startswith(b"POST %b HTTP/1.1\r\n" % path)
    for name, value in values.items():
        assert b"\r\n%b: %b\r\n" % (name, value) in asked


async def test_the_user_agent(tmp_path: Path) -> None:
    """What is set, with the gateway's version in its place; else Graph's form for an application of nobody's."""
    host = Host(answer(b"{}", "409 Conflict"))
    async with before(host, tmp_path) as gateway:
        await post(gateway)
    async with before(host, tmp_path, user_agent="ISV|Contoso|Sync/{version}") as gateway:
        await post(gateway)
    default, own = (head.split(b"User-Agent: ")[1].split(b"\r\n")[0].decode() for head in host.asked)
    assert default.startswith("NONISV|copy-gateway|CopyGateway/")
    assert own == default.replace("NONISV|copy-gateway|CopyGateway/", "ISV|Contoso|Sync/")
    assert "{" not in default


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (b"/v1.0/drives/1/items/2", "{upstream}/v1.0/drives/1/items/2"),
        (b"https://contoso.sharepoint.com/a b?tempauth=x", "https://contoso.sharepoint.com/a%20b?tempauth=x"),
        (b"https://evil.example/x", None),
        (b"https://contoso.sharepoint.com/" + b"x" * 9000, None),
        (b"http://contoso.sharepoint.com/", None),
    ],
)
async def test_where_an_item_is(location: bytes, expected: str | None, tmp_path: Path) -> None:
    """A redirect to an allowed host comes back, absolute and clean; others come without."""
    host = Host(answer(b"", "302 Found", b"Location: " + location))
    async with (
        raw(host) as upstream,
        serving(upstream, tmp_path) as gateway,
        gateway.session.get(gateway.url + ITEM, allow_redirects=False) as response,
    ):
        assert response.status == 302
        assert response.headers.get("Location") == (expected and expected.replace("{upstream}", upstream))
    assert len(host.asked) == 1


async def dropping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("serve", "code", "event", "why"),
    [
        (None, "upstreamUnreachable", "copy_not_started", "refused"),
        (dropping, "outcomeUnknown", "copy_unknown", "connection broke"),
        (silent, "outcomeUnknown", "copy_unknown", "timed out"),
        (Host(OK.replace(b"HTTP", b"HTTQ") + b"\r\n"), "outcomeUnknown", "copy_unknown", "not HTTP"),
    ],
)
async def test_the_log_says_why_a_start_failed(
    serve: Serve | None, code: str, event: str, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In fixed words; where upstream lies is in no line."""
    caplog.set_level(logging.INFO)
    async with raw(serve or silent) as url, serving(url, tmp_path, copy_timeout=5) as gateway:
        if serve is None:
            async with raw(silent) as gone:
                pass
            gateway.gateway.parts.copies._upstream._base = gone
        status, _, body = await post(gateway)
    assert status == 502
    assert code.encode() in body
    (line,) = (record for record in caplog.records if record.msg == event)
    fields: dict[str, Any] = vars(line)["fields"]
    assert (fields["code"], fields["cause"]) == (code, why)
    assert not any("127.0.0.1" in str(vars(record).get("fields")) for record in caplog.records)


@pytest.mark.parametrize(
    ("sent", "status", "why"),
    [
        (b"", 502, "connection broke"),
        (b"SSH-2.0\r\n\r\n", 502, "not HTTP"),
        (OK + b"Content-Length: 9\r\n\r\n{", None, "connection broke"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\nzz\r\n", None, "not HTTP"),
    ],
)
async def test_the_log_says_why_a_read_failed(
    sent: bytes, status: int | None, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Before its answer, which is then a 502, and within it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        await writer.drain()

    async with before(serve, tmp_path) as gateway:
        if status is None:
            with pytest.raises(aiohttp.ClientPayloadError):
                async with gateway.session.get(gateway.url + ITEM) as response:
                    await response.read()
        else:
            async with gateway.session.get(gateway.url + ITEM) as response:
                assert response.status == status
    (line,) = (record for record in caplog.records if record.msg == "read_failed")
    assert vars(line)["fields"]["cause"] == why
