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
from typing import Literal

import msgspec

from gateway.graph.dialects import Lost, NoAnswer, Observation, Throttled

LostTrack = Literal["monitorExpired", "monitorUnauthorized", "monitorUnreachable"]

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

    `seconds_per_percent` is the pace, the newer changes counting more the nearer the end is; `step` is the size of the
    changes in percent. Both are 0 before the first change.
    """

    newest_at: float
    newest: float
    changes: int = 0
    seconds_per_percent: float = 0.0
    step: float = 0.0

    def seen(self, percentage: float, now: float) -> Progress:
        grown, took = percentage - self.newest, now - self.newest_at
        if grown <= 0 or took <= 0:
            return self
        if self.changes == 0:
            return Progress(now, percentage, 1, took / grown, grown)
        weight = min(1.0, max(grown / (100 - self.newest), 0.02))
        seconds_per_percent = (1 - weight) * self.seconds_per_percent + weight * took / grown
        return Progress(now, percentage, self.changes + 1, seconds_per_percent, (self.step + grown) / 2)

    def remaining(self, now: float) -> float | None:
        """Seconds to the end at the pace so far, negative once it is overdue; None while there is no pace."""
        if self.changes == 0:
            return None
        return self.seconds_per_percent * (100 - self.newest) - (now - self.newest_at)

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


class LossState(msgspec.Struct, frozen=True):
    """`silent_since` and `lost_since` are monotonic seconds; `asked` is how many seconds of the silence upstream
    itself asked for; `failures` counts answers in a row that told nothing.
    """

    failures: int = 0
    silent_since: float | None = None
    asked: float = 0.0
    lost: Literal["monitorExpired", "monitorUnauthorized"] | None = None
    lost_since: float = 0.0


INITIAL = LossState()


def update(memory: LossState, observed: Observation, sent: float, now: float) -> tuple[LossState, LostTrack | None]:
    """What to remember after an observation whose poll was sent at `sent`, and the verdict if one is due.

    `monitorExpired` and `monitorUnauthorized` take two such answers in a row, at least five seconds apart. One alone
    tells as little as no answer: a monitor that mixes 401 with 500 for days runs out of patience too.
    """
    since = sent if memory.silent_since is None else memory.silent_since
    match observed:
        case Lost(code=code):
            if memory.lost == code:
                return memory, code if sent - memory.lost_since >= TWICE_APART else None
            return (
                LossState(memory.failures, silent_since=since, asked=memory.asked, lost=code, lost_since=now),
                None,
            )
        case Throttled() | NoAnswer():
            return LossState(memory.failures + 1, silent_since=since, asked=memory.asked), None
        case _:
            return INITIAL, None


def patience_left(memory: LossState, now: float, patience: float) -> float | None:
    """Seconds of patience left; None while the monitor answers."""
    if memory.silent_since is None:
        return None
    return patience - (now - memory.silent_since - memory.asked)


def with_requested_wait(memory: LossState, seconds: float) -> LossState:
    """After a wait that upstream asked for."""
    return msgspec.structs.replace(memory, asked=memory.asked + seconds)
