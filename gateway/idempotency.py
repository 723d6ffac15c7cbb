"""Idempotency keys: which requests are in flight, and what became of each; kept before the copy goes upstream."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import anyio

from gateway.errors import GatewayError, StoreUnavailable, outcome_unknown
from gateway.jobs import Job
from gateway.store import Store

MOST_UNSETTLED = 10_000
"""Keys whose outcome is remembered while the store cannot keep it."""


class Keys:
    """`key` is always the id of a key as its caller's own."""

    def __init__(self, store: Store, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._in_flight: set[bytes] = set()
        self._unsettled: dict[bytes, bool] = {}

    async def reserve(self, key: bytes, mark: bytes) -> Job | None:
        """Take a key for a request, which `mark` tells from others; the job when it was started under it before.

        Whoever takes it must `leave` it in the end. Raises GatewayError when it cannot be had, and StoreUnavailable.
        """
        await self.catch_up()
        try:
            known = await self._store.reserve(key, mark, self._clock())
        except StoreUnavailable:
            if key not in self._in_flight:
                self._remember(key, no_effect=True)  # it may have been kept, and the answer lost
            raise
        if known is None:
            self._in_flight.add(key)
            return None
        if known.fingerprint != mark:
            raise GatewayError(
                422,
                "idempotencyKeyReused",
                "This Idempotency-Key was used for another request. Use a new key for a new copy.",
            )
        if known.outcome == "job" and known.job_id is not None:
            job = await self._store.get(known.job_id)
            if job is not None:
                return job
        if key in self._in_flight or (known.outcome == "inFlight" and known.elsewhere):
            raise GatewayError(
                409,
                "requestInProgress",
                "The first request with this Idempotency-Key is still being answered. Repeat it in a moment.",
                retry_after=1,
            )
        raise outcome_unknown("The first request with this Idempotency-Key got no answer from upstream.")

    async def settle(self, key: bytes, *, no_effect: bool) -> None:
        """A request that had no effect frees its key; of any other nobody knows what became."""
        with anyio.CancelScope(shield=True), suppress(StoreUnavailable):
            await self._keep(key, no_effect=no_effect)

    def leave(self, key: bytes) -> None:
        """Its request is not in flight any more."""
        self._in_flight.discard(key)

    async def catch_up(self) -> None:
        """Keep what became of keys for which the store could not do so at once. Raises StoreUnavailable."""
        while self._unsettled:
            key, no_effect = self._unsettled.popitem()
            if key not in self._in_flight:
                await self._keep(key, no_effect=no_effect)

    async def _keep(self, key: bytes, *, no_effect: bool) -> None:
        try:
            await (self._store.release(key) if no_effect else self._store.doubt(key))
        except StoreUnavailable:
            self._remember(key, no_effect=no_effect)
            raise

    def _remember(self, key: bytes, *, no_effect: bool) -> None:
        if len(self._unsettled) < MOST_UNSETTLED:
            self._unsettled.setdefault(key, no_effect)
