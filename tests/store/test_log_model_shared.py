"""The log of a job whose owners lose and regain it at any moment, over lines that break at any message."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import ClassVar

import asyncpg
import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from gateway.core.errors import StoreUnavailable
from gateway.core.job import Answer, Event, Job, Target, accepted, advance
from gateway.store import Slice
from gateway.store.postgres import PostgresStore
from gateway.store.postgres.database import Database
from tests.store.test_log_model import ANSWERS
from tests.support.examples import examples
from tests.support.wire import Direction, Wire, wired

GATEWAYS = 3
WHICH = st.integers(0, GATEWAYS - 1)
CUTS = st.none() | st.tuples(st.sampled_from(["asked", "answered"]), st.integers(0, 12))

Cut = tuple[Direction, int] | None


class World:
    """Three gateways, each on a line of its own, and one that only looks."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.numbers = itertools.count()
        self.wires: list[Wire] = []
        self.stores: list[PostgresStore] = []
        self.looking: asyncpg.Connection[asyncpg.Record]
        self.reader: PostgresStore
        self._begun, self._over = asyncio.Event(), asyncio.Event()
        self._living: asyncio.Task[None]

    async def open(self, url: str) -> None:
        self._living = asyncio.create_task(self._live(url))
        await asyncio.wait({self._living, asyncio.create_task(self._begun.wait())}, return_when="FIRST_COMPLETED")

    async def close(self) -> None:
        self._over.set()
        await self._living

    async def _live(self, url: str) -> None:
        """In one task, whatever step of a machine runs in which."""
        async with AsyncExitStack() as stack:
            for _ in range(GATEWAYS):
                wire = await stack.enter_async_context(wired(url))
                self.wires.append(wire)
                self.stores.append(await stack.enter_async_context(opening(await Database.open(wire.url, url, None))))
            self.reader = await stack.enter_async_context(opening(await Database.open(url, None, None)))
            self.looking = await asyncpg.connect(url)
            stack.push_async_callback(self.looking.close)
            self._begun.set()
            await self._over.wait()


def opening(database: Database) -> AbstractAsyncContextManager[PostgresStore]:
    return PostgresStore.open(database, log_limit=10_000, lease=10_000, clock=time.time)


class SharedLog(RuleBasedStateMachine):
    """One job, its owners by the epoch each believes in and the gateway it is at, and what the store acknowledged."""

    world: ClassVar[World]

    @initialize(first=WHICH)
    def begin(self, first: int) -> None:
        self.id = f"j{next(self.world.numbers)}"
        self.acknowledged: list[Event] = []
        self.owners: list[tuple[Job, int]] = []
        self.run(self.created(first))

    def run(self, coroutine: object) -> None:
        self.world.runner.run(coroutine)  # type: ignore[arg-type]

    async def created(self, first: int) -> None:
        job, events = accepted(self.id, monitor="https://h/m", target=Target(prefix="me/drive"), now=1.0)
        await self.alive(first)
        await self.world.stores[first].create(job, events, None)
        self.acknowledged += events
        self.owners.append((job, first))

    @rule(answer=ANSWERS, owner=st.integers(0, 9), cut=CUTS, rival=st.none() | WHICH)
    def some_owner_appends(self, answer: Answer, owner: int, cut: Cut, rival: int | None) -> None:
        """Any owner, current or long replaced, writes what it saw, while the line breaks or another takes over."""
        place = owner % len(self.owners)
        job, events = advance(self.owners[place][0], answer, 2.0)
        if events:
            self.run(self.appended(place, job, events, cut, rival))

    @rule(rival=WHICH, cut=CUTS)
    def another_takes_over(self, rival: int, cut: Cut) -> None:
        self.run(self.taken_over(rival, cut))

    @rule(by=WHICH)
    def the_watch_is_stopped(self, by: int) -> None:
        self.run(self.stopped(by))

    async def appended(self, place: int, job: Job, events: list[Event], cut: Cut, rival: int | None) -> None:
        gateway = self.owners[place][1]
        current = place == len(self.owners) - 1 and not self.acknowledged[-1].terminal
        wire = self.world.wires[gateway]
        if cut is not None:
            wire.cut_after(*cut)
        appending = asyncio.ensure_future(self.tried(gateway, job, events))
        if rival is not None and rival != gateway:
            await self.taken_over(rival, None, settle=False)
        kept = await appending
        wire.mend()
        newest = self.owners[-1][0]
        if kept is None:  # the answer was lost: ask once more, as a watch does
            kept = await self.tried(gateway, job, events)
            assert kept is not None
        there = [event for event in (await self.log()).events if event in events]
        if kept or (there and current):
            assert current
            self.acknowledged += events
            if newest.epoch == job.epoch:
                self.owners[place] = (job, gateway)
            else:
                assert newest.seq == job.seq, "an append became visible after another had taken over"

    async def tried(self, gateway: int, job: Job, events: list[Event]) -> bool | None:
        try:
            return await self.world.stores[gateway].append(job, events)
        except StoreUnavailable:
            return None

    async def taken_over(self, rival: int, cut: Cut, *, settle: bool = True) -> None:
        """As if the owner's lease were over. A claim whose answer was lost is found again, by another claim."""
        store, wire = self.world.stores[rival], self.world.wires[rival]
        await self.alive(rival)
        await self.world.looking.execute("UPDATE jobs SET owner = 'nobody' WHERE id = $1 AND ended IS NULL", self.id)
        if cut is not None:
            wire.cut_after(*cut)
        try:
            await store.expire_members()
            claimed = await store.claim()
        except StoreUnavailable:
            claimed = []
        wire.mend()
        self.owners += [(job, rival) for job in claimed if job.id == self.id]
        if settle and not claimed and not (await self.log()).ended:
            await self.taken_over(rival, None, settle=False)

    async def stopped(self, by: int) -> None:
        job = await self.world.stores[by].stop(self.id, 3.0)
        assert job is not None
        if not self.acknowledged[-1].terminal:
            self.acknowledged.append((await self.log()).events[-1])
            assert self.acknowledged[-1].terminal

    async def alive(self, gateway: int) -> None:
        store = self.world.stores[gateway]
        if await store.renew(0, 0, patience=5) is None:
            await store.join()

    async def log(self) -> Slice:
        (piece,) = await self.world.reader.read([(self.id, 0)], 10_000)
        assert piece is not None
        return piece

    @invariant()
    def the_log_is_what_was_acknowledged(self) -> None:
        """No number twice, none missing, one terminal event at most and last, no percentage that falls."""
        if not hasattr(self, "acknowledged"):
            return
        self.run(self.checked())

    async def checked(self) -> None:
        piece = await self.log()
        assert list(piece.events) == self.acknowledged
        assert [event.seq for event in piece.events] == list(range(1, piece.head + 1))
        assert not any(event.terminal for event in piece.events[:-1])
        assert piece.ended == piece.events[-1].terminal
        shown = [msgspec.json.decode(event.data)["percentageComplete"] for event in piece.events]
        assert shown == sorted(shown)


def test_the_log(database_url: str) -> None:
    """No write under an old epoch is ever visible, whatever breaks when."""
    world = World()
    with world.runner:
        world.runner.run(world.open(database_url))
        try:
            run_state_machine_as_test(
                type("InThisWorld", (SharedLog,), {"world": world}),
                settings=settings(
                    max_examples=examples(60),
                    stateful_step_count=15,
                    deadline=None,
                    derandomize=True,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            world.runner.run(world.close())
