"""A copy of a store's file, also while a gateway has it open: SQLite's own backup, in one read transaction."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from gateway.core.errors import StoreRefused
from gateway.store.sqlite.file import APPLICATION_ID

PATIENCE = 20.0
"""Seconds that a copy waits for another program's lock on the file."""


def backup(source: Path, target: Path) -> int:
    """Copy the store at `source` to the new file `target`, and return its size in bytes.

    Nobody but the owner may ever read the file: its mode is 0600 from the beginning. The copy contains all that was
    committed before it began, and has been checked. Raises FileExistsError, OSError, and StoreRefused with a message
    for the operator; no part of a copy is left then.
    """
    source = Path(os.path.realpath(source))
    if not source.is_file():
        raise StoreRefused(f"There is no store at {source}.")
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        _copy(source, target)
        _flush(target)
    except BaseException as error:
        target.unlink()
        if isinstance(error, sqlite3.Error):
            raise StoreRefused(f"The store {source} cannot be copied to {target}: {error}.") from None
        raise
    return target.stat().st_size


def _copy(source: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=PATIENCE)) as read,
        closing(sqlite3.connect(target)) as written,
    ):
        if read.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
            raise StoreRefused(f"{source} is not a gateway's store.")
        read.backup(written)
        (verdict,) = written.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreRefused(f"The store {source} is damaged ({' '.join(verdict.split())}). No copy was kept.")


def _flush(target: Path) -> None:
    """Have the disk keep the file and its name."""
    for path in (target, target.parent):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
