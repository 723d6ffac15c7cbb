"""Turns: pollers queue here for their start, in order, at the pace a rate allows."""

from __future__ import annotations

import asyncio
from collections import deque

from gateway.jobs.schedule import SteadyRate

TICK = 0.001
"""Seconds by which a turn may come early: the loop's clock moves in whole milliseconds, and a timer for less than one
runs at once, over and over until the clock has moved. Starts still come no more often than the rate allows."""


class Turns:
    """One queue under one rate. Call `look` after anything that may have changed the rate."""

    def __init__(self, rate: SteadyRate) -> None:
        self._rate = rate
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def take(self) -> None:
        """Wait for one's turn. A cancelled wait takes no turn."""
        now = self._loop.time()
        if not self._waiting and self._rate.ready_at(now) <= now + TICK:
            self._rate.start(now)
            return
        place: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(place)
        self.look()
        await place

    def look(self) -> None:
        """Let those start whose turn it is, and set the clock for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._loop.time()
        while self._waiting:
            place = self._waiting[0]
            if not place.done():
                at = self._rate.ready_at(now)
                if at > now + TICK:
                    self._timer = self._loop.call_at(at, self.look)
                    return
                self._rate.start(now)
                place.set_result(None)
            self._waiting.popleft()
