"""Ownership of jobs and callbacks in the shared store: leases, and how rows change owner.

A gateway renews one lease for all its rows. When the lease expires, any other gateway deletes the gateway's membership
and releases its rows. Claiming a row raises its epoch, so that later writes of the old owner are rejected. Only the
database's clock decides whether a lease has expired. Rows locked by an open transaction are skipped, and found by a
later call. Rows change owner in portions: a transaction too large to finish in time would be retried for ever, and a
result that does not fit the socket buffer would hold its locks for as long as its reader hangs.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from gateway.core.callback import Callback
from gateway.core.errors import StoreUnavailable
from gateway.core.job import Job
from gateway.store import ClusterView
from gateway.store.postgres.pool import Connection, Pool
from gateway.store.postgres.statements import EXPIRE_MEMBERS, MARK_UNKNOWN, RENEW, TROUBLED, Owned
from gateway.store.rows import CALLBACK, JOB, Rows
from gateway.store.sealing import Cipher

T = TypeVar("T")

LEASE_SHARE = 0.75
"""The share of `lease` after which a silent gateway is considered dead; the rest is for others to take over."""
PORTION = 200
"""Rows per change of owner: tens of milliseconds of work for the database, and for the gateway that claims them."""

LEAVING = -1
"""What a gateway reports as its jobs and callbacks once it takes no share of the work any more."""

_JOBS = Owned("jobs", "ended IS NULL", JOB)
_CALLBACKS = Owned("callbacks", "state = 'active'", CALLBACK)
_TABLES: dict[Literal["jobs", "callbacks"], Owned] = {"jobs": _JOBS, "callbacks": _CALLBACKS}

_ALIVE = "SELECT 1 FROM gateways WHERE id = $1 AND jobs >= 0"
_LOCKED, _KEPT = f"{_ALIVE} FOR UPDATE", f"{_ALIVE} FOR KEY SHARE"
"""Lock the own membership, before any row: a gateway that is removed as dead, or leaves, must not own a row anew.

A claim waits for no row. Taking one may have to wait, and keeps renewals from nothing meanwhile.
"""


class Ownership:
    """`lease` is the number of seconds after which other gateways have taken over the rows of a silent one.

    `own` is a connection for membership alone, so that a renewal never waits behind a request. `clock` is this
    machine's, in seconds since 1970: it counts until the first renewal.
    """

    def __init__(self, pool: Pool, own: Pool, cipher: Cipher, *, lease: float, clock: Callable[[], float]) -> None:
        self._pool = pool
        self._own = own
        self._rows = Rows(cipher)
        self._mark = cipher.mark
        self._now = asyncio.get_running_loop().time
        self._clock_offset = clock() - self._now()
        self.lease = lease
        self.term = lease * LEASE_SHARE
        self.me = ""
        self.ids: list[str] = []
        """All ids that this process has had: its keys in flight may bear an earlier one."""
        self._is_leaving = False
        self._taking: set[str] = set()
        self._releasing: frozenset[str] = frozenset()
        self._released = asyncio.Event()

    def clock(self) -> float:
        """Seconds since 1970 by the database's clock, so that all gateways agree.

        Between two renewals it goes on by the monotonic clock: this machine's own may be set.
        """
        return self._now() + self._clock_offset

    async def join(self) -> None:
        """Register this gateway under a new random id, to which its keys in flight go over."""
        me = secrets.token_urlsafe(9)
        self.ids.append(me)  # at once, since the answer to the commit may be lost

        async def work(connection: Connection) -> None:
            await connection.execute(
                "INSERT INTO gateways (id, expires, mark)"
                " VALUES ($1, clock_timestamp() + $2::float8 * interval '1 second', $3)",
                me,
                self.term,
                self._mark,
            )
            await connection.execute(
                "UPDATE keys SET owner = $1 WHERE owner = ANY($2::text[]) AND outcome = 'inFlight'", me, self.ids
            )

        await self._own.transaction(work)
        self.me = me

    async def renew(self, jobs: int, callbacks: int, *, patience: float) -> ClusterView | None:
        before = self._now()
        reported = (LEAVING, LEAVING) if self._is_leaving else (jobs, callbacks)
        (row,) = await self._own.execute(RENEW, self.me, self.term, *reported, patience=patience)
        self._clock_offset = row["now"] - (before + self._now()) / 2
        if not row["alive"]:
            return None
        return ClusterView(
            members=row["count"] + 1,
            jobs=row["jobs"] + jobs + row["free_jobs"],
            callbacks=row["callbacks"] + callbacks + row["free_callbacks"],
            silent=row["silent"],
        )

    async def expire_members(self) -> list[str]:
        expired = [row["id"] for row in await self._pool.execute(EXPIRE_MEMBERS)]
        for owned in (_JOBS, _CALLBACKS):
            dead = [row["owner"] for row in await self._pool.execute(owned.dead_owners)]
            if dead:
                await self._free(owned, dead)
        await self._pool.execute(MARK_UNKNOWN)
        return expired

    async def claim(self, most: int = PORTION) -> list[Job]:
        return await self._claim("jobs", most, self._rows.job)

    async def claim_callbacks(self, most: int = PORTION) -> list[Callback]:
        return await self._claim("callbacks", most, self._rows.callback)

    async def _take(self, job_id: str) -> Job | None:
        """Own one job under a new epoch, as long as this gateway is alive for the others."""

        async def work(connection: Connection) -> Any:
            if await connection.fetchval(_KEPT, self.me) is None:
                raise StoreUnavailable("this gateway takes no jobs: it leaves, or was considered dead")
            return await connection.fetchrow(
                f"UPDATE jobs SET owner = $1, epoch = epoch + 1 WHERE id = $2 AND ended IS NULL RETURNING {JOB}",
                self.me,
                job_id,
            )

        while job_id in self._releasing:
            await self._released.wait()  # its release must not come after
        self._taking.add(job_id)
        try:
            row = await self._pool.transaction(work)
        finally:
            self._taking.discard(job_id)
        return None if row is None else self._rows.job(row)

    async def release(self, table: Literal["jobs", "callbacks"], ids: Sequence[str]) -> None:
        ids = [row_id for row_id in ids if row_id not in self._taking]
        self._releasing, self._released = frozenset(ids), asyncio.Event()
        try:
            await self._pool.execute(_TABLES[table].release, self.me, ids)
        finally:
            self._releasing = frozenset()
            self._released.set()
        if not self._is_leaving:
            await self._pool.execute(
                f"UPDATE gateways SET {table} = greatest({table} - $2, 0) WHERE id = $1", self.me, len(ids)
            )

    async def holdings(self, table: Literal["jobs", "callbacks"]) -> set[str]:
        return {row["id"] for row in await self._pool.execute(_TABLES[table].owned, self.me)}

    async def epochs(self, table: Literal["jobs", "callbacks"], ids: Sequence[str]) -> dict[str, int]:
        found = await self._pool.execute(_TABLES[table].epochs, ids)
        return {row["id"]: row["epoch"] for row in found}

    async def troubled(self, host: str) -> tuple[int, int]:
        (row,) = await self._pool.execute(TROUBLED, b'"host":"%b"' % host.encode())
        return row["jobs"], row["troubled"]

    async def release_all(self) -> None:
        self._is_leaving = True
        await self._pool.execute("UPDATE gateways SET jobs = $2, callbacks = $2 WHERE id = $1", self.me, LEAVING)
        await self._free_all()

    async def leave(self) -> None:
        await self._pool.execute("DELETE FROM gateways WHERE id = $1", self.me)
        await self._free_all()

    async def _free_all(self) -> None:
        for owned in (_JOBS, _CALLBACKS):
            await self._free(owned, [self.me])

    async def _free(self, owned: Owned, owners: Sequence[str]) -> None:
        while len(await self._pool.execute(owned.free, owners, PORTION)) == PORTION:
            pass

    async def _claim(self, table: Literal["jobs", "callbacks"], most: int, read: Callable[[Any], T]) -> list[T]:
        async def work(connection: Connection) -> Sequence[Any]:
            if await connection.fetchval(_LOCKED, self.me) is None:
                return []
            claimed = await connection.fetch(_TABLES[table].claim, self.me, min(most, PORTION))
            await connection.execute(f"UPDATE gateways SET {table} = {table} + $2 WHERE id = $1", self.me, len(claimed))
            return claimed

        return self._rows.legible(table, await self._pool.transaction(work), read)
