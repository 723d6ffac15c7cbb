"""Limits on attempts at receivers: quick receivers never wait for slow receivers.

There are three lanes. Hosts that recently accepted an event quickly share the first. Unknown hosts share the second,
newest attempt first, since thousands of names that hang must not hide a name that works. Retries share the third. An
attempt that takes longer than `SLOW` leaves the first two lanes. It then continues under a limit of its own, or is
cancelled and retried later when that limit is reached.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import anyio

from gateway.core.callback import Delivered, Failed, Outcome

QUICK_AT_ONCE, NEW_AT_ONCE, AGAIN_AT_ONCE = 128, 64, 64
LATE_AT_ONCE = 64
"""Slow attempts that continue after they left their lane."""
AT_ONCE = QUICK_AT_ONCE + NEW_AT_ONCE + AGAIN_AT_ONCE + LATE_AT_ONCE
"""Most attempts in flight, in all."""
PER_HOST, PER_HOST_AGAIN = 8, 4
"""Attempts in flight per host: first attempts, and retries. Waiting retries do not delay the first attempts."""
SLOW = 1.0
"""Seconds after which an attempt is slow."""
QUICK_REMEMBERED = 10_000
"""Most hosts that are remembered as quick; the oldest is forgotten first."""


class Limits:
    def __init__(self) -> None:
        self._quick = anyio.Semaphore(QUICK_AT_ONCE)
        self._new = _NewestFirst(NEW_AT_ONCE)
        self._retries = anyio.Semaphore(AGAIN_AT_ONCE)
        self._late = anyio.Semaphore(LATE_AT_ONCE)
        self._known: OrderedDict[str, None] = OrderedDict()
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def turn(self, name: str, *, failing: bool) -> AsyncIterator[Turn]:
        """Wait for room for one attempt at a host: a place of the host and a place of its lane.

        `failing` says that the callback's previous attempt failed.
        """
        host = self._hosts.setdefault(name, _Host())
        host.users += 1
        try:
            async with host.retries if failing else host.places:
                lane = self._retries if failing else self._quick if name in self._known else self._new
                await lane.acquire()
                turn = Turn(self, name, host, lane, late=None if failing else self._late)
                try:
                    yield turn
                finally:
                    turn.lane.release()
        finally:
            host.users -= 1
            if host.users == 0:
                self._hosts.pop(name, None)

    def learn(self, name: str, *, quick: bool) -> None:
        """Record whether an attempt at a host was quick."""
        self._known.pop(name, None)
        if quick:
            self._known[name] = None
            if len(self._known) > QUICK_REMEMBERED:
                self._known.popitem(last=False)


class Turn:
    """Room for one attempt in `lane`. `late` limits the slow attempts; None lets a slow attempt stay in its lane."""

    def __init__(self, limits: Limits, name: str, host: _Host, lane: _Lane, late: anyio.Semaphore | None) -> None:
        self.lane = lane
        self._limits = limits
        self._name = name
        self._host = host
        self._late = late
        self._slow = False

    async def run(self, attempt: Awaitable[Outcome]) -> Outcome:
        """The outcome of the attempt; Failed if it was cancelled because too many attempts were slow."""
        scope = anyio.CancelScope()
        timer = asyncio.get_running_loop().call_later(SLOW, self._mark_slow, scope)
        try:
            with scope:
                outcome = await attempt
                if isinstance(outcome, Delivered) and not self._host.slow:
                    self._limits.learn(self._name, quick=True)
                return outcome
        except BaseException:
            self._limits.learn(self._name, quick=False)  # its full duration is unknown
            raise
        finally:
            timer.cancel()
            self._host.slow -= self._slow
        return Failed(f"no answer within {SLOW:g} s, while too many others gave none either")

    def _mark_slow(self, scope: anyio.CancelScope) -> None:
        self._slow = True
        self._host.slow += 1
        self._limits.learn(self._name, quick=False)
        if self._late is None:
            return
        try:
            self._late.acquire_nowait()
        except anyio.WouldBlock:
            scope.cancel()
        else:
            self.lane.release()
            self.lane = self._late


class _Host:
    """A host with attempts: `users` are waiting or in flight, `slow` have been in flight for longer than `SLOW`."""

    def __init__(self) -> None:
        self.places = anyio.Semaphore(PER_HOST)
        self.retries = anyio.Semaphore(PER_HOST_AGAIN)
        self.users = 0
        self.slow = 0


class _NewestFirst:
    """A semaphore that serves the newest waiter first."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: list[asyncio.Future[None]] = []

    async def acquire(self) -> None:
        if self._free:
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except BaseException:
            if not place.cancelled():
                self.release()  # the place was granted after the waiter had been cancelled
            raise

    def release(self) -> None:
        while self._waiting:
            place = self._waiting.pop()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


_Lane = anyio.Semaphore | _NewestFirst
