"""When to poll next, and at what pace."""

from __future__ import annotations

import random
from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.jobs.pacing import AdaptiveRate, RateLimit
from gateway.jobs.schedule import UNSEEN, Bounds, Progress, next_wait, retry_hint
from tests.bench.lives import KINDS, compared

BOUNDS = Bounds(0.5, 30.0)
TIMES = st.floats(0, 5) | st.just(0.0) | st.just(100.0)
CHANGES = st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 100)), max_size=20)


def wait(
    age: float = 0.0,
    progress: Progress = UNSEEN,
    failures: int = 0,
    retry_after: float | None = None,
    bounds: Bounds = BOUNDS,
) -> float:
    return next_wait(
        age=age,
        progress=progress,
        now=age,
        failures=failures,
        retry_after=retry_after,
        bounds=bounds,
        rng=random.Random(7),
    )


def progress_of(changes: list[tuple[float, float]]) -> tuple[Progress, float]:
    """What was seen of changes, each so many seconds after the one before, and when that was."""
    progress, now = UNSEEN, 0.0
    for later, percentage in changes:
        now += later
        progress = progress.seen(percentage, now)
    return progress, now


def steady(age: float, percentage: float) -> Progress:
    """A job that came so far in steps of one percent."""
    steps = int(percentage)
    return progress_of([(age / steps, float(step)) for step in range(1, steps + 1)])[0]


@given(CHANGES, st.floats(0, 1e6), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_a_wait_of_ones_own_choice_keeps_the_bounds(
    changes: list[tuple[float, float]], age: float, failures: int, rng: random.Random
) -> None:
    """Never shorter than the shortest, never longer than the longest."""
    progress, now = progress_of(changes)
    chosen = next_wait(age=age, progress=progress, now=now, failures=failures, retry_after=None, bounds=BOUNDS, rng=rng)
    assert 0.5 <= chosen <= 30.0


@given(st.floats(0, 1e6), st.randoms(use_true_random=False))
def test_no_job_is_seen_late_by_more_than_three_percent_of_its_age(age: float, rng: random.Random) -> None:
    """While its monitor answers and shows no progress, a job waits at most 3 % of its age, or the shortest wait."""
    chosen = next_wait(age=age, progress=UNSEEN, now=age, failures=0, retry_after=None, bounds=BOUNDS, rng=rng)
    assert chosen <= max(0.5, 0.03 * age)


@given(CHANGES, st.floats(0, 1000), st.randoms(use_true_random=False))
def test_whatever_progress_foretells_a_wait_is_at_most_six_percent_of_the_age(
    changes: list[tuple[float, float]], later: float, rng: random.Random
) -> None:
    """A job may end all at once in spite of its progress."""
    progress, now = progress_of(changes)
    now += later
    chosen = next_wait(age=now, progress=progress, now=now, failures=0, retry_after=None, bounds=BOUNDS, rng=rng)
    assert chosen <= max(0.5, 0.06 * now)


@given(st.floats(0, 1e9), st.integers(0, 40))
def test_what_upstream_asks_for_comes_first(seconds: float, failures: int) -> None:
    """Retry-After may lengthen the wait beyond the longest, never shorten it below the shortest."""
    asked = wait(retry_after=seconds, failures=failures)
    assert asked >= max(seconds, 0.5)
    assert asked <= max(seconds, 0.5) + 0.5


def test_failures_lengthen_the_wait() -> None:
    """Each answer that tells nothing doubles it."""
    assert wait(failures=1) < wait(failures=3) < wait(failures=5) < wait(failures=9) == 30.0


def test_progress_lengthens_the_wait_far_from_the_end_and_shortens_it_near() -> None:
    """Half-way through 600 s there is more time than for a job that shows nothing; at 98 % there is little."""
    assert wait(300, steady(300, 50)) > 1.4 * wait(300)
    assert wait(570, steady(570, 95)) < wait(570) / 2
    assert wait(588, steady(588, 98)) < 1.3


def test_a_job_that_stands_before_its_end_is_asked_ever_more_seldom() -> None:
    """At 99 % for hours it gets no more polls than any other of its age."""
    stands = steady(594, 99)
    waits = [wait(594 + later, stands) for later in (1, 60, 300, 3600)]
    assert waits == sorted(waits)
    assert waits[-1] == 30.0


def test_a_scale_from_0_to_1_or_few_large_steps_lengthen_nothing() -> None:
    """Only steady progress of known scale is believed."""
    small = progress_of([(30, step / 100) for step in range(1, 11)])[0]
    coarse = progress_of([(60, 10.0 * step) for step in range(1, 6)])[0]
    assert wait(300, small) == wait(300)
    assert wait(300, coarse) == wait(300)


def test_progress_foretells_the_end() -> None:
    """The time left follows from the pace so far; there is none without a pace, and the end may be overdue."""
    progress = Progress(0, 0)
    assert progress.remaining(5) is None
    progress = progress.seen(25, 10)
    assert progress.remaining(10) == 30
    assert progress.remaining(20) == 20
    assert progress.seen(20, 99) is progress
    assert progress.remaining(41) == -1
    assert progress.seen(100, 40).remaining(40) == 0


def test_what_came_last_counts_the_more_the_nearer_the_end_is() -> None:
    """Half of what was left, at half the pace, moves the forecast by half; a tenth of it, by a tenth."""
    begun = Progress(0, 0).seen(50, 50)
    assert begun.seen(75, 100).seconds_per_percent == 1.5
    assert begun.seen(55, 60).seconds_per_percent == 1.1


def test_a_poller_of_the_gateway_is_asked_to_wait_for_whole_seconds() -> None:
    """From one second for a young job to thirty for an old one."""
    assert [retry_hint(age) for age in (0, 30, 100, 5000)] == [1, 1, 3, 30]


def test_a_steady_rate_spaces_starts_evenly() -> None:
    """No burst makes up for idle time."""
    rate = RateLimit(10)
    rate.start(100.0)
    assert rate.ready_at(100.0) == 100.1
    rate.start(100.05)
    assert round(rate.ready_at(100.06), 6) == 100.2
    rate.start(200.0)
    assert rate.ready_at(200.0) == 200.1


def test_a_host_is_halved_by_throttling_and_grows_back() -> None:
    """Each throttled answer halves the rate, down to one a second; others and time raise it again."""
    host = AdaptiveRate(64)
    for job in "abcdefghij":
        host.join(job)
    host.throttled("a", 0.0, 1.0)
    assert host.rate == 32
    for _ in range(9):
        host.throttled("a", 0.0, 1.0)
    assert host.rate == 1
    host.answered("b", 0.0)
    assert host.rate == 1.25
    host.answered("b", 10.0)
    assert host.rate > 32
    host.answered("b", 40.0)
    assert host.rate == 64


def test_a_host_slower_than_one_a_second_keeps_its_own_rate() -> None:
    """The floor does not lift a rate that the operator set below it."""
    host = AdaptiveRate(0.5)
    host.join("a")
    host.throttled("a", 0.0, 1.0)
    assert host.rate == 0.5


def test_a_host_pauses_only_while_most_of_its_jobs_are_throttled() -> None:
    """One of two is not most; two of three are; the pause is a minute at most, and over when one answers."""
    host = AdaptiveRate(10)
    for job in "abc":
        host.join(job)
    host.throttled("a", 0.0, 600.0)
    assert host.ready_at(1.0) == 1.0
    host.throttled("b", 0.0, 600.0)
    assert host.ready_at(1.0) == 60.0
    host.answered("b", 1.0)
    assert host.ready_at(1.0) == 1.0
    host.throttled("b", 2.0, 600.0)
    host.leave("c")
    host.join("d")
    host.join("e")
    assert host.ready_at(2.0) == 2.0


@given(st.lists(st.integers(0, 19), min_size=200, max_size=400), st.randoms(use_true_random=False))
def test_one_hostile_job_of_many_does_not_slow_the_host(order: list[int], rng: random.Random) -> None:
    """A job that is always throttled, polled no more often than its nineteen neighbours, leaves the rate high."""
    host = AdaptiveRate(500)
    for job in range(20):
        host.join(str(job))
    now = 0.0
    for job in [*order, *range(1, 20), *range(1, 20)]:
        now += 0.002
        if job == 0 and rng.random() < 0.5:
            host.throttled("0", now, 1.0)
        else:
            host.answered(str(job), now)
    assert host.rate > 250
    assert host.ready_at(now) <= now


def test_few_throttled_answers_in_a_row_halve_a_host_once() -> None:
    """Up to a seventh of the latest answers; a host that throttles more is slowed by each, down to one a second."""
    host = AdaptiveRate(512)
    for job in range(500):
        host.join(str(job))
    for job in range(200):
        host.answered(str(job), 0.0)
    for job in range(200, 216):
        host.throttled(str(job), 0.0, 1.0)
        assert host.rate == 256
    host.answered("216", 0.0)
    assert host.rate == 320
    for job in range(217, 260):
        host.throttled(str(job), 0.0, 1.0)
    assert host.rate == 1


@pytest.mark.parametrize("capacity", [50, 100, 200])
def test_a_host_of_limited_capacity_is_polled_near_it(capacity: int) -> None:
    """It throttles all beyond its capacity: most of that is used, and at most a fifth of the answers is throttled."""
    host, now, throttled, polls = AdaptiveRate(500), 0.0, 0, 0
    for job in range(300):
        host.join(str(job))
    jobs, used, second = cycle(map(str, range(300))), 0, 0
    while now < 60:
        now = host.ready_at(now)
        host.start(now)
        if int(now) > second:
            second, used = int(now), 0
        used, polls = used + 1, polls + 1
        if used > capacity:
            throttled += 1
            host.throttled(next(jobs), now, 1.0)
        else:
            host.answered(next(jobs), now)
    assert throttled < 0.2 * polls
    assert polls - throttled > 0.6 * 60 * capacity


STEPS = st.lists(
    st.tuples(st.sampled_from(["answered", "throttled", "start", "leave", "join"]), st.sampled_from("abcde"), TIMES),
    max_size=60,
)


@given(STEPS, st.sampled_from([0.2, 1.0, 7.0, 500.0]))
def test_a_hosts_rate_and_pause_keep_their_bounds(steps: list[tuple[str, str, float]], fastest: float) -> None:
    """Under any history: never above the operator's rate, never below one a second, never silent for over a minute."""
    host = AdaptiveRate(fastest)
    for job in "abcde":
        host.join(job)
    now = 0.0
    for what, job, later in steps:
        now += later
        match what:
            case "answered":
                host.answered(job, now)
            case "throttled":
                host.throttled(job, now, later * 10)
                assert host.rate <= max(fastest / 2, min(1.0, fastest))
            case "start":
                if host.ready_at(now) <= now:
                    host.start(now)
            case "leave":
                host.leave(job)
            case _:
                host.join(job)
        assert min(1.0, fastest) <= host.rate <= fastest
        assert now <= host.ready_at(now) <= now + max(AdaptiveRate.LONGEST_PAUSE, 1 / min(1.0, fastest))


@given(st.sets(st.integers(0, 9)), st.integers(1, 10))
def test_most_means_more_than_half(throttled: set[int], jobs: int) -> None:
    """The host pauses exactly when more than half of the jobs it has are throttled."""
    host = AdaptiveRate(1000)
    for job in range(jobs):
        host.join(str(job))
    for job in throttled:
        if job < jobs:
            host.throttled(str(job), 0.0, 30.0)
    silent = sum(job < jobs for job in throttled)
    assert (host.ready_at(0.0) > 0) == (silent > jobs / 2)


def test_a_job_that_left_does_not_count() -> None:
    """Neither among the throttled nor among all; the last one out is told so."""
    host = AdaptiveRate(10)
    for job in "abc":
        host.join(job)
    host.throttled("a", 0.0, 30.0)
    host.throttled("b", 0.0, 30.0)
    assert host.ready_at(1.0) == 30.0
    host.leave("a")
    assert host.ready_at(1.0) == 1.0
    host.leave("c")
    assert host.ready_at(1.0) == 30.0
    host.leave("b")


def test_time_alone_brings_a_host_back() -> None:
    """Twenty seconds after a storm of throttled answers the next start is made at the full rate."""
    host = AdaptiveRate(100)
    host.join("a")
    for _ in range(20):
        host.throttled("a", 0.0, 0.0)
    assert host.rate == 1
    host.start(10.0)
    assert host.rate == 51
    host.start(20.0)
    assert host.rate == 100


@given(st.floats(0, 1e5), st.floats(0.001, 1e5), st.integers(0, 60), st.none() | st.floats(0, 1e5))
def test_odd_bounds_are_kept_too(age: float, shortest: float, failures: int, asked: float | None) -> None:
    """Whatever the operator set, also the shortest equal to the longest."""
    bounds = Bounds(shortest, shortest)
    chosen = wait(age=age, failures=failures, retry_after=asked, bounds=bounds)
    if asked is None:
        assert chosen == shortest
    else:
        assert max(asked, shortest) <= chosen <= max(asked, shortest) + shortest


def test_a_wait_without_end_is_no_error() -> None:
    """A Retry-After of 400 digits waits for the deadline."""
    assert wait(retry_after=float("inf")) == float("inf")


def test_a_made_up_copy_is_seen_in_time_with_a_tenth_of_the_polls() -> None:
    """Against a fixed second, for jobs over five minutes whose progress is fine: a tenth of its polls, twice its lag.

    No life of any kind is seen later than 3 % of its length, the shortest wait or the longest.
    """
    found = {kind: compared(kind, 200, 1, ("gateway",)) for kind in KINDS}
    assert not any(row["gateway"].too_late for row in found.values())
    ours, second = found["fine"]["gateway"], compared("fine", 200, 1, ("each second",))["each second"]
    assert ours.polls <= 0.1 * second.polls
    assert ours.mean_late <= 2 * second.mean_late
