"""Run the gateway under uvicorn: the socket, the signals, the way down.

uvicorn waits for open answers before it runs the lifespan's end, so streams are told by the signal itself.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from types import FrameType

import uvicorn

from gateway import logs, tracing
from gateway import settings as settings_
from gateway.app import VERSION, Gateway, create_app, open_source
from gateway.connection import Connection
from gateway.descriptors import within_descriptors
from gateway.errors import StoreRefused
from gateway.greeting import cannot_listen, greet, say
from gateway.logs import EventLog
from gateway.settings import Settings, SettingsError

SEND_BUFFER = 64 << 10
"""Bytes the kernel may hold for a reader that is behind; the default may grow to megabytes a stream."""
BACKLOG = 2048
KEEP_ALIVE = 75
"""Seconds an idle connection is kept: longer than clients and proxies do (nginx: 60), since whoever closes first may
close on a POST that is just coming in."""
COPIES_SHARE = 0.8
"""Share of the drain that copies in flight may take; the rest is for closing."""

log = EventLog("gateway")


class Server(uvicorn.Server):
    """uvicorn's, with the gateway's drain between the signal and the shutdown. A second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self.crashed = False
        self._gateway = gateway
        self._drain_seconds = gateway.settings.drain * COPIES_SHARE
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signals = 0
        gateway.on_crash = self._crash

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Not handed on to uvicorn, which would raise the signal again at the end: a drained gateway exits with 0."""
        self._signals += 1
        if self._loop is None or self._signals > 1:
            self.should_exit = True
            self.force_exit = self._signals > 1
        else:
            self._loop.call_soon_threadsafe(self._begin_drain)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._loop = asyncio.get_running_loop()
            greet(self._gateway.settings, self._gateway.source, sockets or [])
            log.info("started", version=VERSION, store=self._gateway.source.place)
            if self._signals:
                self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        dropping = asyncio.create_task(self._drop_stalled())
        await super().shutdown(sockets)
        dropping.cancel()

    def _begin_drain(self) -> None:
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        try:
            await self._gateway.drain(self._drain_seconds)
        finally:
            self.should_exit = True

    async def _drop_stalled(self) -> None:
        """Connections that are closing and still there have a reader that takes nothing."""
        while True:
            await asyncio.sleep(0.5)
            for connection in list(self.server_state.connections):
                transport = getattr(connection, "transport", None)
                if transport is not None and transport.is_closing():
                    transport.abort()

    def _crash(self) -> None:
        self.crashed = True
        self.should_exit = True


def run() -> int:
    """Serve until SIGTERM or SIGINT; the exit status: 0, 1 when it could not start or failed, 2 for wrong settings."""
    logs.begin()
    try:
        settings = settings_.read()
    except SettingsError as error:
        for problem in (*error.problems, *settings_.unknown(os.environ)):
            say(problem)
        return 2
    for problem in settings_.unknown(os.environ):
        say(problem)
    settings = within_descriptors(settings)
    try:
        listening = listen(settings)
    except OSError as error:
        say(cannot_listen(settings.host, settings.port, error))
        return 1
    try:
        source = asyncio.run(open_source(settings, make_operator_key=sys.stderr.isatty()))
    except (StoreRefused, OSError) as error:
        for one in listening:
            one.close()
        say(str(error))
        return 1
    traces = tracing.begin(os.environ, VERSION)
    gateway = create_app(settings, source, traces)
    config = uvicorn.Config(
        gateway,
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, int(settings.drain * (1 - COPIES_SHARE) / 2)),
    )
    server = Server(config, gateway)
    try:
        server.run(sockets=listening)
    except SystemExit:
        return 1
    finally:
        traces.close()
    return 1 if server.crashed or not server.started else 0


def listen(settings: Settings) -> list[socket.socket]:
    """A listening socket for each address of the host, all on one port. Raises OSError.

    Accepted sockets inherit the options, so that a reader that takes nothing, or is gone without a word, is cut by the
    kernel too.
    """
    found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listening: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, _, protocol, _, address in dict.fromkeys(found):
            port = listening[0].getsockname()[1] if listening else address[1]
            try:
                listening.append(_bound(family, protocol, (address[0], port, *address[2:]), settings.send_timeout))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                absent = error  # a name may have an IPv6 address that this machine has not
    except BaseException:
        for one in listening:
            one.close()
        raise
    if absent is not None and not listening:
        raise absent
    return listening


def _bound(family: int, protocol: int, address: tuple[object, ...], send_timeout: float) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(send_timeout * 1000))
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.listen(BACKLOG)
        one.setblocking(False)  # noqa: FBT003 - its signature
    except BaseException:
        one.close()
        raise
    return one
