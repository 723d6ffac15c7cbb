"""Receivers' names: found, not found, not answered, and what names that hang cannot do to others."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest
from publicsuffixlist import PublicSuffixList

from gateway.callbacks.receivers import Receivers
from gateway.core.errors import GatewayError
from gateway.outbound import names as names_
from gateway.outbound.names import (
    CHECKS_PER_DOMAIN,
    DIALLED,
    LOOK_UP_SECONDS,
    LookupTimeout,
    Names,
    NoAddress,
    few,
    registrable_domain,
)
from tests.support.fake_names import FakeNames, naming

pytestmark = pytest.mark.virtual_time

SUFFIXES = PublicSuffixList()
PUBLIC, PUBLIC6 = "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"
TABLE = {
    "good.example": [PUBLIC],
    "both.example": [PUBLIC, PUBLIC6],
    "many.example": [f"8.8.8.{number}" for number in range(200)],
    "good.broken.example": [PUBLIC],
}


@pytest.fixture
async def server() -> AsyncIterator[FakeNames]:
    async with naming(dict(TABLE)) as server:
        yield server


@pytest.fixture
def names(server: FakeNames) -> Iterator[Names]:
    with Names([server.server]) as names:
        yield names


def now() -> float:
    return asyncio.get_running_loop().time()


async def refused(receivers: Receivers, url: str) -> tuple[int, str, int | None]:
    with pytest.raises(GatewayError) as error:
        await receivers.check(url)
    return error.value.kind.status, error.value.message, error.value.retry_after


async def test_a_name_and_its_addresses(names: Names, server: FakeNames) -> None:
    """Of both families, in whatever case and with the dot at the end or without; an address is its own."""
    assert await names.check("good.example") == [PUBLIC]
    assert await names.check("GOOD.example.") == [PUBLIC]
    assert sorted(await names.check("both.example")) == sorted(TABLE["both.example"])
    assert await names.check("localhost")
    asked = len(server.asked)
    assert await names.check("127.0.0.1") == ["127.0.0.1"]
    assert await names.check("::1") == ["::1"]
    assert len(server.asked) == asked


async def test_a_name_that_leads_nowhere(names: Names) -> None:
    """It is told apart from one of which nobody knows."""
    for host in ("nowhere.example", "a..b", "x" * 70 + ".example"):
        with pytest.raises(NoAddress):
            await names.check(host)
    for host in ("good.broken.example", "x.hang.example"):
        with pytest.raises(LookupTimeout):
            await names.check(host)


async def test_few_of_many_addresses_are_dialled(names: Names) -> None:
    """All of them are judged when it is registered."""
    assert len(await names.check("many.example")) == 200
    assert len(await names.dialled("many.example")) == DIALLED


def test_both_families_are_dialled() -> None:
    """However many a name has of the other."""
    four, six = [f"8.8.8.{number}" for number in range(9)], [f"2600::{number}" for number in range(9)]
    assert few(six + four) == six[:2] + four[:2]
    assert few(four) == four[:4]
    assert few(six) == six[:4]
    assert few([*six, four[0]]) == [*six[:3], four[0]]
    assert few([six[0], *four]) == [six[0], *four[:3]]
    assert few([]) == []


async def test_names_that_hang_hold_up_nobody(server: FakeNames) -> None:
    """Thousands of them at once, of hundreds of domains; what is said of them is that it may be tried again."""
    async with Receivers.open((), [server.server]) as receivers, anyio.create_task_group() as tasks:
        told: list[tuple[int, str, int | None]] = []

        async def attack(number: int) -> None:
            told.append(await refused(receivers, f"https://{number}.hang.of{number % 50}.example/"))

        for number in range(2000):
            tasks.start_soon(attack, number)
            if number % 50 == 49:
                await anyio.sleep(0.001)  # the server's socket takes no more at once
        asked = now()
        await receivers.check("https://good.example/")
        assert now() - asked < 1
        tasks.cancel_scope.cancel()
    assert {status for status, _, _ in told} <= {503}


async def test_a_look_up_takes_so_long_and_no_longer(server: FakeNames) -> None:
    """503 with Retry-After, and that nothing came of it."""
    async with Receivers.open((), [server.server]) as receivers:
        asked = now()
        status, message, retry_after = await refused(receivers, "https://x.hang.example/")
        assert now() - asked == pytest.approx(LOOK_UP_SECONDS, abs=0.5)
        assert (status, retry_after) == (503, 5)
        assert "Nothing was started or registered" in message
        assert (await refused(receivers, "https://good.broken.example/"))[0] == 503
        assert (await refused(receivers, "https://nowhere.example/"))[0] == 400


async def test_a_domain_has_a_share(server: FakeNames) -> None:
    """Its names beyond that are turned away at once, also when nobody waits for the others any more; the names of
    other domains are not.
    """
    async with Receivers.open((), [server.server]) as receivers:
        async with anyio.create_task_group() as tasks:
            for number in range(CHECKS_PER_DOMAIN):
                tasks.start_soon(receivers.check, f"https://{number}.hang.evil.test/")
            await server.heard(f"{CHECKS_PER_DOMAIN - 1}.hang.evil.test")
            tasks.cancel_scope.cancel()
        asked = now()
        assert (await refused(receivers, "https://x.EVIL.test./"))[0] == 503
        assert now() == asked
        await receivers.check("https://good.example/")


@pytest.mark.parametrize(
    ("evil", "others"),
    [
        ("evil.co.uk", ["shop.co.uk", "evil.org.uk", "evil.uk"]),
        ("evil.github.io", ["shop.github.io"]),
        ("evil.azurewebsites.net", ["shop.azurewebsites.net"]),
        ("evil.example", ["shop.example"]),
    ],
)
async def test_the_owner_of_a_domain_shuts_out_nobody_else(evil: str, others: list[str], server: FakeNames) -> None:
    """Not those who registered another name below the same suffix, be that a country's or a company's."""
    server.table |= {name: [PUBLIC] for other in others for name in (other, f"hook.{other}")}
    async with Receivers.open((), [server.server]) as receivers, anyio.create_task_group() as tasks:
        for number in range(CHECKS_PER_DOMAIN):
            tasks.start_soon(refused, receivers, f"https://{number}.hang.{evil}/")
        await server.heard(f"{CHECKS_PER_DOMAIN - 1}.hang.{evil}")
        for other in others:
            await receivers.check(f"https://{other}/")
            await receivers.check(f"https://hook.{other}/")
        assert (await refused(receivers, f"https://x.{evil.upper()}./"))[0] == 503
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("a.b.EXAMPLE.com.", "example.com"),
        ("example.com", "example.com"),
        ("localhost", "localhost"),
        ("x._y.example", "_y.example"),
        ("a.b.shop.co.uk", "shop.co.uk"),
        ("co.uk", "co.uk"),
        ("me.github.io.", "me.github.io"),
        ("github.io", "github.io"),
        ("a.me.azurewebsites.net", "me.azurewebsites.net"),
        ("a.b.c.ck", "b.c.ck"),
        ("a.www.ck", "www.ck"),
        ("a.b.xn--55qx5d.cn", "b.xn--55qx5d.cn"),
        ("a..b", "a..b"),
        ("", ""),
    ],
)
def test_the_domain_of_a_name(host: str, domain: str) -> None:
    """What one owner registered, by the list with its wildcards, exceptions, private and punycoded suffixes; two labels
    below what it does not know.
    """
    assert registrable_domain(host, SUFFIXES) == domain


async def test_the_list_is_read_once_and_not_by_the_loop(server: FakeNames, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask at once, and whoever has gone before it was read."""
    read: asyncio.Future[PublicSuffixList] = asyncio.get_running_loop().create_future()
    asked: list[object] = []

    def run(_executor: object, function: object) -> asyncio.Future[PublicSuffixList]:
        asked.append(function)
        return read

    monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", run)
    with Names([server.server]) as names:
        gone, *waiting = [asyncio.create_task(names.check("good.example")) for _ in range(5)]
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        assert asked == [PublicSuffixList]
        read.set_result(SUFFIXES)
        assert await asyncio.gather(*waiting) == [[PUBLIC]] * 4
        assert len(asked) == 1


async def test_all_together_have_so_many_places(server: FakeNames, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many domains; attempts have theirs."""
    monkeypatch.setattr(names_, "CHECKS_AT_ONCE", 3)
    with Names([server.server]) as names:
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(names.check, f"hang.d{number}.test")
            await server.heard("hang.d2.test")
            with pytest.raises(LookupTimeout, match="too many"):
                await names.check("good.example")
            assert await names.check("127.0.0.1") == ["127.0.0.1"]
            assert await names.dialled("good.example") == [PUBLIC]
            tasks.cancel_scope.cancel()


async def test_places_come_back(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each answer."""
    monkeypatch.setattr(names_, "CHECKS_AT_ONCE", 1)
    for _ in range(3):
        assert await names.check("good.example") == [PUBLIC]
        with pytest.raises(NoAddress):
            await names.check("nowhere.example")
    await asyncio.sleep(0)
    assert not names._checks


async def test_nothing_is_kept_for_long(server: FakeNames, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel, which keeps all answers, is replaced after so many names and after a while; it ends with its last
    answer.
    """
    monkeypatch.setattr(names_, "RENEW_AFTER", 3)
    with Names([server.server]) as names:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(names.dialled, "x.hang.example")
            await server.heard("x.hang.example")
            for _ in range(20):
                await names.check("good.example")
            assert len(names._channels) == 2
            tasks.cancel_scope.cancel()
        newest = names._newest
        await anyio.sleep(names_.RENEW_SECONDS)
        await names.check("good.example")
        assert names._newest is not newest


async def test_closing_leaves_nothing_behind(server: FakeNames) -> None:
    """No descriptor; whoever still waits is told."""
    before = _descriptors()
    for number in range(5):
        with Names([server.server]) as names:
            waiting = asyncio.create_task(names.check(f"{number}.hang.example"))
            await server.heard(f"{number}.hang.example")
        with pytest.raises(LookupTimeout):
            await waiting
        with pytest.raises(LookupTimeout):
            await names.check("good.example")
    _go_down_to(before)
    assert _descriptors() == before


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _go_down_to(most: int) -> None:
    """c-ares' own thread ends channels."""
    until = time.monotonic() + 10
    while _descriptors() > most and time.monotonic() < until:
        time.sleep(0.001)


HANGING = """
import asyncio, socket, sys
import uvloop
from gateway.callbacks.receivers import Receivers

async def main():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        async with Receivers.open([], ["127.0.0.1:%d" % silent.getsockname()[1]]) as receivers:
            checks = [asyncio.create_task(receivers.check(f"https://{n}.of{n}.example/")) for n in range(50)]
            silent.setblocking(False)
            await asyncio.get_running_loop().sock_recv(silent, 512)
        await asyncio.gather(*checks, return_exceptions=True)

(uvloop.run if sys.argv[1] == "uvloop" else asyncio.run)(main())
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_process_ends_while_names_hang(loop: str) -> None:
    """At once, and without a word."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", HANGING, loop],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "Error" not in done.stderr
