"""One gateway among those that share a store: it renews its lease, takes what is free, and evens out.

There is no coordinator. Each looks at the same few figures and decides for itself; two that decide alike at the same
time do no harm, since a row is handed over under a new epoch. After an outage, in which nobody could renew, a gateway
gives the others the time of a lease before it takes them for dead. The lease is renewed by a task that does nothing
else: what else there is to do may be much, and must not cost it.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol

import anyio
import msgspec
from anyio.abc import TaskGroup

from gateway.core.errors import StoreUnavailable
from gateway.store import SharedStore
from gateway.telemetry.logs import EventLog
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing import Tracing

TICKS = 10
"""Renewals, and looks at what is free, in the time of a lease."""
OUTAGE_TICKS = 3
"""Ticks without a good renewal that count as an outage, which may have been one for the others too."""

log = EventLog("gateway.membership")

Table = Literal["jobs", "callbacks"]


class Lease:
    """Whether this process may still act for its rows; `term` in seconds, None when no other gateway shares the store.

    Counted by this machine's monotonic clock, from when the last good renewal was sent: this gateway stops by itself
    before the store considers it dead.
    """

    def __init__(self, term: float | None = None) -> None:
        self._term = term
        self._until = 0.0
        self._renewed = anyio.Event()

    @property
    def holds(self) -> bool:
        return self._term is None or asyncio.get_running_loop().time() < self._until

    async def held(self) -> None:
        """Wait until it holds."""
        while not self.holds:
            await self._renewed.wait()

    def renewed(self, sent: float) -> None:
        """The store took a renewal that was sent then, by the event loop's clock."""
        if self._term is not None:
            self._until = sent + self._term
            self._renewed.set()
            self._renewed = anyio.Event()


class Runtime(msgspec.Struct, frozen=True):
    """The tools that each part of a gateway shares; `clock` in seconds since 1970, one for all gateways of a store."""

    clock: Callable[[], float]
    rng: random.Random
    metrics: Metrics
    tracing: Tracing
    lease: Lease
    tasks: TaskGroup


class Work(Protocol):
    """What a gateway does for the rows of one table that it has."""

    def held(self) -> set[str]:
        """Their ids."""

    def drop(self, row_id: str) -> None:
        """Do no more for one."""

    def give_up(self, most: int) -> Sequence[str]:
        """Do no more for as many, and which; not those that something is just being done for."""

    def resume(self, rows: Iterable[Any]) -> None:
        """Go on with rows that were claimed."""


class Membership:
    """`works` are what is done for jobs and for callbacks. `run` it for as long as the gateway works."""

    def __init__(
        self,
        store: SharedStore,
        jobs: Work,
        callbacks: Work,
        runtime: Runtime,
    ) -> None:
        self._store = store
        self._lease = runtime.lease
        self._works: dict[Table, Work] = {"jobs": jobs, "callbacks": callbacks}
        self._metrics = runtime.metrics
        self._rng = runtime.rng
        self._tasks = runtime.tasks
        self._tick = store.lease / TICKS
        self._silent = False
        self._shares: dict[Table, tuple[int, int]] = {}
        self._renewed_at = 0.0
        self._patient_until = 0.0
        self._expire_at = 0.0
        self._compare_at = 0.0
        self._unclaimed: dict[Table, set[str]] = {"jobs": set(), "callbacks": set()}
        self._given_up: dict[Table, set[str]] = {"jobs": set(), "callbacks": set()}
        self._retiring = False
        self.members = 1
        """How many gateways lived at the last look, this one among them."""
        self._scope = anyio.CancelScope()
        self._metrics.watch("members", lambda: self.members)

    async def begin(self) -> None:
        """Be one of the gateways, and soon take a share of the work. Raises StoreUnavailable."""
        # After an outage that ended just now, those that worked before it get the time to say so.
        self._patient_until = _now() + 2 * self._tick
        self._renewed_at = _now()
        await self._renew()
        self._tasks.start_soon(self._run)

    def retire(self) -> None:
        """Take nothing more, but keep the lease: what is in hand is still to be finished."""
        self._retiring = True

    async def leave(self) -> None:
        """Hand everything on, at the end; once."""
        if self._scope.cancel_called:
            return
        self._scope.cancel()
        try:
            await self._store.leave()
        except StoreUnavailable as error:
            log.warning("leaving_untold", error=str(error))  # the others find out when the lease is over

    async def _run(self) -> None:
        with self._scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_the_lease)
                tasks.start_soon(self._keep_sharing)

    async def _keep_the_lease(self) -> None:
        while True:
            await self._next_tick()
            try:
                await self._renew()
            except StoreUnavailable as error:
                log.warning("lease_not_renewed", error=str(error), held=self._lease.holds)

    async def _keep_sharing(self) -> None:
        while True:
            for step in (self._expire_members, self._even_out, self._compare):
                try:
                    if self._lease.holds and not self._retiring:
                        await step()
                except StoreUnavailable as error:  # none of them must keep another from being done
                    log.warning("sharing_delayed", error=str(error))
            await self._next_tick()

    async def _next_tick(self) -> None:
        await anyio.sleep(self._tick * self._rng.uniform(0.8, 1.2))

    async def _renew(self) -> None:
        sent = _now()
        held = {table: len(work.held()) for table, work in self._works.items()}
        said = {table: number + len(self._given_up[table]) for table, number in held.items()}
        standing = await self._store.renew(said["jobs"], said["callbacks"], patience=self._tick * 2)
        if sent - self._renewed_at > OUTAGE_TICKS * self._tick or standing is None:
            self._patient_until = sent + self._store.lease
        if standing is None:
            await self._begin_anew(sent)
            return
        self._silent = standing.silent > 0
        # Judged by what it had when the others' figures were read: it may have got more since then.
        self._shares = {
            "jobs": rebalance(held["jobs"], standing.jobs, standing.members),
            "callbacks": rebalance(held["callbacks"], standing.callbacks, standing.members),
        }
        self._renewed_at = sent
        self._lease.renewed(sent)
        self.members = standing.members

    async def _begin_anew(self, sent: float) -> None:
        """It was silent for too long: what it had is others' by now."""
        log.error("lease_lost", jobs=len(self._works["jobs"].held()), callbacks=len(self._works["callbacks"].held()))
        self._metrics.leases_lost.inc()
        for table, work in self._works.items():
            _drop_all(work, work.held())
            self._given_up[table].clear()
        await self._store.join()
        self._lease.renewed(sent)

    async def _expire_members(self) -> None:
        """Those that are silent, at once; rows whose owner is on no list, stored after it left, by and by."""
        now = _now()
        if now >= self._patient_until and (self._silent or now >= self._expire_at):
            for name in await self._store.expire_members():
                log.warning("gateway_given_up", name=name)
            self._expire_at = now + self._store.lease / 2

    async def _even_out(self) -> None:
        """Once for each renewal: what is done here shows in the next."""
        shares, self._shares = self._shares, {}
        for table, work in self._works.items():
            take, give = shares.get(table, (0, 0))
            await self._release(table, work.give_up(give) if give else ())
            await self._take_over(table, take)

    async def _take_over(self, table: Table, most: int) -> None:
        while most > 0 and self._lease.holds and not self._retiring:
            rows: Sequence[Any] = await (
                self._store.claim(most) if table == "jobs" else self._store.claim_callbacks(most)
            )
            if not rows:
                return
            self._works[table].resume(rows)
            self._metrics.taken_over.labels(table).inc(len(rows))
            log.info("taken_over", table=table, count=len(rows))
            most -= len(rows)

    async def _compare(self) -> None:
        """What is done here against what the store says: a wake-up may have been lost, or the answer to a write."""
        if _now() < self._compare_at:
            return
        self._compare_at = _now() + self._store.lease
        for table, work in self._works.items():
            before = work.held()
            owned = await self._store.holdings(table)
            now = work.held()
            _drop_all(work, (before & now) - owned)
            unclaimed = owned - now
            await self._release(table, unclaimed & self._unclaimed[table])
            self._unclaimed[table] = unclaimed

    async def _release(self, table: Table, ids: Iterable[str]) -> None:
        """What cannot be handed on now is remembered: nobody does anything for it here any more."""
        idle = self._given_up[table]
        idle.update(ids)
        idle -= self._works[table].held()
        if idle:
            await self._store.release(table, list(idle))
            self._metrics.handed_on.labels(table).inc(len(idle))
            log.info("handed_on", table=table, count=len(idle))
            idle.clear()


def _drop_all(work: Work, ids: Iterable[str]) -> None:
    for row_id in ids:
        work.drop(row_id)


def _now() -> float:
    return asyncio.get_running_loop().time()


UNEVEN = 0.05
"""The part of its share that a gateway may have above it before it hands something on: moving costs a poll or two."""


def rebalance(mine: int, everything: int, members: int) -> tuple[int, int]:
    """How many to take, if there are any free, and how many to hand on.

    `everything` counts what all `members` have and what nobody has. Since the shares of all add up to it at least, what
    is free always finds one that may take it.
    """
    share = math.ceil(everything / members)
    over = mine - share
    if over < 0:
        return -over, 0
    return 0, over if over > share * UNEVEN else 0
