"""The callbacks table of the shared store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from gateway.core.callback import Callback, retried
from gateway.store import CALLBACKS_PER_JOB
from gateway.store.postgres.pool import Connection
from gateway.store.rows import CALLBACK, Rows

_UPDATE = "UPDATE callbacks SET state = $3, settled = $4, epoch = $5, tries = $6"


class CallbackTable:
    """Methods that take a connection run within the caller's transaction."""

    OF_JOB = f"SELECT {CALLBACK} FROM callbacks WHERE job_id = $1 ORDER BY made, id"
    SAVE = f"{_UPDATE} WHERE id = $1 AND epoch = $2 RETURNING 1"
    REMOVE = "DELETE FROM callbacks WHERE id = $1 AND job_id = $2 RETURNING 1"

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def read(self, found: Iterable[Iterable[Any]]) -> list[Callback]:
        return [self._rows.callback(row) for row in found]

    def saved(self, callback: Callback) -> tuple[Any, ...]:
        """The values of `SAVE`."""
        tries = msgspec.json.encode(callback.progress)
        return (callback.id, callback.epoch, callback.state, callback.finished_at, callback.epoch, tries)

    async def add(
        self, connection: Connection, callback: Callback, owner: str
    ) -> Literal["added", "unknownJob", "tooMany"]:
        # The lock on the job's row delays another registration, and the job's deletion, until this one commits.
        if await connection.fetchval("SELECT 1 FROM jobs WHERE id = $1 FOR UPDATE", callback.job_id) is None:
            return "unknownJob"
        count = await connection.fetchval("SELECT count(*) FROM callbacks WHERE job_id = $1", callback.job_id)
        if count >= CALLBACKS_PER_JOB:
            return "tooMany"
        await connection.execute(
            f"INSERT INTO callbacks ({CALLBACK}, owner) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            *self._rows.of_callback(callback),
            owner,
        )
        return "added"

    async def revive(self, connection: Connection, job_id: str, callback_id: str, owner: str) -> Callback | None:
        # As in `add`: the deletion of an expired job looks at its callbacks under a lock on the job's row.
        await connection.fetchval("SELECT 1 FROM jobs WHERE id = $1 FOR KEY SHARE", job_id)
        row = await connection.fetchrow(
            f"SELECT {CALLBACK} FROM callbacks WHERE id = $1 AND job_id = $2 FOR UPDATE", callback_id, job_id
        )
        if row is None:
            return None
        old = self._rows.callback(row)
        callback = retried(old)
        if callback != old:
            _, _, *progress = self.saved(callback)
            await connection.execute(
                f"{_UPDATE}, owner = $7 WHERE id = $1 AND epoch = $2", old.id, old.epoch, *progress, owner
            )
        return callback
