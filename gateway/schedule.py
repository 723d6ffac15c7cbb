"""When to poll next, and how fast: pure decisions over monotonic seconds.

A wait is a share of the job's age, so that no job is seen late by more than that share of its length; shorter where
progress says that the end is near; longer after each answer that was none. What upstream asks for comes first.
"""

from __future__ import annotations

import math
import random

import msgspec

AGE_SHARE = 0.025
REMAINING_SHARE = 0.4
TWICE_APART = 5.0
"""Seconds that must lie between two answers before `404` or `401` is believed."""


class Bounds(msgspec.Struct, frozen=True):
    """Shortest and longest wait of the gateway's own choice, in seconds."""

    shortest: float
    longest: float


class Progress(msgspec.Struct, frozen=True):
    """A job's progress as seen so far: the first and the newest percentage and when each was first seen."""

    first_at: float
    first: float
    newest_at: float
    newest: float

    def seen(self, percentage: float, now: float) -> Progress:
        if percentage <= self.newest:
            return self
        return Progress(self.first_at, self.first, now, percentage)

    def remaining(self, now: float) -> float | None:
        """Seconds to the end at the pace so far; None while there is no pace, or once the end is overdue."""
        done, took = self.newest - self.first, self.newest_at - self.first_at
        if done <= 0 or took <= 0 or self.newest >= 100:
            return None
        left = took * (100 - self.newest) / done - (now - self.newest_at)
        return left if left > 0 else None


def next_wait(
    *,
    age: float,
    remaining: float | None,
    failures: int,
    retry_after: float | None,
    bounds: Bounds,
    rng: random.Random,
) -> float:
    """Seconds until the next poll.

    `age` and `remaining` in seconds; `failures` is the number of answers in a row that were none or throttled;
    `retry_after` may lengthen the wait beyond the longest, never shorten it below the shortest.
    """
    if retry_after is not None:
        return max(retry_after, bounds.shortest) + rng.uniform(0, bounds.shortest)
    wait = age * AGE_SHARE
    if remaining is not None:
        wait = min(wait, remaining * REMAINING_SHARE)
    if failures:
        wait = max(wait, bounds.shortest * 2.0 ** min(failures, 32))
    wait *= rng.uniform(0.9, 1.1)
    return min(max(wait, bounds.shortest), bounds.longest)


def retry_hint(age: float) -> int:
    """Whole seconds that a poller of the gateway is asked to wait, for a job of this age."""
    return min(30, max(1, math.ceil(age * AGE_SHARE)))


class SteadyRate:
    """Evenly spaced starts, at most `rate` a second."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._free_at = -math.inf

    def ready_at(self, now: float) -> float:
        return max(self._free_at, now)

    def start(self, now: float) -> None:
        self._free_at = self.ready_at(now) + 1 / self.rate


class HostRate(SteadyRate):
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
        self._set(self._grown(now), now)
        super().start(now)

    def answered(self, job_id: str, now: float) -> None:
        self._throttled.discard(job_id)
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
