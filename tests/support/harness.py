"""A running gateway for tests: in this process under a real uvicorn, or as a process of its own."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
import anyio
import msgspec
from anyio.abc import TaskGroup
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from gateway.app import Gateway, open_source
from gateway.jobs.loss import Patience
from gateway.jobs.pacing import HungLane, RateLimit, StartQueue
from gateway.jobs.polling import PollContext
from gateway.jobs.schedule import Bounds
from gateway.membership import Lease, Runtime
from gateway.server.connection import configured
from gateway.server.server import KEEP_ALIVE, Server
from gateway.server.sockets import listen
from gateway.settings import Settings
from gateway.store import Store
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing import OFF
from tests.support.forking import Forked
from tests.support.virtual_time import VirtualLoop

OPERATOR_KEY = "operator-key-for-tests"
TOKEN = {"Authorization": "Bearer a-token-of-the-caller"}
OPERATOR = {"Authorization": f"Bearer {OPERATOR_KEY}"}
QUICK = {"poll_min": 0.02, "poll_max": 0.2}
"""The pace of polls where time is real. Virtual time passes anyway, and each poll costs."""
COPY_BODY = {"name": "a copy", "parentReference": {"path": "/drive/root:/Documents"}}
FOLDER = "/v1.0/me/drive/items/01MOWKYVLARGEFOLDER1"
README = Path(__file__).parent.parent.parent / "README.md"


def runtime(tasks: TaskGroup, clock: Callable[[], float] = time.time, lease: Lease | None = None) -> Runtime:
    """What the parts of a gateway share, for a part that runs alone; without traces."""
    return Runtime(clock, random.Random(1), Metrics(), OFF, lease or Lease(), tasks)


def poll_context(own: Runtime, store: Store, upstream: Any, *, deadline: float, **options: Any) -> PollContext:
    """What the watches of a process share, for one that runs alone; its polls wait for nobody."""
    return PollContext(
        **msgspec.structs.asdict(own),
        store=store,
        upstream=upstream,
        bounds=Bounds(0.5, 30.0),
        patience=Patience(600.0, 300.0),
        deadline=deadline,
        rate=1000,
        start_queue=StartQueue(RateLimit(1000)),
        hung_lane=HungLane(1),
        **options,
    )


class Running:
    """`url` is where the gateway answers."""

    def __init__(self, url: str, gateway: Gateway, server: Server, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.gateway = gateway
        self.server = server
        self.session = session

    async def copy(self, item: str = FOLDER, **options: Any) -> dict[str, Any]:
        """Start a copy and return the 202's body; `options` go to the request (json, headers, params)."""
        options.setdefault("json", COPY_BODY)
        options.setdefault("headers", TOKEN)
        async with self.session.post(f"{self.url}{item}/copy", **options) as response:
            body: dict[str, Any] = await response.json()
            assert response.status == 202, (response.status, body)
            return body


class Given(Settings):
    """Without what the environment says, whose reading takes 4 ms each time."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def settings(upstream: str, folder: Path, **values: Any) -> Settings:
    given = {
        "upstream_url": upstream,
        "store_url": f"sqlite:///{folder}/gateway.db",
        "port": 0,
        "operator_key": OPERATOR_KEY,
        **values,
    }
    return Given(**given)


@asynccontextmanager
async def serving(upstream: str, folder: Path, **values: Any) -> AsyncIterator[Running]:
    """A gateway in this loop, whatever clock that has, on a socket of its own; drained at the end."""
    tracing = values.pop("tracing", OFF)
    loop = asyncio.get_running_loop()
    chosen = settings(upstream, folder, **({} if isinstance(loop, VirtualLoop) else QUICK) | values)
    begun = time.time() - loop.time()
    gateway = Gateway(chosen, await open_source(chosen), lambda: begun + loop.time(), random.Random(1), tracing)
    listening = listen(chosen.host, chosen.port, chosen.send_timeout)
    config = configured(gateway, lifespan="on", timeout_keep_alive=KEEP_ALIVE, timeout_graceful_shutdown=2)
    server = Server(config, gateway, command="gateway")
    host, port = listening[0].getsockname()[:2]
    serve = asyncio.create_task(server._serve(listening))
    while not server.started:
        if serve.done():
            await serve
        await asyncio.sleep(0.01)
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None), connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        try:
            yield Running(f"http://{host}:{port}", gateway, server, session)
        finally:
            server.handle_exit(signal.SIGTERM, None)
            await serve
    assert not server.crashed


class Event(msgspec.Struct):
    """One event as a client sees it; `name` is its `event:`."""

    id: str
    name: str
    data: dict[str, Any]


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """The events of an open stream until it ends."""
    fields: dict[str, str] = {}
    async for raw in response.content:
        line = raw.decode().rstrip("\r\n")
        if line and not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif not line and "data" in fields:
            yield Event(fields.get("id", ""), fields.get("event", "message"), msgspec.json.decode(fields["data"]))
            fields = {}


async def tail(session: aiohttp.ClientSession, url: str, **options: Any) -> list[Event]:
    """All events of a stream, read to its end."""
    async with session.get(url, **options) as response:
        assert response.status == 200, response.status
        return [event async for event in events(response)]


class Process:
    """`gateway serve` as a process of its own, configured by its environment alone."""

    def __init__(self, upstream: str, folder: Path, **values: Any) -> None:
        # What much work would be slowed down by, and others cover, is not traced.
        left_out = ("GATEWAY_", "COVERAGE_") if values.pop("busy", False) else ("GATEWAY_",)
        self._arguments = values.pop("arguments", ())
        self.port = values.pop("port", None) or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"gateway-{self.port}.log"
        given = {
            "upstream_url": upstream,
            "store_url": f"sqlite:///{folder}/gateway.db",
            "port": self.port,
            "operator_key": OPERATOR_KEY,
            **QUICK,
            **values,
        }
        own = {f"GATEWAY_{name.upper()}": str(value) for name, value in given.items() if value is not None}
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(left_out)},
            **own,
        }
        self._process: subprocess.Popen[bytes] | Forked | None = None

    async def start(self) -> Self:
        """Start it and wait until it is ready."""
        self.spawn()
        await self.ready()
        return self

    def spawn(self, *, fresh: bool = False) -> None:
        """Start it, `fresh` with a Python of its own. One with arguments is, as is one whose coverage is measured."""
        arguments = ("serve", *self._arguments)
        with self.log.open("ab") as log:
            if fresh or self._arguments or any(name.startswith("COVERAGE_") for name in self._environment):
                command = [sys.executable, "-m", "gateway", *arguments]
                self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
            else:
                self._process = Forked(arguments, self._environment, log.fileno())

    async def ready(self, seconds: float = 20.0, *, port: int | None = None) -> None:
        """Wait until it is, at its port or another one of its own."""
        url = self.url if port is None else f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as session:
            with anyio.fail_after(seconds):
                while True:
                    assert self.process.poll() is None, self.output()
                    try:
                        async with session.get(f"{url}/readyz") as response:
                            if response.status == 200:
                                return
                    except aiohttp.ClientError:
                        pass
                    await anyio.sleep(0.02)

    @property
    def process(self) -> subprocess.Popen[bytes] | Forked:
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        """As by `kill -9`."""
        self.process.kill()
        self.process.wait(10)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def exited(self, seconds: float = 20.0) -> int:
        """The exit status."""
        with anyio.fail_after(seconds):
            while (status := self.process.poll()) is None:  # noqa: ASYNC110 - a process has no event
                await anyio.sleep(0.02)
        return status

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    async def __aenter__(self) -> Self:
        """Start it, unless it was started before; it is killed at the end if it still runs."""
        return self if self._process is not None else await self.start()

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()


_BLOCKS: tuple[int, ...] = (*range(10000, 15432, 4), *range(30000, 32764, 4))
"""First ports of blocks of four. The kernel gives out ports from 32768 on: even ones to outgoing connections, odd ones
to listeners that take any. The demo takes those in between for its databases.
"""
_claims: list[socket.socket] = []
_spare: list[int] = []


def free_port() -> int:
    """A port that is free now and, unless a program outside the tests takes it, until something listens on it."""
    if not _spare:
        first = free_ports()
        _spare.extend(range(first, first + 3))
    return _spare.pop()


def free_ports() -> int:
    """A port that is free with the two that follow it; no other caller, in whatever process, gets one of them while
    this process lives.
    """
    for first in random.SystemRandom().sample(_BLOCKS, len(_BLOCKS)):
        try:
            claim = socket.create_server(("127.0.0.1", first))
        except OSError:
            continue
        try:
            for own in range(first + 1, first + 4):
                socket.create_server(("127.0.0.1", own)).close()
        except OSError:
            claim.close()
        else:
            _claims.append(claim)
            return first + 1
    raise OSError("no ports are free")


def lines_of_the_readme(first: str) -> str:
    """Three lines of the README, as they are."""
    lines = README.read_text().splitlines()
    begin = next(number for number, line in enumerate(lines) if line.strip().startswith(first))
    return "\n".join(line.removeprefix("    ") for line in lines[begin : begin + 3])
