"""One gateway among the gateways of a shared store: it renews its lease, claims free rows and balances the load.

There is no coordinator. Each gateway reads the same few figures and decides for itself. Two gateways that decide alike
at the same time do no harm, since a row changes hands under a new epoch. After an outage, in which no gateway could
renew, and after the database's clock was set, by which the leases are judged, a gateway gives the others the time of
one lease before it considers them dead. The lease has a task of its own,
since the rest of the work may take long and must not cost the lease.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
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
"""Renewals in the time of one lease, and as many attempts to balance the load."""
OUTAGE_TICKS = 3
"""Ticks without a successful renewal that count as an outage, which may have hit the other gateways too."""

RELEASED_AT_ONCE = 200
"""Rows per release: tens of milliseconds of work for the database."""

UNEVEN = 0.05
"""Excess over its share, as a part of it, at which a gateway releases rows: each move costs a poll or two."""

log = EventLog("gateway.membership")

Table = Literal["jobs", "callbacks"]


class Lease:
    """Whether this process may still act for its rows.

    `term` is how many seconds a renewal is valid, None when no other gateway shares the store. The term runs on this
    machine's monotonic clock from the sending of the last successful renewal. So this gateway stops by itself before
    the store considers it dead.
    """

    def __init__(self, term: float | None = None) -> None:
        self._term = term
        self._until = 0.0
        self._renewed = anyio.Event()

    @property
    def holds(self) -> bool:
        return self._term is None or asyncio.get_running_loop().time() < self._until

    async def held(self) -> None:
        """Wait until the lease is held."""
        while not self.holds:
            await self._renewed.wait()

    def renewed(self, sent: float) -> None:
        """Record a successful renewal; `sent` is when it was sent, by the event loop's clock."""
        if self._term is not None:
            self._until = sent + self._term
            self._renewed.set()
            self._renewed = anyio.Event()


class Runtime(msgspec.Struct, frozen=True):
    """The tools shared by the parts of a gateway.

    `clock` gives seconds since 1970, the same for all gateways of a store.
    """

    clock: Callable[[], float]
    rng: random.Random
    metrics: Metrics
    tracing: Tracing
    lease: Lease
    tasks: TaskGroup


class Work(Protocol):
    """A gateway's work on the rows of one table that it owns."""

    def held(self) -> set[str]:
        """The ids of the rows in work here."""

    def drop(self, row_id: str) -> None:
        """Stop working on a row at once."""

    def leave_to(self, row_id: str, epoch: int) -> None:
        """Stop working on a row that another gateway has under this epoch, unless this one has it under a later one."""

    def give_up(self, most: int) -> Sequence[str]:
        """Stop working on up to `most` idle rows and return their ids; rows in flight are kept."""

    def resume(self, rows: Iterable[Any]) -> None:
        """Start working on claimed rows."""


def rebalance(mine: int, everything: int, members: int) -> tuple[int, int]:
    """How many rows to claim, as far as rows are free, and how many to release.

    `everything` counts the rows of all `members` and the free rows. The shares add up to `everything` at least, so
    there is always a gateway that may claim a free row.
    """
    share = math.ceil(everything / members)
    over = mine - share
    if over < 0:
        return -over, 0
    return 0, over if over > share * UNEVEN else 0


class Membership:
    """The membership of this gateway; `jobs` and `callbacks` are its work on the two tables.

    Call `begin` at the start, `retire` when the gateway drains, `release` once its work is done while copies are still
    in flight, and `leave` at the end.
    """

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
        self._some_silent = False
        self._shares: dict[Table, tuple[int, int]] = {}
        self._renewed_at = 0.0
        self._patient_until = 0.0
        self._clock_offset: float | None = None
        self._expire_at = 0.0
        self._compare_at = 0.0
        self._unclaimed: dict[Table, set[str]] = {"jobs": set(), "callbacks": set()}
        self._given_up: dict[Table, set[str]] = {"jobs": set(), "callbacks": set()}
        self._retiring = False
        self.members = 1
        """How many gateways shared the work at the last renewal, this gateway included."""
        self._scope = anyio.CancelScope()
        self._metrics.watch("members", lambda: self.members)

    async def begin(self) -> None:
        """Join the gateways of the store and start to share their work. Raises StoreUnavailable."""
        # After an outage that ended just now, the gateways that worked before it get time to renew.
        self._patient_until = _now() + 2 * self._tick
        self._renewed_at = _now()
        await self._renew()
        self._tasks.start_soon(self._run)

    def retire(self) -> None:
        """Claim no more rows but keep the lease, since the work in hand is still to be finished."""
        self._retiring = True

    async def release(self) -> None:
        """Release all rows but stay a member, so that no other gateway considers the copies in flight here lost."""
        try:
            await self._store.release_all()
        except StoreUnavailable as error:
            log.warning("sharing_delayed", error=str(error))  # `leave` releases them

    async def leave(self) -> None:
        """Release all rows and leave, at the end. A second call does nothing."""
        if self._scope.cancel_called:
            return
        self._scope.cancel()
        try:
            await self._store.leave()
        except StoreUnavailable as error:
            log.warning("leaving_untold", error=str(error))  # the other gateways notice when the lease ends

    async def _run(self) -> None:
        with self._scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._renew_each_tick)
                tasks.start_soon(self._share_each_tick)

    async def _renew_each_tick(self) -> None:
        while True:
            await self._next_tick()
            try:
                await self._renew()
            except StoreUnavailable as error:
                log.warning("lease_not_renewed", error=str(error), held=self._lease.holds)

    async def _share_each_tick(self) -> None:
        while True:
            for step in (self._expire_members, self._rebalance, self._compare):
                try:
                    if self._lease.holds and not self._retiring:
                        await step()
                except StoreUnavailable as error:  # a failed step must not keep the next from running
                    log.warning("sharing_delayed", error=str(error))
            await self._next_tick()

    async def _next_tick(self) -> None:
        await anyio.sleep(self._tick * self._rng.uniform(0.8, 1.2))

    async def _renew(self) -> None:
        sent = _now()
        held = {table: len(work.held()) for table, work in self._works.items()}
        reported = {table: number + len(self._given_up[table]) for table, number in held.items()}
        view = await self._store.renew(reported["jobs"], reported["callbacks"], patience=self._tick * 2)
        outage = sent - self._renewed_at > OUTAGE_TICKS * self._tick
        if outage or view is None or self._clock_was_set():
            self._patient_until = sent + self._store.lease
        if view is None:
            await self._rejoin(sent)
            return
        self._some_silent = view.silent > 0
        # Computed from the rows held when the figures were read: this gateway may have got more rows since then.
        self._shares = {
            "jobs": rebalance(held["jobs"], view.jobs, view.members),
            "callbacks": rebalance(held["callbacks"], view.callbacks, view.members),
        }
        self._renewed_at = sent
        self._lease.renewed(sent)
        self.members = view.members

    def _clock_was_set(self) -> bool:
        """Whether the database's clock jumped since the last renewal: others only seem silent then."""
        before, self._clock_offset = self._clock_offset, self._store.clock() - _now()
        return before is not None and abs(self._clock_offset - before) > OUTAGE_TICKS * self._tick

    async def _rejoin(self, sent: float) -> None:
        """Join again after this gateway was considered dead: its rows belong to other gateways by now."""
        log.error("lease_lost", jobs=len(self._works["jobs"].held()), callbacks=len(self._works["callbacks"].held()))
        self._metrics.leases_lost.inc()
        for table, work in self._works.items():
            _drop_all(work, work.held())
            self._given_up[table].clear()
        await self._store.join()
        self._lease.renewed(sent)

    async def _expire_members(self) -> None:
        """Expire silent gateways at once.

        Twice in a lease this also frees rows of owners that are not listed: such a row was stored after its owner left.
        """
        now = _now()
        if now >= self._patient_until and (self._some_silent or now >= self._expire_at):
            for name in await self._store.expire_members():
                log.warning("gateway_given_up", name=name)
            self._expire_at = now + self._store.lease / 2

    async def _rebalance(self) -> None:
        """Claim and release rows, once for each renewal: only the next renewal shows the effect."""
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
        """Compare the rows in work here with the store, since a wake-up or the answer to a write may have been lost."""
        if _now() < self._compare_at:
            return
        self._compare_at = _now() + self._store.lease
        for table, work in self._works.items():
            before = work.held()
            owned = await self._store.holdings(table)
            now = work.held()
            await self._leave(table, (before & now) - owned)
            unclaimed = owned - now
            await self._release(table, unclaimed & self._unclaimed[table])
            self._unclaimed[table] = unclaimed

    async def _leave(self, table: Table, ids: set[str]) -> None:
        """Stop working on rows of other gateways: by their epochs, since this gateway may have got one anew meanwhile,
        for a job with a token that no other has.
        """
        if not ids:
            return
        work = self._works[table]
        epochs = await self._store.epochs(table, list(ids))
        for row_id, epoch in epochs.items():
            work.leave_to(row_id, epoch)
        _drop_all(work, ids - epochs.keys())

    async def _release(self, table: Table, ids: Iterable[str]) -> None:
        """Release idle rows; rows that cannot be released now are remembered, since nothing works on them here."""
        idle = self._given_up[table]
        idle.update(ids)
        while portion := list(islice(idle - self._works[table].held(), RELEASED_AT_ONCE)):
            await self._store.release(table, portion)
            idle.difference_update(portion)
            self._metrics.handed_on.labels(table).inc(len(portion))
            log.info("handed_on", table=table, count=len(portion))
        idle.clear()  # what is left is held again: a job was taken anew, with a token


def _drop_all(work: Work, ids: Iterable[str]) -> None:
    for row_id in ids:
        work.drop(row_id)


def _now() -> float:
    return asyncio.get_running_loop().time()
