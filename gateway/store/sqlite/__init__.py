"""The embedded store: one SQLite file in WAL mode, `synchronous=FULL`, one writing and one reading thread.

When the file is removed or replaced while it is open, SQLite goes on with the open one, which the next start does not
find. Then all that promises a caller something raises StoreUnavailable; only the jobs and callbacks that run already
are written, so that their readers hear of their ends.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from gateway.core import job as jobs
from gateway.core.callback import Callback, retried
from gateway.core.job import Event, Job, Kind
from gateway.store import CALLBACKS_PER_JOB, PAST_THE_END, OnChange, Reservation, Slice, ignore_change, rows
from gateway.store.rows import CALLBACK, JOB, Rows
from gateway.store.sqlite.file import StoreFile
from gateway.store.sqlite.thread import SQLiteThread, Work

T = TypeVar("T")

_DELETE_AT_ONCE = 500


class SQLiteStore:
    """`log_limit` is the number of events kept per job."""

    def __init__(self, file: StoreFile, *, log_limit: int) -> None:
        self._file = file
        self._rows = Rows(file.cipher)
        self._callbacks = CallbackTable(self._rows)
        self._log_limit = log_limit
        self.secret = file.secret
        self.operator_hash = file.operator_hash
        self.new_operator_key = file.new_operator_key
        self.on_change: OnChange = ignore_change
        self._writes = SQLiteThread(file.connect, writes=True, name="store-writer")
        self._reads = SQLiteThread(file.connect, writes=False, name="store-reader")
        file.opened()

    @property
    def failing(self) -> bool:
        return self._writes.availability.failing or not self._file.is_in_place

    @property
    def failures(self) -> int:
        return self._writes.availability.failures + self._reads.availability.failures

    async def create(
        self, job: Job, events: Sequence[Event], key: bytes | None, callback: Callback | None = None
    ) -> None:
        def work(db: sqlite3.Connection) -> None:
            stored = db.execute("SELECT created FROM jobs WHERE id = ?", (job.id,)).fetchone()
            if stored == (job.created,):
                return
            db.execute(f"INSERT INTO jobs ({JOB}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", self._rows.of_job(job))
            _insert(db, job.id, events)
            if key is not None:
                db.execute("UPDATE keys SET outcome = 'job', job_id = ? WHERE key = ?", (job.id, key))
            if callback is not None:
                self._callbacks.add(db, callback)

        await self._promise(work, lambda _: self.on_change(job.id, events))

    async def append(self, job: Job, events: Sequence[Event]) -> bool:
        return await self._writes.submit(
            lambda db: self._append(db, job, events, job.epoch),
            lambda stored: self.on_change(job.id, events if stored else ()),
            gather=True,
        )

    async def stop(self, job_id: str, now: float) -> Job | None:
        def work(db: sqlite3.Connection) -> Job | None:
            row = db.execute(f"SELECT {JOB} FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if row is None:
                return None
            job, events = jobs.lose_track(self._rows.job(row, with_monitor=False), "watchStopped", now)
            if events:
                self._append(db, msgspec.structs.replace(job, epoch=job.epoch + 1), events, job.epoch)
            return job

        return await self._promise(work, lambda _: self.on_change(job_id, ()))

    async def take(self, job_id: str) -> Job | None:
        def work(db: sqlite3.Connection) -> Job | None:
            db.execute("UPDATE jobs SET epoch = epoch + 1 WHERE id = ? AND ended IS NULL", (job_id,))
            row = db.execute(f"SELECT {JOB} FROM jobs WHERE id = ? AND ended IS NULL", (job_id,)).fetchone()
            return None if row is None else self._rows.job(row)

        return await self._promise(work)

    async def get(self, job_id: str) -> Job | None:
        def work(db: sqlite3.Connection) -> Job | None:
            row = db.execute(f"SELECT {JOB} FROM jobs WHERE id = ?", (job_id,)).fetchone()
            return None if row is None else self._rows.job(row)

        return await self._reads.submit(work)

    async def read(self, wanted: Sequence[tuple[str, int]], limit: int) -> list[Slice | None]:
        def work(db: sqlite3.Connection) -> list[Slice | None]:
            return [_slice(db, job_id, after, limit) for job_id, after in wanted]

        return await self._reads.submit(work)

    async def heads(self, job_ids: Sequence[str]) -> list[Slice | None]:
        return await self.read([(job_id, PAST_THE_END) for job_id in job_ids], 1)

    async def page(self, *, limit: int, status: str | None, before: str | None) -> tuple[list[Job], str | None]:
        created, job_id = rows.place(before)

        def work(db: sqlite3.Connection) -> list[Job]:
            found = db.execute(
                f"SELECT {JOB} FROM jobs WHERE (created, id) < (?, ?) AND status = ifnull(?, status)"
                " ORDER BY created DESC, id DESC LIMIT ?",
                (created, job_id, status, limit + 1),
            )
            return [self._rows.job(row, with_monitor=False) for row in found]

        return rows.page(await self._reads.submit(work), limit)

    async def claim(self) -> list[Job]:
        """Claim all running jobs, and mark the keys that an earlier process left in flight as unknown."""

        def work(db: sqlite3.Connection) -> list[Job]:
            db.execute("UPDATE keys SET outcome = 'unknown' WHERE outcome = 'inFlight'")
            db.execute("UPDATE jobs SET epoch = epoch + 1 WHERE ended IS NULL")
            found = db.execute(f"SELECT {JOB} FROM jobs WHERE ended IS NULL")
            return self._rows.legible("jobs", found, self._rows.job)

        return await self._promise(work)

    async def reserve(self, key: bytes, fingerprint: bytes, now: float) -> Reservation | None:
        def work(db: sqlite3.Connection) -> Reservation | None:
            row = db.execute("SELECT fingerprint, outcome, job_id FROM keys WHERE key = ?", (key,)).fetchone()
            if row is not None:
                return Reservation(*row)
            db.execute(
                "INSERT INTO keys (key, fingerprint, outcome, kept) VALUES (?, ?, 'inFlight', ?)",
                (key, fingerprint, now),
            )
            return None

        return await self._promise(work)

    async def release_key(self, key: bytes, created: float) -> None:
        await self._write("DELETE FROM keys WHERE key = ? AND kept = ? AND outcome = 'inFlight'", key, created)

    async def mark_unknown(self, key: bytes, created: float) -> None:
        await self._write(
            "UPDATE keys SET outcome = 'unknown' WHERE key = ? AND kept = ? AND outcome = 'inFlight'", key, created
        )

    async def delete_expired(self, before: float) -> int:
        def work(db: sqlite3.Connection) -> int:
            past = db.execute(
                "SELECT id FROM jobs WHERE ended < ?1 AND NOT EXISTS (SELECT 1 FROM callbacks WHERE job_id = jobs.id"
                " AND (state = 'active' OR (state = 'exhausted' AND settled >= ?1))) LIMIT ?2",
                (before, _DELETE_AT_ONCE),
            ).fetchall()
            db.executemany("DELETE FROM keys WHERE job_id = ?", past)
            db.executemany("DELETE FROM callbacks WHERE job_id = ?", past)
            db.executemany("DELETE FROM events WHERE job_id = ?", past)
            db.executemany("DELETE FROM jobs WHERE id = ?", past)
            db.execute("DELETE FROM keys WHERE job_id IS NULL AND outcome = 'unknown' AND kept < ?", (before,))
            return len(past)

        return await self._promise(work)

    async def add_callback(self, callback: Callback) -> Literal["added", "unknownJob", "tooMany"]:
        return await self._promise(lambda db: self._callbacks.add(db, callback))

    async def callbacks(self, job_id: str) -> list[Callback]:
        return await self._reads.submit(lambda db: self._callbacks.of_job(db, job_id))

    async def save_callback(self, callback: Callback) -> bool:
        return await self._writes.submit(lambda db: self._callbacks.save(db, callback, callback.epoch))

    async def revive_callback(self, job_id: str, callback_id: str) -> Callback | None:
        return await self._promise(lambda db: self._callbacks.revive(db, job_id, callback_id))

    async def remove_callback(self, job_id: str, callback_id: str) -> bool:
        return await self._promise(lambda db: self._callbacks.remove(db, job_id, callback_id))

    async def claim_callbacks(self) -> list[Callback]:
        return await self._promise(self._callbacks.claim)

    async def ping(self) -> None:
        probe = secrets.token_bytes(8)
        await self._promise(lambda db: db.execute("INSERT OR REPLACE INTO meta VALUES ('probe', ?)", (probe,)).rowcount)

    async def close(self) -> None:
        """Finish the queued work, then close the connections and release the file's lock."""
        await self._writes.close()
        await self._reads.close()
        self._file.close()

    def _promise(self, work: Work[T], then: Callable[[T], None] | None = None) -> asyncio.Future[T]:
        """Submit a write that a caller is told of; it fails when the next start would not find it."""

        def in_place(db: sqlite3.Connection) -> T:
            self._file.require_in_place()
            return work(db)

        return self._writes.submit(in_place, then)

    async def _write(self, sql: str, *values: Any) -> None:
        await self._writes.submit(lambda db: db.execute(sql, values).rowcount)

    def _append(self, db: sqlite3.Connection, job: Job, events: Sequence[Event], epoch: int) -> bool:
        changed = db.execute(
            "UPDATE jobs SET state = ?, status = ?, seq = ?, epoch = ?, ended = ?, monitor = iif(?, NULL, monitor)"
            " WHERE id = ? AND epoch = ? AND ended IS NULL",
            (
                msgspec.json.encode(job.state),
                job.state.status,
                job.seq,
                job.epoch,
                job.ended,
                job.monitor is None,
                job.id,
                epoch,
            ),
        ).rowcount
        if changed == 0:
            return False
        _insert(db, job.id, events)
        if job.seq > self._log_limit:
            _trim(db, job.id, job.seq, self._log_limit)
        return True


def _insert(db: sqlite3.Connection, job_id: str, events: Sequence[Event]) -> None:
    for event in events:  # nearly always one
        db.execute(
            "INSERT INTO events (job_id, seq, kind, turned, data) VALUES (?, ?, ?, ?, ?)",
            (job_id, event.seq, event.kind, event.status_changed, event.data),
        )


def _trim(db: sqlite3.Connection, job_id: str, newest: int, limit: int) -> None:
    """Delete all but `limit` events of a job: progress events first, then changes of status, the oldest first.

    The first and the newest event are kept.
    """
    db.execute(
        "DELETE FROM events WHERE job_id = :job AND seq IN ("
        " SELECT seq FROM events WHERE job_id = :job AND seq > 1 AND seq < :newest ORDER BY turned, seq"
        " LIMIT max(0, (SELECT count(*) FROM events WHERE job_id = :job) - :limit))",
        {"job": job_id, "newest": newest, "limit": limit},
    )


def _slice(db: sqlite3.Connection, job_id: str, after: int, limit: int) -> Slice | None:
    head = db.execute("SELECT seq, ended FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if head is None:
        return None
    rows: list[tuple[int, Kind, int, bytes]] = []
    if head[0] > after:
        rows = db.execute(
            "SELECT seq, kind, turned, data FROM events WHERE job_id = ? AND seq > ? ORDER BY seq LIMIT ?",
            (job_id, after, limit),
        ).fetchall()
    return Slice(
        head[0],
        head[1] is not None,
        [Event(seq, kind, bool(status_changed), data) for seq, kind, status_changed, data in rows],
    )


class CallbackTable:
    """The callbacks table; each method runs within the caller's transaction."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def add(self, db: sqlite3.Connection, callback: Callback) -> Literal["added", "unknownJob", "tooMany"]:
        if db.execute("SELECT 1 FROM jobs WHERE id = ?", (callback.job_id,)).fetchone() is None:
            return "unknownJob"
        (count,) = db.execute("SELECT count(*) FROM callbacks WHERE job_id = ?", (callback.job_id,)).fetchone()
        if count >= CALLBACKS_PER_JOB:
            return "tooMany"
        db.execute(
            f"INSERT INTO callbacks ({CALLBACK}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self._rows.of_callback(callback),
        )
        return "added"

    def of_job(self, db: sqlite3.Connection, job_id: str) -> list[Callback]:
        rows = db.execute(f"SELECT {CALLBACK} FROM callbacks WHERE job_id = ? ORDER BY made, id", (job_id,))
        return [self._rows.callback(row) for row in rows]

    def save(self, db: sqlite3.Connection, callback: Callback, epoch: int) -> bool:
        """Store state, progress and epoch; False when the row's epoch is not `epoch`."""
        changed = db.execute(
            "UPDATE callbacks SET state = ?, settled = ?, epoch = ?, tries = ? WHERE id = ? AND epoch = ?",
            (
                callback.state,
                callback.finished_at,
                callback.epoch,
                msgspec.json.encode(callback.progress),
                callback.id,
                epoch,
            ),
        )
        return changed.rowcount > 0

    def revive(self, db: sqlite3.Connection, job_id: str, callback_id: str) -> Callback | None:
        row = db.execute(
            f"SELECT {CALLBACK} FROM callbacks WHERE id = ? AND job_id = ?", (callback_id, job_id)
        ).fetchone()
        if row is None:
            return None
        old = self._rows.callback(row)
        callback = retried(old)
        self.save(db, callback, old.epoch)
        return callback

    def remove(self, db: sqlite3.Connection, job_id: str, callback_id: str) -> bool:
        return db.execute("DELETE FROM callbacks WHERE id = ? AND job_id = ?", (callback_id, job_id)).rowcount > 0

    def claim(self, db: sqlite3.Connection) -> list[Callback]:
        db.execute("UPDATE callbacks SET epoch = epoch + 1 WHERE state = 'active'")
        found = db.execute(f"SELECT {CALLBACK} FROM callbacks WHERE state = 'active'")
        return self._rows.legible("callbacks", found, self._rows.callback)
