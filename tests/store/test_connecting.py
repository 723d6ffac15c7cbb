"""What a database URL asks for, on a real server: TLS, time limits, the session, and what a start that fails says."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import pytest
import trustme

from gateway.core.errors import StoreRefused
from gateway.store.postgres import database
from gateway.store.postgres.connecting import arguments
from gateway.store.postgres.database import Database
from tests.core.test_database_url import shown
from tests.support.wire import wired

PLAIN = "?sslmode=disable"


@pytest.fixture(autouse=True)
def _no_files_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    return authority


@asynccontextmanager
async def behind_tls(url: str, certificate: trustme.LeafCert) -> AsyncIterator[str]:
    """The same database behind a proxy that speaks TLS from the first byte (sslnegotiation=direct)."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    context.set_alpn_protocols(["postgresql"])
    parts = urlsplit(url)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
        writer.close()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs = await asyncio.open_connection(parts.hostname, parts.port)
        await asyncio.gather(pump(reader, theirs[1]), pump(theirs[0], writer))

    server = await asyncio.start_server(carry, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    login = parts.netloc.rpartition("@")[0]
    try:
        yield f"postgresql://{login}@127.0.0.1:{port}{parts.path}?sslnegotiation=direct"
    finally:
        server.close()
        await asyncio.sleep(0)


async def value(url: str, sql: str) -> Any:
    connection = await asyncpg.connect(**arguments(url))
    found = await connection.fetchval(sql)
    await connection.close()
    return found


@pytest.mark.parametrize(
    ("query", "name", "refusal"),
    [
        ("sslmode=require", "127.0.0.1", None),
        ("sslmode=verify-ca&sslrootcert={}/ca.pem", "elsewhere", None),
        ("sslmode=verify-full&sslrootcert={}/ca.pem", "127.0.0.1", None),
        ("sslmode=verify-full&sslrootcert={}/ca.pem", "elsewhere", "Name the certificate"),
        ("sslmode=verify-full&sslrootcert={}/other.pem", "127.0.0.1", "Name the certificate"),
        ("sslrootcert=system&sslmode=verify-full", "127.0.0.1", None),
        ("sslrootcert=system&sslmode=verify-full", "elsewhere", "Name the certificate"),
        ("sslrootcert=system&sslmode=verify-full&ssl_max_protocol_version=TLSv1.2", "127.0.0.1", None),
    ],
)
async def test_tls(
    query: str,
    name: str,
    refusal: str | None,
    authority: trustme.CA,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A certificate that is not trusted, or of another name, is refused at once: no waiting would help."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with behind_tls(database_url, authority.issue_cert(name)) as url:
        begun = time.monotonic()
        if refusal is None:
            assert await value(f"{url}&{query.format(tmp_path)}", "SELECT 1") == 1
        else:
            with pytest.raises(StoreRefused, match=refusal):
                await Database.open(f"{url}&{query.format(tmp_path)}", None, None)
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("sslmode=verify-full", "needs the certificate that signed the server's"),
        ("sslmode=verify-full&sslrootcert={}/none", "sslrootcert names a file that cannot be used: no such file"),
        ("sslmode=require&sslrootcert={}/letter", "sslrootcert names a file that cannot be used: it is no PEM file"),
        ("sslmode=require&sslcrl={}/none", "sslcrl names a file"),
        ("sslcert={}/none", "sslcert and sslkey cannot be used: no such file"),
        ("sslmode=require&sslcert={}/letter&sslkey={}/letter", "it is no PEM file"),
    ],
)
async def test_files_of_tls_that_cannot_be_used(query: str, words: str, database_url: str, tmp_path: Path) -> None:
    """By name and at once, in either URL: they are no server that is away."""
    (tmp_path / "letter").write_text("Dear friend")
    url = f"{database_url.partition('?')[0]}?{query.format(tmp_path, tmp_path)}"
    begun = time.monotonic()
    for store, listen in ((url, None), (url, database_url), (database_url, url)):
        with pytest.raises(StoreRefused, match=words):
            await Database.open(store, listen, None)
    assert time.monotonic() - begun < 5


async def test_a_server_without_tls(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has to allow, or the URL to ask for."""
    monkeypatch.setattr(database, "PATIENCE", 0.1)
    with pytest.raises(StoreRefused, match="Let it use TLS"):
        await Database.open(database_url.replace("disable", "require"), None, None)


async def test_the_session_is_as_the_url_asks(database_url: str) -> None:
    """Its name for the server's own lists, and the settings that are passed on."""
    url = f"{database_url}&application_name=the%20gateway&options=-cgeqo%3Doff%20-csearch_path%3Dmine"
    assert await value(url, "SHOW application_name") == "the gateway"
    assert await value(url, "SHOW geqo") == "off"
    assert await value(url, "SHOW search_path") == "mine"
    with pytest.raises(StoreRefused, match="Correct the options"):
        await Database.open(f"{database_url}&options=-cnothing_like_it%3D1", None, None)


async def test_sockets_are_kept_alive_as_the_url_asks(database_url: str) -> None:
    """With the system's own numbers where none is given."""
    asked = "keepalives=1&keepalives_idle=41&keepalives_interval=42&keepalives_count=4&tcp_user_timeout=4300"
    connection = await asyncpg.connect(**arguments(f"{database_url}&{asked}"))
    own = connection._transport.get_extra_info("socket")
    found = [
        own.getsockopt(level, option)
        for level, option in (
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        )
    ]
    await connection.close()
    assert found == [1, 41, 42, 4, 4300]


async def test_a_server_that_hangs_is_awaited_as_long_as_the_url_asks(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`connect_timeout`, for each host."""
    monkeypatch.setattr(database, "PATIENCE", 0.1)
    async with wired(database_url) as wire:
        wire.hold()
        begun = time.monotonic()
        with pytest.raises(StoreRefused, match="it does not answer"):
            await Database.open(f"{wire.url}&connect_timeout=1", None, None)
        assert 0.9 < time.monotonic() - begun < 3
        wire.let_go()


@pytest.mark.parametrize("password", ["qz@xj/kq#1?x%41&y=z", "[::1]:qzjx,xqzk", "üñ€ qz xj qq", "qzj" * 300])
async def test_a_start_that_fails_shows_no_part_of_a_password(
    password: str, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether nobody is there, the server says no, there is no such database, or it hangs up."""
    monkeypatch.setattr(database, "PATIENCE", 1.0)
    there = urlsplit(database_url)
    place = f"{there.hostname}:{there.port}"
    urls = [f"postgresql://somebody:{quote(password, safe='')}@{host}" for host in (f"{place}/db", "127.0.0.1:9/db")]
    urls.append(f"postgresql://{place}{there.path}?user=somebody&sslmode=disable&password={quote(password, safe='')}")
    for url in urls:
        with pytest.raises(StoreRefused) as refused:
            await Database.open(url, None, None)
        assert not shown(password, str(refused.value))
    assert "store_awaited" in caplog.text
    assert not shown(password, caplog.text + str([record.__dict__ for record in caplog.records]))
