"""The demo's gateways, as processes: one on SQLite, or several on a PostgreSQL of their own and behind a balancer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import anyio

import gateway
from gateway.cli.demo.balancer import HOST, Balancer, balancing
from gateway.cli.display import stderr_line
from gateway.cli.follow import LostError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from anyio.abc import Process

    from gateway.cli.demo.postgres import Server

PREFERRED_PORT = 8000
START = 20.0  # seconds for a gateway to answer
STOP = 15.0  # … and for all to end
LEASE = 2  # seconds for which a killed gateway's jobs wait for another one
LOG_LINES = 10


class Replica(NamedTuple):
    name: str
    url: str
    process: Process
    log: Path


class Gateways:
    """`url` leads to them: through the `balancer`, or to the only one, which has no `database` but a file."""

    def __init__(
        self, url: str, each: Sequence[Replica], *, balancer: Balancer | None = None, database: str = ""
    ) -> None:
        self.url = url
        self.each = each
        self.database = database
        self.killed: Replica | None = None
        self._balancer = balancer

    def kill_who_serves(self, port: int) -> Replica | None:
        """Kill, as `kill -9` does, the one with the balancer's connection from this port; None if there is none."""
        number = self._balancer.serving(port) if self._balancer is not None else None
        if number is None:
            return None
        self.killed = self.each[number]
        self.killed.process.kill()
        return self.killed

    async def answering(self, session: aiohttp.ClientSession) -> None:
        """Return when all are ready. Raises LostError."""
        with anyio.move_on_after(START) as waiting:
            for one in self.each:
                await _answering(session, one)
        if waiting.cancelled_caught:
            raise LostError(f"{one.name} did not answer within {START:g} s")

    async def ended(self) -> str:
        """In words, when the last one has ended."""
        statuses = [await one.process.wait() for one in self.each]
        return "all gateways have ended" if self.database else f"the gateway ended by itself, with {statuses[0]}"

    @contextmanager
    def logs_on_failure(self) -> Iterator[None]:
        """What each last said, before its log goes with the folder."""
        try:
            yield
        except LostError:
            for one in self.each:
                prefix = f"{one.name}: " if self.database else ""
                for line in one.log.read_text(errors="replace").splitlines()[-LOG_LINES:]:
                    stderr_line(f"{prefix}{line}")
            raise


@asynccontextmanager
async def alone(folder: Path, given: Mapping[str, str]) -> AsyncIterator[Gateways]:
    """One gateway; `given` are its settings besides where it listens and its store."""
    with _preferred_port() as found:
        port = found.getsockname()[1]
    settings = {**given, "GATEWAY_STORE_URL": f"sqlite:///{folder / 'demo.db'}"}
    async with _serving(folder, {"the gateway": {**settings, "GATEWAY_PORT": str(port)}}) as each:
        yield Gateways(each[0].url, each)


@asynccontextmanager
async def several(count: int, folder: Path, given: Mapping[str, str]) -> AsyncIterator[Gateways]:
    """That many gateways. Raises RefusedError when there is no PostgreSQL at hand."""
    async with AsyncExitStack() as opened:
        database = await opened.enter_async_context(_database())
        ports = _free_ports(count)
        listening = _preferred_port()
        public_url = f"http://{HOST}:{listening.getsockname()[1]}"
        balancer = await opened.enter_async_context(balancing(listening, ports))
        settings = {
            **given,
            "GATEWAY_STORE_URL": database.url(),
            "GATEWAY_PUBLIC_URL": public_url,
            "GATEWAY_LEASE": str(LEASE),
        }
        named = {
            f"gateway {number} of {count}": {**settings, "GATEWAY_PORT": str(port)}
            for number, port in enumerate(ports, 1)
        }
        each = await opened.enter_async_context(_serving(folder, named))
        yield Gateways(public_url, each, balancer=balancer, database=f"{HOST}:{database.port}")


@asynccontextmanager
async def _database() -> AsyncIterator[Server]:
    from gateway.cli.demo.postgres import Server, temporary_folder

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


@asynccontextmanager
async def _serving(folder: Path, named: Mapping[str, dict[str, str]]) -> AsyncIterator[Sequence[Replica]]:
    """Gateways with these names and settings, in sessions of their own: they end when told, not by the same Ctrl-C."""
    each: list[Replica] = []
    try:
        for name, environment in named.items():
            log = folder / f"{name.replace(' ', '-')}.log"
            with log.open("wb") as written:
                process = await anyio.open_process(
                    [sys.executable, "-m", "gateway", "serve"],
                    cwd=Path(gateway.__file__).parent.parent,
                    env=_clean_environment() | environment,
                    stdin=subprocess.DEVNULL,
                    stdout=written,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            each.append(Replica(name, f"http://{HOST}:{environment['GATEWAY_PORT']}", process, log))
        yield each
    finally:
        with anyio.CancelScope(shield=True):
            for one in each:
                with suppress(ProcessLookupError):
                    one.process.terminate()
            with anyio.move_on_after(STOP):
                for one in each:
                    await one.process.wait()
            for one in each:
                with suppress(ProcessLookupError):
                    one.process.kill()
                await one.process.aclose()


async def _answering(session: aiohttp.ClientSession, one: Replica) -> None:
    while one.process.returncode is None:
        with suppress(aiohttp.ClientError):
            async with session.get(f"{one.url}/readyz") as response:
                if response.status == 200:
                    return
        await anyio.sleep(0.05)
    raise LostError(f"{one.name} ended with {one.process.returncode}")


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}


def _preferred_port() -> socket.socket:
    """Listening there, or on a free one."""
    for port in (PREFERRED_PORT, 0):
        with suppress(OSError):
            return socket.create_server((HOST, port))
    raise LostError(f"no port is free on {HOST}")


def _free_ports(count: int) -> list[int]:
    """Held all at once, so that no two are the same."""
    with ExitStack() as held:
        found = [held.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [int(one.getsockname()[1]) for one in found]
