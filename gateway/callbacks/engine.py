"""Callbacks: subscribers whose cursor is stored. They read the log as streams do; what they read is posted, signed.

A callback costs a task only while it has something to deliver. It posts one event at a time, and stores how that went
before it goes on, so a crash between the two repeats an event under the same `webhook-id` and skips none. A wake-up is
only a hint: idle callbacks are also looked at now and then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio

from gateway.callbacks.limits import Limits, Turn
from gateway.callbacks.receivers import Receivers
from gateway.core.callback import (
    Callback,
    Delivered,
    Failed,
    Gone,
    Outcome,
    after_attempt,
    delivered_all,
    superseded,
    wait_before,
    webhook_message,
)
from gateway.core.errors import StoreUnavailable
from gateway.core.job import Event, reference
from gateway.core.keys import webhook_headers
from gateway.membership import Runtime
from gateway.store import Store
from gateway.store.availability import hold
from gateway.telemetry.logs import EventLog
from gateway.telemetry.tracing import Span

READ_AT_ONCE = 64
HEADS_AT_ONCE = 500
LOOK_EVERY = 5.0
STOP_GRACE = 2.0
"""Seconds that attempts in flight get to finish when the gateway stops."""

log = EventLog("gateway.callbacks")


class _Forgotten(Exception):
    """The callback was removed, or belongs to somebody else by now."""


class _Subscriber:
    """One active callback here. `news` wakes the task that delivers for it, while there is one."""

    __slots__ = ("callback", "delivering", "head", "news", "scope")

    def __init__(self, callback: Callback) -> None:
        self.callback = callback
        self.delivering = False
        self.head = 0
        self.news = anyio.Event()
        self.scope = anyio.CancelScope()


class Callbacks:
    """The active callbacks of this process."""

    def __init__(
        self,
        store: Store,
        receivers: Receivers,
        runtime: Runtime,
    ) -> None:
        self._store = store
        self._receivers = receivers
        self._metrics = runtime.metrics
        self._tracing = runtime.tracing
        self._tasks = runtime.tasks
        self._lease = runtime.lease
        self._clock = runtime.clock
        self._rng = runtime.rng
        self._active: dict[str, _Subscriber] = {}
        self._of_job: dict[str, set[_Subscriber]] = {}
        self._limits = Limits()
        self._in_flight: set[_Subscriber] = set()
        self._grown: set[str] = set()
        self._news = anyio.Event()
        self._stopping = False
        self._idle = anyio.Event()
        self._metrics.watch("callbacks_active", lambda: self.active)

    async def check(self, url: str) -> None:
        """Judge where a callback's URL may lead. Raises GatewayError: 400 callbackUrlNotAllowed, or 503."""
        await self._receivers.check(url)

    def start(self) -> None:
        self._tasks.start_soon(self._pump)

    @property
    def active(self) -> int:
        return len(self._active)

    def resume(self, active: Iterable[Callback]) -> None:
        """Go on with callbacks from the store."""
        for callback in active:
            self.take(callback)

    def held(self) -> set[str]:
        """The ids of the callbacks that are delivered here."""
        return set(self._active)

    def give_up(self, most: int) -> list[str]:
        """Deliver for as many callbacks no more, and which; none with an attempt in flight."""
        idle = [name for name, subscriber in self._active.items() if subscriber not in self._in_flight]
        for callback_id in idle[:most]:
            self.drop(callback_id)
        return idle[:most]

    def wake(self, job_id: str) -> None:
        """A job's log may have grown."""
        if job_id in self._of_job:
            self._grown.add(job_id)
            self._news.set()

    def take(self, callback: Callback) -> None:
        """Deliver for a callback from now on; one that is here already goes on as this one says."""
        self.drop(callback.id)
        if callback.state != "active":
            return
        subscriber = self._active[callback.id] = _Subscriber(callback)
        self._of_job.setdefault(callback.job_id, set()).add(subscriber)
        self.wake(callback.job_id)

    def drop(self, callback_id: str) -> None:
        """Deliver for a callback no more; an attempt in flight is broken off."""
        subscriber = self._active.get(callback_id)
        if subscriber is not None:
            self._leave(subscriber)
            subscriber.scope.cancel()

    async def stop(self) -> None:
        """Begin no more attempts; those in flight get a moment to finish and be stored."""
        self._stopping = True
        for subscriber in set(self._active.values()) - self._in_flight:
            subscriber.scope.cancel()
        if self._in_flight:
            with anyio.move_on_after(STOP_GRACE):
                await self._idle.wait()
        for subscriber in list(self._active.values()):
            subscriber.scope.cancel()

    def _leave(self, subscriber: _Subscriber) -> None:
        callback = subscriber.callback
        if self._active.get(callback.id) is not subscriber:
            return
        del self._active[callback.id]
        others = self._of_job[callback.job_id]
        others.discard(subscriber)
        if not others:
            del self._of_job[callback.job_id]

    async def _pump(self) -> None:
        """Start a task for each callback whose log holds something for it."""
        look_at = anyio.current_time() + LOOK_EVERY
        while not self._stopping:
            with anyio.move_on_after(look_at - anyio.current_time()):
                await self._news.wait()
            self._news = anyio.Event()
            if anyio.current_time() >= look_at:
                look_at = anyio.current_time() + LOOK_EVERY
                self._grown.update(self._of_job)
            grown = list(self._grown)
            self._grown.clear()
            for first in range(0, len(grown), HEADS_AT_ONCE):
                await self._look(grown[first : first + HEADS_AT_ONCE])

    async def _look(self, job_ids: list[str]) -> None:
        try:
            heads = await self._store.heads(job_ids)
        except StoreUnavailable as error:
            log.warning("log_unreadable", error=str(error))
            return  # the next look comes by itself
        for job_id, head in zip(job_ids, heads, strict=True):
            for subscriber in list(self._of_job.get(job_id, ())):
                if head is None:
                    self._leave(subscriber)
                    subscriber.scope.cancel()
                    continue
                if head.head > subscriber.head:
                    subscriber.head = head.head
                    subscriber.news.set()
                behind = head.head > subscriber.callback.progress.cursor
                wanted = head.ended or (behind and "progress" in subscriber.callback.events)
                if wanted and not subscriber.delivering and not self._stopping:
                    subscriber.delivering = True
                    self._tasks.start_soon(self._run, subscriber)

    async def _run(self, subscriber: _Subscriber) -> None:
        try:
            with subscriber.scope:
                await self._deliver(subscriber)
        except _Forgotten:
            self._leave(subscriber)
        finally:
            subscriber.delivering = False

    async def _deliver(self, subscriber: _Subscriber) -> None:
        """Deliver until the log holds nothing more for this callback, or it has settled."""
        while not self._stopping:
            subscriber.news = anyio.Event()
            try:
                event, ended = await self._next(subscriber.callback)
            except StoreUnavailable:
                await anyio.sleep(1.0)
                continue
            callback = subscriber.callback
            if event is None:
                if ended:
                    await self._save(subscriber, delivered_all(callback, self._clock()))
                elif subscriber.news.is_set():
                    continue
                return
            wait = wait_before(callback, event, self._clock())
            if wait > 0:
                with anyio.move_on_after(wait):
                    await subscriber.news.wait()
                continue  # whichever it was: what is newest now?
            await self._lease.held()
            async with self._limits.turn(callback.origin, failing=superseded(callback)) as turn:
                if not self._still_due(subscriber):
                    continue
                with self._attempting(subscriber):
                    await self._attempt(subscriber, event, turn, final=ended)
            if subscriber.callback.state != "active":
                return

    def _still_due(self, subscriber: _Subscriber) -> bool:
        """After a wait for room, in which something newer may have come."""
        newer = subscriber.news.is_set() and superseded(subscriber.callback)
        return not self._stopping and not newer and self._lease.holds

    async def _next(self, callback: Callback) -> tuple[Event | None, bool]:
        """The event to tell next, and whether the log has ended. Raises StoreUnavailable."""
        newest = None
        after = callback.progress.cursor
        while True:
            (piece,) = await self._store.read([(callback.job_id, after)], READ_AT_ONCE)
            if piece is None:
                raise _Forgotten
            wanted = [event for event in piece.events if event.kind in callback.events]
            if wanted and not superseded(callback):
                return wanted[0], piece.ended
            newest = wanted[-1] if wanted else newest
            if not piece.events or piece.events[-1].seq >= piece.head:
                return newest, piece.ended
            after = piece.events[-1].seq

    async def _attempt(self, subscriber: _Subscriber, event: Event, turn: Turn, *, final: bool) -> None:
        callback = subscriber.callback
        message_id, body = webhook_message(callback, event)
        now = self._clock()
        headers = webhook_headers(callback.secret, message_id, int(now), body)
        begun = anyio.current_time()
        with await self._span(callback) as span:
            outcome = await turn.run(self._receivers.post(callback.url, span.along(headers), body, now))
            after = after_attempt(callback, event, outcome, final=final, now=self._clock(), rng=self._rng)
            span.of_job(callback.job_id)
            span.set_attributes(event=event.kind, attempt=after.progress.attempts)
            if not isinstance(outcome, Delivered):
                span.fail(after.progress.last_error or "failed")
        self._metrics.callback_duration.observe(anyio.current_time() - begun)
        await self._save(subscriber, after)
        self._report(after, outcome, event)

    async def _span(self, callback: Callback) -> Span:
        """Of an attempt, in the trace of the request that its job came of."""
        trace = None
        if self._tracing.on:
            with suppress(StoreUnavailable):
                job = await self._store.get(callback.job_id)
                trace = None if job is None else job.target.trace
        return self._tracing.calling("POST", "{callback}", under=trace, server=callback.origin)

    @contextmanager
    def _attempting(self, subscriber: _Subscriber) -> Iterator[None]:
        self._in_flight.add(subscriber)
        try:
            yield
        finally:
            self._in_flight.discard(subscriber)
            if self._stopping and not self._in_flight:
                self._idle.set()

    async def _save(self, subscriber: _Subscriber, callback: Callback) -> None:
        """Store how far it is, however long that takes: what was delivered must not be delivered again."""

        def failed(error: Exception, attempts: int) -> None:
            if attempts == 1:
                log.warning("delivery_held", job=reference(callback.job_id), error=str(error))

        timer = self._metrics.store_writes.labels("callback").time
        if not await hold(lambda: self._store.save_callback(callback), timer, failed):
            raise _Forgotten
        subscriber.callback = callback
        if callback.state != "active":
            self._leave(subscriber)

    def _report(self, callback: Callback, outcome: Outcome, event: Event) -> None:
        progress = callback.progress
        fields: dict[str, Any] = {
            "job": reference(callback.job_id),
            "to": callback.origin,
            "sent": event.kind,
            "attempt": progress.attempts,
        }
        match outcome:
            case Delivered():
                self._metrics.callback_attempts.labels("delivered").inc()
                log.info("callback_delivered", **fields)
            case Gone():
                self._metrics.callback_attempts.labels("gone").inc()
                log.info("callback_gone", **fields)
            case Failed():
                self._metrics.callback_attempts.labels("failed").inc()
                next_in = round(progress.due - self._clock()) if callback.state == "active" else None
                log.warning("callback_failed", reason=progress.last_error, next_in=next_in, **fields)
        if callback.state == "exhausted":
            self._metrics.callbacks_exhausted.inc()
            log.error("callback_exhausted", reason=progress.last_error, **fields)
