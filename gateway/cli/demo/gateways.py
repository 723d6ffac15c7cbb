"""The demo's gateways: one on SQLite, or `gateway serve --workers` on a PostgreSQL of their own."""

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
ATTEMPTS = 5  # with free ports: another program may take one before the gateways do
TAKEN = "the port is taken"  # a gateway's word for that
START = 20.0  # seconds for a gateway to answer
ANSWER = aiohttp.ClientTimeout(total=2)  # … one request, after which another look shows whether it still runs
STOP = 15.0  # seconds for all to end
LEASE = 2  # seconds for which a killed gateway's jobs wait for another one
LOG_LINES = 10


class Gateways:
    """One process that serves alone, or that keeps several workers on one port; `url` leads to any of them.

    Several have a `database`, and each of their `workers`, which are found by name, has a port of its own besides.
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
        """The name of each and the URL that leads to no other."""
        if not self.database:
            return {self._all: self.url}
        return {self._name(number): f"http://{HOST}:{self._port + number}" for number in range(1, self._count + 1)}

    async def start(self, session: aiohttp.ClientSession) -> None:
        """Return when all are ready. Raises LostError."""
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
        raise LostError(f"{self._all} found no ports on {HOST} that stayed free")

    async def answering(self, session: aiohttp.ClientSession) -> None:
        """Return when all are ready, a worker that is being started again among them. Raises LostError."""
        with anyio.move_on_after(START) as waiting:
            for url in self.urls.values():
                await self._answering(session, url)
        if waiting.cancelled_caught:
            raise LostError(f"{self._all} did not answer within {START:g} s")
        if self.database:
            self._find_workers()

    def kill_server_of_stream(self) -> str:
        """Kill, as `kill -9` does, the worker whose stream is open here; in words, or "" when there is none."""
        import psutil

        ours = {own for own, other in _connections(psutil.Process()) if other[1] == self._port}
        upstream = URL(self._settings["GATEWAY_UPSTREAM_URL"]).port
        for name, worker in self.workers.items():
            others = {other for _, other in _connections(worker)}
            if others & ours:
                worker.kill()
                self.killed = name
                polls = any(port == upstream for _, port in others)  # nothing else goes upstream meanwhile
                return f"{name}, which {'polled the job and ' if polls else ''}served this stream"
        return ""

    async def ended(self) -> str:
        """In words, once their process has ended by itself."""
        status = await self._running.wait()
        return f"{self._all} ended by {'themselves' if self.database else 'itself'}, with {status}"

    async def stop(self) -> None:
        """Return when all have ended; a process that hangs is killed."""
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

    def say_last_words(self) -> None:
        """The end of the log, which goes with the folder."""
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
        """In a session of its own: it ends when told, not by the same Ctrl-C."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
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
        """By the list of jobs: another program on that port would not show it for this operator's key."""
        headers = {"Authorization": f"Bearer {self._settings['GATEWAY_OPERATOR_KEY']}"}
        while self._running.returncode is None:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{url}/jobs", headers=headers, timeout=ANSWER) as response:
                    if response.status == 200:
                        return
            await anyio.sleep(0.05)
        raise LostError(f"{self._all} ended with {self._running.returncode}")

    def _find_workers(self) -> None:
        import psutil

        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._running.pid).children():
                self.workers[self._name(child.cmdline()[-1])] = child


@asynccontextmanager
async def serving(
    count: int, folder: Path, given: Mapping[str, str], session: aiohttp.ClientSession
) -> AsyncIterator[Gateways]:
    """So many gateways, ready; `given` are their settings besides where they listen and their store.

    Raises LostError, after the end of their log, and RefusedError when there is no PostgreSQL at hand for several.
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
            gateways.say_last_words()
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
    """Ports to try: each is free with as many `more` behind it."""
    if are_free(PREFERRED_PORT, more):
        yield PREFERRED_PORT
    for _ in range(ATTEMPTS):
        yield free_port(more)


def _connections(process: psutil.Process) -> list[tuple[Address, Address]]:
    """The own end and the other end of each; none when the process has ended."""
    import psutil

    with suppress(psutil.Error):
        established = [one for one in process.net_connections("tcp4") if one.status == psutil.CONN_ESTABLISHED]
        return [(one.laddr, one.raddr) for one in established]
    return []


def _kill_hung(workers: list[psutil.Process]) -> None:
    """Workers end with the process that started them, however that ended; wait for them, and kill the others."""
    import psutil

    _, left = psutil.wait_procs(workers, STOP)
    for worker in left:
        worker.kill()
