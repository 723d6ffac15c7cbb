"""Rate limits on polls, for each host and for the process, the queue for starts, and the lane of hanging polls."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import deque
from itertools import count

TICK = 0.001
"""Seconds by which a start may be early. The loop's clock moves in whole milliseconds, and a timer for less than a
millisecond fires again and again until the clock has moved. Starts still come no more often than the rate allows."""


class RateLimit:
    """Evenly spaced starts, at most `rate` a second."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._free_at = -math.inf

    def ready_at(self, now: float) -> float:
        """The earliest time of the next start, in seconds of the clock that `now` is of."""
        return max(self._free_at, now)

    def start(self, now: float) -> None:
        """Record a start at `now`."""
        self._free_at = self.ready_at(now) + 1 / self.rate


class AdaptiveRate(RateLimit):
    """The adaptive rate limit of one host, in polls a second.

    Each throttled answer halves the rate; each other answer and the passing of time raise it. Growth by a quarter per
    answer outweighs the halving while fewer than about a quarter of the answers are throttled. So a few hostile jobs,
    which also wait out their own `Retry-After`, cannot slow the others. Their answers come in a row, since jobs that
    waited alike queue together; so while they are that few among the latest answers, the rate falls to half of the
    fastest and no lower. The host pauses as a whole only while most of its jobs are throttled.
    """

    SLOWEST = 1.0
    GROWTH = 1.25
    FEW = 0.15
    """Share of throttled answers up to which none of them takes the rate below half of the fastest …"""
    LATEST = 100
    """… of the latest answers, or of as many as the host has jobs: a host that throttles all is soon slowed."""
    RECOVERY = 20.0
    """Seconds after which a host without polls is at its full rate again."""
    LONGEST_PAUSE = 60.0
    """Most seconds for which the whole host pauses after one throttled answer."""

    def __init__(self, rate: float) -> None:
        super().__init__(rate)
        self._fastest = rate
        self._rated_at = -math.inf
        self._jobs: set[str] = set()
        self._throttled: set[str] = set()
        self._counted = 0
        self._throttled_share = 0.0
        self._paused_until = -math.inf

    def join(self, job_id: str) -> None:
        self._jobs.add(job_id)

    def leave(self, job_id: str) -> None:
        self._jobs.discard(job_id)
        self._throttled.discard(job_id)

    def ready_at(self, now: float) -> float:
        ready = super().ready_at(now)
        return max(ready, self._paused_until) if self._mostly_throttled() else ready

    def start(self, now: float) -> None:
        if self.rate < self._fastest:
            self._set(self._grown(now), now)
        super().start(now)

    def answered(self, job_id: str, now: float) -> None:
        """Record a poll that was not throttled."""
        self._throttled.discard(job_id)
        self._count(0.0)
        if self.rate < self._fastest:
            self._set(self._grown(now) * self.GROWTH, now)

    def throttled(self, job_id: str, now: float, wait: float) -> None:
        """Record an answer that asked for fewer requests; `wait` is the job's next wait in seconds."""
        if job_id in self._jobs:
            self._throttled.add(job_id)
        self._count(1.0)
        grown = self._grown(now)
        self._set(min(grown, self._fastest / 2) if self._throttled_share <= self.FEW else grown / 2, now)
        if self._mostly_throttled():
            self._paused_until = max(self._paused_until, now + min(wait, self.LONGEST_PAUSE))

    @property
    def throttled_jobs(self) -> int:
        """The number of jobs whose last answer asked for fewer requests."""
        return len(self._throttled)

    def _count(self, throttled: float) -> None:
        """Update the share: a plain mean of the first answers, then one in which older answers fade."""
        self._counted = max(1, min(self._counted + 1, len(self._jobs), self.LATEST))
        self._throttled_share += (throttled - self._throttled_share) / self._counted

    def _grown(self, now: float) -> float:
        return min(self.rate + (now - self._rated_at) * self._fastest / self.RECOVERY, self._fastest)

    def _set(self, rate: float, now: float) -> None:
        self.rate = min(max(rate, self.SLOWEST), self._fastest)
        self._rated_at = now

    def _mostly_throttled(self) -> bool:
        return 2 * len(self._throttled) > len(self._jobs)


class StartQueue:
    """A first-in, first-out queue under one rate limit. Call `look` after any possible change of the rate."""

    def __init__(self, rate: RateLimit) -> None:
        self._rate = rate
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def take_now(self, now: float) -> bool:
        """Take a start if one is ready and nobody waits."""
        if self._waiting or self._rate.ready_at(now) > now + TICK:
            return False
        self._rate.start(now)
        return True

    async def take(self) -> None:
        """Wait for a start. A cancelled wait uses up no start."""
        if self.take_now(self._loop.time()):
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(waiter)
        self.look()
        await waiter

    def look(self) -> None:
        """Start the waiters that are ready, and set the timer for the next."""
        if not self._waiting:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._loop.time()
        while self._waiting:
            waiter = self._waiting[0]
            if not waiter.done():
                at = self._rate.ready_at(now)
                if at > now + TICK:
                    self._timer = self._loop.call_at(at, self.look)
                    return
                self._rate.start(now)
                waiter.set_result(None)
            self._waiting.popleft()


class HungLane:
    """Places for the polls of jobs that hang again and again, so that hanging polls do not pile up.

    The jobs that have hung the fewest times in a row come first: one that works again does not wait for thousands that
    do not.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrival = count()

    async def enter(self, hangs: int) -> None:
        """Take a place, to be given back with `leave`; `hangs` counts the job's polls in a row that timed out."""
        if self._free:
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (hangs, next(self._arrival), place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Give a place back: to the job that has hung the fewest times, and of these to the first that came."""
        while self._waiting:
            place = heapq.heappop(self._waiting)[2]
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
