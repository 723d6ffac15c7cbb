"""DNS lookups of receivers' host names, on the event loop: a silent name server blocks no thread and no other lookup.

Any client can make the gateway look up names of its choice. So a registration's lookup counts against a limit until it
really ends, even after its caller has timed out, and each registrable domain has a small limit of its own: whoever
registered it answers for all names in it. The Public Suffix List says where it begins.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Self

import pycares
from publicsuffixlist import PublicSuffixList

from gateway.core.addresses import is_address

LOOK_UP_SECONDS = 5.0
CHECKS_AT_ONCE, CHECKS_PER_DOMAIN = 1000, 16
"""Most concurrent lookups for registrations, overall and per registrable domain. Those of attempts are bounded by the
limits on attempts."""
DIALLED = 4
"""Most addresses of a name that an attempt dials: each may cost a socket."""
RENEW_AFTER, RENEW_SECONDS = 1000, 60.0
"""Lookups, and seconds, after which a channel is replaced. A channel caches every answer for up to an hour
(20,000 names: 280 MB), and reads the system's DNS settings only when it is created."""

_FIRST_WAIT, _TRIES = 1.0, 4
"""Seconds until the first retry with a name server, doubled for each further retry; and the number of tries."""
_TICK = 0.25
_NONE = (pycares.errno.ARES_ENODATA, pycares.errno.ARES_ENOTFOUND, pycares.errno.ARES_EBADNAME)


class NoAddress(OSError):
    """The name has no address."""


class LookupTimeout(OSError):
    """The lookup failed or timed out, or too many lookups are running."""


class Names:
    """Looks up names. `servers`, each as `address:port`, replace the system's name servers."""

    def __init__(self, servers: Sequence[str] = ()) -> None:
        self._servers = servers
        self._channels: set[_Channel] = set()
        self._newest: _Channel | None = None
        self._closed = False
        self._checks: Counter[str] = Counter()
        self._suffixes: asyncio.Future[PublicSuffixList] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for channel in list(self._channels):
            channel.close()

    async def check(self, host: str) -> list[str]:
        """All current addresses of a host, for a registration. Raises NoAddress or LookupTimeout."""
        if is_address(host):
            return [host]
        domain = registrable_domain(host, await self._suffix_list())
        if self._checks.total() >= CHECKS_AT_ONCE or self._checks[domain] >= CHECKS_PER_DOMAIN:
            raise LookupTimeout("too many look-ups")
        lookup = self._look_up(host)
        self._checks[domain] += 1
        lookup.add_done_callback(partial(self._checked, domain))
        return await _addresses(lookup)

    async def dialled(self, host: str) -> list[str]:
        """The addresses that an attempt dials: at most `DIALLED`.

        Both families are included when the name has both, since one family may be unreachable from this machine. Raises
        NoAddress or LookupTimeout.
        """
        return few(await _addresses(self._look_up(host)))

    def _look_up(self, host: str) -> asyncio.Future[_Answer]:
        if self._closed:
            raise LookupTimeout("the gateway stops")
        if self._newest is None or self._newest.is_old():
            if self._newest is not None:
                self._newest.retire()
            self._newest = _Channel(self._servers, self._channels.discard)
            self._channels.add(self._newest)
        return self._newest.look_up(host)

    async def _suffix_list(self) -> PublicSuffixList:
        """The Public Suffix List, read by a thread when it is first needed: that takes 0.1 s."""
        if self._suffixes is None or (self._suffixes.done() and self._suffixes.exception() is not None):
            self._suffixes = asyncio.get_running_loop().run_in_executor(None, PublicSuffixList)
        return await asyncio.shield(self._suffixes)

    def _checked(self, domain: str, _: object) -> None:
        self._checks[domain] -= 1
        if not self._checks[domain]:
            del self._checks[domain]


_Answer = tuple[Sequence[str], int | None]
"""Addresses, and the c-ares error number if the lookup failed."""


async def _addresses(lookup: asyncio.Future[_Answer]) -> list[str]:
    await asyncio.wait({lookup}, timeout=LOOK_UP_SECONDS)  # does not cancel the lookup, which counts until it ends
    if not lookup.done():
        raise LookupTimeout("no answer in time")
    addresses, error = lookup.result()
    if error is not None and error not in _NONE:
        raise LookupTimeout(pycares.errno.strerror(error))
    if not addresses:
        raise NoAddress("no address")
    return list(addresses)


def registrable_domain(host: str, suffixes: PublicSuffixList) -> str:
    """The part of a DNS name that one owner registered; the whole name if it is itself a public suffix.

    Names below private suffixes, such as `github.io`, have an owner each.
    """
    name = host.lower().removesuffix(".")
    return suffixes.privatesuffix(name) or name


def few(addresses: Iterable[str]) -> list[str]:
    """At most `DIALLED` of the addresses, IPv6 first; the order within each family is kept."""
    four: list[str] = []
    six: list[str] = []
    for address in addresses:
        (six if ":" in address else four).append(address)
    count = min(len(six), max(DIALLED // 2, DIALLED - len(four)))
    return [*six[:count], *four[: DIALLED - count]]


class _Channel:
    """A c-ares channel driven by the event loop. `on_close` is called with the channel once it is closed."""

    def __init__(self, servers: Sequence[str], on_close: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_close = on_close
        self._until = self._loop.time() + RENEW_SECONDS
        self._started = self._open = 0
        self._retired = self._closed = False
        self._sockets: set[int] = set()
        self._ticking: asyncio.TimerHandle | None = None
        self._channel = pycares.Channel(
            servers=servers or None, timeout=_FIRST_WAIT, tries=_TRIES, sock_state_cb=self._watch
        )

    def is_old(self) -> bool:
        return self._started >= RENEW_AFTER or self._loop.time() >= self._until

    def look_up(self, host: str) -> asyncio.Future[_Answer]:
        lookup: asyncio.Future[_Answer] = self._loop.create_future()
        lookup.add_done_callback(self._answered)
        self._started += 1
        self._open += 1
        try:
            self._channel.getaddrinfo(
                host, None, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM, callback=partial(_answer, lookup)
            )
        except pycares.AresError as error:
            _answer(lookup, None, error.args[0])
        return lookup

    def retire(self) -> None:
        """Close the channel once its running lookups have ended."""
        self._retired = True
        if not self._open:
            self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._channel.cancel()
        self._closed = True  # from here on pycares closes the sockets in another thread
        for number in self._sockets:
            self._loop.remove_reader(number)
            self._loop.remove_writer(number)
        if self._ticking is not None:
            self._ticking.cancel()
        self._channel.close()
        self._on_close(self)

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
        """Let c-ares notice timeouts, since it has no timers of its own."""
        self._ticking = None
        self._channel.process_fd(pycares.ARES_SOCKET_BAD, pycares.ARES_SOCKET_BAD)
        if self._sockets and self._ticking is None:
            self._ticking = self._loop.call_later(_TICK, self._tick)


def _answer(lookup: asyncio.Future[_Answer], result: Any, error: int | None) -> None:
    if not lookup.done():
        addresses = [] if result is None else [node.addr[0].decode() for node in result.nodes]
        lookup.set_result((addresses, error))
