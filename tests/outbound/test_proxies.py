"""Ways out through a proxy: of the tests' own, and tinyproxy."""

from __future__ import annotations

import asyncio
import logging
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

from gateway.callbacks.receivers import Receivers
from gateway.core.addresses import HostPattern, MonitorRule
from gateway.core.callback import Delivered, Failed
from gateway.core.errors import GatewayError
from gateway.graph.client import NotSent, Upstream
from gateway.graph.dialects import NoAnswer
from gateway.outbound.reply import Reply
from tests.support.fake_receiver import raw
from tests.support.forward_proxy import ForwardProxy, proxying
from tests.support.harness import OPERATOR, TOKEN, free_port, serving, tail
from tests.support.programs import program
from tests.support.raw_hosts import RUNNING, Host, answer

COPY = "/v1.0/me/drive/items/1/copy"
PASSWORD = "user:hunter2"
ACCEPTED = answer(b"", "202 Accepted", b"Location: /m/1")


@pytest.fixture(params=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@asynccontextmanager
async def secure(host: Host, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """The host over TLS, under a name that only a proxy knows; its port."""
    authority = trustme.CA()
    (folder / "more.pem").write_bytes(authority.cert_pem.bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "more.pem"))
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name, "127.0.0.1").configure_cert(theirs)
    async with raw(host, theirs) as url:
        yield urlsplit(url).port or 0


@asynccontextmanager
async def behind(
    proxy: ForwardProxy, host: Host, folder: Path, monkeypatch: pytest.MonkeyPatch, *, seconds: float = 10
) -> AsyncIterator[tuple[Upstream, str]]:
    """An upstream that is reached through the proxy alone, and its base URL."""
    proxy.names["upstream.cloud.invalid"] = proxy.names["monitors.cloud.invalid"] = "127.0.0.1"
    async with secure(host, "*.cloud.invalid", folder, monkeypatch) as port:
        url = f"https://upstream.cloud.invalid:{port}"
        rule = MonitorRule(url, [HostPattern("monitors.cloud.invalid", port)])
        async with Upstream.open(url=url, rule=rule, copy_timeout=seconds, proxy=proxy.url_with_password) as upstream:
            yield upstream, url


async def poll(upstream: Upstream, url: str) -> Reply | NoAnswer:
    monitor = upstream.monitor(url)
    assert monitor is not None
    return await upstream.poll(monitor, {})


async def test_upstream_and_monitors_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By CONNECT, names unresolved; the password goes to the proxy and nowhere else. A start has its own tunnel."""
    host = Host(ACCEPTED, ACCEPTED, answer())
    async with proxying(PASSWORD) as proxy, behind(proxy, host, tmp_path, monkeypatch) as (upstream, url):
        for _ in range(2):
            reply = await upstream.start("POST", COPY, b"{}", {"Authorization": "Bearer t"})
            assert reply.code == 202
        async with upstream.read_item("/v1.0/me/drive/root", {}) as item:
            assert [chunk async for chunk in item.chunks()] == [RUNNING]
        for monitor in (f"{url}/m/1", url.replace("upstream", "monitors") + "/m/1"):
            for _ in range(2):
                assert isinstance(await poll(upstream, monitor), Reply)
    port = urlsplit(url).port
    assert proxy.asked[:3] == [f"CONNECT upstream.cloud.invalid:{port}"] * 3
    assert proxy.asked[3:] == [f"CONNECT upstream.cloud.invalid:{port}", f"CONNECT monitors.cloud.invalid:{port}"]
    assert all(b"Bearer" not in head for head in proxy.heads)
    assert all(b"proxy-auth" not in head.lower() for head in host.asked)
    assert len(host.asked) == 7


@pytest.mark.parametrize(
    ("refusal", "why"),
    [
        (b"407 Proxy Authentication Required", "the proxy answered 407"),
        (b"403 Filtered", "the proxy answered 403"),
        (b"502 Bad Gateway", "the proxy answered 502"),
        (b"302 Found\r\nLocation: https://login.example/", "the proxy answered 302"),
    ],
)
async def test_a_proxy_that_refuses(refusal: bytes, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was sent, and the cause is its status."""
    host = Host(ACCEPTED)
    async with proxying() as proxy, behind(proxy, host, tmp_path, monkeypatch) as (upstream, url):
        proxy.refusal = refusal
        with pytest.raises(NotSent, match=why):
            await upstream.start("POST", COPY, b"{}", {})
        with pytest.raises(NotSent, match=why):
            async with upstream.read_item("/v1.0/me/drive/root", {}):
                pass
        assert await poll(upstream, f"{url}/m/1") == NoAnswer(why)
    assert host.asked == []


async def test_a_wrong_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """407, and no word of the password."""
    async with proxying(PASSWORD) as proxy, behind(proxy, Host(ACCEPTED), tmp_path, monkeypatch) as (_, url):
        wrong = proxy.url.replace("//", "//user:hunter3@")
        async with Upstream.open(url=url, rule=MonitorRule(url, ()), copy_timeout=5, proxy=wrong) as upstream:
            with pytest.raises(NotSent) as caught:
                await upstream.start("POST", COPY, b"{}", {})
    assert str(caught.value) == "the proxy answered 407"
    assert "hunter" not in repr(caught.value)


async def test_a_proxy_that_hangs_is_gone_or_speaks_another_tongue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent either."""
    host = Host(ACCEPTED)
    async with proxying() as proxy, behind(proxy, host, tmp_path, monkeypatch, seconds=0.3) as (upstream, url):
        proxy.hangs = True
        with pytest.raises(NotSent, match="timed out"):
            await upstream.start("POST", COPY, b"{}", {})
    gone = proxy.url
    async with raw(Host(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")) as other, raw(Host(b"HTTP/1.1 102 x\r\n\r\n" * 999)) as flood:
        for address, why in ((gone, "the proxy: refused"), (other, "not HTTP"), (flood, "too long")):
            async with Upstream.open(url=url, rule=MonitorRule(url, ()), copy_timeout=5, proxy=address) as upstream:
                with pytest.raises(NotSent, match=why):
                    await upstream.start("POST", COPY, b"{}", {})
                assert await poll(upstream, f"{url}/m/1") == NoAnswer(why)
    assert host.asked == []


async def test_an_upstream_over_http_is_reached_directly() -> None:
    """It is on this machine, where no proxy leads."""
    async with (
        proxying() as proxy,
        raw(Host(ACCEPTED)) as url,
        Upstream.open(url=url, rule=MonitorRule(url, ()), copy_timeout=5, proxy=proxy.url) as upstream,
    ):
        assert (await upstream.start("POST", COPY, b"{}", {})).code == 202
        assert isinstance(await poll(upstream, f"{url}/m/1"), Reply)
    assert proxy.asked == []


async def test_callbacks_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is not looked up here; an address in a URL is judged as ever, and http is for allowed networks."""
    host = Host(answer(b""))
    async with proxying(PASSWORD) as proxy, secure(host, "hook.invalid", tmp_path, monkeypatch) as port:
        proxy.names["hook.invalid"] = "127.0.0.1"
        async with Receivers.open([ip_network("127.0.0.0/8")], proxy=proxy.url_with_password) as receivers:
            await receivers.check("https://hook.invalid/hook")
            await receivers.check(f"http://127.0.0.1:{port}/hook")
            await receivers.check(f"https://127.0.0.1:{port}/hook")
            for url in ("http://hook.invalid/hook", "https://10.0.0.1/hook", "http://8.8.8.8/hook"):
                with pytest.raises(GatewayError, match="must"):
                    await receivers.check(url)
                assert isinstance(await receivers.post(url, {}, b"{}", 0.0), Failed)
            assert await receivers.post(f"https://127.0.0.1:{port}/hook", {}, b"{}", 0.0) == Delivered()
            assert proxy.asked == [f"CONNECT 127.0.0.1:{port}"]
            proxy.refusal = b"403 Filtered"
            assert await receivers.post("https://hook.invalid/hook", {}, b"{}", 0.0) == Failed("the proxy answered 403")
    assert len(host.asked) == 1
    assert b"proxy-auth" not in host.asked[0].lower()


async def test_a_gateway_behind_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A copy from its start to its callback, and the password in nothing that is written or answered."""
    done = answer(b'{"status":"completed","resourceId":"01"}')
    host, called = Host(ACCEPTED, done), asyncio.Event()
    caplog.set_level(logging.INFO)

    async def hook(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b""))
        called.set()

    async with proxying(PASSWORD) as proxy, behind(proxy, host, tmp_path, monkeypatch) as (_, url):
        proxy.names["hook.invalid"] = "127.0.0.1"
        through = {"upstream_proxy": proxy.url_with_password, "callback_proxy": proxy.url_with_password}
        async with raw(hook) as there, serving(url, tmp_path, callback_allow="127.0.0.0/8", **through) as gateway:
            job = await gateway.copy(headers={**TOKEN, "Gateway-Callback-Url": f"{there}/hook"})
            (*_, last) = await tail(gateway.session, job["events"])
            assert last.data["status"] == "completed"
            await asyncio.wait_for(called.wait(), 10)
            async with gateway.session.get(f"{gateway.url}/metrics", headers=OPERATOR) as response:
                assert "hunter2" not in await response.text()
    assert proxy.asked[:2] == [f"CONNECT {urlsplit(url).netloc}"] * 2
    assert proxy.asked[2:] == [f"POST {there}/hook"]
    written = str([vars(record) for record in caplog.records])
    assert "copy_started" in written
    assert "hunter2" not in written


async def test_monitors_in_a_network_that_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that answers with addresses of its own: without the setting none is polled."""
    upstream = Host(b"")
    async with raw(upstream) as url, secure(Host(answer()), "localhost", tmp_path, monkeypatch) as port:
        monitor = f"https://localhost:{port}/m"
        upstream.answers = [answer(b"", "202 Accepted", b"Location: " + monitor.encode())]
        for allowed, expected in (("127.0.0.0/8,::1/128", Reply), ("", NoAnswer)):
            settings = {"monitor_hosts": f"localhost:{port}", "monitor_allow": allowed}
            async with serving(url, tmp_path, **settings) as gateway:
                assert isinstance(await poll(gateway.gateway.parts.copies._upstream, monitor), expected)
                await gateway.copy()


async def test_tinyproxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that others made, with a password, and a port that it does not lead to."""
    path, port, host = program("tinyproxy", "tinyproxy-bin"), free_port(), Host(ACCEPTED, answer())
    async with secure(host, "localhost", tmp_path, monkeypatch) as upstream_port:
        configuration = tmp_path / "tinyproxy.conf"
        configuration.write_text(
            f"Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nBasicAuth user hunter2\n"
            f"ConnectPort {upstream_port}\n"
        )
        running = await asyncio.create_subprocess_exec(path, "-d", "-c", str(configuration), stdout=subprocess.DEVNULL)
        try:
            await _listens(port)
            url = f"https://127.0.0.1:{upstream_port}"
            for proxy, why in (
                (f"http://user:hunter2@127.0.0.1:{port}", None),
                (f"http://127.0.0.1:{port}", "the proxy answered 407"),
            ):
                async with Upstream.open(url=url, rule=MonitorRule(url, ()), copy_timeout=5, proxy=proxy) as upstream:
                    if why is None:
                        assert (await upstream.start("POST", COPY, b"{}", {})).code == 202
                        assert isinstance(await poll(upstream, f"{url}/m/1"), Reply)
                    else:
                        with pytest.raises(NotSent, match=why):
                            await upstream.start("POST", COPY, b"{}", {})
            url = f"https://127.0.0.1:{free_port()}"
            proxy = f"http://user:hunter2@127.0.0.1:{port}"
            async with Upstream.open(url=url, rule=MonitorRule(url, ()), copy_timeout=5, proxy=proxy) as upstream:
                with pytest.raises(NotSent, match="the proxy answered 403"):
                    await upstream.start("POST", COPY, b"{}", {})
        finally:
            running.terminate()
            await running.wait()
    assert len(host.asked) == 2


async def _listens(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)
