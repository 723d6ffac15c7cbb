"""Whether a store is available, judged by its newest operation; and retries of writes that must not be lost."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

from gateway.core.errors import StoreUnavailable
from gateway.telemetry.logs import EventLog

T = TypeVar("T")

WAITS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Backoff between the attempts of a write, in seconds; the last value repeats."""

CLOSED = "The store: it is closed."
"""What those are told who still ask a store for something when its gateway has stopped, or has crashed."""

log = EventLog("gateway.store")


class Availability:
    """Records the outcome of operations on one part of a store, and logs when it fails and when it is back.

    `failing` tells whether the newest operation failed, in which case the next would most likely fail too. `failures`
    is the number of failures since the start.
    """

    def __init__(self, part: str) -> None:
        self._part = part
        self._since = 0.0
        self.failing = False
        self.failures = 0

    def worked(self) -> None:
        if self.failing:
            self.failing = False
            log.warning("store_back", part=self._part, seconds=round(time.monotonic() - self._since, 1))

    def failed(self, error: Exception) -> None:
        self.failures += 1
        if not self.failing:
            self.failing = True
            self._since = time.monotonic()
            log.error("store_away", part=self._part, error=str(error))


async def hold(
    write: Callable[[], Awaitable[T]],
    observe: Callable[[float], None],
    on_failure: Callable[[Exception, int], None],
    *,
    errors: type[Exception] = StoreUnavailable,
    waits: Sequence[float] = WAITS,
    patience: float = math.inf,
) -> T:
    """Retry a write that must not be lost until the store accepts it, and return its result.

    `observe` gets the seconds of each attempt; `on_failure` gets the error and the number of the attempt. Only `errors`
    are retried; `waits` is the backoff in seconds. Raises the last error when no further attempt would begin within
    `patience` seconds.
    """
    now = asyncio.get_running_loop().time
    until = now() + patience
    attempts = 0
    while True:
        begun = time.perf_counter()
        try:
            return await write()
        except errors as error:
            attempts += 1
            on_failure(error, attempts)
            wait = waits[min(attempts, len(waits)) - 1]
            if now() + wait > until:
                raise
        finally:
            observe(time.perf_counter() - begun)
        await anyio.sleep(wait)
