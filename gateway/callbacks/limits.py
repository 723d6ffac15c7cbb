"""Room for attempts at receivers: those that answer quickly never wait for those that do not.

Hosts that lately took what they were sent, and quickly, have a lane of their own. Hosts that nobody knows share one,
the newest first, since thousands of names that hang must not hide one that works. What has failed comes again in the
third. An attempt that is not over after a moment leaves the first two: it goes on elsewhere, or, when too many do so
already, is broken off to come again.
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
"""Attempts that go on after they had to leave their lane."""
AT_ONCE = QUICK_AT_ONCE + NEW_AT_ONCE + AGAIN_AT_ONCE + LATE_AT_ONCE
"""Most attempts in flight."""
PER_HOST, PER_HOST_AGAIN = 8, 4
"""Apart, so that what failed, and waits for room, does not keep the host's others waiting."""
SLOW = 1.0
"""Seconds after which an attempt is not quick any more."""
QUICK_REMEMBERED = 10_000


class Limits:
    def __init__(self) -> None:
        self._quick = anyio.Semaphore(QUICK_AT_ONCE)
        self._new = _NewestFirst(NEW_AT_ONCE)
        self._again = anyio.Semaphore(AGAIN_AT_ONCE)
        self._late = anyio.Semaphore(LATE_AT_ONCE)
        self._known: OrderedDict[str, None] = OrderedDict()
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def turn(self, name: str, *, failing: bool) -> AsyncIterator[Turn]:
        """Room for one attempt at a host, `failing` when the one before it failed: one of the host's places, and one
        of its lane's.
        """
        host = self._hosts.setdefault(name, _Host())
        host.users += 1
        try:
            async with host.again if failing else host.places:
                lane = self._again if failing else self._quick if name in self._known else self._new
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
        """What an attempt at a host showed."""
        self._known.pop(name, None)
        if quick:
            self._known[name] = None
            if len(self._known) > QUICK_REMEMBERED:
                self._known.popitem(last=False)


class Turn:
    """Room for one attempt, in `lane`; `late` is where it may go on."""

    def __init__(self, limits: Limits, name: str, host: _Host, lane: _Lane, late: anyio.Semaphore | None) -> None:
        self.lane = lane
        self._limits = limits
        self._name = name
        self._host = host
        self._late = late
        self._slow = False

    async def run(self, attempt: Awaitable[Outcome]) -> Outcome:
        """How the attempt went."""
        scope = anyio.CancelScope()
        timer = asyncio.get_running_loop().call_later(SLOW, self._mark_slow, scope)
        try:
            with scope:
                outcome = await attempt
                if isinstance(outcome, Delivered) and not self._host.slow:
                    self._limits.learn(self._name, quick=True)
                return outcome
        except BaseException:
            self._limits.learn(self._name, quick=False)  # nobody knows how long it would have taken
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
    """A host with attempts: `users` that wait or are in flight, `slow` of them for longer than a moment."""

    def __init__(self) -> None:
        self.places = anyio.Semaphore(PER_HOST)
        self.again = anyio.Semaphore(PER_HOST_AGAIN)
        self.users = 0
        self.slow = 0


class _NewestFirst:
    """A semaphore whose next place is for whoever came last."""

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
                self.release()  # it was given, and nobody is there to take it
            raise

    def release(self) -> None:
        while self._waiting:
            place = self._waiting.pop()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


_Lane = anyio.Semaphore | _NewestFirst
