"""Idempotency keys: the requests in flight and the outcome of each, stored before the copy goes upstream."""

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

MOST_UNSTORED = 10_000
"""Most keys whose outcome is held in memory while the store is away."""


class Keys:
    """The idempotency keys of this process. A `key` here is the HMAC of the caller and the caller's key.

    An attempt at a key is identified by its time of creation, so that a late write of an earlier attempt leaves the
    next alone.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._in_flight: dict[bytes, tuple[bytes, float]] = {}
        self._unstored: dict[tuple[bytes, float], bool] = {}
        self._none_in_flight = anyio.Event()

    async def reserve(self, key: bytes, mark: bytes) -> Job | None:
        """Reserve a key for a request; `mark` is the request's fingerprint. Returns the job of an earlier request.

        A reserved key (None) must be left with `leave`. Raises GatewayError: 409 while the first request is in flight,
        422 for another request, 502 when the outcome of the first is unknown. Raises StoreUnavailable.
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
            except BaseException:  # also a cancellation
                self._remember(key, created, no_effect=True)  # it may be stored, and the answer lost
                raise
            taken = known is None
            return None if known is None else await self._earlier(known, mark)
        finally:
            if not taken:
                self.leave(key)

    async def settle(self, key: bytes, *, no_effect: bool) -> None:
        """Store the outcome of a failed request: without effect it frees its key, else its outcome is unknown."""
        with anyio.CancelScope(shield=True), suppress(StoreUnavailable):
            await self._store_outcome(key, self._in_flight[key][1], no_effect=no_effect)

    def leave(self, key: bytes) -> None:
        """The request of this key is no longer in flight."""
        del self._in_flight[key]
        if not self._in_flight:
            self._none_in_flight.set()

    async def settled(self) -> None:
        """Wait until no request is in flight and its outcome is stored, as far as the store takes it."""
        while self._in_flight:
            self._none_in_flight = anyio.Event()
            await self._none_in_flight.wait()
        with suppress(StoreUnavailable):
            await self.catch_up()

    async def catch_up(self) -> None:
        """Store the outcomes that the store could not take at once. Raises StoreUnavailable."""
        while self._unstored:
            (key, created), no_effect = next(iter(self._unstored.items()))
            await self._store_outcome(key, created, no_effect=no_effect)
            self._unstored.pop((key, created), None)  # not before: a repeat would find it neither here nor in the store

    async def _earlier(self, known: Reservation, mark: bytes) -> Job:
        if known.fingerprint != mark:
            raise GatewayError(IDEMPOTENCY_KEY_REUSED)
        if known.outcome == "job" and known.job_id is not None:
            job = await self._store.get(known.job_id)
            if job is not None:
                return job
        if known.outcome == "inFlight" and known.elsewhere:
            raise GatewayError(REQUEST_IN_PROGRESS)
        raise outcome_unknown(
            "The first request with this Idempotency-Key has no job: its answer was passed on, or never came."
        )

    async def _store_outcome(self, key: bytes, created: float, *, no_effect: bool) -> None:
        try:
            await (self._store.release_key(key, created) if no_effect else self._store.mark_unknown(key, created))
        except StoreUnavailable:
            self._remember(key, created, no_effect=no_effect)
            raise

    def _remember(self, key: bytes, created: float, *, no_effect: bool) -> None:
        if len(self._unstored) < MOST_UNSTORED:
            self._unstored[key, created] = no_effect
