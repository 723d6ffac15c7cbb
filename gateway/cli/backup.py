"""`gateway backup`: a consistent copy of the SQLite store, made while it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.cli.display import stderr_line
from gateway.cli.run import COMPLETED, FAILED, WRONG_USE
from gateway.core.errors import StoreRefused
from gateway.server.server import settings_to_serve
from gateway.store.sqlite.backup import backup
from gateway.telemetry import logs

if TYPE_CHECKING:
    from pathlib import Path


def run(target: Path) -> int:
    """Copy the store that the settings name to `target`. Returns the exit status."""
    logs.begin()
    settings = settings_to_serve()
    if settings is None:
        return WRONG_USE
    if settings.is_shared:
        stderr_line(
            "The store is a PostgreSQL database, which has its own backups: pg_dump --format=custom --file=FILE, with "
            "the URL of GATEWAY_STORE_URL. pg_restore restores it."
        )
        return WRONG_USE
    try:
        size = backup(settings.store_path, target)
    except FileExistsError:
        stderr_line(f"{target} exists already. Name a new file; nothing was overwritten.")
        return WRONG_USE
    except (StoreRefused, OSError) as error:
        stderr_line(str(error))
        return FAILED
    print(f"Copied {settings.store_path} to {target} ({size} bytes). Keep it like the store: it contains secrets.")
    if settings.secret_key is not None:
        print("A gateway reads it only with the GATEWAY_SECRET_KEY of today.")
    return COMPLETED
