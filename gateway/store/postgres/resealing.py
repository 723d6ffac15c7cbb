"""Encrypting what the shared store holds with the first of the secret keys, while its gateways run."""

from __future__ import annotations

from gateway.store.postgres.pool import Connection
from gateway.store.rows import SEALED
from gateway.store.sealing import Cipher, Resealed

AT_ONCE = 200
"""Rows of one read."""


async def reseal_rows(connection: Connection, cipher: Cipher) -> Resealed:
    """Encrypt with the first key what is plain or encrypted with another, the store's own secret last.

    A value is only replaced if it is still the one that was read. Outside of a transaction one row is locked at a time,
    so that no gateway waits for long, or for ever. An interrupted run is completed by the next.
    """
    counted = Resealed()
    for table, column in SEALED:
        read = await connection.prepare(
            f"SELECT id, {column} FROM {table} WHERE id > $1 AND {column} IS NOT NULL ORDER BY id LIMIT $2"
        )
        update = await connection.prepare(
            f"UPDATE {table} SET {column} = $3 WHERE id = $1 AND {column} = $2 RETURNING 1"
        )
        after = ""
        while rows := [(row["id"], row[column]) for row in await read.fetch(after, AT_ONCE)]:
            after = rows[-1][0]
            for stale in cipher.stale(rows, counted):
                counted.changed += await update.fetchval(*stale) or 0
    secret = await connection.fetchval("SELECT value FROM meta WHERE name = 'secret'")
    for stale in cipher.stale([("secret", secret)], counted):
        sql = "UPDATE meta SET value = $3 WHERE name = $1 AND value = $2 RETURNING 1"
        counted.changed += await connection.fetchval(sql, *stale) or 0
    return counted
