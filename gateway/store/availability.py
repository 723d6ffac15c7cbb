"""Whether a store does what it is asked: known from its newest work, and told when that changes."""

from __future__ import annotations

import time

from gateway.telemetry.logs import EventLog

log = EventLog("gateway.store")


class Availability:
    """`failing` is whether the newest work failed: what is asked next would most likely fail too."""

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
