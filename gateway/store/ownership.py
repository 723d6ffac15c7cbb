"""Who has which job and callback, in the shared store: leases, and how rows change hands.

A gateway renews one lease for all that it has. When it has not done so in time, any other takes its name off the list
and its rows become free; whoever claims one raises its epoch, so that nothing the old owner still writes is kept.
Leases are told by the database's clock alone. Rows that somebody's open transaction holds are passed over and found
again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Literal

import asyncpg

from gateway.deliveries import Callback
from gateway.jobs import Job
from gateway.store import Standing
from gateway.store.pool import Connection, Pool
from gateway.store.postgres_sql import RENEW, Owned
from gateway.store.rows import CALLBACK, JOB, Rows

LEASE_SHARE = 0.75
"""The part of `lease` after which a silent gateway is given up; the rest is for others to notice and to take over."""
_ANY = 1 << 30

_JOBS = Owned("jobs", "ended IS NULL", JOB)
_CALLBACKS = Owned("callbacks", "state = 'active'", CALLBACK)
_TABLES: dict[Literal["jobs", "callbacks"], Owned] = {"jobs": _JOBS, "callbacks": _CALLBACKS}


class Ownership:
    """`lease` is how many seconds a silent gateway keeps what it has, until others have taken it over."""

    def __init__(self, pool: Pool, rows: Rows, *, lease: float, clock: Callable[[], float]) -> None:
        self._pool = pool
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
        await self._pool.one(
            "INSERT INTO gateways (id, expires) VALUES ($1, clock_timestamp() + $2::float8 * interval '1 second')",
            me,
            self.term,
        )
        self.me = me

    async def renew(self, jobs: int, callbacks: int, *, patience: float) -> Standing | None:
        before = self._clock()
        (row,) = await self._pool.one(RENEW, self.me, self.term, jobs, callbacks, patience=patience)
        self._ahead = row["now"] - (before + self._clock()) / 2
        if not row["alive"]:
            return None
        return Standing(
            members=row["count"] + 1,
            jobs=row["jobs"] + jobs + row["free_jobs"],
            callbacks=row["callbacks"] + callbacks + row["free_callbacks"],
        )

    async def bury(self) -> list[str]:
        async def work(connection: Connection) -> list[str]:
            buried = await connection.fetch("DELETE FROM gateways WHERE expires < clock_timestamp() RETURNING id")
            for owned in (_JOBS, _CALLBACKS):
                strays = [row["owner"] for row in await connection.fetch(owned.strays)]
                if strays:
                    await connection.execute(owned.free, strays)
            await connection.execute(
                "UPDATE keys SET outcome = 'unknown' WHERE outcome = 'inFlight'"
                " AND owner NOT IN (SELECT id FROM gateways)"
            )
            return [row["id"] for row in buried]

        return await self._pool.together(work)

    async def claim(self, most: int = _ANY) -> list[Job]:
        return [self._rows.job(row) for row in await self._claim("jobs", most)]

    async def claim_callbacks(self, most: int = _ANY) -> list[Callback]:
        return [self._rows.callback(row) for row in await self._claim("callbacks", most)]

    async def hand_on(self, table: Literal["jobs", "callbacks"], ids: Sequence[str]) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute(_TABLES[table].hand_on, self.me, ids)
            await connection.execute(f"UPDATE gateways SET {table} = {table} - $2 WHERE id = $1", self.me, len(ids))

        await self._pool.together(work)

    async def holdings(self, table: Literal["jobs", "callbacks"]) -> set[str]:
        return {row["id"] for row in await self._pool.one(_TABLES[table].owned, self.me)}

    async def leave(self) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute("DELETE FROM gateways WHERE id = $1", self.me)
            for owned in (_JOBS, _CALLBACKS):
                await connection.execute(owned.free, [self.me])

        await self._pool.together(work)

    async def _claim(self, table: Literal["jobs", "callbacks"], most: int) -> list[asyncpg.Record]:
        async def work(connection: Connection) -> list[asyncpg.Record]:
            # Its own row first: who is being given up for dead at this moment must not take anything.
            alive = await connection.fetchval("SELECT 1 FROM gateways WHERE id = $1 FOR UPDATE", self.me)
            if alive is None:
                return []
            claimed = await connection.fetch(_TABLES[table].claim, self.me, most)
            await connection.execute(f"UPDATE gateways SET {table} = {table} + $2 WHERE id = $1", self.me, len(claimed))
            return claimed

        return await self._pool.together(work)
