"""Whether a store works, known from its newest work; and how a write is held until the store takes it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import anyio

from gateway.core.errors import StoreUnavailable
from gateway.telemetry.logs import EventLog

T = TypeVar("T")

WAITS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds between attempts of a held write; the last of them repeats."""

log = EventLog("gateway.store")


class Availability:
    """`failing` is whether the newest work failed: the next would most likely fail too."""

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
    timer: Callable[[], AbstractContextManager[object]],
    on_failure: Callable[[Exception, int], None],
    *,
    errors: type[Exception] = StoreUnavailable,
    waits: Sequence[float] = WAITS,
    patience: float = math.inf,
) -> T:
    """The result of a write that must not be lost: repeated until the store takes it.

    `timer` measures each attempt; `on_failure` gets the error and the number of the attempt. Raises the last of
    `errors` when no further attempt would begin within `patience` seconds.
    """
    now = asyncio.get_running_loop().time
    until = now() + patience
    attempts = 0
    while True:
        try:
            with timer():
                return await write()
        except errors as error:
            attempts += 1
            on_failure(error, attempts)
            wait = waits[min(attempts, len(waits)) - 1]
            if now() + wait > until:
                raise
        await anyio.sleep(wait)
