"""When to poll next, and how fast: pure decisions over monotonic seconds.

A wait is a share of the job's length as far as it is known: of its age, which it has for sure, or of a little more once
steady progress says that it is far from its end. So no job is seen late by more than that share of its length. Progress
also says when the end is near, and then the monitor is asked often. Answers that were none lengthen the wait. What
upstream asks for comes before all of it.

Over 200 made-up lives (`python -m tests.bench lives`) this takes a tenth of the polls of a fixed second.
"""

from __future__ import annotations

import math
import random

import msgspec

LENGTH_SHARE = 0.0285
JITTER = 0.03
TRUSTED_CHANGES = 5
"""Changes of progress after which its pace is believed …"""
TRUSTED_STEP = 2.0
"""… while they are no larger than so many percent …"""
TRUSTED_FROM = 2.0
"""… and beyond so many: some monitors count from 0 to 1."""
TRUST = 2.0
"""By how much that may lengthen a wait: a job that ends all at once in spite of it is seen late by twice the share."""
NEAR_WAIT = 1.2
"""Seconds between polls while the end is near: about 0.6 s late at the mean."""
NEAR_STEPS = 2.5
NEAR_PERCENT = 3.0
"""The end is near when so many steps of the size seen last are left, and no more than so many percent."""
APPROACH = 0.4
"""Share of the time until the end is near that one wait may take …"""
OVERDUE_SHARE = 0.05
"""… and of the time by which it is overdue: a job that stands at 99 % for hours is not asked all the while."""
TWICE_APART = 5.0
"""Seconds that must lie between two answers before `404` or `401` is believed."""


class Bounds(msgspec.Struct, frozen=True):
    """Shortest and longest wait of the gateway's own choice, in seconds."""

    shortest: float
    longest: float


class Progress(msgspec.Struct, frozen=True):
    """A job's progress as seen so far: the newest percentage, when it was first seen, and what the changes were like.

    `takes` is how many seconds one percent takes, the newer changes counting more the nearer the end is; `step` is the
    size of the changes in percent. Both are 0 before the first change.
    """

    newest_at: float
    newest: float
    changes: int = 0
    takes: float = 0.0
    step: float = 0.0

    def seen(self, percentage: float, now: float) -> Progress:
        grown, took = percentage - self.newest, now - self.newest_at
        if grown <= 0 or took <= 0:
            return self
        if self.changes == 0:
            return Progress(now, percentage, 1, took / grown, grown)
        weight = min(1.0, max(grown / (100 - self.newest), 0.02))
        takes = (1 - weight) * self.takes + weight * took / grown
        return Progress(now, percentage, self.changes + 1, takes, (self.step + grown) / 2)

    def remaining(self, now: float) -> float | None:
        """Seconds to the end at the pace so far, negative once it is overdue; None while there is no pace."""
        if self.changes == 0:
            return None
        return self.takes * (100 - self.newest) - (now - self.newest_at)

    def wait(self, age: float, now: float) -> float:
        """Seconds that a job of such an age may go unasked."""
        remaining = self.remaining(now)
        if remaining is None:
            return age * LENGTH_SHARE
        length = age
        if (
            self.changes >= TRUSTED_CHANGES
            and self.step <= TRUSTED_STEP
            and self.newest >= TRUSTED_FROM
            and remaining > 0
        ):
            length = min(age + remaining / 2, age * TRUST)
        left, near = 100 - self.newest, min(NEAR_STEPS * self.step, NEAR_PERCENT)
        ahead = remaining - near * self.takes
        if left <= near:
            approach = max(-remaining, 0.0) * OVERDUE_SHARE
        else:
            approach = ahead * APPROACH if ahead > 0 else -ahead * OVERDUE_SHARE
        return min(length * LENGTH_SHARE, max(approach, NEAR_WAIT))


UNSEEN = Progress(0.0, 0.0)


def next_wait(
    *,
    age: float,
    progress: Progress,
    now: float,
    failures: int,
    retry_after: float | None,
    bounds: Bounds,
    rng: random.Random,
) -> float:
    """Seconds until the next poll.

    `age` and `now` in seconds; `failures` is the number of answers in a row that were none or throttled; `retry_after`
    may lengthen the wait beyond the longest, never shorten it below the shortest.
    """
    if retry_after is not None:
        return max(retry_after, bounds.shortest) + rng.uniform(0, bounds.shortest)
    wait = progress.wait(age, now)
    if failures:
        wait = max(wait, bounds.shortest * 2.0 ** min(failures, 32))
    wait *= rng.uniform(1 - JITTER, 1 + JITTER)
    return min(max(wait, bounds.shortest), bounds.longest)


def retry_hint(age: float) -> int:
    """Whole seconds that a poller of the gateway is asked to wait, for a job of this age."""
    return min(30, max(1, math.ceil(age * LENGTH_SHARE)))


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
