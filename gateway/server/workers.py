"""Several gateways on one machine behind one port: processes, among which the kernel deals out the connections.

Each is a gateway like any other, so they share the jobs through PostgreSQL. One that dies is started again.
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
    """`port` is the one they share."""

    def __init__(self, count: int, port: int) -> None:
        self._count = count
        self._port = port
        self._running: dict[int, tuple[int, subprocess.Popen[bytes]]] = {}
        self._stopping = False
        self._status = 0

    def run(self) -> int:
        """Until SIGTERM or SIGINT; the exit status: 0, or that of the first worker that could not start or stop."""
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
            stdin=subprocess.PIPE,  # ends with this process, however that dies
            stdout=subprocess.PIPE,  # where it says that it serves
            start_new_session=True,  # a Ctrl-C is for this process, which hands it on
        )
        self._running[process.pid] = (worker, process)
        if self._stopping:
            process.terminate()

    def _ended(self, worker: int, process: subprocess.Popen[bytes]) -> None:
        said, _ = process.communicate()
        status = process.returncode
        if self._stopping:
            if status not in (0, -signal.SIGTERM):  # the latter before it could listen for one
                self._status = self._status or 1
        elif not said:  # it never served, and would not another time
            log.error("worker_not_started", worker=worker, status=status)
            self._status = status if status > 0 else 1
            self._stop()
        else:
            log.error("worker_died", worker=worker, status=status)
            self._start(worker)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        """A second time, at once: a worker takes its second signal so."""
        self._stopping = True
        for _, process in list(self._running.values()):
            process.terminate()


def run(count: int) -> int:
    """Serve with so many workers. Exit status as of one gateway."""
    logs.begin()
    settings = settings_to_serve()
    if settings is None:
        return 2
    if not settings.is_shared:
        stderr_line(
            "--workers: they share the jobs through PostgreSQL. Set GATEWAY_STORE_URL to "
            "postgresql://user:password@host/database, or serve without --workers."
        )
        return 2
    try:
        held = _hold(settings.host, settings.port, settings.send_timeout)
    except OSError as error:
        stderr_line(cannot_listen(settings.host, settings.port, error))
        return 1
    with held:
        port = held.getsockname()[1]
        stderr_line(
            f"{count} gateways listen on port {port}, and each on one of its own, to be scraped: "
            f"http://{LOOPBACK}:{port + 1}/metrics and on"
        )
        return Workers(count, port).run()


def _hold(host: str, port: int, send_timeout: float) -> socket.socket:
    """Take the port without listening, so that it stays taken and is known when any free one will do."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, protocol, _, address = found[0]
    return bound(family, protocol, address, send_timeout, shared=True)
