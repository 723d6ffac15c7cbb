"""The ASGI application: builds, connects and closes all parts of the gateway."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from importlib.metadata import version
from typing import TYPE_CHECKING

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from gateway.callbacks.engine import Callbacks
from gateway.callbacks.receivers import Receivers
from gateway.core.addresses import MonitorRule, origin
from gateway.core.errors import GatewayError, StoreUnavailable
from gateway.core.job import Event
from gateway.core.keys import hashed, key_list
from gateway.graph.client import Upstream
from gateway.jobs.copies import Copies
from gateway.jobs.idempotency import Keys
from gateway.jobs.identity import Identity
from gateway.jobs.loss import Patience
from gateway.jobs.pacing import HungLane, RateLimit, StartQueue
from gateway.jobs.poller import Poller
from gateway.jobs.polling import HUNG_AT_ONCE, PollContext
from gateway.jobs.schedule import Bounds
from gateway.membership import Lease, Membership, Runtime
from gateway.settings import Settings
from gateway.store import SharedStore, Store
from gateway.store.retention import Retention
from gateway.store.sealing import Resealed
from gateway.store.sqlite import SQLiteStore
from gateway.store.sqlite.file import StoreFile
from gateway.streams.tails import Tails
from gateway.telemetry.logs import EventLog
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing import OFF, Tracing
from gateway.web import routes
from gateway.web.answers import (
    Cors,
    Refusals,
    RequestMiddleware,
    on_fault,
    on_gateway_error,
    on_http_exception,
    on_store_unavailable,
)
from gateway.web.callbacks import CallbackRoutes
from gateway.web.copies import CopyRoutes
from gateway.web.jobs import JobRoutes
from gateway.web.page import Page
from gateway.web.requests import Access, PublicUrl
from gateway.web.service import ServiceRoutes

if TYPE_CHECKING:
    from gateway.store.postgres.database import Database

LOOK_EVERY = 5.0
"""Seconds after which readers read the log without a wake-up, while one process has the store: none gets lost …"""
LOOK_EVERY_SHARED = 0.8
"""… and while gateways share the store: a wake-up from another process may get lost."""

SETTLE_SECONDS = 1.0
"""Seconds in which the outcomes of the last copies are stored when the gateway leaves."""

VERSION = version("copy-gateway")

log = EventLog("gateway")


class Parts(msgspec.Struct, frozen=True):
    """The parts of a running gateway; `membership` is None when no other gateway shares the store."""

    store: Store
    tails: Tails
    callbacks: Callbacks
    poller: Poller
    copies: Copies
    keys: Keys
    membership: Membership | None

    async def stop(self) -> None:
        """Stop the work on jobs and callbacks and release them, so that other gateways may claim them."""
        if self.membership is not None:
            self.membership.retire()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.poller.stop)
            tasks.start_soon(self.callbacks.stop)
        if self.membership is not None and self.copies.starting:
            await self.membership.release()

    async def leave(self) -> None:
        """Leave the gateways of the store once no copy is in flight: until then a repeated key is 409 at each."""
        if self.membership is not None:
            with anyio.move_on_after(SETTLE_SECONDS):
                await self.keys.settled()
            await self.membership.leave()


class Gateway:
    """The ASGI application. All its tasks, connections and files live as long as its lifespan.

    `source` is the store: a file of this gateway, or a database shared with other gateways. `clock` gives seconds since
    1970. `on_crash` is called when a task failed: the process must then end, since jobs may no longer be watched.
    """

    def __init__(
        self,
        settings: Settings,
        source: StoreFile | Database,
        clock: Callable[[], float],
        rng: random.Random,
        tracing: Tracing = OFF,
    ) -> None:
        self.settings = settings
        self.source = source
        self.on_crash: Callable[[], None] = lambda: None
        self._clock = clock
        self._rng = rng
        self._tracing = tracing
        self._metrics = Metrics()
        self._drain_began: float | None = None
        self._parts: Parts | None = None
        self._starlette = Starlette(
            lifespan=self._lifespan,
            exception_handlers={
                GatewayError: on_gateway_error,
                StoreUnavailable: on_store_unavailable,
                HTTPException: on_http_exception,
                Exception: on_fault,
            },
        )
        self._starlette.router.redirect_slashes = False  # it would redirect to the request's own Host
        self._app = RequestMiddleware(Cors(Refusals(self._starlette), settings.cors_origins), self._metrics, tracing)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, _untraced(send) if scope["type"] == "lifespan" else send)

    @property
    def parts(self) -> Parts:
        """The parts of the gateway, also after a crash. Raises RuntimeError before it has started."""
        if self._parts is None:
            raise RuntimeError("the gateway does not run")
        return self._parts

    async def drain(self, seconds: float) -> None:
        """Refuse new work, end streams and polls, and wait at most `seconds` for copies in flight."""
        parts = self.parts
        self._drain_began = begun = anyio.current_time()
        log.info(
            "drain_begun",
            streams=parts.tails.open,
            jobs=parts.poller.running,
            callbacks=parts.callbacks.active,
            copies=parts.copies.starting,
        )
        parts.tails.drain(self._rng)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.stop)
            tasks.start_soon(parts.copies.drain, begun + seconds)
        await parts.leave()
        log.info("drained", seconds=round(anyio.current_time() - begun, 2), streams=parts.tails.open)

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        try:
            async with self._built() as self._parts:
                yield
                await self._parts.stop()
                await self._parts.leave()
        except Exception as error:
            if unavailable := _first(StoreUnavailable, error):
                log.error("gateway_crashed", error=f"{unavailable} Look at what GATEWAY_STORE_URL names.")  # noqa: TRY400 - one line without a traceback
            else:
                log.exception("gateway_crashed")
            self.on_crash()
            raise

    @asynccontextmanager
    async def _built(self) -> AsyncIterator[Parts]:
        """Build, connect and start all parts; close them in the reverse order."""
        settings, metrics = self.settings, self._metrics
        monitors = MonitorRule(settings.upstream_url, settings.monitor_patterns, settings.monitor_networks)
        opening = Upstream.open(
            url=settings.upstream_url,
            rule=monitors,
            copy_timeout=settings.copy_timeout,
            user_agent=settings.user_agent.replace("{version}", VERSION),
            proxy=settings.upstream_proxy,
        )
        own_identity = nullcontext() if settings.poll_identity is None else Identity.open(origin(settings.upstream_url))
        async with (
            self._opened_store() as (store, shared, clock),
            opening as upstream,
            own_identity as identity,
            Receivers.open(settings.callback_networks, proxy=settings.callback_proxy) as receivers,
            anyio.create_task_group() as tasks,
        ):
            lease = Lease(None if shared is None else shared.term)
            runtime = Runtime(clock, self._rng, metrics, self._tracing, lease, tasks)
            look_every = LOOK_EVERY if shared is None else LOOK_EVERY_SHARED
            tails = Tails(
                store, metrics, heartbeat=settings.heartbeat, limit=settings.max_streams, look_every=look_every
            )
            callbacks = Callbacks(store, receivers, runtime)
            poller = Poller(
                PollContext(
                    **msgspec.structs.asdict(runtime),
                    store=store,
                    upstream=upstream,
                    bounds=Bounds(settings.poll_min, settings.poll_max),
                    patience=Patience(settings.poll_patience, settings.lost_patience),
                    deadline=settings.job_deadline,
                    rate=settings.poll_rate,
                    start_queue=StartQueue(RateLimit(settings.poll_rate)),
                    hung_lane=HungLane(HUNG_AT_ONCE),
                    identity=identity,
                    troubled=None if shared is None else shared.troubled,
                )
            )

            def wake(job_id: str, events: Sequence[Event]) -> None:
                tails.wake(job_id, events)
                callbacks.wake(job_id)

            store.on_change = wake
            tails.start(tasks)
            callbacks.start()
            membership = None
            if shared is None:
                poller.take_up(await store.claim())
                callbacks.resume(await store.claim_callbacks())
            else:
                shared.on_stop = poller.drop
                shared.on_take = poller.leave_to
                shared.on_callback_remove = callbacks.drop
                shared.on_callback_take = callbacks.leave_to
                membership = Membership(shared, poller, callbacks, runtime)
                await membership.begin()
            keys = Keys(store, clock=clock)
            copies = Copies(store, upstream, poller, callbacks, keys, runtime, max_jobs=settings.max_jobs)
            tasks.start_soon(self._delete_expired, store, keys, clock)
            parts = Parts(store, tails, callbacks, poller, copies, keys, membership)
            self._route(parts, upstream, runtime)
            self._register_gauges(store, lease)
            _freeze()
            yield parts
            tasks.cancel_scope.cancel()

    def _route(self, parts: Parts, upstream: Upstream, runtime: Runtime) -> None:
        """Add the routes to the application, once the parts exist."""
        settings, store = self.settings, parts.store
        access = Access(store.secret, self._operator_hashes())
        public_url = PublicUrl(settings.public_url)
        self._starlette.router.routes.extend(
            routes.table(
                CopyRoutes(parts.copies, upstream.read_item, access, public_url, secret=store.secret),
                JobRoutes(
                    store,
                    parts.tails,
                    access,
                    public_url,
                    runtime,
                    stop_watching=parts.poller.drop,
                    hand_in=parts.poller.hand_in,
                    send_timeout=settings.send_timeout,
                    stream_max_age=settings.stream_max_age,
                ),
                CallbackRoutes(store, parts.callbacks, access, runtime),
                ServiceRoutes(store, parts.tails, runtime.metrics, public_url),
                Page(is_simulated=settings.upstream_url.startswith("http:")),  # http is for loopback only
            )
        )
        runtime.metrics.know_routes(routes.names(self._starlette.routes))

    def _operator_hashes(self) -> list[bytes]:
        """The hashes of the keys that the settings name, else of the one that was made for the store, if any."""
        made = self.source.operator_hash
        return [hashed(key) for key in key_list(self.settings.operator_key)] or ([] if made is None else [made])

    def _register_gauges(self, store: Store, lease: Lease) -> None:
        """Register the gauges whose numbers belong to no other part."""
        settings, metrics = self.settings, self._metrics

        def drain_elapsed() -> float:
            return 0.0 if self._drain_began is None else anyio.current_time() - self._drain_began

        metrics.build.info({"version": VERSION, "store": "postgresql" if settings.is_shared else "sqlite"})
        if not settings.is_shared:
            metrics.watch("members", lambda: 1)
        metrics.watch("store_up", lambda: not store.failing)
        metrics.watch_failures(lambda: store.failures)
        metrics.watch("lease_held", lambda: lease.holds)
        metrics.watch("draining", lambda: self._drain_began is not None)
        metrics.watch("drain_elapsed_seconds", drain_elapsed)
        metrics.watch("drain_limit_seconds", lambda: settings.drain)

    @asynccontextmanager
    async def _opened_store(self) -> AsyncIterator[tuple[Store, SharedStore | None, Callable[[], float]]]:
        """The store, the same store if gateways share it or else None, and the clock in seconds since 1970."""
        settings, source = self.settings, self.source
        if isinstance(source, StoreFile):
            own = SQLiteStore(source, log_limit=settings.log_limit)
            try:
                yield own, None, self._clock
            finally:
                await own.close()
            return
        from gateway.store.postgres import PostgresStore  # noqa: PLC0415 - a start without this import is 5 % faster

        opening = PostgresStore.open(source, log_limit=settings.log_limit, lease=settings.lease, clock=self._clock)
        async with opening as shared:
            yield shared, shared, shared.clock

    async def _delete_expired(self, store: Store, keys: Keys, clock: Callable[[], float]) -> None:
        """Delete jobs soon after the end of their retention, and store outcomes of keys that are still to be stored."""
        seconds = self.settings.retention
        retention = Retention(seconds)
        while True:
            await anyio.sleep(min(max(seconds / 10, 0.2), 30.0))
            limit = retention.limit(clock(), anyio.current_time())
            try:
                await keys.catch_up()
                while await store.delete_expired(limit):
                    pass
            except StoreUnavailable as error:
                log.warning("retention_delayed", error=str(error))


async def open_source(settings: Settings, *, make_operator_key: bool = False) -> StoreFile | Database:
    """Open and check the store that the settings name. Raises StoreRefused and OSError."""
    if settings.is_shared:
        from gateway.store.postgres.database import Database  # noqa: PLC0415 - as above

        return await Database.open(settings.store_url, settings.listen_url, settings.secret_key)
    return StoreFile.open(
        settings.store_path,
        settings.secret_key,
        f"http://{settings.host}:{settings.port}",
        make_operator_key=make_operator_key and settings.operator_key is None,
    )


async def reseal(settings: Settings) -> Resealed:
    """Encrypt all of the store that the settings name with the first key of theirs. Raises StoreRefused."""
    if settings.is_shared:
        from gateway.store.postgres.database import Database  # noqa: PLC0415 - as above

        database = await Database.open(settings.store_url, settings.listen_url, settings.secret_key)
        return await database.reseal()
    return StoreFile.reseal(settings.store_path, settings.secret_key)


def _freeze() -> None:
    """Keep the garbage collector from walking the objects of all connections: p99 of a push 287 -> 69 ms at 2,000.

    It is enabled, in case that the process began without it. Then what there is came from imports, hardly any of it
    garbage: 1,900 objects of 63,000, which need no search.
    """
    if gc.isenabled():
        gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(50_000, 20, 1000)


def _first(kind: type[Exception], error: BaseException) -> BaseException | None:
    """The first exception of a kind, also inside the exception groups that task groups raise."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := _first(kind, inner))), None)
    return error if isinstance(error, kind) else None


def _untraced(send: Send) -> Send:
    """Send without the traceback that Starlette hands to the server: the lifespan has logged the failure already."""

    async def without_traceback(message: Message) -> None:
        await send({"type": message["type"]} if message["type"].endswith(".failed") else message)

    return without_traceback


def create_app(settings: Settings, source: StoreFile | Database, tracing: Tracing = OFF) -> Gateway:
    return Gateway(settings, source, time.time, random.Random(), tracing)
