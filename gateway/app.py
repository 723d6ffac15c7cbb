"""The one place that builds, connects and closes everything."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.callbacks.engine import Callbacks
from gateway.callbacks.receivers import Receivers
from gateway.core.addresses import MonitorRule
from gateway.core.errors import GatewayError, StoreUnavailable
from gateway.core.keys import hashed
from gateway.graph.client import Upstream
from gateway.jobs.copies import Copies
from gateway.jobs.idempotency import Keys
from gateway.jobs.pacing import RateLimit, StartQueue
from gateway.jobs.poller import Poller
from gateway.jobs.schedule import Bounds
from gateway.jobs.watch import HUNG_AT_ONCE, PollContext
from gateway.membership import Lease, Membership
from gateway.settings import Settings
from gateway.store import SharedStore, Store
from gateway.store.sqlite import SQLiteStore
from gateway.store.sqlite.file import StoreFile
from gateway.streams.tails import Tails
from gateway.telemetry.logs import EventLog
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing import OFF, Tracing
from gateway.web import routes
from gateway.web.answers import (
    Cors,
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
"""Seconds after which readers look at the log without a wake-up, which within a process is never lost …"""
LOOK_EVERY_SHARED = 0.8
"""… and which from another process may be."""

VERSION = version("copy-gateway")

log = EventLog("gateway")


class Gateway:
    """The ASGI application. Its lifespan is the life of every task, connection and file it has.

    `source` is where its store lies: a file of its own, or a database that it shares with other gateways.
    `on_crash` is called when a task of it failed: the process must then end, since jobs may be watched no more.
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
        self._callbacks: Callbacks
        self._copies: Copies
        self._membership: Membership | None = None
        self._poller: Poller
        self._tails: Tails
        self._starlette = Starlette(
            lifespan=self._lifespan,
            exception_handlers={
                GatewayError: on_gateway_error,
                StoreUnavailable: on_store_unavailable,
                HTTPException: on_http_exception,
                Exception: on_fault,
            },
        )
        app: ASGIApp = self._starlette
        if settings.cors_origins:
            app = Cors(app, settings.cors_origins)
        self._app = RequestMiddleware(app, self._metrics, tracing)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, _untraced(send) if scope["type"] == "lifespan" else send)

    async def drain(self, seconds: float) -> None:
        """Take nothing new, end streams and polls, and wait for copies in flight; at most that long."""
        self._drain_began = begun = anyio.current_time()
        log.info(
            "drain_begun",
            streams=self._tails.open,
            jobs=self._poller.running,
            callbacks=self._callbacks.active,
            copies=self._copies.starting,
        )
        self._tails.drain(self._rng)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._stop)
            tasks.start_soon(self._copies.drain, begun + seconds)
        log.info("drained", seconds=round(anyio.current_time() - begun, 2), streams=self._tails.open)

    async def _stop(self) -> None:
        """End what is done for jobs and callbacks, and let other gateways go on with them."""
        if self._membership is not None:
            self._membership.retire()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._poller.stop)
            tasks.start_soon(self._callbacks.stop)
        if self._membership is not None:
            await self._membership.leave()

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        try:
            async with AsyncExitStack() as stack:
                await self._build(stack)
                yield
                await self._stop()
                self._tasks.cancel_scope.cancel()
        except Exception as error:
            if away := _first(StoreUnavailable, error):
                log.error("gateway_crashed", error=f"{away} Look at what GATEWAY_STORE_URL names.")  # noqa: TRY400 - in one line
            else:
                log.exception("gateway_crashed")
            self.on_crash()
            raise

    async def _build(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        store, shared, clock = await self._open_store(stack)
        lease = Lease(None if shared is None else shared.term)
        upstream = await stack.enter_async_context(
            Upstream.open(
                url=settings.upstream_url,
                rule=MonitorRule(settings.upstream_url, settings.monitor_patterns),
                copy_timeout=settings.copy_timeout,
            )
        )
        receivers = await stack.enter_async_context(Receivers.open(settings.callback_networks))
        self._tasks = tasks = await stack.enter_async_context(anyio.create_task_group())
        metrics = self._metrics
        self._tails = tails = Tails(
            store,
            heartbeat=settings.heartbeat,
            limit=settings.max_streams,
            look_every=LOOK_EVERY if shared is None else LOOK_EVERY_SHARED,
            pushed=metrics.push_latency.observe,
        )
        self._callbacks = callbacks = Callbacks(
            store, receivers, metrics, tasks, lease, clock=clock, rng=self._rng, tracing=self._tracing
        )

        def wake(job_id: str) -> None:
            tails.wake(job_id)
            callbacks.wake(job_id)

        store.on_change = wake
        tails.start(tasks)
        context = PollContext(
            store=store,
            upstream=upstream,
            metrics=metrics,
            bounds=Bounds(settings.poll_min, settings.poll_max),
            give_up_after=settings.poll_patience,
            deadline=settings.job_deadline,
            clock=clock,
            rng=self._rng,
            start_queue=StartQueue(RateLimit(settings.poll_rate)),
            hung_limit=anyio.Semaphore(HUNG_AT_ONCE),
            lease=lease,
            tracing=self._tracing,
        )
        self._poller = poller = Poller(context, tasks, rate=settings.poll_rate)
        callbacks.start()
        if shared is None:
            poller.take_up(await store.claim())
            callbacks.resume(await store.claim_callbacks())
        else:
            shared.on_stop = poller.drop
            shared.on_callback_change = callbacks.drop
            self._membership = Membership(shared, lease, poller, callbacks, metrics, rng=self._rng)
            await self._membership.begin(tasks)
        keys = Keys(store, clock=clock)
        self._copies = copies = Copies(
            store,
            upstream,
            poller,
            callbacks,
            metrics,
            self._tracing,
            keys,
            max_jobs=settings.max_jobs,
            clock=clock,
        )
        tasks.start_soon(self._forget, store, keys, clock)
        operator_key = settings.operator_key
        operator_hash = hashed(operator_key) if operator_key is not None else self.source.operator_hash
        access = Access(store.secret, operator_hash)
        public_url = PublicUrl(settings.public_url)
        self._starlette.router.routes.extend(
            routes.table(
                CopyRoutes(copies, upstream.read_item, access, public_url, secret=store.secret),
                JobRoutes(
                    store,
                    tails,
                    metrics,
                    access,
                    public_url,
                    stop_watching=poller.drop,
                    send_timeout=settings.send_timeout,
                    stream_max_age=settings.stream_max_age,
                    clock=clock,
                    rng=self._rng,
                ),
                CallbackRoutes(store=store, callbacks=callbacks, access=access, clock=clock),
                ServiceRoutes(store, tails, metrics, public_url),
                Page(),
            )
        )
        metrics.know_routes(routes.names(self._starlette.routes))
        self._show(store, lease)
        # The default collector walks all connections' objects again and again: p99 of a push 287 -> 69 ms at 2,000.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 1000)

    def _show(self, store: Store, lease: Lease) -> None:
        """Let the metrics ask what is now whom it concerns."""
        settings, tails, poller, metrics = self.settings, self._tails, self._poller, self._metrics

        def members() -> float:
            return 1 if self._membership is None else self._membership.members

        def drain_elapsed() -> float:
            return 0.0 if self._drain_began is None else anyio.current_time() - self._drain_began

        metrics.build.info({"version": VERSION, "store": "postgresql" if settings.is_shared else "sqlite"})
        metrics.watch(
            {
                "jobs_running": ("Jobs this gateway polls.", lambda: poller.running),
                "jobs_limit": ("Jobs beyond which it takes no more copies.", lambda: settings.max_jobs),
                "streams_open": ("Open event streams.", lambda: tails.open),
                "streams_limit": ("Streams beyond which it takes no more.", lambda: settings.max_streams),
                "callbacks_active": ("Callbacks that still have something to tell.", lambda: self._callbacks.active),
                "store_up": ("Whether the newest write to the store was done.", lambda: not store.failing),
                "lease_held": ("Whether this gateway may act for the jobs it has.", lambda: lease.holds),
                "members": ("Gateways that live, as this one sees it.", members),
                "draining": ("Whether it is shutting down.", lambda: self._drain_began is not None),
                "drain_elapsed_seconds": ("How long it has been shutting down.", drain_elapsed),
                "drain_limit_seconds": ("How long that may take.", lambda: settings.drain),
            }
        )
        metrics.watch_hosts("jobs_throttled", "Jobs whose last poll was throttled.", poller.throttled)
        metrics.watch_counts("store_failures", "What the store was asked and could not do.", lambda: store.failures)

    async def _open_store(self, stack: AsyncExitStack) -> tuple[Store, SharedStore | None, Callable[[], float]]:
        """The store, the same if gateways share it, and the clock that goes with it."""
        settings, source = self.settings, self.source
        if isinstance(source, StoreFile):
            own = SQLiteStore(source, log_limit=settings.log_limit)
            stack.push_async_callback(own.close)
            return own, None, self._clock
        from gateway.store.postgres import PostgresStore  # noqa: PLC0415 - a start without it is a twentieth quicker

        shared = await stack.enter_async_context(
            PostgresStore.open(source, log_limit=settings.log_limit, lease=settings.lease, clock=self._clock)
        )
        return shared, shared, shared.clock

    async def _forget(self, store: Store, keys: Keys, clock: Callable[[], float]) -> None:
        """Remove jobs past their retention, soon after it ends."""
        retention = self.settings.retention
        while True:
            await anyio.sleep(min(max(retention / 10, 0.2), 30.0))
            try:
                await keys.catch_up()
                while await store.delete_expired(clock() - retention):
                    pass
            except StoreUnavailable as error:
                log.warning("retention_delayed", error=str(error))


async def open_source(settings: Settings, *, make_operator_key: bool = False) -> StoreFile | Database:
    """What the settings name as the store, found fit. Raises StoreRefused and OSError."""
    if settings.is_shared:
        from gateway.store.postgres.database import Database  # noqa: PLC0415 - as above

        return await Database.open(settings.store_url, settings.listen_url, settings.secret_key)
    return StoreFile.open(
        settings.store_path,
        settings.secret_key,
        f"http://{settings.host}:{settings.port}",
        make_operator_key=make_operator_key and settings.operator_key is None,
    )


def _first(kind: type[Exception], error: BaseException) -> BaseException | None:
    """The first of that kind, in the groups that task groups make of what is raised in them."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for one in error.exceptions if (found := _first(kind, one))), None)
    return error if isinstance(error, kind) else None


def _untraced(send: Send) -> Send:
    """Without the traceback that Starlette hands to the server, to be logged: the lifespan has told it already."""

    async def briefly(message: Message) -> None:
        await send({"type": message["type"]} if message["type"].endswith(".failed") else message)

    return briefly


def create_app(settings: Settings, source: StoreFile | Database, tracing: Tracing = OFF) -> Gateway:
    return Gateway(settings, source, time.time, random.Random(), tracing)
