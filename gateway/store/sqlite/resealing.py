"""Encrypting what a SQLite store holds with the first of its secret keys, also while a gateway writes to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from gateway.store.rows import SEALED
from gateway.store.sealing import Cipher, Resealed

AT_ONCE = 200
"""Rows of one transaction: it takes milliseconds, while others wait."""


def reseal_rows(db: sqlite3.Connection, cipher: Cipher) -> Resealed:
    """Encrypt with the first key what is plain or encrypted with another, the store's own secret last.

    A value is only replaced if it is still the one that was read. An interrupted run is completed by the next.
    """
    counted = Resealed()
    for table, column in SEALED:
        read = f"SELECT id, {column} FROM {table} WHERE id > ? AND {column} IS NOT NULL ORDER BY id LIMIT ?"
        update = f"UPDATE {table} SET {column} = ?3 WHERE id = ?1 AND {column} = ?2"
        after = ""
        while rows := db.execute(read, (after, AT_ONCE)).fetchall():
            after = rows[-1][0]
            _replace(db, update, cipher.stale(rows, counted), counted)
    secret = cipher.stale([("secret", sealed_secret(db))], counted)
    _replace(db, "UPDATE meta SET value = ?3 WHERE name = ?1 AND value = ?2", secret, counted)
    return counted


def sealed_secret(db: sqlite3.Connection) -> bytes:
    """The store's own secret, as it is stored."""
    (stored,) = db.execute("SELECT value FROM meta WHERE name = 'secret'").fetchone()
    return bytes(stored)


def _replace(db: sqlite3.Connection, update: str, stale: Sequence[tuple[str, bytes, bytes]], counted: Resealed) -> None:
    if stale:
        db.execute("BEGIN IMMEDIATE")
        counted.changed += db.executemany(update, stale).rowcount
        db.execute("COMMIT")
