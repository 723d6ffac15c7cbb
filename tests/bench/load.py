"""The load client, from outside: `load.c`, compiled when it is first needed."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from tests.bench.machine import on_cpu

SOURCE = Path(__file__).with_name("load.c")
NO_LAST_ID = "-"
ANSWER_SECONDS = 120


class Opened(msgspec.Struct):
    """How many streams have got their 200, and in how many seconds; `level` had all the events that were asked for."""

    seconds: float
    served: int
    level: int
    lost: int


class Measured(msgspec.Struct):
    """What a window of events brought to all streams; times are in milliseconds from the event's `at`.

    `completed` events reached every stream, at the 99th percentile after `last_p99`; `cpu` is the client's own seconds.
    """

    deliveries: int
    seconds: float
    cpu: float
    bytes: int
    lost: int
    completed: int
    p50: float
    p99: float
    max: float
    last_p99: float


def missing() -> str | None:
    """Why there is no load client, if so."""
    return None if shutil.which("cc") else "there is no C compiler, which the load client needs: apt-get install gcc"


def compiled(folder: Path) -> Path:
    program = folder / "load"
    if not program.exists():
        subprocess.run(["cc", "-O2", "-Wall", "-o", str(program), str(SOURCE)], check=True, timeout=60)
    return program


class Load:
    """One client, which opens streams of one path, or of those in a file, named as `@FILE`, one after the other."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._say = process.stdin
        self._hear = process.stdout

    @classmethod
    @asynccontextmanager
    async def start(cls, program: Path, port: int, path: str) -> AsyncIterator[Load]:
        with on_cpu(server=False):
            process = await asyncio.create_subprocess_exec(str(program), str(port), path, stdin=PIPE, stdout=PIPE)
        try:
            yield cls(process)
        finally:
            process.kill()
            await process.wait()

    async def open(self, count: int, *, at_once: int = 200, last_id: str = NO_LAST_ID, events: int = 0) -> Opened:
        """So many more streams, `at_once` of them unanswered; until each is served and has had so many events."""
        await self._tell(f"open {count} {at_once} {last_id} {events}")
        opened = msgspec.json.decode(await self._answer(), type=Opened)
        assert opened.served >= count, opened
        return opened

    async def measure(self, events: int, *, seconds: float, begun: Callable[[], None]) -> Measured:
        """From when one event has reached all streams, when `begun` is called, until so many more have.

        Or until `seconds` are over.
        """
        await self._tell(f"measure {events} {seconds}")
        line = await self._answer()
        if line == b"begin\n":
            begun()
            line = await self._answer()
        return msgspec.json.decode(line, type=Measured)

    async def count(self, seconds: float, *, begun: Callable[[], None]) -> Measured:
        """All events with an id, of whatever job, from now on, when `begun` is called, until `seconds` are over.

        The times are those of events that have an `at`.
        """
        await self._tell(f"count {seconds}")
        assert await self._answer() == b"begin\n"
        begun()
        return msgspec.json.decode(await self._answer(), type=Measured)

    async def close(self) -> None:
        await self._tell("close")
        await self._answer()

    async def _tell(self, command: str) -> None:
        self._say.write(f"{command}\n".encode())
        await self._say.drain()

    async def _answer(self) -> bytes:
        async with asyncio.timeout(ANSWER_SECONDS):
            line = await self._hear.readline()
        assert line, "the load client ended"
        return line
