"""Made-up lives of copies, and what ways of polling make of them.

The gateway's way is its own `schedule`, the one that runs; nothing here is timed, so the figures are the same anywhere.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol

import msgspec

from gateway.jobs.schedule import Bounds, Progress, next_wait

Kind = Literal["fine", "coarse", "none"]
KINDS: tuple[Kind, ...] = ("fine", "coarse", "none")
SHORTEST, LONGEST = 3.0, 4 * 3600.0
LONG = 300.0
"""Seconds from which a job counts as long in the comparison."""
BOUNDS = Bounds(0.5, 30.0)
LATE_SHARE = 0.03


class Life(msgspec.Struct, frozen=True):
    """A copy of `length` seconds; `percentages` are shown from `times` on."""

    kind: Kind
    length: float
    times: Sequence[float]
    percentages: Sequence[float]

    def percentage(self, at: float) -> float:
        return self.percentages[bisect_right(self.times, at) - 1]


class Seen(msgspec.Struct, frozen=True):
    """How a life was seen: how often it was asked, and how long after its end that was known, in seconds."""

    life: Life
    polls: int
    late: float

    @property
    def too_late(self) -> bool:
        """Later than a share of its length, the shortest wait, or the longest."""
        return self.late > min(max(LATE_SHARE * self.life.length, BOUNDS.shortest), BOUNDS.longest)


class Way(Protocol):
    """A way of polling one job."""

    def wait(self, percentage: float, now: float) -> float:
        """Seconds until the next poll after an answer at `now` seconds."""


class Fixed:
    """The same wait each time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def wait(self, percentage: float, now: float) -> float:
        return self._seconds


class Exponential:
    """From one second, half as long again each time, up to half a minute."""

    def __init__(self) -> None:
        self._next = 1.0

    def wait(self, percentage: float, now: float) -> float:
        now_, self._next = self._next, min(self._next * 1.5, 30.0)
        return now_


class Gateway:
    """The gateway's."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._progress = Progress(0.0, 0.0)

    def wait(self, percentage: float, now: float) -> float:
        self._progress = self._progress.seen(percentage, now)
        return next_wait(
            age=now, progress=self._progress, now=now, failures=0, retry_after=None, bounds=BOUNDS, rng=self._rng
        )


WAYS: dict[str, Callable[[random.Random], Way]] = {
    "gateway": Gateway,
    "each second": lambda _: Fixed(1.0),
    "each 5 s": lambda _: Fixed(5.0),
    "each 30 s (azure-core)": lambda _: Fixed(30.0),
    "exponential, 1.5": lambda _: Exponential(),
}


def life(kind: Kind, rng: random.Random) -> Life:
    """One of any length from seconds to hours, at a pace that drifts and stumbles.

    Fine progress comes in 100 to 400 steps, coarse in 2 to 10 uneven ones.
    """
    length = math.exp(rng.uniform(math.log(SHORTEST), math.log(LONGEST)))
    if kind == "none":
        return Life(kind, length, [0.0], [0.0])
    steps = rng.randint(100, 400) if kind == "fine" else rng.randint(2, 10)
    pace, took, sizes = 1.0, [], []
    for _ in range(steps):
        pace = min(max(pace * math.exp(rng.gauss(0, 0.08)), 0.3), 3.0)
        took.append(pace * rng.gammavariate(2, 0.5))
        sizes.append(1.0 if kind == "fine" else rng.uniform(0.1, 1.1))
    times, percentages = [0.0], [0.0]
    for step in range(steps):
        times.append(times[-1] + took[step] / sum(took) * length)
        percentages.append(round(percentages[-1] + sizes[step] / sum(sizes) * 100, 6))
    return Life(kind, length, times, percentages)


def follow(one: Life, way: Way) -> Seen:
    """Poll it to its end; the first poll comes after the shortest wait, whatever the way."""
    now, polls = BOUNDS.shortest, 1
    while now < one.length:
        now += way.wait(one.percentage(now), now)
        polls += 1
    return Seen(one, polls, now - one.length)


def lives(kind: Kind, number: int, seed: int) -> list[Life]:
    rng = random.Random(f"{seed} {kind}")
    return [life(kind, rng) for _ in range(number)]


def watched(kind: Kind, number: int, seed: int, way: str) -> list[Seen]:
    """Every life of a kind, as one way sees them; the same lives for all ways."""
    rng = random.Random(seed)
    return [follow(one, WAYS[way](rng)) for one in lives(kind, number, seed)]


class Compared(msgspec.Struct, frozen=True):
    """A way over many lives: polls and mean lateness of the long ones, and how many of all were seen too late."""

    long: int
    polls: int
    mean_late: float
    too_late: int


def summed(seen: Iterable[Seen]) -> Compared:
    seen = list(seen)
    long = [one for one in seen if one.life.length > LONG]
    return Compared(
        len(long),
        sum(one.polls for one in long),
        sum(one.late for one in long) / len(long),
        sum(one.too_late for one in seen),
    )


def compared(kind: Kind, number: int, seed: int, ways: Iterable[str] = WAYS) -> dict[str, Compared]:
    """Ways over the same lives."""
    return {name: summed(watched(kind, number, seed, name)) for name in ways}
