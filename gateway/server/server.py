"""Run the gateway under uvicorn: sockets, signals, shutdown.

uvicorn waits for open responses before it ends the lifespan, so the signal handler itself ends the streams.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import socket
import sys
from types import FrameType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import uvicorn

from gateway import settings as settings_
from gateway.app import VERSION, Gateway, create_app, open_source
from gateway.callbacks import limits
from gateway.core.errors import StoreRefused
from gateway.core.keys import is_weak, key_list
from gateway.outbound import names
from gateway.server import heartbeat
from gateway.server.connection import configured
from gateway.server.selftest import UnfitUvicorn, prove_hijack
from gateway.server.sockets import BACKLOG, LOOPBACK, close_all, listen
from gateway.settings import PREFIX, Settings, SettingsError
from gateway.telemetry import logs
from gateway.telemetry import setup as tracing
from gateway.telemetry.logs import EventLog

if TYPE_CHECKING:
    from gateway.store.postgres.database import Database
    from gateway.store.sqlite.file import StoreFile

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open. Longer than at clients and proxies (nginx: 60), since the side that
closes first may close on a POST in flight."""
COPIES_SHARE = 0.8
"""Share of the drain that copies in flight may use; the rest is for closing connections."""
SPARE = 100
CALLBACKS = limits.AT_ONCE * names.DIALLED
"""Most sockets that callback attempts may hold at once."""
POLL_SECONDS = 10

log = EventLog("gateway")


class Server(uvicorn.Server):
    """uvicorn's server, which drains the gateway before the shutdown. A second signal ends it at once."""

    def __init__(
        self,
        config: uvicorn.Config,
        gateway: Gateway,
        *,
        command: str,
        is_worker: bool = False,
        signals: list[int] | None = None,
    ) -> None:
        """`signals` are those that have already arrived; later ones are added to the list."""
        super().__init__(config)
        self._command = command
        self._is_worker = is_worker
        self.crashed = False
        self._gateway = gateway
        self._drain_seconds = gateway.settings.drain * COPIES_SHARE
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signals = [] if signals is None else signals
        self._exits = asyncio.Event()
        gateway.on_crash = self._crash

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Start the drain. uvicorn's handler would raise the signal again, but a drained gateway exits with 0."""
        self._signals.append(sig)
        is_second = len(self._signals) > 1 or (self._draining is not None and sig == heartbeat.SECOND)
        if self._loop is None or is_second:
            self.should_exit = True
            self.force_exit = is_second
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._exits.set)
        else:
            self._loop.call_soon_threadsafe(self._begin_drain)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises UnfitUvicorn."""
        await prove_hijack(self.config.http_protocol_class)
        await super().startup(sockets)
        if self.started:
            self._loop = asyncio.get_running_loop()
            if self._is_worker:
                heartbeat.serving(self._loop)
                self._loop.add_reader(heartbeat.STDIN, self._on_parent_exit)
            else:
                greet(self._gateway.settings, self._gateway.source, sockets or [], self._command)
            log.info("started", version=VERSION, store=self._gateway.source.place)
            if (key := self._gateway.settings.secret_key) is None:
                log.warning("secrets_unencrypted")
            elif is_weak(key_list(key)[0]):
                log.warning("secret_key_weak")
            if self._signals:
                self.should_exit = True

    async def main_loop(self) -> None:
        """Serve until the exit. The `Date` of responses is renewed every second; uvicorn would look ten times."""
        while not await self.on_tick(0):
            with anyio.move_on_after(1.0):
                await self._exits.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        dropping = asyncio.create_task(self._drop_stalled())
        await super().shutdown(sockets)
        dropping.cancel()

    def _on_parent_exit(self) -> None:
        """Drain. The parent never writes to a worker's stdin, so stdin is readable only at its end."""
        asyncio.get_running_loop().remove_reader(heartbeat.STDIN)
        self._begin_drain()

    def _begin_drain(self) -> None:
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        try:
            await self._gateway.drain(self._drain_seconds)
        finally:
            self._exit()

    async def _drop_stalled(self) -> None:
        """Abort connections that stay in closing for half a second, since their peers read nothing."""
        before: set[asyncio.Transport] = set()
        while True:
            await asyncio.sleep(0.5)
            found = (getattr(connection, "transport", None) for connection in self.server_state.connections)
            closing = {transport for transport in found if transport is not None and transport.is_closing()}
            for transport in before & closing:
                transport.abort()
            before = closing

    def _crash(self) -> None:
        self.crashed = True
        self._exit()

    def _exit(self) -> None:
        self.should_exit = True
        self._exits.set()


def settings_to_serve() -> Settings | None:
    """The settings, or None when they are invalid. Problems are printed to stderr, unknown names among them."""
    unknown = settings_.unknown(os.environ)
    try:
        settings = settings_.read()
    except SettingsError as error:
        for problem in (*error.problems, *unknown):
            stderr_line(problem)
        return None
    for problem in unknown:
        stderr_line(problem)
    logs.set_level(settings.log_level)
    return settings


def run(command: str, worker: int = 0) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status: 0, 1 when it could not start or failed, 2 for invalid
    settings.

    `worker` is 0 for a single gateway, else the number of a worker among several on the port. A worker also listens on
    the loopback address, on `port + worker`. It writes signs of life to its stdin, a socket, and ends at its end, since
    its parent is gone then.
    """
    logs.begin()
    settings = settings_to_serve()
    if settings is None:
        return 2
    settings = within_descriptors(settings)
    host, port = settings.host, settings.port
    listening: list[socket.socket] = []
    try:
        listening += listen(host, port, settings.send_timeout, shared=worker > 0)
        if worker:
            host, port = LOOPBACK, port + worker
            listening += listen(host, port, settings.send_timeout)
    except OSError as error:
        close_all(listening)
        stderr_line(cannot_listen(host, port, error))
        return 1
    signals: list[int] = []
    if not settings.is_shared:  # a signal that ended a start here could lose the operator key that is made only once
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _frame: signals.append(number))
    try:
        source = asyncio.run(open_source(settings, make_operator_key=sys.stderr.isatty()))
    except (StoreRefused, OSError) as error:
        close_all(listening)
        stderr_line(str(error))
        return 1
    traces = tracing.begin(os.environ, VERSION)
    gateway = create_app(settings, source, traces)
    config = configured(
        gateway,
        lifespan="on",
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, int(settings.drain * (1 - COPIES_SHARE) / 2)),
    )
    server = Server(config, gateway, command=command, is_worker=worker > 0, signals=signals)
    try:
        server.run(sockets=listening)
    except SystemExit:
        return 0 if signals else 1
    except UnfitUvicorn as error:
        close_all(listening)
        stderr_line(str(error))
        return 1
    finally:
        traces.close()
    if not server.started:
        return 0 if signals else 1
    return 1 if server.crashed else 0


def within_descriptors(settings: Settings) -> Settings:
    """Raise the descriptor limit to its hard limit. Returns the settings with `max_streams` lowered to fit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 20
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    polls = min(settings.max_jobs, int(settings.poll_rate * POLL_SECONDS))
    room = hard - SPARE - polls - CALLBACKS
    if room >= settings.max_streams:
        return settings
    streams = max(1, room, (hard - SPARE) // 2)
    streams = min(streams, settings.max_streams)
    stderr_line(
        f"The descriptor limit is {hard}: at most {streams} streams are served, not {settings.max_streams}. "
        "Raise it with ulimit -Hn."
    )
    return settings.model_copy(update={"max_streams": streams})


def greet(settings: Settings, source: StoreFile | Database, sockets: list[socket.socket], command: str) -> None:
    """Print to stderr where the gateway listens, its upstream, store and settings of note, and commands to try.

    `command` is how to call this program from the same shell.
    """
    host, port = sockets[0].getsockname()[:2]
    listens = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    base = settings.public_url or listens
    stderr_line(f"gateway listens on {listens}" + (f", public URL {base}" if base != listens else ""))
    stderr_line(f"  upstream      {settings.upstream_url}")
    stderr_line(f"  store         {source.place}")
    if source.new_operator_key is not None:
        stderr_line(f"  operator key  {source.new_operator_key}   (made for this store and shown only once: keep it)")
    elif settings.operator_key is None and source.operator_hash is None:
        stderr_line(
            f"  operator key  none, so the operator's routes are disabled: set {PREFIX}OPERATOR_KEY to enable them"
        )
    for line in summary(settings):
        stderr_line(line)
    host, port = (Settings.model_fields[name].default for name in ("host", "port"))
    there = "" if base == f"http://{host}:{port}" else f" --gateway {base}"
    stderr_line("Try next:")
    stderr_line(f"  the page      {base}/")
    stderr_line(f"  a copy        GRAPH_TOKEN=… {command} copy ITEM-ID --to /Documents{there}")
    stderr_line(f"  all jobs      {PREFIX}OPERATOR_KEY=… {command} jobs{there}")
    stderr_line(f"  health        curl {base}/readyz")


def summary(settings: Settings, workers: int = 1) -> list[str]:
    """Lines for stderr: secrets at rest, proxies, what upstream sees, and the number of gateways on the port.

    They hold no key and no password.
    """
    secrets = (
        f"none, so secrets are stored unencrypted: set {PREFIX}SECRET_KEY to encrypt them"
        if settings.secret_key is None
        else "set, so secrets are stored encrypted"
    )
    proxies = [
        f"{whose} through {urlsplit(url).netloc.rpartition('@')[2]}"
        for whose, url in (("upstream", settings.upstream_proxy), ("callbacks", settings.callback_proxy))
        if url is not None
    ]
    return [
        f"  secret key    {secrets}",
        f"  proxy         {', '.join(proxies) or 'none'}",
        f"  identity      {settings.user_agent.replace('{version}', VERSION)}, as upstream sees it",
        f"  poll identity {'none' if settings.poll_identity is None else 'that of azure-identity'}",
        f"  workers       {workers}",
    ]


def cannot_listen(host: str, port: int, error: OSError) -> str:
    """The message for stderr: why the gateway cannot listen there, and what to do about it."""
    if error.errno == errno.EADDRINUSE:
        why = f"the port is taken. Stop the program on it, or set {PREFIX}PORT to another port; 0 takes a free one."
    elif error.errno == errno.EACCES:
        why = (
            f"a port this low needs privileges. Set {PREFIX}PORT to a port from 1024 on, behind a proxy that listens "
            "on the low port."
        )
    elif isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        why = (
            f"this machine has no such address. Set {PREFIX}HOST to an address of this machine, such as 127.0.0.1, or "
            "to 0.0.0.0 for all of them."
        )
    else:
        why = f"{error.strerror or error}."
    return f"Cannot listen on {host}, port {port}: {why}"


def stderr_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - output of a command
