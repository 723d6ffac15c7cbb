"""Polls: redirects, compressed answers, hostile ones, and the cause of each failure."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import zlib
from functools import partial
from pathlib import Path

import pytest
import trustme

from gateway.core.addresses import HostPattern, MonitorRule
from gateway.graph.client import HOPS, Upstream
from gateway.graph.dialects import NoAnswer
from gateway.outbound.reply import Reply
from gateway.outbound.sessions import BODY_LIMIT, POLL_SECONDS
from tests.support.fake_receiver import raw, silent
from tests.support.raw_hosts import OK, RUNNING, Host, answer, polled, polling, reason

zipped = partial(gzip.compress, mtime=0)
"""Without the time of day, which would differ between the processes that collect the tests."""

pytestmark = [pytest.mark.virtual_time, pytest.mark.usefixtures("way")]

# --- redirects ---


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_followed(status: int) -> None:
    """Whatever its form; no Authorization goes along, and the next poll goes to the monitor itself again."""
    moved = answer(b"", f"{status} Moved", b"Location: ../n/2?a=%2F")
    host = Host(moved, answer(), moved, answer())
    async with polling(host) as poll:
        for _ in range(2):
            outcome = await poll("/m/x/1")
            assert isinstance(outcome, Reply)
            assert (outcome.code, outcome.body) == (200, RUNNING)
    assert host.paths == ["/m/x/1", "/m/n/2?a=%2F"] * 2
    assert not any(b"authorization" in head.lower() for head in host.asked)


@pytest.mark.parametrize(
    "redirect",
    [
        answer(b"", "303 See Other", b"Location: /n/2"),
        answer(b"", "300 Multiple Choices", b"Location: /n/2"),
        answer(b"", "302 Found"),
        answer(b"", "302 Found", b"Location: "),
        answer(b"", "302 Found", b"Location: https://evil.example/n/2"),
        answer(b"", "302 Found", b"Location: https://user:pw@127.0.0.1/n/2"),
        answer(b"", "302 Found", b"Location: ftp://127.0.0.1/n/2"),
        answer(b"", "302 Found", b"Location: http://[/n/2"),
        answer(b"", "302 Found", b"Location: /_layouts/15/Throttle.htm"),
        answer(b'{"status":"completed"}', "302 Found", b"Location: /n/2"),
        answer(b'{"status":"FAILED"}', "301 Moved", b"Location: /n/2"),
    ],
)
async def test_a_redirect_that_is_returned(redirect: bytes) -> None:
    """A 303; one to nowhere, to another host or to a throttle page; one that says itself how it stands."""
    host = Host(redirect)
    async with polling(host) as poll:
        outcome = await poll()
    assert isinstance(outcome, Reply)
    assert outcome.code == int(redirect[9:12])
    assert len(host.asked) == 1


async def test_an_unknown_word_does_not_hold_a_redirect_up() -> None:
    """It says nothing."""
    moved = answer(b'{"status":"moved"}', "302 Found", b"Location: /n/2")
    outcome = await polled(moved, answer())
    assert isinstance(outcome, Reply)
    assert outcome.code == 200


async def test_redirects_have_an_end() -> None:
    """The last one comes back."""
    host = Host(answer(b"", "302 Found", b"Location: /again"))
    async with polling(host) as poll:
        outcome = await poll()
    assert isinstance(outcome, Reply)
    assert outcome.code == 302
    assert len(host.asked) == 1 + HOPS


async def test_each_hop_is_judged_by_its_address() -> None:
    """A host that is allowed by its name, but lies on this machine, is not dialled."""
    host = Host(answer(b"", "302 Found", b"Location: https://localhost:8443/n/2"))
    async with polling(host, HostPattern("localhost", 8443)) as poll:
        assert reason(await poll()) == "address not public"


async def test_all_hops_share_the_polls_time() -> None:
    """One poll takes its ten seconds, whatever it is led through."""
    moved = answer(b"", "302 Found", b"Location: /again")

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            await asyncio.sleep(4)
            writer.write(moved)

    async with polling(slow) as poll:
        begun = asyncio.get_running_loop().time()
        outcome = await poll()
        took = asyncio.get_running_loop().time() - begun
    assert isinstance(outcome, NoAnswer)
    assert outcome.hung
    assert took == pytest.approx(POLL_SECONDS, abs=1.1)


# --- bodies ---


@pytest.mark.parametrize(
    ("coding", "body"),
    [("gzip", zipped(RUNNING)), ("X-GZIP", zipped(RUNNING)), ("deflate", zlib.compress(RUNNING))],
)
async def test_a_compressed_answer_is_read(coding: str, body: bytes) -> None:
    """Though it was not asked for."""
    outcome = await polled(answer(body, "200 OK", f"Content-Encoding: {coding}".encode()))
    assert isinstance(outcome, Reply)
    assert outcome.body == RUNNING


async def test_a_compressed_answer_that_cannot_be_read() -> None:
    """It says why; but a code that tells enough is heard."""
    for status, expected in (("200 OK", None), ("429 Too Many", 429), ("404 Not Found", 404), ("303 See", 303)):
        outcome = await polled(answer(b"\x0b\x02\x80", status, b"Content-Encoding: br"))
        if expected is None:
            assert reason(outcome) == "compressed in a way that is not read"
        else:
            assert isinstance(outcome, Reply)
            assert (outcome.code, outcome.body) == (expected, b"")


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (answer(zipped(RUNNING)[:-3], "200 OK", b"Content-Encoding: gzip"), "its compressed body is broken"),
        (answer(zipped(bytes(4 << 20)), "200 OK", b"Content-Encoding: gzip"), "too long once decompressed"),
        (answer(bytes(BODY_LIMIT + 1)), "too long"),
        (OK + b"Content-Length: 50\r\n\r\n{}", "connection broke"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{", "connection broke"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "not HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP"),
        (b"{}", "not HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not HTTP"),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", "not HTTP"),
        (OK + b"X: a\x00b\r\n\r\n", "not HTTP"),
        (OK, "connection broke"),
        (b"", "connection broke"),
    ],
)
async def test_answers_that_are_none(sent: bytes, why: str) -> None:
    """Each with its cause, in fixed words."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        await writer.drain()

    async with polling(serve) as poll:
        assert reason(await poll()) == why


async def test_a_body_as_long_as_it_may_be() -> None:
    """With a length, in chunks, and until the end of the connection."""
    body = bytes(BODY_LIMIT)
    chunks = b"".join(b"1000\r\n%b\r\n" % body[start : start + 4096] for start in range(0, BODY_LIMIT, 4096))

    async def until_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"\r\n" + body)

    for serve in (
        Host(answer(body)),
        Host(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"),
        until_the_end,
    ):
        async with polling(serve) as poll:
            outcome = await poll()
        assert isinstance(outcome, Reply)
        assert outcome.body == body


# --- causes ---


async def test_nobody_listens() -> None:
    """Refused."""
    async with raw(silent) as gone:
        pass
    async with Upstream.open(url=gone, rule=MonitorRule(gone, ()), copy_timeout=60) as upstream:
        monitor = upstream.monitor(f"{gone}/m/1")
        assert monitor is not None
        assert await upstream.poll(monitor, {}) == NoAnswer("refused")


async def test_no_such_name() -> None:
    """Told apart from one whose address may not be dialled."""
    rule = MonitorRule("https://nowhere.invalid", [HostPattern("localhost")])
    async with Upstream.open(url="https://nowhere.invalid", rule=rule, copy_timeout=60) as upstream:
        for url, why in (
            ("https://nowhere.invalid/m", ("no such name", "its name could not be looked up")),
            ("https://localhost/m", ("address not public",)),
        ):
            monitor = upstream.monitor(url)
            assert monitor is not None
            assert reason(await upstream.poll(monitor, {})) in why


@pytest.mark.parametrize(
    ("names", "trusted", "why"),
    [
        (["127.0.0.1"], True, None),
        (["127.0.0.1"], False, "TLS: unable to get local issuer certificate"),
        (["other.example"], True, "TLS: the certificate is for another name"),
    ],
)
async def test_certificates(
    names: list[str], trusted: bool, why: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`SSL_CERT_FILE` names more of those who issue them; what is wrong with one is told without its names."""
    authority = trustme.CA()
    (tmp_path / "more.pem").write_bytes(authority.cert_pem.bytes())
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "more.pem"))
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(theirs)
    async with raw(Host(answer()), theirs) as plain:
        url = plain.replace("http:", "https:")
        async with Upstream.open(url=url, rule=MonitorRule(url, ()), copy_timeout=60) as upstream:
            monitor = upstream.monitor(f"{url}/m")
            assert monitor is not None
            outcome = await upstream.poll(monitor, {})
    if why is None:
        assert isinstance(outcome, Reply)
    else:
        assert reason(outcome) == why


async def test_no_tls_where_it_should_be() -> None:
    """OpenSSL's own word for it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer())

    async with raw(serve) as plain:
        url = plain.replace("http:", "https:")
        async with Upstream.open(url=url, rule=MonitorRule(url, ()), copy_timeout=60) as upstream:
            monitor = upstream.monitor(f"{url}/m")
            assert monitor is not None
            assert reason(await upstream.poll(monitor, {})).startswith("TLS: ")
