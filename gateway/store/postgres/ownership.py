"""Who has which job and callback, in the shared store: leases, and how rows change hands.

A gateway renews one lease for all that it has. When it has not done so in time, any other takes its name off the list
and its rows become free; whoever claims one raises its epoch, so that nothing the old owner still writes is kept.
Leases are told by the database's clock alone. Rows that somebody's open transaction holds are passed over and found
again. Rows change hands in portions: a transaction that is too large to end in time would begin anew for ever, and an
answer that does not fit the socket would hold its locks for as long as its reader hangs.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from gateway.core.callback import Callback
from gateway.core.job import Job
from gateway.store import ClusterView
from gateway.store.postgres.pool import Connection, Pool
from gateway.store.postgres.statements import BURY, DOUBT_ORPHANS, RENEW, Owned
from gateway.store.rows import CALLBACK, JOB, Rows
from gateway.store.sealing import DecryptionFailed
from gateway.telemetry.logs import EventLog

T = TypeVar("T")

LEASE_SHARE = 0.75
"""The part of `lease` after which a silent gateway is given up; the rest is for others to notice and to take over."""
PORTION = 200
"""Rows that change hands at once: tens of milliseconds for the database, and for the gateway that goes on with them."""

_JOBS = Owned("jobs", "ended IS NULL", JOB)
_CALLBACKS = Owned("callbacks", "state = 'active'", CALLBACK)
_TABLES: dict[Literal["jobs", "callbacks"], Owned] = {"jobs": _JOBS, "callbacks": _CALLBACKS}

log = EventLog("gateway.store")


class Ownership:
    """`lease` is how many seconds a silent gateway keeps what it has, until others have taken it over.

    `own` is a connection that nothing but the renewals uses, so that they wait for no request.
    """

    def __init__(self, pool: Pool, own: Pool, rows: Rows, *, lease: float, clock: Callable[[], float]) -> None:
        self._pool = pool
        self._own = own
        self._rows = rows
        self._clock = clock
        self._ahead = 0.0
        self.lease = lease
        self.term = lease * LEASE_SHARE
        self.me = ""

    def clock(self) -> float:
        """Seconds since 1970 by the database's clock, so that all its gateways mean the same by them."""
        return self._clock() + self._ahead

    async def join(self) -> None:
        """Take a place among the gateways, under a name of its own that no earlier life had."""
        me = secrets.token_urlsafe(9)
        await self._own.execute(
            "INSERT INTO gateways (id, expires) VALUES ($1, clock_timestamp() + $2::float8 * interval '1 second')",
            me,
            self.term,
        )
        self.me = me

    async def renew(self, jobs: int, callbacks: int, *, patience: float) -> ClusterView | None:
        before = self._clock()
        (row,) = await self._own.execute(RENEW, self.me, self.term, jobs, callbacks, patience=patience)
        self._ahead = row["now"] - (before + self._clock()) / 2
        if not row["alive"]:
            return None
        return ClusterView(
            members=row["count"] + 1,
            jobs=row["jobs"] + jobs + row["free_jobs"],
            callbacks=row["callbacks"] + callbacks + row["free_callbacks"],
            silent=row["silent"],
        )

    async def expire_members(self) -> list[str]:
        buried = [row["id"] for row in await self._pool.execute(BURY)]
        for owned in (_JOBS, _CALLBACKS):
            strays = [row["owner"] for row in await self._pool.execute(owned.strays)]
            if strays:
                await self._free(owned, strays)
        await self._pool.execute(DOUBT_ORPHANS)
        return buried

    async def claim(self, most: int = PORTION) -> list[Job]:
        return await self._claim("jobs", most, self._rows.job)

    async def claim_callbacks(self, most: int = PORTION) -> list[Callback]:
        return await self._claim("callbacks", most, self._rows.callback)

    async def release(self, table: Literal["jobs", "callbacks"], ids: Sequence[str]) -> None:
        for first in range(0, len(ids), PORTION):
            await self._pool.execute(_TABLES[table].hand_on, self.me, ids[first : first + PORTION])
        await self._pool.execute(f"UPDATE gateways SET {table} = {table} - $2 WHERE id = $1", self.me, len(ids))

    async def holdings(self, table: Literal["jobs", "callbacks"]) -> set[str]:
        return {row["id"] for row in await self._pool.execute(_TABLES[table].owned, self.me)}

    async def leave(self) -> None:
        await self._pool.execute("DELETE FROM gateways WHERE id = $1", self.me)
        for owned in (_JOBS, _CALLBACKS):
            await self._free(owned, [self.me])

    async def _free(self, owned: Owned, owners: Sequence[str]) -> None:
        while len(await self._pool.execute(owned.free, owners, PORTION)) == PORTION:
            pass

    async def _claim(self, table: Literal["jobs", "callbacks"], most: int, read: Callable[[Any], T]) -> list[T]:
        async def work(connection: Connection) -> Sequence[Any]:
            # Its own row first: who is being given up for dead at this moment must not take anything.
            alive = await connection.fetchval("SELECT 1 FROM gateways WHERE id = $1 FOR UPDATE", self.me)
            if alive is None:
                return []
            claimed = await connection.fetch(_TABLES[table].claim, self.me, min(most, PORTION))
            await connection.execute(f"UPDATE gateways SET {table} = {table} + $2 WHERE id = $1", self.me, len(claimed))
            return claimed

        found = []
        for row in await self._pool.transaction(work):
            try:
                found.append(read(row))
            except DecryptionFailed as error:  # one that another GATEWAY_SECRET_KEY sealed must not stop the rest
                log.error("row_unreadable", table=table, error=str(error))  # noqa: TRY400 - the row is a secret
        return found
