"""Receivers' names, looked up on the event loop: a name server that says nothing holds no thread and nobody else.

Anybody may make the gateway look his names up, so those look-ups are counted as long as they really run, and few may be
of one domain.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Self

import pycares

from gateway.core.addresses import is_address, parent_domain

LOOK_UP_SECONDS = 5.0
CHECKS_AT_ONCE, CHECKS_PER_DOMAIN = 1000, 16
"""Most names that are looked up at once for registrations. Those for attempts are as few as attempts are."""
DIALLED = 4
"""Most addresses of a name that one attempt dials: each may cost a socket."""
RENEW_AFTER, RENEW_SECONDS = 1000, 60.0
"""When a channel is replaced. It keeps every answer for up to an hour (20,000 names: 280 MB), and reads the system's
settings only when it is made."""

_FIRST_WAIT, _TRIES = 1.0, 4
"""Seconds until a name server is asked again, twice as long each time."""
_TICK = 0.25
_NONE = (pycares.errno.ARES_ENODATA, pycares.errno.ARES_ENOTFOUND, pycares.errno.ARES_EBADNAME)


class NoAddress(OSError):
    """The name leads nowhere."""


class LookupTimeout(OSError):
    """No answer came in time, or there was no room to ask."""


class Names:
    """`servers` in the place of the system's, each as `address:port`."""

    def __init__(self, servers: Sequence[str] = ()) -> None:
        self._servers = servers
        self._channels: set[_Channel] = set()
        self._newest: _Channel | None = None
        self._closed = False
        self._checks: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for channel in list(self._channels):
            channel.close()

    async def check(self, host: str) -> list[str]:
        """Every address that a host has now. Raises NoAddress or NotLookedUp."""
        if is_address(host):
            return [host]
        domain = parent_domain(host)
        if self._checks.total() >= CHECKS_AT_ONCE or self._checks[domain] >= CHECKS_PER_DOMAIN:
            raise LookupTimeout("too many look-ups")
        asked = self._ask(host)
        self._checks[domain] += 1
        asked.add_done_callback(partial(self._checked, domain))
        return await _addresses(asked)

    async def dialled(self, host: str) -> list[str]:
        """Those that an attempt dials: few, of both families if there are both, since one may lead nowhere from here.
        Raises NoAddress or NotLookedUp.
        """
        return few(await _addresses(self._ask(host)))

    def _ask(self, host: str) -> asyncio.Future[_Answer]:
        if self._closed:
            raise LookupTimeout("the gateway stops")
        if self._newest is None or self._newest.is_old():
            if self._newest is not None:
                self._newest.retire()
            self._newest = _Channel(self._servers, self._channels.discard)
            self._channels.add(self._newest)
        return self._newest.ask(host)

    def _checked(self, domain: str, _: object) -> None:
        self._checks[domain] -= 1
        if not self._checks[domain]:
            del self._checks[domain]


_Answer = tuple[Sequence[str], int | None]
"""Addresses, or what was wrong."""


async def _addresses(asked: asyncio.Future[_Answer]) -> list[str]:
    await asyncio.wait({asked}, timeout=LOOK_UP_SECONDS)  # it goes on when nobody waits any more
    if not asked.done():
        raise LookupTimeout("no answer in time")
    addresses, wrong = asked.result()
    if wrong is not None and wrong not in _NONE:
        raise LookupTimeout(pycares.errno.strerror(wrong))
    if not addresses:
        raise NoAddress("no address")
    return list(addresses)


def few(addresses: Iterable[str]) -> list[str]:
    """At most `DIALLED` of them, in their order within a family."""
    four: list[str] = []
    six: list[str] = []
    for address in addresses:
        (six if ":" in address else four).append(address)
    some = min(len(six), max(DIALLED // 2, DIALLED - len(four)))
    return [*six[:some], *four[: DIALLED - some]]


class _Channel:
    """One of c-ares, whose sockets and time are the event loop's. `forget` is called when it has ended."""

    def __init__(self, servers: Sequence[str], forget: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._forget = forget
        self._until = self._loop.time() + RENEW_SECONDS
        self._asked = self._open = 0
        self._retired = self._closed = False
        self._sockets: set[int] = set()
        self._ticking: asyncio.TimerHandle | None = None
        self._channel = pycares.Channel(
            servers=servers or None, timeout=_FIRST_WAIT, tries=_TRIES, sock_state_cb=self._watch
        )

    def is_old(self) -> bool:
        return self._asked >= RENEW_AFTER or self._loop.time() >= self._until

    def ask(self, host: str) -> asyncio.Future[_Answer]:
        asked: asyncio.Future[_Answer] = self._loop.create_future()
        asked.add_done_callback(self._answered)
        self._asked += 1
        self._open += 1
        try:
            self._channel.getaddrinfo(
                host, None, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM, callback=partial(_answer, asked)
            )
        except pycares.AresError as error:
            _answer(asked, None, error.args[0])
        return asked

    def retire(self) -> None:
        """End it with its last answer."""
        self._retired = True
        if not self._open:
            self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._channel.cancel()
        self._closed = True  # from here on the sockets end in another thread
        for number in self._sockets:
            self._loop.remove_reader(number)
            self._loop.remove_writer(number)
        if self._ticking is not None:
            self._ticking.cancel()
        self._channel.close()
        self._forget(self)

    def _answered(self, _: object) -> None:
        self._open -= 1
        if self._retired and not self._open:
            self.close()

    def _watch(self, number: int, readable: bool, writable: bool) -> None:
        if self._closed:
            return
        self._loop.remove_reader(number)
        self._loop.remove_writer(number)
        if readable:
            self._loop.add_reader(number, self._channel.process_fd, number, pycares.ARES_SOCKET_BAD)
        if writable:
            self._loop.add_writer(number, self._channel.process_fd, pycares.ARES_SOCKET_BAD, number)
        if readable or writable:
            self._sockets.add(number)
        else:
            self._sockets.discard(number)
        if self._sockets and self._ticking is None:
            self._ticking = self._loop.call_later(_TICK, self._tick)

    def _tick(self) -> None:
        """c-ares has no timers of its own."""
        self._ticking = None
        self._channel.process_fd(pycares.ARES_SOCKET_BAD, pycares.ARES_SOCKET_BAD)
        if self._sockets and self._ticking is None:
            self._ticking = self._loop.call_later(_TICK, self._tick)


def _answer(asked: asyncio.Future[_Answer], result: Any, wrong: int | None) -> None:
    if not asked.done():
        addresses = [] if result is None else [node.addr[0].decode() for node in result.nodes]
        asked.set_result((addresses, wrong))
