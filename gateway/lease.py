"""Whether this process may still act for what it has.

Counted by this machine's monotonic clock, from when the last good renewal was sent: by the time the store gives this
gateway up, it has stopped by itself.
"""

from __future__ import annotations

import asyncio

import anyio


class Lease:
    """`term` is in seconds; without one there is nobody else, and the lease always holds."""

    def __init__(self, term: float | None = None) -> None:
        self._term = term
        self._until = 0.0
        self._renewed = anyio.Event()

    @property
    def holds(self) -> bool:
        return self._term is None or asyncio.get_running_loop().time() < self._until

    async def held(self) -> None:
        """Wait until it holds."""
        while not self.holds:
            await self._renewed.wait()

    def renewed(self, sent: float) -> None:
        """The store took a renewal that was sent then, by the event loop's clock."""
        if self._term is not None:
            self._until = sent + self._term
            self._renewed.set()
            self._renewed = anyio.Event()
