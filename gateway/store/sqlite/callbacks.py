"""The rows of the callbacks in the embedded store."""

from __future__ import annotations

import sqlite3
from typing import Literal

import msgspec

from gateway.core.callback import Callback, revived
from gateway.store import CALLBACKS_PER_JOB
from gateway.store.rows import CALLBACK, Rows


class CallbackTable:
    """Each method works within the caller's transaction."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def add(self, db: sqlite3.Connection, callback: Callback) -> Literal["added", "unknownJob", "tooMany"]:
        if db.execute("SELECT 1 FROM jobs WHERE id = ?", (callback.job_id,)).fetchone() is None:
            return "unknownJob"
        (there,) = db.execute("SELECT count(*) FROM callbacks WHERE job_id = ?", (callback.job_id,)).fetchone()
        if there >= CALLBACKS_PER_JOB:
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
        """`epoch` is the one that the row must have."""
        changed = db.execute(
            "UPDATE callbacks SET state = ?, settled = ?, epoch = ?, tries = ? WHERE id = ? AND epoch = ?",
            (
                callback.state,
                callback.settled,
                callback.epoch,
                msgspec.json.encode(callback.tries),
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
        callback = revived(old)
        self.save(db, callback, old.epoch)
        return callback

    def remove(self, db: sqlite3.Connection, job_id: str, callback_id: str) -> bool:
        return db.execute("DELETE FROM callbacks WHERE id = ? AND job_id = ?", (callback_id, job_id)).rowcount > 0

    def claim(self, db: sqlite3.Connection) -> list[Callback]:
        db.execute("UPDATE callbacks SET epoch = epoch + 1 WHERE state = 'active'")
        return [
            self._rows.callback(row) for row in db.execute(f"SELECT {CALLBACK} FROM callbacks WHERE state = 'active'")
        ]
