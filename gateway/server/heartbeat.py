"""A worker's signs of life, which its parent watches: a byte a second over the socket that is the worker's stdin.

While the worker starts, a thread writes them: imports have no event loop. Once it serves, only its event loop does, so
that a loop that hangs falls silent. Imports little, since the first byte comes before all other imports.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

EVERY = 1.0
STARTING, SERVING = b"-", b"+"
LONGEST_START = 120.0
"""Seconds until a worker that does not serve yet falls silent: more than imports and a wait for the database take."""
STDIN = 0
SECOND = signal.SIGINT
"""The signal for a second one. The parent tells a first one by the end of stdin: a service manager signals the workers
as well, and they would count two."""

_serving = threading.Event()


def starting() -> None:
    """Write signs of life from a thread, until `serving` is called or `LONGEST_START` has passed."""
    os.set_blocking(STDIN, False)
    threading.Thread(target=_while_starting, name="heartbeat", daemon=True).start()


def serving(loop: asyncio.AbstractEventLoop) -> None:
    """Tell the parent that this worker serves, and write signs of life from its loop from now on."""
    _serving.set()
    _from_loop(loop)


def _while_starting() -> None:
    until = time.monotonic() + LONGEST_START
    while time.monotonic() < until:
        if not _write(STARTING):
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if _serving.wait(EVERY):
            return


def _from_loop(loop: asyncio.AbstractEventLoop) -> None:
    if _write(SERVING):
        loop.call_later(EVERY, _from_loop, loop)


def _write(sign: bytes) -> bool:
    """Return whether the parent still exists."""
    try:
        os.write(STDIN, sign)
    except BlockingIOError:  # the parent is suspended and reads nothing
        return True
    except OSError:
        return False
    return True
