"""Several gateways on one machine behind one port: worker processes, to which the kernel distributes the connections.

Each worker is a complete gateway, so all share the jobs through PostgreSQL. A worker that dies or hangs is replaced.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from types import FrameType

from gateway.server.heartbeat import EVERY, SECOND, SERVING
from gateway.server.server import cannot_listen, settings_to_serve, stderr_line, summary
from gateway.server.sockets import LOOPBACK, bound
from gateway.telemetry import logs
from gateway.telemetry.logs import EventLog

HUNG = 8 * EVERY
"""Seconds without a sign of life after which a worker counts as hung."""
FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
STEADY = 60.0
"""Seconds of service after which a worker's next death is again its first."""
KILLED_AT_START = 3
"""Deaths by a signal after which a worker counts as unable to start, as long as none has served."""

log = EventLog("gateway.workers")


@dataclass(eq=False)
class Worker:
    """One place among the workers, and the process that fills it now, if any."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    life: socket.socket | None = None
    """Where the signs of life arrive; None once the process has closed its end."""
    silent: float = 0.0
    """Seconds since the last sign of life, of the time that the parent itself ran."""
    serving_since: float | None = None
    deaths: int = 0
    """Deaths in a row; the wait for the next start grows with them."""
    cannot_start: bool = False
    due: float = 0.0
    """When the next start is due, on the monotonic clock."""


class Workers:
    """The worker processes; `port` is the port that they share."""

    def __init__(self, count: int, port: int) -> None:
        self._port = port
        self._workers = [Worker(number) for number in range(1, count + 1)]
        self._has_served = False
        self._signals = 0
        self._passed_on = 0
        self._failure = 0
        """Exit status of the first worker that could not start."""
        self._stop_failed = False
        self._selector = selectors.DefaultSelector()

    def run(self) -> int:
        """Run until SIGTERM or SIGINT, or until no worker could start.

        Returns the exit status: 0, 1 when a worker failed to stop, or that of the first worker that could not start.
        """
        woken, waking = socket.socketpair()
        with woken, waking, self._selector:
            for end in (woken, waking):
                end.setblocking(False)  # noqa: FBT003 - its signature
            self._selector.register(woken, selectors.EVENT_READ, woken)
            signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)
            try:
                while self._goes_on():
                    self._wait()
                    for worker in self._workers:
                        self._check(worker)
            finally:
                signal.set_wakeup_fd(-1)
        if self._signals:
            return 1 if self._stop_failed else 0
        return self._failure or 1

    def _goes_on(self) -> bool:
        """Start or stop the workers that are to be; return False once all have ended for good."""
        if self._signals:
            self._stop()
        else:
            now = time.monotonic()
            for worker in self._workers:
                # Before any worker serves, a failure is taken to be common to all, and is not repeated.
                if worker.process is None and worker.due <= now and (self._has_served or not worker.cannot_start):
                    self._start(worker)
        if any(worker.process is not None for worker in self._workers):
            return True
        if self._signals:
            return False
        if self._has_served:
            return True
        return not all(worker.cannot_start or worker.deaths >= KILLED_AT_START for worker in self._workers)

    def _stop(self) -> None:
        """Pass the signals on: a second one ends the workers at once."""
        if self._passed_on < self._signals:
            self._passed_on = self._signals
            for worker in self._workers:
                if worker.process is None:
                    continue
                if worker.serving_since is None or worker.life is None:
                    worker.process.terminate()
                elif self._signals == 1:
                    worker.life.shutdown(socket.SHUT_WR)
                else:
                    worker.process.send_signal(SECOND)

    def _start(self, worker: Worker) -> None:
        worker.silent, worker.serving_since = 0.0, None
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                worker.life = ours
                worker.process = subprocess.Popen(  # noqa: S603 - this program itself
                    [sys.executable, "-m", "gateway", "serve", "--worker", str(worker.number)],
                    env={**os.environ, "GATEWAY_PORT": str(self._port)},
                    stdin=theirs.fileno(),  # signs of life come back; it ends with this process, however this dies
                    start_new_session=True,  # Ctrl-C signals this process only, which passes the signal on
                )
        except OSError as error:
            self._could_not_start(worker, 1, str(error))
        else:
            ours.setblocking(False)  # noqa: FBT003 - its signature
            self._selector.register(ours, selectors.EVENT_READ, worker)

    def _wait(self) -> None:
        """Wait for a sign of life, an end or a signal, for a second at most, and read what came."""
        began = time.monotonic()
        ready = self._selector.select(EVERY)
        # After a suspension of this machine or of all these processes the workers have been silent no longer than that.
        waited = min(time.monotonic() - began, EVERY)
        for worker in self._workers:
            worker.silent += waited
        for key, _ in ready:
            if isinstance(key.data, Worker):
                self._read(key.data)
            else:
                _received(key.data)

    def _read(self, worker: Worker) -> None:
        signs = b"" if worker.life is None else _received(worker.life)
        if not signs:
            self._close(worker)
            return
        worker.silent = 0.0
        if worker.serving_since is None and SERVING in signs:
            worker.serving_since = time.monotonic()
            self._has_served = True

    def _check(self, worker: Worker) -> None:
        """Look whether it has ended, and kill it when it hangs: it would keep its share of the connections."""
        if worker.process is None:
            return
        if worker.process.poll() is not None:
            self._ended(worker, worker.process.returncode)
        elif worker.silent > HUNG:
            log.error("worker_hung", worker=worker.number, seconds=round(worker.silent, 1))
            worker.process.kill()
            worker.silent = 0.0

    def _ended(self, worker: Worker, status: int) -> None:
        worker.process = None
        self._close(worker)
        if self._signals:
            if status not in (0, -signal.SIGTERM):  # SIGTERM kills a worker that has no handler yet
                log.error("worker_died", worker=worker.number, status=status)
            self._stop_failed |= status > 0
        elif worker.serving_since is None and status > 0:
            self._could_not_start(worker, status)
        else:
            if worker.serving_since is not None and time.monotonic() - worker.serving_since >= STEADY:
                worker.deaths = 0
            log.error("worker_died", worker=worker.number, status=status, again_in=_delay(worker))

    def _could_not_start(self, worker: Worker, status: int, error: str | None = None) -> None:
        self._close(worker)
        worker.cannot_start = True
        self._failure = self._failure or status
        delay = _delay(worker)
        again_in = delay if self._has_served else None
        log.error("worker_not_started", worker=worker.number, status=status, error=error, again_in=again_in)

    def _close(self, worker: Worker) -> None:
        if worker.life is not None:
            if worker.life in self._selector.get_map():
                self._selector.unregister(worker.life)
            worker.life.close()
            worker.life = None

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1


def _received(connection: socket.socket) -> bytes:
    """What has arrived; empty at its end."""
    try:
        return connection.recv(4096)
    except ConnectionError:  # it ended with bytes unread
        return b""


def _delay(worker: Worker) -> float:
    """Count a death and set when the next start is due. Returns the seconds until then."""
    delay = min(FIRST_DELAY * 2.0 ** min(worker.deaths, 10), LONGEST_DELAY)
    worker.deaths += 1
    worker.due = time.monotonic() + delay
    return delay


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
        for line in summary(settings, count):
            stderr_line(line)
        return Workers(count, port).run()


def _reserve(host: str, port: int, send_timeout: float) -> socket.socket:
    """Bind the port without listening: it stays reserved, and port 0 becomes a known number. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, protocol, _, address = found[0]
    return bound(family, protocol, address, send_timeout, shared=True)
