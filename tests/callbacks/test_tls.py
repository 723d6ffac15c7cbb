"""Callbacks over TLS, to receivers with certificates good and bad, under a CA that the gateway's operator trusts."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from gateway.simulator import Simulator, running
from tests.support.callers import calling
from tests.support.fake_receiver import ALLOWED, receiving
from tests.support.harness import Process

LONG_AGO = datetime.now(UTC) - timedelta(days=3)
YESTERDAY = LONG_AGO + timedelta(days=2)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """A CA that gateways started from now on trust, and no other."""
    authority = trustme.CA()
    trusted = tmp_path / "trusted.pem"
    authority.cert_pem.write_to_path(str(trusted))
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    return authority


@asynccontextmanager
async def listening(certificate: trustme.LeafCert, seen: list[str]) -> AsyncIterator[str]:
    """The URL of a receiver with this certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)

    async def receive(request: web.Request) -> web.Response:
        seen.append((await request.json())["type"])
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/webhook", receive)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}/webhook"
    finally:
        await runner.cleanup()


async def test_a_receiver_with_a_certificate_of_the_ca(authority: trustme.CA, tmp_path: Path) -> None:
    """All of it is delivered, on whatever port."""
    seen: list[str] = []
    async with (
        running(Simulator(seconds=0.5, steps=2)) as upstream,
        listening(authority.issue_cert("127.0.0.1"), seen) as url,
        calling(Process(upstream.url, tmp_path, **ALLOWED)) as caller,
    ):
        job = await caller.copy(url, "progress, completed")
        await caller.all_settled()
        (callback,) = await caller.callbacks(job)
    assert callback["state"] == "delivered"
    assert seen[0] == "job.progress"
    assert seen[-1] == "job.completed"


@pytest.mark.parametrize("bad", ["untrusted", "of another host", "expired", "no TLS at all"])
async def test_one_that_cannot_be_trusted(bad: str, authority: trustme.CA, tmp_path: Path) -> None:
    """It is told nothing, and the list says why, without the secret part of its URL."""
    seen: list[str] = []
    certificate, reason = {
        "untrusted": (trustme.CA().issue_cert("127.0.0.1"), "TLS: unable to get local issuer certificate"),
        "of another host": (authority.issue_cert("receiver.example"), "TLS: IP address mismatch"),
        "expired": (
            authority.issue_cert("127.0.0.1", not_before=LONG_AGO, not_after=YESTERDAY),
            "TLS: certificate has expired",
        ),
        "no TLS at all": (authority.issue_cert("127.0.0.1"), "TLS: no secure connection could be made"),
    }[bad]
    async with (
        running(Simulator(seconds=0)) as upstream,
        listening(certificate, seen) as url,
        receiving() as plain,
        calling(Process(upstream.url, tmp_path, **ALLOWED)) as caller,
    ):
        plain_url = plain.url.replace("http:", "https:")
        job = await caller.copy(plain_url if bad == "no TLS at all" else url)
        callback = await caller.failing(job)
        assert plain.posts == []
    assert (callback["state"], callback["attempts"]) == ("active", 1)
    assert callback["lastError"].startswith(reason)
    assert "webhook" not in callback["lastError"]
    assert seen == []
