"""One gateway among those that share a store: it renews its lease, takes what is free, and evens out.

There is no coordinator. Each looks at the same few figures and decides for itself; two that decide alike at the same
time do no harm, since a row is handed over under a new epoch. After an outage, in which nobody could renew, a gateway
gives the others the time of a lease before it takes them for dead.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import anyio
from anyio.abc import TaskGroup

from gateway.errors import StoreUnavailable
from gateway.lease import Lease
from gateway.logs import EventLog
from gateway.metrics import Metrics
from gateway.shares import fair
from gateway.store import SharedStore, Standing

TICKS = 10
"""Renewals, and looks at what is free, in the time of a lease."""

log = EventLog("gateway.membership")

Table = Literal["jobs", "callbacks"]


class Work(Protocol):
    """What a gateway does for the rows of one table that it has."""

    def held(self) -> set[str]:
        """Their ids."""

    def drop(self, row_id: str) -> None:
        """Do no more for one."""

    def surrender(self, most: int) -> Sequence[str]:
        """Do no more for as many, and which; not those that something is just being done for."""

    def resume(self, rows: Iterable[Any]) -> None:
        """Go on with rows that were claimed."""


class Membership:
    """`works` are what is done for jobs and for callbacks. `run` it for as long as the gateway works."""

    def __init__(
        self,
        store: SharedStore,
        lease: Lease,
        jobs: Work,
        callbacks: Work,
        metrics: Metrics,
        *,
        rng: random.Random,
    ) -> None:
        self._store = store
        self._lease = lease
        self._works: dict[Table, Work] = {"jobs": jobs, "callbacks": callbacks}
        self._metrics = metrics
        self._rng = rng
        self._tick = store.lease / TICKS
        self._patient_until = 0.0
        self._compare_at = 0.0
        self._unclaimed: dict[Table, set[str]] = {"jobs": set(), "callbacks": set()}
        self._retiring = False
        self.members = 1
        """How many gateways lived at the last look, this one among them."""
        self._scope = anyio.CancelScope()

    async def begin(self, tasks: TaskGroup) -> None:
        """Take the first share, then go on by itself. Raises StoreUnavailable."""
        # After an outage that ended just now, those that worked before it get the time to say so.
        self._patient_until = _now() + 2 * self._tick
        self._lease.renewed(_now())
        await self._step()
        tasks.start_soon(self._run)

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
            while True:
                await anyio.sleep(self._tick * self._rng.uniform(0.8, 1.2))
                try:
                    await self._step()
                except StoreUnavailable as error:
                    log.warning("lease_not_renewed", error=str(error), held=self._lease.holds)

    async def _step(self) -> None:
        sent = _now()
        held = {table: len(work.held()) for table, work in self._works.items()}
        standing = await self._store.renew(held["jobs"], held["callbacks"], patience=self._tick * 2)
        if standing is None:
            await self._begin_anew(sent)
            return
        if not self._lease.holds:
            self._patient_until = sent + self._store.lease
        self._lease.renewed(sent)
        self.members = standing.members
        if self._retiring:
            return
        if sent >= self._patient_until:
            for name in await self._store.bury():
                log.warning("gateway_given_up", name=name)
        await self._even_out(standing)
        if sent >= self._compare_at:
            self._compare_at = sent + self._store.lease
            await self._compare()

    async def _begin_anew(self, sent: float) -> None:
        """It was silent for too long: what it had is others' by now."""
        log.error("lease_lost", jobs=len(self._works["jobs"].held()), callbacks=len(self._works["callbacks"].held()))
        self._metrics.leases_lost.inc()
        for work in self._works.values():
            _drop_all(work, work.held())
        await self._store.join()
        self._lease.renewed(sent)

    async def _even_out(self, standing: Standing) -> None:
        for table, work in self._works.items():
            everything = standing.jobs if table == "jobs" else standing.callbacks
            take, give = fair(len(work.held()), everything, standing.members)
            if give:
                await self._hand_on(table, work.surrender(give))
            elif take:
                await self._take_over(table, take)

    async def _take_over(self, table: Table, most: int) -> None:
        rows: Sequence[Any] = await (self._store.claim(most) if table == "jobs" else self._store.claim_callbacks(most))
        if rows:
            self._works[table].resume(rows)
            self._metrics.taken_over.labels(table).inc(len(rows))
            log.info("taken_over", table=table, count=len(rows))

    async def _compare(self) -> None:
        """What is done here against what the store says: a wake-up may have been lost, or the answer to a write."""
        for table, work in self._works.items():
            before = work.held()
            owned = await self._store.holdings(table)
            now = work.held()
            _drop_all(work, (before & now) - owned)
            unclaimed = owned - now
            await self._hand_on(table, list(unclaimed & self._unclaimed[table]))
            self._unclaimed[table] = unclaimed

    async def _hand_on(self, table: Table, ids: Sequence[str]) -> None:
        if ids:
            await self._store.hand_on(table, ids)
            self._metrics.handed_on.labels(table).inc(len(ids))
            log.info("handed_on", table=table, count=len(ids))


def _drop_all(work: Work, ids: Iterable[str]) -> None:
    for row_id in ids:
        work.drop(row_id)


def _now() -> float:
    return asyncio.get_running_loop().time()
