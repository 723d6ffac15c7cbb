"""The callbacks' engine on the store's files in one process after another, and what all of them must come to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec

from gateway.callbacks.engine import Callbacks
from gateway.callbacks.receivers import Receivers
from gateway.core.callback import Callback, Delivered, Gone, Outcome, callback_request, new_callback
from gateway.core.job import Answer, Kind, advance
from gateway.store.sqlite import SQLiteStore
from tests.support.dying import SteppingLoop
from tests.support.fake_receiver import SECRET
from tests.support.harness import runtime
from tests.support.stores import open_sqlite

BEGUN = 1_790_000_000.0
Outcomes = Callable[[str], Outcome]


class Attempt(msgspec.Struct):
    callback: str
    seq: int
    message_id: str
    body: bytes
    outcome: Outcome


class Killed(msgspec.Struct):
    """The process that made what stands before it is dead."""


class Retried(msgspec.Struct):
    callback: str


class Removed(msgspec.Struct):
    callback: str


class World:
    """What outlives a process: the receivers, what they and the callers saw, and the copies upstream."""

    def __init__(self, outcomes: Outcomes, seen: Sequence[Any] = ()) -> None:
        self.outcomes = outcomes
        self.seen: list[Any] = list(seen)

    def attempts(self, callback_id: str) -> list[Attempt]:
        return [one for one in self.seen if isinstance(one, Attempt) and one.callback == callback_id]


class Recorder(Receivers):
    """In the place of the network: an attempt takes a while before it comes in, and its answer a while to come back."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dead = False

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, now: float) -> Outcome:
        await anyio.sleep(0.01)
        if self.dead:
            return Delivered()
        _, callback_id, seq = headers["webhook-id"].split("_")
        outcome = self.world.outcomes(callback_id)
        assert url.endswith("/" + callback_id)
        self.world.seen.append(Attempt(callback_id, int(seq), headers["webhook-id"], body, outcome))
        await anyio.sleep(0.01)
        return outcome


class Life:
    """One process on the store's files."""

    def __init__(self, store: SQLiteStore, engine: Callbacks) -> None:
        self.store = store
        self.engine = engine

    async def grow(self, job_id: str, length: int) -> None:
        """The job's log up to so many events, the last of which is its end."""
        job = await self.store.get(job_id)
        assert job is not None
        while not job.state.ended:
            await anyio.sleep(0.05)
            answer = Answer(status="inProgress", percentage=job.seq)
            if job.seq + 1 >= length:
                answer = Answer(status="completed")
            job, events = advance(job, answer, BEGUN)
            assert await self.store.append(job, events)

    async def settled(self) -> None:
        """No callback is active any more."""
        while self.engine._active:  # noqa: ASYNC110 - it has no event
            await anyio.sleep(1)


@asynccontextmanager
async def life(folder: Path, recorder: Recorder, later: float = 0.0) -> AsyncIterator[Life]:
    loop = asyncio.get_running_loop()
    store = open_sqlite(folder / "s.db", 100)
    try:
        async with anyio.create_task_group() as tasks:
            engine = Callbacks(store, recorder, runtime(tasks, lambda: BEGUN + later + loop.time()))
            store.on_change = lambda job_id, _events: engine.wake(job_id)
            engine.start()
            engine.resume(await store.claim_callbacks())
            yield Life(store, engine)
            tasks.cancel_scope.cancel()
    finally:
        await store.close()


def lived(before_step: Callable[[], None], main: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=lambda: SteppingLoop(before_step)) as runner:
        runner.run(main())


def wanting(callback_id: str, job_id: str, kinds: Sequence[Kind]) -> Callback:
    asked = callback_request(f"https://receiver.example.com/{callback_id}", list(kinds), SECRET)
    return new_callback(asked, job_id, callback_id, BEGUN)


class Kept(msgspec.Struct, frozen=True):
    """What the store may have of a callback: its cursor, the event that failed last if it is failing, and `gone`."""

    cursor: int = 0
    failed: int = 0
    gone: bool = False

    def allows(self, seq: int, wanted: Sequence[int]) -> bool:
        """The next event it wants; while it is failing, any that is no older than what failed."""
        if self.gone:
            return False
        if self.failed:
            return seq in wanted and seq >= self.failed
        return seq == next((number for number in wanted if number > self.cursor), None)

    def after(self, attempt: Attempt) -> Kept:
        if isinstance(attempt.outcome, Delivered):
            return Kept(attempt.seq)
        return Kept(self.cursor, attempt.seq, isinstance(attempt.outcome, Gone))


def check(world: World, callback: Callback, wanted: Sequence[int]) -> None:
    """Every event it wants, at least once and in order; only what failed gives way; doubles can be told as such.

    An attempt is known to the store once the next begins, unless a kill or a retry came between: then it may not be.
    """
    possible, unsaved = {Kept()}, set[Kept]()
    told: list[int] = []
    for one in world.seen:
        if isinstance(one, Killed):
            possible |= unsaved
        if getattr(one, "callback", None) != callback.id:
            continue
        if isinstance(one, Retried):
            possible = {Kept(kept.cursor, kept.failed) for kept in possible | unsaved}
        elif isinstance(one, Attempt):
            unsaved = {kept for kept in possible if kept.allows(one.seq, wanted)}
            assert unsaved, (one.seq, possible)
            possible = {kept.after(one) for kept in unsaved}
            if isinstance(one.outcome, Delivered):
                told.append(one.seq)
    assert told == sorted(told)
    assert told[-1:] == list(wanted[-1:])
    messages = {(one.seq, one.message_id, one.body) for one in world.attempts(callback.id)}
    assert len(messages) == len({seq for seq, _, _ in messages})
    assert callback.state == "delivered"
