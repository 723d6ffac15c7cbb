"""Turns under a rate, in virtual time."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from gateway.jobs.pacing import AdaptiveRate, HungLane, RateLimit, StartQueue

pytestmark = pytest.mark.virtual_time


class Starts:
    """Who had a turn, and when."""

    def __init__(self, turns: StartQueue) -> None:
        self.turns = turns
        self.seen: list[tuple[str, float]] = []

    async def wait(self, name: str) -> None:
        await self.turns.take()
        self.seen.append((name, asyncio.get_running_loop().time()))

    @property
    def names(self) -> str:
        return "".join(name for name, _ in self.seen)

    @property
    def times(self) -> list[float]:
        return [round(at, 3) for _, at in self.seen]


async def test_a_free_turn_is_had_at_once() -> None:
    """Whoever comes slower than the rate never waits."""
    starts = Starts(StartQueue(RateLimit(10)))
    for name in "abc":
        await starts.wait(name)
        await anyio.sleep(1)
    assert starts.times == [0, 1, 2]


async def test_a_crowd_starts_in_order_and_evenly_spaced() -> None:
    """First come, first served, however many come at once."""
    starts = Starts(StartQueue(RateLimit(10)))
    async with anyio.create_task_group() as tasks:
        for name in "abcdef":
            tasks.start_soon(starts.wait, name)
    assert starts.names == "abcdef"
    assert starts.times == [0, 0.1, 0.2, 0.3, 0.4, 0.5]


async def test_the_rate_holds_over_a_long_crowd() -> None:
    """A thousand starts at 500 a second take two seconds, no less and hardly more."""
    starts = Starts(StartQueue(RateLimit(500)))
    async with anyio.create_task_group() as tasks:
        for _ in range(1001):
            tasks.start_soon(starts.wait, "x")
    assert starts.times[-1] == pytest.approx(2.0, abs=0.01)
    gaps = [after - before for before, after in zip(starts.times, starts.times[1:], strict=False)]
    assert min(gaps) >= 0.001


async def test_nobody_overtakes_those_who_wait() -> None:
    """A newcomer queues even at the very moment the rate has a start to give."""
    starts = Starts(StartQueue(RateLimit(1)))
    async with anyio.create_task_group() as tasks:
        for name in "ab":
            tasks.start_soon(starts.wait, name)
        await anyio.sleep(1)
        await starts.wait("c")
    assert starts.names == "abc"


async def test_a_cancelled_wait_takes_no_turn() -> None:
    """Neither at the head of the queue nor within it; those behind move up."""
    starts = Starts(StartQueue(RateLimit(1)))
    await starts.wait("a")
    scopes = {name: anyio.CancelScope() for name in "bcde"}

    async def waiting(name: str) -> None:
        with scopes[name]:
            await starts.wait(name)

    async with anyio.create_task_group() as tasks:
        for name in scopes:
            tasks.start_soon(waiting, name)
        await anyio.sleep(0.5)
        scopes["b"].cancel()
        scopes["d"].cancel()
    assert starts.names == "ace"
    assert starts.times == [0, 1, 2]


async def test_a_queue_of_the_cancelled_holds_up_nobody() -> None:
    """Who comes after they all left waits for the rate and no longer."""
    starts = Starts(StartQueue(RateLimit(1)))
    await starts.wait("a")
    for _ in range(3):
        with anyio.move_on_after(0.1):
            await starts.wait("never")
    await starts.wait("b")
    await anyio.sleep(9)
    await starts.wait("c")
    assert starts.names == "abc"
    assert starts.times == [0, 1, 10]


async def test_a_pause_that_ends_early_lets_the_queue_go() -> None:
    """`look` after an answer is enough: nobody waits for a timer that was set before."""
    rate = AdaptiveRate(100)
    rate.join("job")
    rate.throttled("job", 0.0, 60.0)
    starts = Starts(StartQueue(rate))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(starts.wait, "a")
        await anyio.sleep(20)
        assert starts.seen == []
        rate.answered("job", 20.0)
        starts.turns.look()
    assert starts.times == [20]


async def test_a_pause_that_begins_late_holds_the_queue() -> None:
    """Those whose timer was already set wait for the pause to end."""
    rate = AdaptiveRate(1)
    rate.join("job")
    starts = Starts(StartQueue(rate))
    await starts.wait("a")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(starts.wait, "b")
        await anyio.sleep(0.5)
        rate.throttled("job", 0.5, 30.0)
    assert starts.times == [0, 30.5]


async def test_many_turns_within_a_tick_take_no_timer_each() -> None:
    """At ten thousand a second ten of them fall into each millisecond, and none makes the loop turn in vain."""
    loop = asyncio.get_running_loop()
    turns = StartQueue(RateLimit(10_000))
    looks = 0
    look = turns.look

    def counted() -> None:
        nonlocal looks
        looks += 1
        look()

    turns.look = counted  # type: ignore[method-assign]
    begun = loop.time()
    await asyncio.gather(*(turns.take() for _ in range(1000)))
    assert 0.09 <= loop.time() - begun <= 0.11
    assert looks <= 1000 + 150


async def test_the_lane_lets_the_fewest_hangs_through_first() -> None:
    """Among equals the first that came; one that was cancelled takes no place with it."""
    lane, seen = HungLane(1), []

    async def poll(name: str, hangs: int) -> None:
        await lane.enter(hangs)
        seen.append(name)
        await anyio.sleep(10)
        lane.leave()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(poll, "first", 9)
        await anyio.sleep(1)
        for name, hangs in (("five a", 5), ("five b", 5), ("seven", 7), ("three", 3)):
            tasks.start_soon(poll, name, hangs)
        with anyio.move_on_after(1):
            await poll("impatient", 1)
    assert seen == ["first", "three", "five a", "five b", "seven"]
    assert asyncio.get_running_loop().time() == pytest.approx(50)


async def test_a_place_given_in_the_moment_of_a_cancellation_is_given_on() -> None:
    """Who leaves with a place in hand gives it to the next."""
    lane, seen = HungLane(1), []

    async def poll(name: str) -> None:
        await lane.enter(1)
        seen.append(name)

    await lane.enter(0)
    first, second = asyncio.create_task(poll("first")), asyncio.create_task(poll("second"))
    await anyio.sleep(1)
    lane.leave()
    first.cancel()
    await second
    assert (seen, first.cancelled()) == (["second"], True)
