"""Serves a simulator on real sockets, with two dead ports; stopping does not wait for hanging responses."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from contextlib import ExitStack, asynccontextmanager, closing
from typing import TYPE_CHECKING, Self

import anyio
from aiohttp import web

from gateway.simulator.server import DISCARD, Simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from gateway.simulator.receiver import Receiver

PATIENCE = 0.3  # seconds for a response that is being written when the simulator stops
WAITING = 2048  # connections: many jobs may connect at the same moment
LONGEST_FIELD = 128 << 10  # bytes of a header: tokens with many groups are large
FILLING = 4  # connections that fill a listen queue of 0, with some to spare


@asynccontextmanager
async def running(
    simulator: Simulator, host: str = "127.0.0.1", port: int = 0, *, monitor_port: int | None = None
) -> AsyncIterator[Simulator]:
    """Serve `simulator` while the block runs. With `monitor_port` (0: any) its monitors have another origin."""
    runner = web.AppRunner(
        simulator.app(),
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,
        shutdown_timeout=PATIENCE,
        max_field_size=LONGEST_FIELD,
    )
    with ExitStack() as sockets:
        dead_ends = sockets.enter_context(DeadEnds(host))
        listening = [
            sockets.enter_context(closing(_listening(host, wanted)))
            for wanted in ((port,) if monitor_port is None else (port, monitor_port))
        ]
        urls = [f"http://{_reachable(host)}:{opened.getsockname()[1]}" for opened in listening]
        await runner.setup()
        try:
            for opened in listening:
                await web.SockSite(runner, opened, backlog=WAITING).start()
            simulator.url, simulator.monitor_url = urls[0], urls[-1]
            simulator.monitor_port = None if monitor_port is None else listening[1].getsockname()[1]
            simulator.refusing_port, simulator.silent_port = dead_ends.refusing, dead_ends.silent
            yield simulator
        finally:
            simulator.monitor_port, simulator.refusing_port, simulator.silent_port = None, DISCARD, DISCARD
            await _stop_accepting(listening)
            await runner.cleanup()


async def serve(
    host: str,
    port: int,
    *,
    scenario: str,
    seconds: float,
    steps: int,
    on_ready: Callable[[str], None],
    receiver: Receiver | None = None,
) -> None:
    """Run a simulator until SIGTERM or SIGINT; `on_ready` is called with its URL.

    Raises OSError when it cannot listen, ValueError for an invalid default.
    """
    simulator = Simulator(scenario=scenario, seconds=seconds, steps=steps, receiver=receiver)
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with running(simulator, host, port):
            on_ready(simulator.url)
            async for _ in signals:
                break


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=WAITING)


async def _stop_accepting(listening: list[socket.socket]) -> None:
    # asyncio's Server.close() fails on a connection whose accept task has not run yet, and leaks its socket.
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.SelectorEventLoop):
        for opened in listening:
            if opened.fileno() >= 0:
                loop.remove_reader(opened)
        for _ in range(3):
            await asyncio.sleep(0)


def _reachable(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{host}]" if ":" in host else host


class DeadEnds:
    """Two ports: connections to `refusing` are refused, those to `silent` are never completed."""

    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._sockets = [socket.socket(family, socket.SOCK_STREAM) for _ in range(2 + FILLING)]
        refusing, silent, *fillers = self._sockets
        # Bound and not listening: no other program gets the port, and a connection to it is refused.
        refusing.bind((host, 0))
        silent.bind((host, 0))
        silent.listen(0)
        # No connection is accepted; once the queue is full the kernel drops further attempts.
        for filler in fillers:
            filler.settimeout(0)
            with contextlib.suppress(OSError):
                filler.connect(silent.getsockname())
        self.refusing: int = refusing.getsockname()[1]
        self.silent: int = silent.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for opened in self._sockets:
            opened.close()
