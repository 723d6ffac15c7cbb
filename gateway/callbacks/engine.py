"""Delivery of callbacks: subscribers whose cursor is stored. They read the log as streams do and post signed events.

A callback costs a task only while an event is to be delivered. The task posts one event at a time and stores the result
before the next event. So a crash between the two repeats an event under the same `webhook-id` and skips no event. A
wake-up is only a hint: the logs of idle callbacks are also read every `LOOK_EVERY` seconds.
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
from gateway.core.errors import StoreUnavailable, error_text
from gateway.core.job import Event, reference
from gateway.core.keys import webhook_headers
from gateway.membership import Runtime
from gateway.store import Store
from gateway.store.availability import hold
from gateway.telemetry.logs import EventLog

READ_AT_ONCE = 64
"""Most events of a log in one read."""
HEADS_AT_ONCE = 500
"""Most logs whose heads are read at once."""
LOOK_EVERY = 5.0
"""Seconds after which the heads of all logs are read without a wake-up."""
STOP_GRACE = 2.0
"""Seconds in which attempts in flight may finish when the gateway stops."""

log = EventLog("gateway.callbacks")


class _CallbackLost(Exception):
    """The callback was removed or belongs to another gateway by now."""


class _Subscriber:
    """One active callback of this process. `head` is the newest known event; `news` wakes the delivery task, if any."""

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
        """Judge a callback's URL and its addresses. Raises GatewayError: 400 callbackUrlNotAllowed, or 503."""
        await self._receivers.check(url)

    def start(self) -> None:
        self._tasks.start_soon(self._pump)

    @property
    def active(self) -> int:
        return len(self._active)

    def resume(self, active: Iterable[Callback]) -> None:
        """Start delivering callbacks that were read from the store."""
        for callback in active:
            self.take(callback)

    def held(self) -> set[str]:
        """The ids of the callbacks that this process delivers."""
        return set(self._active)

    def give_up(self, most: int) -> list[str]:
        """Stop delivering up to `most` callbacks and return their ids; callbacks with an attempt in flight are kept."""
        idle = [name for name, subscriber in self._active.items() if subscriber not in self._in_flight]
        for callback_id in idle[:most]:
            self.drop(callback_id)
        return idle[:most]

    def wake(self, job_id: str) -> None:
        """Note that a job's log may have grown."""
        if job_id in self._of_job:
            self._grown.add(job_id)
            self._news.set()

    def take(self, callback: Callback) -> None:
        """Start delivering a callback; its earlier version, if any, is replaced, but no later one."""
        known = self._active.get(callback.id)
        if known is not None and known.callback.epoch > callback.epoch:
            return  # two retries at once: the answer to the first may come after that to the second
        self.drop(callback.id)
        if callback.state != "active":
            return
        subscriber = self._active[callback.id] = _Subscriber(callback)
        self._of_job.setdefault(callback.job_id, set()).add(subscriber)
        self.wake(callback.job_id)

    def drop(self, callback_id: str) -> None:
        """Stop delivering a callback; an attempt in flight is cancelled."""
        subscriber = self._active.get(callback_id)
        if subscriber is not None:
            self._leave(subscriber)
            subscriber.scope.cancel()

    def leave_to(self, callback_id: str, epoch: int) -> None:
        """Stop delivering a callback that another gateway delivers under this epoch."""
        subscriber = self._active.get(callback_id)
        if subscriber is not None and subscriber.callback.epoch < epoch:
            self.drop(callback_id)

    async def stop(self) -> None:
        """Begin no more attempts; attempts in flight get `STOP_GRACE` seconds to finish and be stored."""
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
        """Start a task for each callback whose log may hold a requested event."""
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
            return  # read again after `LOOK_EVERY`
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
        except _CallbackLost:
            self._leave(subscriber)
        except Exception as error:  # noqa: BLE001 - an unforeseen error with one callback must not end all others
            log.error("callback_broken", job=reference(subscriber.callback.job_id), error=error_text(error))  # noqa: TRY400 - its text may hold data
            self._leave(subscriber)
        finally:
            subscriber.delivering = False

    async def _deliver(self, subscriber: _Subscriber) -> None:
        """Deliver until the log holds no further requested event or the callback has left `active`."""
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
                continue  # a newer event may have been appended in the meantime
            trace = await self._trace(callback)
            await self._lease.held()
            async with self._limits.turn(callback.origin, failing=superseded(callback)) as turn:
                if not self._still_due(subscriber):
                    continue
                with self._attempting(subscriber):
                    await self._attempt(subscriber, event, turn, trace, final=ended)
            if subscriber.callback.state != "active":
                return

    def _still_due(self, subscriber: _Subscriber) -> bool:
        """Whether the event may still be attempted after the wait for room: a newer event may have superseded it."""
        newer = subscriber.news.is_set() and superseded(subscriber.callback)
        return not self._stopping and not newer and self._lease.holds

    async def _next(self, callback: Callback) -> tuple[Event | None, bool]:
        """The event to deliver next, and whether the log has ended. Raises StoreUnavailable."""
        newest = None
        after = callback.progress.cursor
        while True:
            (piece,) = await self._store.read([(callback.job_id, after)], READ_AT_ONCE)
            if piece is None:
                raise _CallbackLost
            wanted = [event for event in piece.events if event.kind in callback.events]
            if wanted and not superseded(callback):
                return wanted[0], piece.ended
            newest = wanted[-1] if wanted else newest
            if not piece.events or piece.events[-1].seq >= piece.head:
                return newest, piece.ended
            after = piece.events[-1].seq

    async def _attempt(
        self, subscriber: _Subscriber, event: Event, turn: Turn, trace: str | None, *, final: bool
    ) -> None:
        callback = subscriber.callback
        message_id, body = webhook_message(callback, event)
        now = self._clock()
        headers = webhook_headers(callback.secret, message_id, int(now), body)
        begun = anyio.current_time()
        with self._tracing.calling("POST", "{callback}", under=trace, server=callback.origin) as span:
            outcome = await turn.run(self._receivers.post(callback.url, span.along(headers), body, now))
            seconds = anyio.current_time() - begun
            after = after_attempt(
                callback,
                event,
                outcome,
                final=final,
                begun=now,
                seconds=seconds,
                now=self._clock(),
                rng=self._rng,
            )
            span.of_job(callback.job_id)
            span.set_attributes(event=event.kind, attempt=after.progress.attempts)
            if not isinstance(outcome, Delivered):
                span.fail(after.progress.last_error or "failed")
        self._metrics.callback_duration.observe(seconds)
        await self._save(subscriber, after)
        self._report(after, outcome, event)

    async def _trace(self, callback: Callback) -> str | None:
        """The place in its trace of the request that started the job, if traces are recorded.

        It is read before an attempt has room, since that is for receivers, and before the lease is looked at.
        """
        if self._tracing.on:
            with suppress(StoreUnavailable):
                job = await self._store.get(callback.job_id)
                return None if job is None else job.target.trace
        return None

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
        """Store the progress, however long that takes: a delivered event must not be delivered again."""

        def failed(error: Exception, attempts: int) -> None:
            if attempts == 1:
                log.warning("delivery_held", job=reference(callback.job_id), error=str(error))

        observe = self._metrics.store_writes.labels("callback").observe
        if not await hold(lambda: self._store.save_callback(callback), observe, failed):
            raise _CallbackLost
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
