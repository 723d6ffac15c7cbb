"""When to poll next: pure decisions over monotonic seconds.

A wait is a share of the job's known length. This is the job's age, or a moderately longer estimate once steady
progress shows that the end is far. So the end of a job is seen late by that share of its length at most. Progress also
shows when the end is near; the monitor is then polled often. Polls without a usable answer lengthen the wait (backoff).
A wait that upstream asks for takes precedence.

Over 200 made-up jobs (`python -m tests.bench lives`) this takes a tenth of the polls of a fixed wait of one second.
"""

from __future__ import annotations

import math
import random

import msgspec

from gateway.graph.operations import Operation

LENGTH_SHARE = 0.0285
"""Share of the job's known length that a wait may take."""
JITTER = 0.03
"""Jitter of a wait, as a share of the wait."""
TRUSTED_CHANGES = 5
"""Changes of progress after which its pace is trusted …"""
TRUSTED_STEP = 2.0
"""… while their recent size is no larger than this, in percent …"""
TRUSTED_FROM = 2.0
"""… and the progress has reached this, in percent: some monitors count from 0 to 1."""
TRUST = 2.0
"""Bound of the estimated length, in ages: a job that then ends suddenly is seen late by twice the share."""
NEAR_WAIT = 1.2
"""Seconds between polls while the end is near: the end is seen about 0.6 s late on average."""
NEAR_STEPS = 2.5
NEAR_PERCENT = 3.0
"""The end is near when at most `NEAR_STEPS` steps of the recent size and at most `NEAR_PERCENT` percent are left."""
APPROACH = 0.4
"""Share that one wait may take of the time until the end is near …"""
OVERDUE_SHARE = 0.05
"""… and of the time by which the end is overdue: a job that stays at 99 % for hours is not polled often."""
HUNG_WAIT = 8.0
"""Longest wait in seconds after a poll that timed out, unless upstream asks for more. With the poll's own time, a
monitor that works again is asked within 20 s."""


class Bounds(msgspec.Struct, frozen=True):
    """The shortest and longest wait that the gateway chooses by itself, in seconds."""

    shortest: float
    longest: float


def bounds_of(operation: Operation, own: Bounds) -> Bounds:
    """The bounds for the jobs of an operation, which may want longer waits than the gateway's own."""
    if operation.longest is None and operation.shortest <= own.shortest:
        return own
    shortest = max(operation.shortest, own.shortest)
    return Bounds(shortest, max(shortest, operation.longest or own.longest))


class Progress(msgspec.Struct, frozen=True):
    """A job's progress so far. `newest` is the newest percentage, `newest_at` when it was first seen.

    `seconds_per_percent` is the pace; the nearer the end, the more the newest change counts. `step` is the recent size
    of the changes in percent. Both are 0 before the first change.
    """

    newest_at: float
    newest: float
    changes: int = 0
    seconds_per_percent: float = 0.0
    step: float = 0.0

    def seen(self, percentage: float, now: float) -> Progress:
        """The progress after an answer with a percentage."""
        grown, took = percentage - self.newest, now - self.newest_at
        if grown <= 0 or took <= 0:
            return self
        if self.changes == 0:
            return Progress(now, percentage, 1, took / grown, grown)
        weight = min(1.0, max(grown / (100 - self.newest), 0.02))
        seconds_per_percent = (1 - weight) * self.seconds_per_percent + weight * took / grown
        return Progress(now, percentage, self.changes + 1, seconds_per_percent, (self.step + grown) / 2)

    def remaining(self, now: float) -> float | None:
        """Estimated seconds until the end, negative once the end is overdue; None before the first change."""
        if self.changes == 0:
            return None
        return self.seconds_per_percent * (100 - self.newest) - (now - self.newest_at)

    def wait(self, age: float, now: float) -> float:
        """Seconds until the next poll of a job with this age in seconds."""
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
        ahead = remaining - near * self.seconds_per_percent
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
    hung: bool = False,
) -> float:
    """Seconds until the next poll.

    `age` and `now` in seconds; `failures` counts the polls in a row without a good answer, throttled polls included;
    `hung` says that the last poll timed out. `retry_after` may lengthen the wait beyond the longest, never shorten it
    below the shortest.
    """
    if retry_after is not None:
        return max(retry_after, bounds.shortest) + rng.uniform(0, bounds.shortest)
    wait = progress.wait(age, now)
    if failures:
        wait = max(wait, bounds.shortest * 2.0 ** min(failures, 32))
    if hung:
        wait = min(wait, HUNG_WAIT)
    wait *= rng.uniform(1 - JITTER, 1 + JITTER)
    return min(max(wait, bounds.shortest), bounds.longest)


def retry_hint(age: float) -> int:
    """`Retry-After` for clients that poll the gateway, in whole seconds, for a job with this age in seconds."""
    return min(30, max(1, math.ceil(age * LENGTH_SHARE)))
