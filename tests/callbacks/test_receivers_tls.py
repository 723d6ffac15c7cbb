"""Attempts over TLS at receivers that say no farewell, on the loops there are."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.callbacks.receivers import Receivers
from gateway.core.callback import Delivered, Failed, Outcome
from tests.support.fake_receiver import Serve, raw


@pytest.fixture(params=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@asynccontextmanager
async def posting(serve: Serve, name: str = "127.0.0.1") -> AsyncIterator[tuple[Receivers, str]]:
    """A receiver that does with a connection what it likes once that is secure, and those who trust it."""
    authority = trustme.CA()
    theirs, ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert(name).configure_cert(theirs)
    authority.configure_trust(ours)
    async with raw(serve, theirs) as url, Receivers.open([ip_network("127.0.0.0/8")]) as receivers:
        connector: Any = receivers._sessions[True].connector
        connector._ssl = ours
        yield receivers, url.replace("http:", "https:")


async def post(receivers: Receivers, url: str) -> Outcome:
    return await receivers.post(f"{url}/hook", {}, b"{}", 0.0)


async def stop_reading(writer: asyncio.StreamWriter, answer: bytes) -> None:
    writer.write(answer)
    await writer.drain()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(3600)


def sockets() -> int:
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the folder itself
            count += str(descriptor.readlink()).startswith("socket:")
    return count


@pytest.mark.parametrize("more", [b"", b"x" * 20_000])
async def test_one_that_never_reads_again(more: bytes) -> None:
    """Its socket is gone at once: nobody waits for the proper end of TLS."""
    accepted = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await reader.readuntil(b"\r\n\r\n")
        await stop_reading(writer, b"HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n" + more)

    async with posting(serve) as (receivers, url):
        before = sockets()
        attempt = asyncio.create_task(post(receivers, url))
        await accepted.wait()
        if not more:
            await asyncio.sleep(0.1)
            attempt.cancel()
        await asyncio.wait({attempt})
        assert attempt.cancelled() or attempt.result() == Delivered()
        until = time.monotonic() + 5
        while sockets() > before + 1 and time.monotonic() < until:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
        assert sockets() == before + 1  # the receiver's own


async def accepting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 204 N\r\n\r\n")
    await writer.drain()


async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await reader.read()


async def alert(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"\x15\x03\x03\x00\x02\x02\x28")
    await reader.read()


async def dropping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.transport.abort()


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (plain, "TLS: no secure connection could be made (wrong version number)"),
        (alert, "TLS: no secure connection could be made (sslv3 alert handshake failure)"),
        (dropping, "the connection broke before an answer"),
    ],
)
async def test_one_that_shakes_no_hands(serve: Serve, reason: str) -> None:
    """It speaks no TLS, none that suits, or not at all."""
    async with raw(serve) as url, Receivers.open([ip_network("127.0.0.0/8")]) as receivers:
        assert await post(receivers, url.replace("http:", "https:")) == Failed(reason)


async def test_a_certificate_of_another_host() -> None:
    """Neither of the two names is in what is said of it."""
    async with posting(accepting, "other.example") as (receivers, url):
        assert await post(receivers, url) == Failed("TLS: IP address mismatch")


async def test_one_whose_tls_fails_after_the_handshake() -> None:
    """As TLS 1.3 does when a client's certificate is wanted."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        os.write(writer.get_extra_info("socket").fileno(), b"in plain")
        await reader.read()

    async with posting(serve) as (receivers, url):
        assert await post(receivers, url) == Failed("TLS: no secure connection could be made (wrong version number)")


async def test_one_that_floods() -> None:
    """What is counted is what comes out of TLS."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        while True:
            writer.write(b"HTTP/1.1 102 P\r\n\r\n" * 4000)
            await writer.drain()

    async with posting(serve) as (receivers, url):
        begun = time.monotonic()
        assert await post(receivers, url) == Failed("its answer is too long")
        assert time.monotonic() - begun < 5
