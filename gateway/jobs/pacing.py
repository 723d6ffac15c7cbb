"""The rate of polls: one for each host, one for the process, and a queue in which pollers wait for their start."""

from __future__ import annotations

import asyncio
import math
from collections import deque

TICK = 0.001
"""Seconds by which a turn may come early: the loop's clock moves in whole milliseconds, and a timer for less than one
runs at once, over and over until the clock has moved. Starts still come no more often than the rate allows."""


class RateLimit:
    """Evenly spaced starts, at most `rate` a second."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._free_at = -math.inf

    def ready_at(self, now: float) -> float:
        return max(self._free_at, now)

    def start(self, now: float) -> None:
        self._free_at = self.ready_at(now) + 1 / self.rate


class AdaptiveRate(RateLimit):
    """The pace of one host: halved by each throttled answer, grown by each other one and by time.

    Growing by a quarter an answer outweighs halving while fewer than about a quarter of the answers are throttled; time
    makes up for bursts of them. So a few hostile jobs, which wait out their own `Retry-After` besides, cannot slow the
    rest. The host pauses as a whole only while most of its jobs are throttled.
    """

    SLOWEST = 1.0
    GROWTH = 1.25
    RECOVERY = 20.0
    """Seconds after which a host that nobody asks is at its full rate again."""
    LONGEST_PAUSE = 60.0

    def __init__(self, rate: float) -> None:
        super().__init__(rate)
        self._fastest = rate
        self._rated_at = -math.inf
        self._jobs: set[str] = set()
        self._throttled: set[str] = set()
        self._paused_until = -math.inf

    def join(self, job_id: str) -> None:
        self._jobs.add(job_id)

    def leave(self, job_id: str) -> bool:
        """Whether that was the host's last job."""
        self._jobs.discard(job_id)
        self._throttled.discard(job_id)
        return not self._jobs

    def ready_at(self, now: float) -> float:
        ready = super().ready_at(now)
        return max(ready, self._paused_until) if self._mostly_throttled() else ready

    def start(self, now: float) -> None:
        if self.rate < self._fastest:
            self._set(self._grown(now), now)
        super().start(now)

    def answered(self, job_id: str, now: float) -> None:
        self._throttled.discard(job_id)
        if self.rate < self._fastest:
            self._set(self._grown(now) * self.GROWTH, now)

    def throttled(self, job_id: str, now: float, wait: float) -> None:
        """An answer asked for fewer requests; `wait` is how long its job now waits."""
        self._throttled.add(job_id)
        self._set(self._grown(now) / 2, now)
        if self._mostly_throttled():
            self._paused_until = max(self._paused_until, now + min(wait, self.LONGEST_PAUSE))

    @property
    def throttled_jobs(self) -> int:
        """How many jobs' last answer asked for fewer requests."""
        return len(self._throttled)

    def _grown(self, now: float) -> float:
        return min(self.rate + (now - self._rated_at) * self._fastest / self.RECOVERY, self._fastest)

    def _set(self, rate: float, now: float) -> None:
        self.rate = min(max(rate, self.SLOWEST), self._fastest)
        self._rated_at = now

    def _mostly_throttled(self) -> bool:
        return 2 * len(self._throttled) > len(self._jobs)


class StartQueue:
    """One queue under one rate. Call `look` after anything that may have changed the rate."""

    def __init__(self, rate: RateLimit) -> None:
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
