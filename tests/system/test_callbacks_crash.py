"""Callbacks of a gateway that is killed and stopped: a real process, and a real receiver that often fails."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec
import pytest
from aiohttp import web

from gateway.callbacks.limits import PER_HOST, PER_HOST_AGAIN
from tests.support.callers import Caller, calling
from tests.support.fake_receiver import ALLOWED, FakeReceiver, Post, hanging, receiving, saying
from tests.support.fake_upstream import FakeUpstream, faking, reset
from tests.support.harness import Process, tail

MANY, FEW = 1000, 150
"""Jobs of a test that has many: all with `--thorough`."""
EVERY = 3
"""One job in so many is told as it goes on; the others' callbacks want only how it ended."""
FAILING = 7
"""One job in so many fails."""
PACE = {"poll_rate": 2000, "poll_min": 0.5, "poll_max": 1.0, "drain": 10}

Verdict = Literal["delivered", "throttled", "dropped"]


@pytest.fixture
def jobs(request: pytest.FixtureRequest) -> int:
    return MANY if request.config.getoption("thorough") else FEW


class Attempt(msgspec.Struct):
    """A post and how it was answered."""

    post: Post
    verdict: Verdict

    @property
    def seq(self) -> int:
        return int(self.post.id.rpartition("_")[2])


class Flaky:
    """Fails a third of the attempts: of ten messages three once, and one twice. One failure of a callback may be a
    dropped connection: a second would mean a wait of five minutes.
    """

    def __init__(self, receiver: FakeReceiver) -> None:
        self.attempts: list[Attempt] = []
        self.delivered: set[str] = set()
        self.ended: set[str] = set()
        self._receiver = receiver
        self._left: dict[str, int] = {}
        self._dropped: set[str] = set()
        self._news = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        post = self._receiver.posts[-1]
        verdict = self._judge(post)
        self.attempts.append(Attempt(post, verdict))
        if verdict == "delivered":
            self.delivered.add(post.id)
            if post.kind != "progress":
                self.ended.add(post.path)
            self._news.set()
            return web.Response(status=204)
        if verdict == "dropped":
            return await reset(request)
        return web.Response(status=429 if len(self.attempts) % 2 else 503, headers={"Retry-After": "1"})

    def _judge(self, post: Post) -> Verdict:
        rng = random.Random(f"{post.path} {post.kind} {post.percentage}")
        planned = rng.choice((0, 0, 0, 0, 0, 0, 1, 1, 1, 2))
        left = self._left.setdefault(post.id, planned)
        if left == 0:
            return "delivered"
        self._left[post.id] -= 1
        if post.path not in self._dropped and rng.random() < 0.1:
            self._dropped.add(post.path)
            return "dropped"
        return "throttled"

    async def until(self, delivered: int = 0, ended: int = 0) -> None:
        while len(self.delivered) < delivered or len(self.ended) < ended:
            self._news.clear()
            await self._news.wait()


class Copies:
    """Monitors of a scripted upstream: once `running`, each poll of a copy shows more of it, the last how it ended."""

    def __init__(self, upstream: FakeUpstream, states: tuple[float, ...] = (25.0, 50.0, 75.0)) -> None:
        self.running = False
        self._states = states
        self._polled: Counter[str] = Counter()
        upstream.on_poll = self.poll

    async def poll(self, request: web.Request) -> web.StreamResponse:
        if not self.running:
            return web.json_response({"status": "notStarted"}, status=202)
        self._polled[request.path] += 1
        polled = self._polled[request.path]
        if polled <= len(self._states):
            state = {"status": "inProgress", "percentageComplete": self._states[polled - 1]}
            return web.json_response(state, status=202)
        if int(request.path.rpartition("/")[2]) % FAILING == 0:
            return web.json_response({"status": "failed", "error": {"code": "nameAlreadyExists", "message": "It is."}})
        return web.json_response({"status": "completed", "resourceId": "1"})


async def start_all(caller: Caller, receiver: FakeReceiver, jobs: int) -> dict[str, dict[str, Any]]:
    """So many copies, by the path of their callback."""
    paths = [f"/{number}" for number in range(jobs)]

    def wanted(number: int) -> str:
        return "progress, completed, failed" if number % EVERY == 0 else "completed, failed"

    started = await asyncio.gather(
        *(caller.copy(receiver.url + path, wanted(number)) for number, path in enumerate(paths))
    )
    return dict(zip(paths, started, strict=True))


def gave_way(attempts: list[Attempt], missing: int) -> bool:
    """Whether an event was rightly passed over: an attempt failed since the delivery before it, or at that
    delivery, since the gateway may have been killed before it had stored that it succeeded in the end.
    """
    following = next(number for number, one in enumerate(attempts) if one.seq > missing)
    before = max((one.seq for one in attempts[:following] if one.verdict == "delivered"), default=0)
    return any(one.seq >= before and one.verdict != "delivered" for one in attempts[:following])


async def test_many_callbacks_survive_two_kills(jobs: int, tmp_path: Path) -> None:
    """Every wanted event is delivered, in order; what comes twice has the same id and body."""
    async with faking() as upstream, receiving() as receiver:
        copies, flaky = Copies(upstream), Flaky(receiver)
        receiver.answer = flaky.answer
        async with calling(Process(upstream.url, tmp_path, **ALLOWED, **PACE, busy=True)) as caller:
            started = await start_all(caller, receiver, jobs)
            copies.running = True
            for delivered in (jobs * 7 // 10, jobs * 14 // 10):
                await flaky.until(delivered=delivered)
                caller.gateway.kill()
                await caller.gateway.start()
            assert len(flaky.ended) < jobs
            with anyio.move_on_after(60):
                await flaky.until(ended=jobs)
            assert flaky.ended == set(started)
            await caller.all_settled()
            logs = await asyncio.gather(*(tail(caller.session, job["events"]) for job in started.values()))
    failed = sum(attempt.verdict != "delivered" for attempt in flaky.attempts)
    assert 0.3 < failed / len(flaky.attempts) < 0.42
    # Only what was on the wire at a kill comes again.
    assert len(flaky.attempts) - failed - len(flaky.delivered) <= 2 * (PER_HOST + PER_HOST_AGAIN)
    assert any(attempt.verdict == "dropped" for attempt in flaky.attempts)
    bodies: dict[str, bytes] = {}
    by_path: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in flaky.attempts:
        post = attempt.post
        assert bodies.setdefault(post.id, post.body) == post.body
        assert post.signed_with(started[post.path]["callback"]["secret"])
        by_path[post.path].append(attempt)
    for number, (path, log) in enumerate(zip(started, logs, strict=True)):
        wanted = {int(event.id): event for event in log if event.name != "progress" or number % EVERY == 0}
        attempts = by_path[path]
        for attempt in attempts:
            event = wanted[attempt.seq]
            message = {"type": f"job.{event.name}", "timestamp": event.data["at"], "data": event.data}
            assert attempt.post.message == message
        tried = list(dict.fromkeys(attempt.seq for attempt in attempts))
        assert tried == sorted(tried)
        told = {attempt.seq for attempt in attempts if attempt.verdict == "delivered"}
        assert max(wanted) in told
        for missing in wanted.keys() - told:
            assert gave_way(attempts, missing), (path, missing, attempts)


async def test_an_attempt_in_flight_at_sigterm_is_finished_and_stored(tmp_path: Path) -> None:
    """The next start goes on behind it: everything is told once."""
    async with faking() as upstream, receiving() as receiver:
        copies = Copies(upstream)
        reached, let_go = asyncio.Event(), asyncio.Event()

        async def answer(_request: web.Request) -> web.StreamResponse:
            if len(receiver.posts) == 3:
                reached.set()
                await let_go.wait()
            return web.Response(status=204)

        receiver.answer = answer
        gateway = Process(upstream.url, tmp_path, **ALLOWED)
        async with calling(gateway) as caller:
            job = await caller.copy(receiver.url, "progress, completed")
            copies.running = True
            await reached.wait()
            gateway.signal(signal.SIGTERM)
            await caller.draining()
            let_go.set()
            assert await gateway.exited() == 0
            assert len(receiver.posts) == 3
            await gateway.start()
            await receiver.received(5)
            await caller.all_settled()
            assert [callback["state"] for callback in await caller.callbacks(job)] == ["delivered"]
            log = await tail(caller.session, job["events"])
            assert '"level":"error"' not in gateway.output()
    assert [post.message["data"] for post in receiver.posts] == [event.data for event in log]


async def test_an_attempt_that_is_not_answered_before_the_end_is_repeated(tmp_path: Path) -> None:
    """A receiver that takes its time does not hold up the end; it is told again, under the same id."""
    async with faking() as upstream, receiving() as receiver:
        Copies(upstream, states=()).running = True
        receiver.answer = hanging
        gateway = Process(upstream.url, tmp_path, **ALLOWED)
        async with calling(gateway) as caller:
            job = await caller.copy(receiver.url)
            await receiver.received(1)
            gateway.signal(signal.SIGTERM)
            assert await gateway.exited(seconds=8) == 0
            receiver.answer = saying(204)
            await gateway.start()
            first, second = await receiver.received(2)
            await caller.all_settled()
            assert [callback["state"] for callback in await caller.callbacks(job)] == ["delivered"]
    assert (first.id, first.body) == (second.id, second.body)


async def test_a_start_with_many_callbacks_due(jobs: int, tmp_path: Path) -> None:
    """It is ready as soon as any, and each is delivered once."""
    async with faking() as upstream, receiving() as receiver:
        Copies(upstream, states=()).running = True
        refused: set[str] = set()
        all_refused = asyncio.Event()

        async def later(request: web.Request) -> web.StreamResponse:
            refused.add(request.path)
            if len(refused) == jobs:
                all_refused.set()
            return web.Response(status=503, headers={"Retry-After": "1"})

        receiver.answer = later
        gateway = Process(upstream.url, tmp_path, **ALLOWED, **PACE, busy=True)
        async with calling(gateway) as caller:
            await start_all(caller, receiver, jobs)
            await all_refused.wait()
            gateway.signal(signal.SIGTERM)  # after a kill, attempts on the wire would still come in
            assert await gateway.exited() == 0
            receiver.posts.clear()
            receiver.answer = saying(204)
            gateway.spawn()
            await gateway.ready(seconds=5)
            await receiver.received(jobs)
            await caller.all_settled()
    assert Counter(post.path for post in receiver.posts) == Counter(f"/{number}" for number in range(jobs))
