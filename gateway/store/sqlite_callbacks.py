"""The rows of the callbacks in the embedded store."""

from __future__ import annotations

import sqlite3
from typing import Any, Literal

import msgspec

from gateway.deliveries import Callback, Tries, revived
from gateway.events import Kind
from gateway.sealing import Seal
from gateway.store import CALLBACKS_PER_JOB

_CALLBACK = "id, job_id, receiver, events, made, with_copy, state, settled, epoch, tries"

_read_events = msgspec.json.Decoder(tuple[Kind, ...]).decode
_read_tries = msgspec.json.Decoder(Tries).decode


class _Receiver(msgspec.Struct, frozen=True):
    url: str
    secret: str


_read_receiver = msgspec.json.Decoder(_Receiver).decode


class CallbackRows:
    """Each method works within the caller's transaction. URL and secret are sealed together, bound to their row."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal

    def add(self, db: sqlite3.Connection, callback: Callback) -> Literal["added", "unknownJob", "tooMany"]:
        if db.execute("SELECT 1 FROM jobs WHERE id = ?", (callback.job_id,)).fetchone() is None:
            return "unknownJob"
        (there,) = db.execute("SELECT count(*) FROM callbacks WHERE job_id = ?", (callback.job_id,)).fetchone()
        if there >= CALLBACKS_PER_JOB:
            return "tooMany"
        receiver = msgspec.json.encode(_Receiver(callback.url, callback.secret))
        db.execute(
            f"INSERT INTO callbacks ({_CALLBACK}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                callback.id,
                callback.job_id,
                self._seal.close(receiver, callback.id),
                msgspec.json.encode(callback.events),
                callback.made,
                callback.with_copy,
                callback.state,
                callback.settled,
                callback.epoch,
                msgspec.json.encode(callback.tries),
            ),
        )
        return "added"

    def of_job(self, db: sqlite3.Connection, job_id: str) -> list[Callback]:
        rows = db.execute(f"SELECT {_CALLBACK} FROM callbacks WHERE job_id = ? ORDER BY made, id", (job_id,))
        return [self._callback(row) for row in rows]

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
            f"SELECT {_CALLBACK} FROM callbacks WHERE id = ? AND job_id = ?", (callback_id, job_id)
        ).fetchone()
        if row is None:
            return None
        old = self._callback(row)
        callback = revived(old)
        self.save(db, callback, old.epoch)
        return callback

    def remove(self, db: sqlite3.Connection, job_id: str, callback_id: str) -> bool:
        return db.execute("DELETE FROM callbacks WHERE id = ? AND job_id = ?", (callback_id, job_id)).rowcount > 0

    def claim(self, db: sqlite3.Connection) -> list[Callback]:
        db.execute("UPDATE callbacks SET epoch = epoch + 1 WHERE state = 'active'")
        return [self._callback(row) for row in db.execute(f"SELECT {_CALLBACK} FROM callbacks WHERE state = 'active'")]

    def _callback(self, row: tuple[Any, ...]) -> Callback:
        callback_id, job_id, sealed, events, made, with_copy, state, settled, epoch, tries = row
        receiver = _read_receiver(self._seal.open(sealed, callback_id))
        return Callback(
            id=callback_id,
            job_id=job_id,
            url=receiver.url,
            secret=receiver.secret,
            events=_read_events(events),
            made=made,
            with_copy=bool(with_copy),
            state=state,
            settled=settled,
            epoch=epoch,
            tries=_read_tries(tries),
        )
