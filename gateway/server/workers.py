"""Several gateways on one machine behind one port: worker processes, to which the kernel distributes the connections.

Each worker is a complete gateway, so all share the jobs through PostgreSQL. A worker that dies is started again.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from types import FrameType

from gateway.server.server import cannot_listen, settings_to_serve, stderr_line
from gateway.server.sockets import LOOPBACK, bound
from gateway.telemetry import logs
from gateway.telemetry.logs import EventLog

log = EventLog("gateway.workers")


class Workers:
    """The worker processes; `port` is the port that they share."""

    def __init__(self, count: int, port: int) -> None:
        self._count = count
        self._port = port
        self._running: dict[int, tuple[int, subprocess.Popen[bytes]]] = {}
        self._stopping = False
        self._status = 0

    def run(self) -> int:
        """Run until SIGTERM or SIGINT. Returns the exit status: 0, or that of the first worker that could not start or
        stop.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        for worker in range(1, self._count + 1):
            self._start(worker)
        while self._running:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            if ended is not None and ended.si_pid in self._running:
                self._ended(*self._running.pop(ended.si_pid))
        return self._status

    def _start(self, worker: int) -> None:
        process = subprocess.Popen(  # noqa: S603 - this program itself
            [sys.executable, "-m", "gateway", "serve", "--worker", str(worker)],
            env={**os.environ, "GATEWAY_PORT": str(self._port)},
            stdin=subprocess.PIPE,  # reaches its end with this process, however this process dies
            stdout=subprocess.PIPE,  # the worker prints a line once it serves
            start_new_session=True,  # Ctrl-C signals this process only, which passes the signal on
        )
        self._running[process.pid] = (worker, process)
        if self._stopping:
            process.terminate()

    def _ended(self, worker: int, process: subprocess.Popen[bytes]) -> None:
        output, _ = process.communicate()
        status = process.returncode
        if self._stopping:
            if status not in (0, -signal.SIGTERM):  # SIGTERM kills a worker that has no handler yet
                self._status = self._status or 1
        elif not output:  # it never served, and a restart would fail alike
            log.error("worker_not_started", worker=worker, status=status)
            self._status = status if status > 0 else 1
            self._stop()
        else:
            log.error("worker_died", worker=worker, status=status)
            self._start(worker)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        """Stop all workers. A second call ends them at once, as a second signal does."""
        self._stopping = True
        for _, process in list(self._running.values()):
            process.terminate()


def run(count: int) -> int:
    """Serve with `count` workers. Returns the exit status, as of a single gateway."""
    logs.begin()
    settings = settings_to_serve()
    if settings is None:
        return 2
    if not settings.is_shared:
        stderr_line(
            "--workers: the workers share the jobs through PostgreSQL. Set GATEWAY_STORE_URL to "
            "postgresql://user:password@host/database, or serve without --workers."
        )
        return 2
    try:
        reserved = _reserve(settings.host, settings.port, settings.send_timeout)
    except OSError as error:
        stderr_line(cannot_listen(settings.host, settings.port, error))
        return 1
    with reserved:
        port = reserved.getsockname()[1]
        stderr_line(
            f"{count} gateways listen on port {port}. Each serves its own metrics on a port of its own, from "
            f"http://{LOOPBACK}:{port + 1}/metrics on"
        )
        return Workers(count, port).run()


def _reserve(host: str, port: int, send_timeout: float) -> socket.socket:
    """Bind the port without listening: it stays reserved, and port 0 becomes a known number. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, protocol, _, address = found[0]
    return bound(family, protocol, address, send_timeout, shared=True)
