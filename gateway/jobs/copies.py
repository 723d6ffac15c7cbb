"""The start of a copy or of another operation: the rules around the one request that must never be repeated blindly.

The caller gets one of three answers: the copy was refused and does not run; it runs, and this is its job; or its
outcome is unknown (`outcomeUnknown`), and then neither the gateway nor an SDK may repeat the request by itself. What is
no copy may also be done at once: upstream's answer is then passed back, and there is no job.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import msgspec

from gateway.callbacks.engine import Callbacks
from gateway.core import job as jobs
from gateway.core.callback import Callback, CallbackRequest, new_callback
from gateway.core.errors import (
    MONITOR_HOST_NOT_ALLOWED,
    MONITOR_URL_NOT_ALLOWED,
    OUTCOME_UNKNOWN,
    UPSTREAM_UNREACHABLE,
    GatewayError,
    StoreUnavailable,
    not_a_job,
    outcome_unknown,
    unavailable,
)
from gateway.core.job import Event, Job, Target, advance, reference
from gateway.core.keys import host_mark, idempotency_id, new_callback_id, new_job_id
from gateway.graph.client import Broken, Monitor, NotSent, Unanswered, Upstream, status_url
from gateway.graph.dialects import finished_item
from gateway.graph.operations import COPY, OPERATIONS
from gateway.jobs.idempotency import Keys
from gateway.jobs.poller import Poller
from gateway.jobs.request import CopyRequest
from gateway.jobs.tokens import token_of
from gateway.membership import Runtime
from gateway.outbound.reply import Reply
from gateway.store import Store
from gateway.store.availability import hold
from gateway.telemetry.logs import EventLog

STORE_PATIENCE = 5.0
"""Seconds for which the gateway tries to store an accepted copy."""

_STORE_RETRY = 0.2

_ID = re.compile(r"[\x21-\x7e]{1,128}")

log = EventLog("gateway.copies")


class Answered(Exception):
    """Upstream answered without a job: it refused the request, or did at once what is no copy. Its reply goes to the
    caller under `status`.

    After a 500 or a 504 the copy `may_run`. Those come back as 502, since SDKs repeat a POST after them by themselves.
    """

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.code)
        self.reply = reply
        self.refused = reply.code >= 400
        self.may_run = reply.code in (500, 504)
        self.status = 502 if self.may_run else reply.code


class Started(msgspec.Struct, frozen=True):
    """A started job, `age` seconds ago. `upstream` holds the headers of upstream's answer; it is empty for a `repeated`
    request and for a monitor URL of the caller's own.
    """

    job: Job
    upstream: Mapping[str, str] = {}
    callback: Callback | None = None
    repeated: bool = False
    age: float = 0.0


def _had_no_effect(error: BaseException) -> bool:
    """Whether a request that failed with this error certainly started nothing."""
    if isinstance(error, Answered):
        return 400 <= error.reply.code < 500 or error.reply.code == 503
    return isinstance(error, StoreUnavailable) or (
        isinstance(error, GatewayError) and error.kind.ends_copy and not error.kind.may_run
    )


class Copies:
    """Starts copies. `max_jobs` is the most running jobs of this process; beyond it a copy is refused."""

    def __init__(
        self,
        store: Store,
        upstream: Upstream,
        poller: Poller,
        callbacks: Callbacks,
        keys: Keys,
        runtime: Runtime,
        *,
        max_jobs: int,
    ) -> None:
        self._store = store
        self._upstream = upstream
        self._poller = poller
        self._callbacks = callbacks
        self._metrics = runtime.metrics
        self._tracing = runtime.tracing
        self._clock = runtime.clock
        self._max_jobs = max_jobs
        self._starting: set[anyio.CancelScope] = set()
        self._checking: set[anyio.CancelScope] = set()
        self._keys = keys
        self._closing = False
        self._none_left = anyio.Event()
        self._metrics.watch("jobs_limit", lambda: max_jobs)
        self._metrics.know_operations(operation.action for operation in OPERATIONS)

    async def start(self, request: CopyRequest) -> Started:
        """Start a copy upstream and watch it. Raises Answered, GatewayError, or StoreUnavailable before it is sent."""
        outcome = "failed"
        try:
            started = await self._once(request)
        except Answered as answered:
            reply, ids = answered.reply, request_ids(answered.reply.headers)
            if answered.may_run:
                outcome = OUTCOME_UNKNOWN.code
                log.warning("copy_unknown", status=reply.code, **_id_fields(ids))
            elif answered.refused:
                outcome = "refused"
                log.info("copy_refused", status=reply.code, **_id_fields(ids))
            else:
                outcome = "answered"
                log.info("copy_answered", status=reply.code, **_id_fields(ids))
            raise
        except GatewayError as error:
            outcome = error.kind.code
            if error.kind.may_run:
                log.warning("copy_unknown", code=outcome, cause=_cause(error), **_id_fields(error.ids))
            else:
                log.info("copy_not_started", code=outcome, cause=_cause(error))
            raise
        else:
            outcome = "repeated" if started.repeated else "started"
            return started
        finally:
            self._metrics.copies.labels(outcome, request.asked.operation.action).inc()

    @property
    def starting(self) -> int:
        """The number of copies that are in flight upstream or being stored."""
        return len(self._starting)

    async def _once(self, request: CopyRequest) -> Started:
        if request.idempotency_key is None:
            return await self._start(request, None)
        caller = request.headers.get("Authorization", "")
        key = idempotency_id(self._store.secret, caller, request.idempotency_key)
        earlier = await self._keys.reserve(key, request.mark())
        if earlier is not None:
            callbacks = await self._store.callbacks(earlier.id)
            callback = next((one for one in callbacks if one.with_copy), None)
            return Started(earlier, callback=callback, repeated=True, age=earlier.age(self._clock()))
        try:
            return await self._start(request, key)
        except BaseException as error:
            await self._keys.settle(key, no_effect=_had_no_effect(error))
            raise
        finally:
            self._keys.leave(key)

    async def watch(self, monitor_url: str, target: Target, operation: str, label: str | None) -> Job:
        """Watch a monitor URL that the caller already holds. Raises GatewayError (400, 503) or StoreUnavailable."""
        monitor = self._upstream.monitor(monitor_url)
        if monitor is None:
            raise GatewayError(MONITOR_URL_NOT_ALLOWED)
        with self._place():
            job, events = jobs.accepted(
                new_job_id(),
                monitor=monitor_url,
                target=self._marked(target, monitor),
                now=self._clock(),
                operation=operation,
                label=label,
            )
            await self._store.create(job, events, None)
            self._poller.watch(job, monitor)
        log.info("watch_started", job=reference(job.id))
        return job

    async def drain(self, until: float) -> None:
        """Refuse new copies, and wait for those in flight; `until` is a time of the event loop's clock."""
        self._closing = True
        for scope in list(self._checking):
            scope.cancel()
        for scope in self._starting:
            scope.deadline = min(scope.deadline, until)
        if self._starting:
            await self._none_left.wait()

    async def _start(self, request: CopyRequest, key: bytes | None) -> Started:
        if self._store.failing:
            await self._store.ping()  # a copy that cannot be stored must not be started
        if request.callback is not None:
            await self._check(request.callback)
        # A second signal or a crash cancels the requests; the server would then answer 500.
        with suppress(asyncio.CancelledError), self._place() as scope, scope:
            return await self._post(request, key)
        raise outcome_unknown("The gateway had to shut down before upstream answered.")

    async def _check(self, callback: CallbackRequest) -> None:
        """Check the callback's URL before the copy counts as starting, so that a slow DNS lookup takes no place.

        A drain ends the check with nothing started. Raises GatewayError.
        """
        self._judge_room()
        scope = anyio.CancelScope()
        self._checking.add(scope)
        try:
            with scope:
                return await self._callbacks.check(callback.url)
        finally:
            self._checking.discard(scope)
        raise _closing()

    def _judge_room(self) -> None:
        """Raises GatewayError: 503 while the gateway is full or shutting down."""
        if self._closing:
            raise _closing()
        if self._poller.running + len(self._starting) >= self._max_jobs:
            raise unavailable("The gateway watches as many jobs as it may. Nothing was started: try again later.", 10)

    @contextmanager
    def _place(self) -> Iterator[anyio.CancelScope]:
        """Count a job as starting; the scope ends its start when a drain runs out of time."""
        self._judge_room()
        scope = anyio.CancelScope()
        self._starting.add(scope)
        try:
            yield scope
        finally:
            self._leave(scope)

    def _leave(self, scope: anyio.CancelScope) -> None:
        self._starting.discard(scope)
        if self._closing and not self._starting:
            self._none_left.set()

    async def _post(self, request: CopyRequest, key: bytes | None) -> Started:
        calling, template = self._tracing.calling, request.asked.operation.path
        with calling(request.method, template, under=request.trace, server=self._upstream.origin) as span:
            try:
                headers = span.along(request.headers)
                reply = await self._upstream.start(request.method, request.path, request.body, headers)
            except NotSent as failure:
                raise GatewayError(UPSTREAM_UNREACHABLE) from failure
            except Broken as failure:
                raise GatewayError(OUTCOME_UNKNOWN) from failure
            span.answered(reply.code)
        operation = request.asked.operation
        location = status_url(operation, reply.headers)
        is_told = not operation.asks_for_token or location is not None
        if reply.code >= 400 or (operation is not COPY and not (reply.code == 202 and is_told)):
            raise Answered(reply)
        try:
            return await self._take_on(request, key, reply, location)
        except GatewayError as error:
            error.ids = request_ids(reply.headers)
            raise

    async def _take_on(self, request: CopyRequest, key: bytes | None, reply: Reply, location: str | None) -> Started:
        if reply.code != 202 or not location:
            raise not_a_job(f"Upstream answered {reply.code}{'' if location else ' without a Location'}.")
        job, events, monitor = self._accept(request, location)
        callback = None
        if request.callback is not None:
            now = self._clock()
            callback = new_callback(request.callback, job.id, new_callback_id(), now, with_copy=True)
        await self._store_job(job, events, key, callback)
        asks = request.asked.operation.asks_for_token
        token = token_of(request.headers.get("Authorization", ""), job.created) if asks else None
        self._poller.watch(job, monitor, token)
        if callback is not None:
            self._callbacks.take(callback)
        log.info(
            "copy_started",
            job=reference(job.id),
            callback=None if callback is None else callback.origin,
            **_id_fields(request_ids(reply.headers)),
        )
        if job.state.ended:
            self._metrics.report_end(job)
        return Started(job, reply.headers, callback)

    def _accept(self, request: CopyRequest, location: str) -> tuple[Job, Sequence[Event], Monitor | None]:
        now = self._clock()
        asked = request.asked
        url = self._upstream.resolve(location, asked)
        if url is None:
            raise not_a_job("Upstream's Location is no URL.")
        finished = None if asked.operation.asks_for_token else finished_item(url)
        monitor = self._upstream.monitor(url, asked.operation)
        if finished is None and monitor is None:
            raise GatewayError(MONITOR_HOST_NOT_ALLOWED)
        job, events = jobs.accepted(
            new_job_id(),
            monitor=url,
            target=self._marked(request.target(), monitor),
            now=now,
            operation=asked.operation.name,
            label=request.shown_label(),
        )
        if finished is not None:
            job, last = advance(job, finished, now)
            return job, [*events, *last], monitor
        return job, events, monitor

    def _marked(self, target: Target, monitor: Monitor | None) -> Target:
        if monitor is None:
            return target
        return msgspec.structs.replace(target, host=host_mark(self._store.secret, monitor.host))

    async def _store_job(self, job: Job, events: Sequence[Event], key: bytes | None, callback: Callback | None) -> None:
        def failed(error: Exception, _attempts: int) -> None:
            log.warning("copy_not_stored", job=reference(job.id), error=str(error))

        try:
            await hold(
                lambda: self._store.create(job, events, key, callback),
                self._metrics.store_writes.labels("create").observe,
                failed,
                waits=(_STORE_RETRY,),
                patience=STORE_PATIENCE,
            )
        except StoreUnavailable:
            raise outcome_unknown("Upstream accepted the request, but the gateway could not store it.") from None


def request_ids(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Upstream's request ids, those that are valid."""
    found = {name: headers.get(name, "") for name in ("request-id", "client-request-id")}
    return {name: value for name, value in found.items() if _ID.fullmatch(value)}


def _id_fields(ids: Mapping[str, str]) -> dict[str, Any]:
    """The log field of upstream's request id, which its support asks for; a client's own id is in each line anyway."""
    return {"upstream_request_id": ids.get("request-id")}


def _cause(error: GatewayError) -> str | None:
    """Why upstream could not be asked or did not answer."""
    return str(error.__cause__) if isinstance(error.__cause__, Unanswered) else None


def _closing() -> GatewayError:
    return unavailable("The gateway is shutting down. Nothing was started: try again.", 1)
