"""One attempt against real receivers, friendly and hostile."""

from __future__ import annotations

import asyncio
import errno
import gzip
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from email.utils import formatdate
from ipaddress import ip_network

import pytest
from aiohttp import web

from gateway.callbacks.receivers import Receivers
from gateway.core.addresses import Objection, ReceiverRule
from gateway.core.callback import Delivered, Failed, Gone, Outcome
from gateway.outbound.names import DIALLED
from gateway.outbound.sessions import CONNECT_SECONDS
from tests.support.fake_names import naming
from tests.support.fake_receiver import raw, silent
from tests.support.fake_upstream import FakeUpstream, answering, faking

pytestmark = pytest.mark.virtual_time

NOW = 1_790_000_000.0
SECRET_PATH = "/hook/part-of-the-secret?token=hidden"


@pytest.fixture
async def receivers() -> AsyncIterator[Receivers]:
    async with Receivers.open([ip_network("127.0.0.0/8")]) as receivers:
        yield receivers


@pytest.fixture
async def receiver() -> AsyncIterator[FakeUpstream]:
    async with faking() as fake:
        yield fake


async def post(receivers: Receivers, url: str) -> Outcome:
    outcome = await receivers.post(url + SECRET_PATH, {"webhook-id": "msg_1"}, b"{}", NOW)
    assert "secret" not in str(outcome)
    assert "hidden" not in str(outcome)
    return outcome


def coded(code: int, **headers: str) -> Callable[[], web.Response]:
    return lambda: web.Response(status=code, headers={name.replace("_", "-"): text for name, text in headers.items()})


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
async def test_any_2xx_is_delivered(receivers: Receivers, receiver: FakeUpstream, code: int) -> None:
    """What was posted is what came in, to the very path."""
    receiver.on_copy = answering(coded(code))
    assert await post(receivers, receiver.url) == Delivered(code)
    ((method, path, headers, body),) = receiver.asked
    assert (method, path, body) == ("POST", SECRET_PATH, b"{}")
    assert headers["Content-Type"] == "application/json"
    assert headers["webhook-id"] == "msg_1"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308, 300, 304])
async def test_redirects_are_not_followed(receivers: Receivers, receiver: FakeUpstream, code: int) -> None:
    """The place they name never hears of it."""
    async with faking() as elsewhere:
        receiver.on_copy = answering(coded(code, Location=f"{elsewhere.url}/x"))
        assert await post(receivers, receiver.url) == Failed(
            f"answered {code}; redirects are not followed", status=code
        )
        assert elsewhere.asked == []
    assert len(receiver.asked) == 1


async def test_410_is_gone(receivers: Receivers, receiver: FakeUpstream) -> None:
    """It wants no more."""
    receiver.on_copy = answering(coded(410))
    assert await post(receivers, receiver.url) == Gone()


@pytest.mark.parametrize(
    ("code", "text", "asked"),
    [
        (429, "7", 7),
        (503, "7", 7),
        (503, formatdate(NOW + 90, usegmt=True), 90),
        (429, "0" * 300 + "7", 7),
        (503, "9" * 400, 86400.0),
        (503, "Fri, 31 Dec 9999 23:59:59 GMT", 86400.0),
        (503, "Fri, 31 Dec 1999 23:59:59 GMT", 0),
        (429, "soon", None),
        (429, "7" * 400 + "s", None),
        (429, "-1", None),
        (500, "7", None),
        (404, "7", None),
    ],
)
async def test_retry_after(
    receivers: Receivers, receiver: FakeUpstream, code: int, text: str, asked: float | None
) -> None:
    """For 429 and 503, in seconds or as a date, which is read against the receiver's own clock."""
    receiver.on_copy = answering(coded(code, Retry_After=text, Date=formatdate(NOW, usegmt=True)))
    assert await post(receivers, receiver.url) == Failed(f"answered {code}", asked, code)


async def test_other_ways_to_ask_for_time(receivers: Receivers, receiver: FakeUpstream) -> None:
    """They are Graph's monitors'; a receiver says Retry-After."""
    receiver.on_copy = answering(coded(429, RateLimit_Remaining="0", RateLimit_Reset="31"))
    assert await post(receivers, receiver.url) == Failed("answered 429", status=429)


async def test_no_connection_serves_twice_and_no_cookie_is_kept(receivers: Receivers, receiver: FakeUpstream) -> None:
    """Each attempt is judged where it is dialled."""
    peers = []

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.append(request.transport.get_extra_info("peername"))
        return web.Response(headers={"Set-Cookie": "a=b"})

    receiver.on_copy = answer
    for _ in range(3):
        assert await post(receivers, receiver.url) == Delivered()
    assert len(set(peers)) == 3
    assert not any("Cookie" in headers for _, _, headers, _ in receiver.asked)


async def test_proxies_of_the_environment_are_not_used(
    receivers: Receivers, receiver: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would dial for it."""
    async with faking() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert await post(receivers, receiver.url) == Delivered(202)
        assert proxy.asked == []
        assert len(receiver.asked) == 1


async def test_a_compressed_answer_is_not_unpacked(receivers: Receivers, receiver: FakeUpstream) -> None:
    """However small it is on the wire."""
    bomb = gzip.compress(bytes(50 << 20))
    receiver.on_copy = answering(lambda: web.Response(body=bomb, headers={"Content-Encoding": "gzip"}))
    assert await post(receivers, receiver.url) == Delivered()


async def test_no_connection_in_time(receivers: Receivers) -> None:
    """It is told apart from an answer that does not come."""
    with socket.socket() as full, ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            with suppress(BlockingIOError):
                waiting.connect(full.getsockname())
        begun = asyncio.get_running_loop().time()
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        assert await post(receivers, url) == Failed("no connection within 5 seconds")
        assert asyncio.get_running_loop().time() - begun == pytest.approx(CONNECT_SECONDS, abs=0.5)


async def test_only_a_few_addresses_of_a_name_are_dialled() -> None:
    """However many it has: each costs a socket until one answers."""
    table = {"many.example": [f"127.0.0.{number}" for number in range(2, 202)]}
    async with naming(table) as names, Receivers.open([ip_network("127.0.0.0/8")], [names.server]) as receivers:
        dialled: set[str] = set()
        rule = receivers._rule

        class Watching(ReceiverRule, frozen=True):
            def refusal(self, address: str, port: int, *, tls: bool) -> Objection | None:
                dialled.add(address)
                return rule.refusal(address, port, tls=tls)

        receivers._rule = Watching(rule.allowed)
        async with raw(silent) as url:
            port = url.rpartition(":")[2]
        await receivers.check(f"http://many.example:{port}/")
        assert len(dialled) == 200
        dialled.clear()
        assert await post(receivers, f"http://many.example:{port}") == Failed("the connection was refused")
        assert len(dialled) == DIALLED


async def test_a_name_that_is_not_answered(receivers: Receivers) -> None:
    """It is none that leads nowhere."""
    async with naming() as names, Receivers.open((), [names.server]) as others:
        assert await post(others, "https://x.hang.example") == Failed("its name could not be looked up")
        assert await post(others, "https://x.broken.example") == Failed("its name could not be looked up")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ECONNREFUSED, "the connection was refused"),
        (errno.ENETUNREACH, "its network cannot be reached"),
        (errno.EHOSTUNREACH, "its network cannot be reached"),
        (errno.ECONNRESET, "the connection broke before an answer"),
        (errno.ETIMEDOUT, "no connection within 5 seconds"),
        (errno.EMFILE, "no connection could be made"),
        (None, "no connection could be made"),
    ],
)
async def test_why_there_is_no_connection(
    receivers: Receivers, number: int | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In words for each cause, without the address that the system's own words have."""

    async def connect(*_: object, **_options: object) -> None:
        raise OSError(number, "Connect call failed ('127.0.0.1', 9)")

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", connect)
    assert await post(receivers, "http://127.0.0.1:9") == Failed(reason)


async def test_nobody_listens(receivers: Receivers) -> None:
    """Refused, or without a name."""
    async with raw(silent) as url:
        pass
    assert await post(receivers, url) == Failed("the connection was refused")
    async with naming() as names, Receivers.open((), [names.server]) as others:
        outcome = await others.post("https://nowhere.example/", {}, b"", NOW)
    assert outcome == Failed("its name does not resolve")
