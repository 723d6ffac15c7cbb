"""`gateway reseal`: the last step of changing GATEWAY_SECRET_KEY, after which the old key may be left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from gateway.app import reseal
from gateway.cli.display import stderr_line
from gateway.cli.run import COMPLETED, FAILED, WRONG_USE
from gateway.core.errors import StoreRefused
from gateway.core.keys import is_weak, key_list
from gateway.server.server import settings_to_serve
from gateway.settings import MAKE_A_KEY
from gateway.telemetry import logs

if TYPE_CHECKING:
    from gateway.store.sealing import Resealed


def run() -> int:
    """Encrypt the store's values anew and print how many they were. Returns the exit status."""
    logs.begin()
    settings = settings_to_serve()
    if settings is None:
        return WRONG_USE
    if settings.secret_key is None:
        stderr_line("GATEWAY_SECRET_KEY is not set: there is nothing to encrypt with.")
        return WRONG_USE
    if is_weak(key_list(settings.secret_key)[0]):
        stderr_line(
            f"The first key of GATEWAY_SECRET_KEY, which encrypts, must be {MAKE_A_KEY}, and not the placeholder of an "
            "example. Nothing was changed."
        )
        return WRONG_USE
    try:
        counted = anyio.run(reseal, settings)
    except (StoreRefused, OSError) as error:
        stderr_line(str(error))
        return FAILED
    print(_told(counted))
    if counted.unreadable:
        stderr_line(
            f"{counted.unreadable} values were left: no key of GATEWAY_SECRET_KEY decrypts them. Add the one they were "
            "encrypted with behind the others, and try again."
        )
        return FAILED
    if len(key_list(settings.secret_key)) > 1:
        print("GATEWAY_SECRET_KEY needs no other key now. Backups made until now still need the others.")
    return COMPLETED


def _told(counted: Resealed) -> str:
    what = "value" if counted.changed == 1 else "values"
    return f"{counted.changed} {what} encrypted with the first key of GATEWAY_SECRET_KEY, {counted.current} before."
