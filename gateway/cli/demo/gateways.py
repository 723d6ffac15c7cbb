"""The demo's gateways: one on SQLite, or `gateway serve --workers` on a temporary PostgreSQL server."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import anyio
from yarl import URL

import gateway
from gateway.cli.demo.postgres import HOST, Server, are_free, free_port, temporary_folder
from gateway.cli.display import stderr_line
from gateway.cli.follow import LostError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    import psutil
    from anyio.abc import Process

    Address = tuple[str, int]

PREFERRED_PORT = 8000
ATTEMPTS = 5  # to find free ports: another program may take one before the gateways do
ORIGINS = "GATEWAY_CORS_ORIGINS"  # the one setting that the environment gives: whose pages may call the demo
TAKEN = "the port is taken"  # the gateway logs this
START = 20.0  # seconds for a gateway to answer
ANSWER = aiohttp.ClientTimeout(total=2)  # … and for one request, after which the process is checked
STOP = 15.0  # seconds for the process to end, and then for its workers
LEASE = 2  # seconds until another gateway takes over a killed gateway's jobs
LOG_LINES = 10


class Gateways:
    """One `gateway serve` process; with a `database` it runs `count` workers on one port.

    `url` leads to any worker. Each worker also has its own port, in `urls`. `workers` are the processes by name,
    `killed` is the name of the killed worker or empty.
    """

    def __init__(self, count: int, folder: Path, settings: Mapping[str, str], database: str = "") -> None:
        self.database = database
        self.workers: dict[str, psutil.Process] = {}
        self.killed = ""
        self._all = "the gateways" if database else "the gateway"
        self._count = count
        self._folder = folder
        self._settings = settings
        self._port = 0
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    @property
    def urls(self) -> dict[str, str]:
        """The URL of each gateway's own port, by name."""
        if not self.database:
            return {self._all: self.url}
        return {self._name(number): f"http://{HOST}:{self._port + number}" for number in range(1, self._count + 1)}

    async def start(self, session: aiohttp.ClientSession) -> None:
        """Start the process and wait until all gateways answer. Raises LostError."""
        for port in _ports(self._count if self.database else 0):
            self._port = port
            await self._spawn()
            try:
                await self.answering(session)
            except LostError:
                if TAKEN not in self._log.read_text(errors="replace"):
                    raise
                await self.stop()
            else:
                return
        raise LostError(f"{self._all} found no free ports on {HOST}")

    async def answering(self, session: aiohttp.ClientSession) -> None:
        """Wait until all gateways answer, including a worker that is being restarted. Raises LostError."""
        with anyio.move_on_after(START) as waiting:
            for url in self.urls.values():
                await self._answering(session, url)
        if waiting.cancelled_caught:
            raise LostError(f"{self._all} did not answer within {START:g} s")
        if self.database:
            self._find_workers()

    def kill_server_of_stream(self) -> str:
        """Kill with SIGKILL the worker that serves a stream of this process. Returns its description, "" for none."""
        import psutil

        ours = {own for own, other in _connections(psutil.Process()) if other[1] == self._port}
        upstream = URL(self._settings["GATEWAY_UPSTREAM_URL"]).port
        for name, worker in self.workers.items():
            others = {other for _, other in _connections(worker)}
            if others & ours:
                worker.kill()
                self.killed = name
                polls = any(port == upstream for _, port in others)  # no other request goes upstream meanwhile
                return f"{name}, which {'polled the job and ' if polls else ''}served this stream"
        return ""

    async def ended(self) -> str:
        """Wait until the process ends by itself, and return a description of that."""
        status = await self._running.wait()
        return f"{self._all} exited unexpectedly, with status {status}"

    async def stop(self) -> None:
        """Stop all processes and wait for their end; a process that hangs is killed."""
        if self._process is None:
            return
        with anyio.CancelScope(shield=True):
            with suppress(ProcessLookupError):
                self._process.terminate()
            with anyio.move_on_after(STOP):
                await self._process.wait()
            if self.workers:
                await anyio.to_thread.run_sync(_kill_hung, list(self.workers.values()))
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.aclose()

    def print_log_end(self) -> None:
        """Print the end of the log on stderr: the log is removed with the folder."""
        with suppress(FileNotFoundError):
            for line in self._log.read_text(errors="replace").splitlines()[-LOG_LINES:]:
                stderr_line(line)

    @property
    def _log(self) -> Path:
        return self._folder / f"gateway-{self._port}.log"

    @property
    def _running(self) -> Process:
        if self._process is None:
            raise RuntimeError("the gateways were not started")
        return self._process

    def _name(self, number: int | str) -> str:
        return f"gateway {number} of {self._count}"

    async def _spawn(self) -> None:
        """Start the process in its own session, so that a Ctrl-C in the terminal does not reach it."""
        given = os.environ.items()
        inherited = {name: value for name, value in given if not name.startswith("GATEWAY_") or name == ORIGINS}
        workers = ["--workers", str(self._count)] if self.database else []
        with self._log.open("wb") as log:
            self._process = await anyio.open_process(
                [sys.executable, "-m", "gateway", "serve", *workers],
                cwd=Path(gateway.__file__).parent.parent,
                env={**inherited, **self._settings, "GATEWAY_PORT": str(self._port)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def _answering(self, session: aiohttp.ClientSession, url: str) -> None:
        """Wait until the list of jobs is served. Raises LostError when the process has ended.

        The operator key tells this gateway from another program on the same port.
        """
        headers = {"Authorization": f"Bearer {self._settings['GATEWAY_OPERATOR_KEY']}"}
        while self._running.returncode is None:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{url}/jobs", headers=headers, timeout=ANSWER) as response:
                    if response.status == 200:
                        return
            if TAKEN in self._log.read_text(errors="replace"):
                raise LostError(f"{self._all} found a port that is taken")
            await anyio.sleep(0.05)
        raise LostError(f"{self._all} exited with status {self._running.returncode}")

    def _find_workers(self) -> None:
        import psutil

        for child in psutil.Process(self._running.pid).children():
            with suppress(psutil.NoSuchProcess, IndexError):  # it has ended, and leaves no command line
                self.workers[self._name(child.cmdline()[-1])] = child


@asynccontextmanager
async def serving(
    count: int, folder: Path, given: Mapping[str, str], session: aiohttp.ClientSession
) -> AsyncIterator[Gateways]:
    """Run `count` gateways, ready to serve; `given` are their settings without address and store.

    Raises LostError, after printing the end of their log, and RefusedError when several lack a PostgreSQL.
    """
    async with AsyncExitStack() as opened:
        if count == 1:
            gateways = Gateways(1, folder, {**given, "GATEWAY_STORE_URL": f"sqlite:///{folder / 'demo.db'}"})
        else:
            database = await opened.enter_async_context(_database())
            settings = {**given, "GATEWAY_STORE_URL": database.url(), "GATEWAY_LEASE": str(LEASE)}
            gateways = Gateways(count, folder, settings, f"{HOST}:{database.port}")
        opened.push_async_callback(gateways.stop)
        try:
            await gateways.start(session)
            yield gateways
        except LostError:
            gateways.print_log_end()
            raise


@asynccontextmanager
async def _database() -> AsyncIterator[Server]:
    with temporary_folder() as folder:
        server = Server(folder)
        try:
            try:
                await anyio.to_thread.run_sync(server.start)
            except LostError as error:
                words, *log = str(error).splitlines()
                for line in log:
                    stderr_line(line)
                raise LostError(words) from None
            yield server
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(server.stop, "immediate")


def _ports(more: int) -> Iterator[int]:
    """Yield ports to try: each is free, and so are the `more` ports after it."""
    if are_free(PREFERRED_PORT, more):
        yield PREFERRED_PORT
    for _ in range(ATTEMPTS):
        yield free_port(more)


def _connections(process: psutil.Process) -> list[tuple[Address, Address]]:
    """Return (local, remote) addresses of the established connections; none when the process has ended."""
    import psutil

    with suppress(psutil.Error):
        established = [found for found in process.net_connections("tcp4") if found.status == psutil.CONN_ESTABLISHED]
        return [(found.laddr, found.raddr) for found in established]
    return []


def _kill_hung(workers: list[psutil.Process]) -> None:
    """Wait for the workers, which end with their parent however it ended; kill those that do not."""
    import psutil

    _, left = psutil.wait_procs(workers, STOP)
    for worker in left:
        worker.kill()
