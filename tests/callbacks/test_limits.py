"""Room for attempts: what thousands of receivers that hang, or fail and come again, cannot do to one that works."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from gateway.callbacks import limits
from gateway.callbacks.engine import Callbacks
from gateway.callbacks.limits import PER_HOST, PER_HOST_AGAIN, QUICK_AT_ONCE, SLOW, Limits
from gateway.callbacks.receivers import Receivers
from gateway.core.callback import Callback, Delivered, Failed, Outcome, callback_request, new_callback
from gateway.core.job import Event
from gateway.store import Slice
from tests.support.fake_receiver import SECRET
from tests.support.harness import runtime

pytestmark = pytest.mark.virtual_time

BEGUN = 1_790_000_000.0
REFUSED = Failed("answered 500")


def now() -> float:
    return asyncio.get_running_loop().time()


async def answer(seconds: float, outcome: Outcome = Delivered()) -> Outcome:  # noqa: B008 - it never changes
    await anyio.sleep(seconds)
    return outcome


class Attempts:
    """Attempts at hosts in lanes; how they went, and when, by the names they are given."""

    def __init__(self, tasks: Any) -> None:
        self.limits = Limits()
        self.began: dict[str, float] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.at_once: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self._tasks = tasks

    async def make(self, name: str, host: str, seconds: float, outcome: Outcome, *, failing: bool) -> None:
        async with self.limits.turn(host, failing=failing) as turn:
            self.began[name] = now()
            for counted in (host, ""):
                self.at_once[counted] += 1
                self.most[counted] = max(self.most[counted], self.at_once[counted])
            try:
                self.outcomes[name] = await turn.run(answer(seconds, outcome))
            finally:
                self.at_once.subtract([host, ""])

    def begin(self, name: str, host: str, seconds: float, outcome: Outcome = REFUSED, *, failing: bool = False) -> None:
        async def make() -> None:
            await self.make(name, host, seconds, outcome, failing=failing)

        self._tasks.start_soon(make)

    async def known(self, *hosts: str) -> None:
        """These have delivered quickly."""
        for host in hosts:
            await self.make("known", host, 0.1, Delivered(), failing=False)


@pytest.fixture
async def attempts() -> AsyncIterator[Attempts]:
    async with anyio.create_task_group() as tasks:
        yield Attempts(tasks)
        tasks.cancel_scope.cancel()


async def test_one_that_works_never_waits(attempts: Attempts) -> None:
    """Neither for thousands of names that nobody knows nor for thousands that come again."""
    await attempts.known("good")
    for number in range(2000):
        attempts.begin(f"new{number}", f"new{number}", 14)
        attempts.begin(f"again{number}", f"again{number}", 14, failing=True)
    for number in range(20):
        await anyio.sleep(3)
        asked = now()
        await attempts.make(f"good{number}", "good", 0.1, Delivered(), failing=False)
        assert attempts.began[f"good{number}"] == asked
    assert attempts.most[""] <= limits.AT_ONCE


async def test_one_that_nobody_knows_waits_a_moment(attempts: Attempts) -> None:
    """However many came before it."""
    for number in range(2000):
        attempts.begin(f"new{number}", f"new{number}", 14)
    await anyio.sleep(3.5)
    asked = now()
    await attempts.make("another", "another", 0.1, Delivered(), failing=False)
    assert attempts.began["another"] - asked <= SLOW


async def test_hosts_that_turn_slow_leave_the_quick_their_room(attempts: Attempts) -> None:
    """However many were known to be quick, and as often as they seem to be so again."""
    bad = [f"bad{number}" for number in range(60)]
    await attempts.known("good", *bad)
    for turn in range(5):
        for host in bad:
            for number in range(PER_HOST):
                attempts.begin(f"{host}.{turn}.{number}", host, 0.1 if number == 0 else 14, Delivered())
        await anyio.sleep(SLOW / 2)
        asked = now()
        await attempts.make(f"good{turn}", "good", 0.1, Delivered(), failing=False)
        assert attempts.began[f"good{turn}"] - asked <= SLOW * 60 * PER_HOST / QUICK_AT_ONCE
        await anyio.sleep(20)


async def test_an_answer_that_takes_its_time(attempts: Attempts) -> None:
    """Is waited for, while there is room for those that do; then it is broken off, to come again."""
    room = limits.LATE_AT_ONCE
    for number in range(limits.NEW_AT_ONCE * 2):
        attempts.begin(str(number), f"host{number}", 10, Delivered())
    await anyio.sleep(30)
    ends = Counter(type(outcome).__name__ for outcome in attempts.outcomes.values())
    assert ends == {"Delivered": room, "Failed": limits.NEW_AT_ONCE * 2 - room}
    (reason,) = {outcome.reason for outcome in attempts.outcomes.values() if isinstance(outcome, Failed)}
    assert reason == "no answer within 1 s, while too many others gave none either"
    attempts.begin("again", "host1", 10, Delivered(), failing=True)
    await anyio.sleep(11)
    assert attempts.outcomes["again"] == Delivered()


@pytest.mark.parametrize("seconds", [0.0, 0.9])
async def test_what_makes_a_host_quick(attempts: Attempts, seconds: float) -> None:
    """That it took what it was sent, in time; until it does not."""
    known = attempts.limits._known
    await attempts.make("1", "host", seconds, REFUSED, failing=False)
    assert not known
    await attempts.make("2", "host", seconds, Delivered(), failing=False)
    assert list(known) == ["host"]
    await attempts.make("3", "host", seconds, REFUSED, failing=False)
    assert list(known) == ["host"]
    await attempts.make("4", "host", 1.1, Delivered(), failing=False)
    assert not known


async def test_one_quick_path_says_nothing_while_others_are_slow(attempts: Attempts) -> None:
    """Of the same host."""
    await attempts.known("host")
    attempts.begin("slow", "host", 14)
    await anyio.sleep(2)
    await attempts.make("quick", "host", 0.1, Delivered(), failing=False)
    assert not attempts.limits._known
    await anyio.sleep(14)
    await attempts.known("host")
    assert list(attempts.limits._known) == ["host"]


async def test_an_attempt_that_is_broken_off_was_slow(attempts: Attempts) -> None:
    """Else a host would be quick whose callbacks are removed in time."""
    await attempts.known("host")
    with anyio.move_on_after(0.5):
        await attempts.make("removed", "host", 14, REFUSED, failing=False)
    assert not attempts.limits._known
    assert not attempts.limits._hosts


async def test_a_host_has_so_many_places(attempts: Attempts) -> None:
    """And others for what failed, so that this keeps nothing else of it waiting."""
    for number in range(50):
        attempts.begin(f"again{number}", "host", 14, failing=True)
    await anyio.sleep(0.1)
    assert attempts.at_once["host"] == PER_HOST_AGAIN
    for number in range(50):
        attempts.begin(f"new{number}", "host", 14)
    await anyio.sleep(0.1)
    assert attempts.at_once["host"] == PER_HOST_AGAIN + PER_HOST


async def test_how_many_hosts_are_remembered(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were quick last."""
    monkeypatch.setattr(limits, "QUICK_REMEMBERED", 2)
    await attempts.known("a", "b", "a", "c")
    assert list(attempts.limits._known) == ["a", "c"]


async def test_a_place_that_nobody_takes_is_not_lost(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    """When whoever waited for it goes in the moment it comes, or went before."""
    lane = limits._NewestFirst(1)
    await lane.acquire()
    gone, waits = (asyncio.create_task(lane.acquire()) for _ in range(2))
    await asyncio.sleep(0)
    lane.release()
    waits.cancel()
    await asyncio.sleep(0)
    assert (gone.done(), waits.cancelled()) == (False, True)
    await asyncio.sleep(0)
    assert gone.done()
    late = asyncio.create_task(lane.acquire())
    await asyncio.sleep(0)
    late.cancel()
    lane.release()
    await asyncio.sleep(0)
    with anyio.fail_after(1):
        await lane.acquire()


class Ended:
    """In the place of the store: every job has ended."""

    async def heads(self, job_ids: Sequence[str]) -> list[Slice | None]:
        return [Slice(head=2, ended=True, events=[]) for _ in job_ids]

    async def read(self, wanted: Sequence[tuple[str, int]], limit: int) -> list[Slice | None]:
        last = Event(seq=2, kind="completed", status_changed=True, data=b'{"at":"2026-01-01T00:00:00Z"}')
        return [Slice(head=2, ended=True, events=[last] if after < 2 else []) for _, after in wanted]

    async def save_callback(self, callback: Callback) -> bool:
        return True


class Recorder(Receivers):
    """In the place of the network: `behave` says how a receiver does, `first` when it was first asked."""

    def __init__(self, behave: Callable[[str], tuple[float, Outcome]]) -> None:
        self._behave = behave
        self.first: dict[str, float] = {}
        self.at_once = self.most = 0

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, now: float) -> Outcome:
        self.first.setdefault(url, anyio.current_time())
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            seconds, outcome = self._behave(url)
            return await answer(seconds, outcome)
        finally:
            self.at_once -= 1


@asynccontextmanager
async def delivering(recorder: Recorder) -> AsyncIterator[Callable[[str], None]]:
    """What registers a callback of a job of its own."""
    async with anyio.create_task_group() as tasks:
        clock = lambda: BEGUN + now()  # noqa: E731 - a clock
        store: Any = Ended()
        engine = Callbacks(store, recorder, runtime(tasks, clock))
        engine.start()

        def register(url: str) -> None:
            engine.take(
                new_callback(callback_request(url, ["completed"], SECRET), f"job of {url}", f"id of {url}", BEGUN)
            )

        yield register
        tasks.cancel_scope.cancel()


async def test_what_failed_comes_again_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it keeps only its like waiting, whatever its host did to others."""
    monkeypatch.setattr(limits, "AGAIN_AT_ONCE", 1)
    asked: Counter[str] = Counter()

    def behave(url: str) -> tuple[float, Outcome]:
        asked[url] += 1
        return (0.1 if asked[url] == 1 else 14), REFUSED

    recorder = Recorder(behave)
    async with delivering(recorder) as register:
        for number in range(5):
            register(f"https://receiver{number}.example/")
        await anyio.sleep(3)
        assert (len(asked), recorder.most) == (5, 5)
        recorder.most = 0
        await anyio.sleep(60)
        assert (asked.total(), recorder.most) == (10, 1)


async def test_one_that_breaks_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its neighbours nor the gateway, and it is not kept up for ever."""
    read = Ended.read

    async def damaged(self: Ended, wanted: Sequence[tuple[str, int]], limit: int) -> list[Slice | None]:
        if wanted[0][0].endswith("bad/"):
            return [Slice(head=2, ended=True, events=[Event(seq=2, kind="completed", status_changed=True, data=b"{")])]
        return await read(self, wanted, limit)

    monkeypatch.setattr(Ended, "read", damaged)
    recorder = Recorder(lambda _url: (0.1, Delivered()))
    async with delivering(recorder) as register:
        for url in ("https://one.example/", "https://two.example/bad/", "https://three.example/"):
            register(url)
        await anyio.sleep(20)
        register("https://four.example/")
        await anyio.sleep(1)
        assert sorted(recorder.first) == sorted(f"https://{name}.example/" for name in ("one", "three", "four"))


def spelled(number: int) -> str:
    """One host, in one of very many ways."""
    name = "".join(c.upper() if number >> at & 1 else c for at, c in enumerate("slowreceiver"))
    return f"{name}.example{'.' if number % 3 else ''}{':0443' if number % 2 else ''}"


async def test_receivers_that_work_are_told_at_once() -> None:
    """While 2,000 receivers hold each attempt, 2,000 answer just in time that they want to be asked again at once, and
    one that has its name spelled in 2,000 ways holds what it gets.
    """

    def behave(url: str) -> tuple[float, Outcome]:
        if "good" in url:
            return 0.1, Delivered()
        return (4.9, Failed("answered 429", 0.0)) if "asking" in url else (14, Failed("no answer"))

    recorder = Recorder(behave)
    async with delivering(recorder) as register:
        register("https://good.example/first")
        await anyio.sleep(1)
        for number in range(2000):
            register(f"https://holding{number}.example/")
            register(f"https://asking{number}.example/")
            register(f"https://{spelled(number)}/{number}")
        for number, when in enumerate((5, 20, 60, 200)):
            await anyio.sleep(when - now())
            for url in (f"https://good.example/{number}", f"https://good{number}.example/"):
                register(url)
                await anyio.sleep(1.9)
                assert recorder.first[url] - when < 2 if "good.example" in url else url in recorder.first
        assert recorder.most <= limits.AT_ONCE
