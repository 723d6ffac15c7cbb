"""Idempotency keys: which requests are in flight, and what became of each; kept before the copy goes upstream."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import anyio

from gateway.core.errors import (
    IDEMPOTENCY_KEY_REUSED,
    REQUEST_IN_PROGRESS,
    GatewayError,
    StoreUnavailable,
    outcome_unknown,
)
from gateway.core.job import Job
from gateway.store import Reservation, Store

MOST_UNSETTLED = 10_000
"""Keys whose outcome is remembered while the store cannot keep it."""


class Keys:
    """`key` is always the id of a key as its caller's own.

    An attempt at a key is identified by its time of creation, so that a late write of an earlier attempt leaves the
    next alone.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._in_flight: dict[bytes, tuple[bytes, float]] = {}
        self._unsettled: dict[tuple[bytes, float], bool] = {}

    async def reserve(self, key: bytes, mark: bytes) -> Job | None:
        """Take a key for a request, which `mark` tells from others; the job when it was started under it before.

        Whoever takes it must `leave` it in the end. Raises GatewayError when it cannot be had, and StoreUnavailable.
        """
        if key in self._in_flight:
            same = self._in_flight[key][0] == mark
            raise GatewayError(REQUEST_IN_PROGRESS if same else IDEMPOTENCY_KEY_REUSED)
        created = self._clock()
        self._in_flight[key] = (mark, created)
        taken = False
        try:
            await self.catch_up()
            try:
                known = await self._store.reserve(key, mark, created)
            except StoreUnavailable:
                self._remember(key, created, no_effect=True)  # it may have been kept, and the answer lost
                raise
            taken = known is None
            return None if known is None else await self._earlier(known, mark)
        finally:
            if not taken:
                self.leave(key)

    async def settle(self, key: bytes, *, no_effect: bool) -> None:
        """A request that had no effect frees its key; of any other nobody knows what became."""
        with anyio.CancelScope(shield=True), suppress(StoreUnavailable):
            await self._keep(key, self._in_flight[key][1], no_effect=no_effect)

    def leave(self, key: bytes) -> None:
        """Its request is not in flight any more."""
        del self._in_flight[key]

    async def catch_up(self) -> None:
        """Keep what became of keys for which the store could not do so at once. Raises StoreUnavailable."""
        while self._unsettled:
            (key, created), no_effect = self._unsettled.popitem()
            await self._keep(key, created, no_effect=no_effect)

    async def _earlier(self, known: Reservation, mark: bytes) -> Job:
        if known.fingerprint != mark:
            raise GatewayError(IDEMPOTENCY_KEY_REUSED)
        if known.outcome == "job" and known.job_id is not None:
            job = await self._store.get(known.job_id)
            if job is not None:
                return job
        if known.outcome == "inFlight" and known.elsewhere:
            raise GatewayError(REQUEST_IN_PROGRESS)
        raise outcome_unknown("The first request with this Idempotency-Key got no answer from upstream.")

    async def _keep(self, key: bytes, created: float, *, no_effect: bool) -> None:
        try:
            await (self._store.release_key(key, created) if no_effect else self._store.mark_unknown(key, created))
        except StoreUnavailable:
            self._remember(key, created, no_effect=no_effect)
            raise

    def _remember(self, key: bytes, created: float, *, no_effect: bool) -> None:
        if len(self._unsettled) < MOST_UNSETTLED:
            self._unsettled[key, created] = no_effect
