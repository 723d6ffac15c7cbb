"""The shared store: PostgreSQL, for any number of gateways.

Every write of a job names the epoch under which its writer owns the job, and the database rejects a write with an
expired epoch. The response to a commit may be lost. Callers therefore repeat a failed write, and an append or creation
that was already stored is not stored twice.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from operator import itemgetter
from typing import Literal

import anyio
import asyncpg
import msgspec

from gateway.core import job as jobs
from gateway.core.callback import Callback
from gateway.core.errors import StoreUnavailable
from gateway.core.job import Event, Job
from gateway.store import PAST_THE_END, OnChange, Reservation, Slice, ignore_change, rows
from gateway.store.postgres import statements
from gateway.store.postgres.callbacks import CallbackTable
from gateway.store.postgres.database import Database
from gateway.store.postgres.ownership import Ownership
from gateway.store.postgres.pool import Batches, Connection, Pool, columns
from gateway.store.postgres.wakeups import Wakeups
from gateway.store.rows import JOB

JOIN_TRIES = 3
_AGAIN = 0.5
_DELETE_AT_ONCE = 500
_GROWN, _STOPPED, _TAKEN, _REMOVED, _REVIVED = "j", "s", "t", "c", "r"

_Append = tuple[Job, Sequence[Event]]
_Wanted = tuple[str, int, int]


class PostgresStore(Ownership):
    """`log_limit` is the number of events kept per job; `lease` is in seconds.

    `clock` is this machine's, in seconds since 1970.
    """

    def __init__(
        self, database: Database, pool: Pool, own: Pool, *, log_limit: int, lease: float, clock: Callable[[], float]
    ) -> None:
        super().__init__(pool, own, database.cipher, lease=lease, clock=clock)
        self._callbacks = CallbackTable(self._rows)
        self._log_limit = log_limit
        self.secret = database.secret
        self.on_change: OnChange = ignore_change
        self.on_stop: Callable[[str], None] = lambda _job_id: None
        self.on_take: Callable[[str, int], None] = lambda _job_id, _epoch: None
        self.on_callback_remove: Callable[[str], None] = lambda _callback_id: None
        self.on_callback_take: Callable[[str, int], None] = lambda _callback_id, _epoch: None
        self._appends: Batches[_Append, bool] = Batches(self._append_all)
        self._reads: Batches[_Wanted, Slice | None] = Batches(self._read_all)
        self._wakeups = Wakeups(pool, database.listen_url, lambda: self.me, self._on_wakeup)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, database: Database, *, log_limit: int, lease: float, clock: Callable[[], float]
    ) -> AsyncIterator[PostgresStore]:
        """Open the pools and join the gateways. Raises StoreUnavailable."""
        async with (
            Pool.open(database.url, through_pooler=database.through_pooler) as pool,
            Pool.open(database.url, through_pooler=database.through_pooler, size=1) as own,
            anyio.create_task_group() as tasks,
        ):
            store = cls(database, pool, own, log_limit=log_limit, lease=lease, clock=clock)
            tasks.start_soon(store._appends.run)
            tasks.start_soon(store._reads.run)
            store._wakeups.start(tasks)
            await _with_retries(store.join)
            yield store
            tasks.cancel_scope.cancel()

    @property
    def failing(self) -> bool:
        return self._pool.availability.failing

    @property
    def failures(self) -> int:
        return self._pool.availability.failures

    async def create(
        self, job: Job, events: Sequence[Event], key: bytes | None, callback: Callback | None = None
    ) -> None:
        async def work(connection: Connection) -> None:
            inserted = await connection.fetchval(
                f"INSERT INTO jobs ({JOB}, owner) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
                " ON CONFLICT (id) DO NOTHING RETURNING 1",
                *self._rows.of_job(job),
                None if job.state.ended else self.me,
            )
            if inserted is None:  # stored by an earlier attempt, or the id is taken and the insertion fails
                stored = await connection.fetchval("SELECT created FROM jobs WHERE id = $1", job.id)
                if stored == job.created:
                    return
            await _insert(connection, job.id, events)
            if key is not None:
                await connection.execute("UPDATE keys SET outcome = 'job', job_id = $1 WHERE key = $2", job.id, key)
            if callback is not None:
                await self._callbacks.add(connection, callback, self.me)

        await self._pool.transaction(work)
        self._changed(job.id, events)

    async def append(self, job: Job, events: Sequence[Event]) -> bool:
        mine = await self._appends.ask((job, events))
        if mine:
            self._changed(job.id, events)
        return mine

    async def stop(self, job_id: str, now: float) -> Job | None:
        async def work(connection: Connection) -> tuple[Job, bool] | None:
            row = await connection.fetchrow(f"SELECT {JOB} FROM jobs WHERE id = $1 FOR UPDATE", job_id)
            if row is None:
                return None
            job, events = jobs.lose_track(self._rows.job(row, with_monitor=False), "watchStopped", now)
            if events:
                await connection.execute(
                    "UPDATE jobs SET state = $2, status = $3, seq = $4, ended = $5, monitor = NULL, epoch = epoch + 1"
                    " WHERE id = $1",
                    job_id,
                    msgspec.json.encode(job.state),
                    job.state.status,
                    job.seq,
                    job.ended,
                )
                await _insert(connection, job_id, events)
                await self._trim(connection, [job])
            return job, bool(events)

        stopped = await self._pool.transaction(work)
        if stopped is None:
            return None
        job, just_now = stopped
        if just_now:
            self._changed(job_id, ())
            self._wakeups.notify(_STOPPED, job_id)
        return job

    async def take(self, job_id: str) -> Job | None:
        job = await self._take(job_id)
        if job is not None:
            self._wakeups.notify(_TAKEN, f"{job_id} {job.epoch}")
        return job

    async def get(self, job_id: str) -> Job | None:
        found = await self._pool.execute(f"SELECT {JOB} FROM jobs WHERE id = $1", job_id)
        return self._rows.job(found[0]) if found else None

    async def read(self, wanted: Sequence[tuple[str, int]], limit: int) -> list[Slice | None]:
        reads = [self._reads.ask((job_id, after, limit)) for job_id, after in wanted]
        try:
            return [await read for read in reads]
        finally:
            for read in reads:
                if not read.cancel() and not read.cancelled():
                    read.exception()  # marks it as retrieved: a batch fails as a whole, and its first error was raised

    async def heads(self, job_ids: Sequence[str]) -> list[Slice | None]:
        return await self.read([(job_id, PAST_THE_END) for job_id in job_ids], 1)

    async def page(self, *, limit: int, status: str | None, before: str | None) -> tuple[list[Job], str | None]:
        created, job_id = rows.place(before)
        found = await self._pool.execute(
            f"SELECT {JOB} FROM jobs WHERE (created, id) < ($1, $2) AND status = coalesce($3, status)"
            " ORDER BY created DESC, id DESC LIMIT $4",
            created,
            job_id,
            status,
            limit + 1,
        )
        return rows.page([self._rows.job(row, with_monitor=False) for row in found], limit)

    async def reserve(self, key: bytes, fingerprint: bytes, now: float) -> Reservation | None:
        async def work(connection: Connection) -> Reservation | None:
            while True:
                inserted = await connection.fetchval(
                    "INSERT INTO keys (key, fingerprint, outcome, kept, owner) VALUES ($1, $2, 'inFlight', $3, $4)"
                    " ON CONFLICT (key) DO NOTHING RETURNING 1",
                    key,
                    fingerprint,
                    now,
                    self.me,
                )
                if inserted is not None:
                    return None
                earlier = await connection.fetchrow(
                    "SELECT fingerprint, outcome, job_id, owner FROM keys WHERE key = $1", key
                )
                if earlier is not None:
                    first_fingerprint, outcome, job_id, owner = earlier
                    return Reservation(first_fingerprint, outcome, job_id, elsewhere=owner not in self.ids)

        return await self._pool.transaction(work)

    async def release_key(self, key: bytes, created: float) -> None:
        await self._pool.execute(
            # Others mark it as unknown when they consider this gateway dead, and leave it its owner: only here is known
            # what became of the request.
            "DELETE FROM keys WHERE key = $1 AND kept = $2 AND outcome <> 'job' AND owner = ANY($3::text[])",
            key,
            created,
            self.ids,
        )

    async def mark_unknown(self, key: bytes, created: float) -> None:
        await self._pool.execute(
            "UPDATE keys SET outcome = 'unknown', owner = '' WHERE key = $1 AND kept = $2 AND outcome <> 'job'"
            " AND owner = ANY($3::text[])",
            key,
            created,
            self.ids,
        )

    async def delete_expired(self, before: float) -> int:
        async def work(connection: Connection) -> int:
            locked = [row["id"] for row in await connection.fetch(statements.PAST, before, _DELETE_AT_ONCE)]
            past = [row["id"] for row in await connection.fetch(statements.STILL_PAST, before, locked)]
            for table, column in (("keys", "job_id"), ("callbacks", "job_id"), ("events", "job_id"), ("jobs", "id")):
                await connection.execute(f"DELETE FROM {table} WHERE {column} = ANY($1::text[])", past)
            await connection.execute(
                "DELETE FROM keys WHERE job_id IS NULL AND outcome = 'unknown' AND kept < $1", before
            )
            return len(past)

        return await self._pool.transaction(work)

    async def add_callback(self, callback: Callback) -> Literal["added", "unknownJob", "tooMany"]:
        return await self._pool.transaction(lambda connection: self._callbacks.add(connection, callback, self.me))

    async def callbacks(self, job_id: str) -> list[Callback]:
        return self._callbacks.read(await self._pool.execute(self._callbacks.OF_JOB, job_id))

    async def save_callback(self, callback: Callback) -> bool:
        return bool(await self._pool.execute(self._callbacks.SAVE, *self._callbacks.saved(callback)))

    async def revive_callback(self, job_id: str, callback_id: str) -> Callback | None:
        callback = await self._pool.transaction(
            lambda connection: self._callbacks.revive(connection, job_id, callback_id, self.me)
        )
        if callback is not None:
            self._wakeups.notify(_REVIVED, f"{callback_id} {callback.epoch}")
        return callback

    async def remove_callback(self, job_id: str, callback_id: str) -> bool:
        removed = await self._pool.execute(self._callbacks.REMOVE, callback_id, job_id)
        if removed:
            self._wakeups.notify(_REMOVED, callback_id)
        return bool(removed)

    async def ping(self) -> None:
        """Write a probe: a standby that took over too early can only read."""
        await self._pool.execute(
            "INSERT INTO meta VALUES ('probe', $1) ON CONFLICT (name) DO UPDATE SET value = $1", secrets.token_bytes(8)
        )

    def _changed(self, job_id: str, events: Sequence[Event]) -> None:
        self._wakeups.notify(_GROWN, job_id)
        self.on_change(job_id, events)

    def _on_wakeup(self, kind: str, row_id: str) -> None:
        if kind == _GROWN:
            self.on_change(row_id, ())
        elif kind == _STOPPED:
            self.on_stop(row_id)
        elif kind == _REMOVED:
            self.on_callback_remove(row_id)
        elif kind in (_TAKEN, _REVIVED):
            taken_id, _, epoch = row_id.partition(" ")
            (self.on_take if kind == _TAKEN else self.on_callback_take)(taken_id, int(epoch))

    async def _append_all(self, appends: Sequence[_Append]) -> list[bool]:
        """Whether each append was stored. Takes one statement, unless a job has several appends in the batch."""
        results: list[bool] = [False] * len(appends)
        left = list(range(len(appends)))
        while left:
            first_of = {appends[place][0].id: place for place in reversed(left)}
            now = set(first_of.values())
            stored = await self._append_once([appends[place] for place in now])
            for place in now:
                results[place] = appends[place][0].id in stored
            left = [place for place in left if place not in now]
        return results

    async def _append_once(self, appends: Sequence[_Append]) -> set[str]:
        """The ids of the jobs whose append was stored; each job may occur once."""
        appends = sorted(appends, key=_job_id)  # the order in which the statement locks them
        states = [
            (
                job.id,
                job.epoch,
                events[0].seq,
                msgspec.json.encode(job.state),
                job.state.status,
                job.seq,
                job.ended,
            )
            for job, events in appends
        ]
        new = [
            (job.id, event.seq, event.kind, event.status_changed, event.data)
            for job, events in appends
            for event in events
        ]
        values = (*columns(states, 7), *columns(new, 5))
        long = [job for job, _ in appends if job.seq > self._log_limit]
        if not long:
            return {row["id"] for row in await self._pool.execute(statements.APPEND, *values)}

        async def work(connection: Connection) -> set[str]:
            stored = {row["id"] for row in await connection.fetch(statements.APPEND, *values)}
            await self._trim(connection, [job for job in long if job.id in stored])
            return stored

        return await self._pool.transaction(work)

    async def _trim(self, connection: Connection, grown: Sequence[Job]) -> None:
        long = [(job.id, job.seq) for job in grown if job.seq > self._log_limit]
        if long:
            await connection.execute(statements.TRIM, *columns(long, 2), self._log_limit)

    async def _read_all(self, wanted: Sequence[_Wanted]) -> list[Slice | None]:
        found = await self._pool.execute(statements.READ, *columns(wanted, 3))
        slices: list[Slice | None] = [None] * len(wanted)
        for place, group in groupby(found, key=itemgetter("place")):
            slices[place - 1] = _slice(list(group))
        return slices


def _job_id(append: _Append) -> str:
    return append[0].id


def _slice(found: Sequence[asyncpg.Record]) -> Slice:
    head, ended = found[0]["head"], found[0]["ended"]
    return Slice(
        head,
        ended,
        [Event(row["seq"], row["kind"], row["turned"], row["data"]) for row in found if row["seq"] is not None],
    )


async def _insert(connection: Connection, job_id: str, events: Sequence[Event]) -> None:
    values = [(job_id, event.seq, event.kind, event.status_changed, event.data) for event in events]
    await connection.execute(
        "INSERT INTO events (job_id, seq, kind, turned, data)"
        " SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bool[], $5::bytea[])",
        *columns(values, 5),
    )


async def _with_retries(join: Callable[[], Awaitable[None]]) -> None:
    """Try up to `JOIN_TRIES` times, so that a slow database does not fail the start."""
    for _ in range(JOIN_TRIES - 1):
        try:
            return await join()
        except StoreUnavailable:
            await anyio.sleep(_AGAIN)
    return await join()
