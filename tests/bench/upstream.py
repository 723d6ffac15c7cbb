"""A Graph that costs next to nothing, a process of its own: it takes copies, answers polls, and keeps when they came.

`Upstream.start` runs it; what it does is set, and what it saw is told, over HTTP too. The monitor of the first copy
shows progress with each poll while `moving` is set, those of all copies while `all_move` is set.
"""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import aiohttp
import httptools
import msgspec
import uvloop

from tests.bench.machine import on_cpu

MOVING = "1"
STEP = 0.01
KEPT = 1_000_000


class Doing(msgspec.Struct, forbid_unknown_fields=True):
    """`delay` is how many seconds it takes to accept a copy; `moving`, whether the first one moves, or all of them."""

    moving: bool = False
    all_move: bool = False
    delay: float = 0.0


class Seen(msgspec.Struct):
    """Polls since the setting changed last: of which monitor, and when in seconds of the system's monotonic clock."""

    copies: int
    polls: list[tuple[str, float]]


class Graph:
    """What all connections share."""

    def __init__(self) -> None:
        self.url = ""
        self.doing = Doing()
        self.copies = 0
        self.polls: deque[tuple[str, float]] = deque(maxlen=KEPT)
        self._steps: Counter[str] = Counter()

    def accept(self) -> bytes:
        self.copies += 1
        return _answer(b"202 Accepted", b"", b"Location: %s/monitor/%d\r\n" % (self.url.encode(), self.copies))

    def poll(self, monitor: str) -> bytes:
        self.polls.append((monitor, time.monotonic()))
        if self.doing.all_move or (self.doing.moving and monitor == MOVING):
            self._steps[monitor] += 1
        done = min(self._steps[monitor] * STEP, 99.0)
        body = b'{"operation":"ItemCopy","status":"inProgress","percentageComplete":%.2f}' % done
        return _answer(b"202 Accepted", body)

    def set(self, body: bytes) -> bytes:
        self.doing = msgspec.json.decode(body, type=Doing)
        self.polls.clear()
        return _answer(b"200 OK", b"{}")

    def seen(self) -> bytes:
        return _answer(b"200 OK", msgspec.json.encode(Seen(self.copies, list(self.polls))))


class Connection(asyncio.Protocol):
    """One client's; requests come one after another."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._parser = httptools.HttpRequestParser(self)
        self._url = ""
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url.decode()
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        graph = self._graph
        if self._url.startswith("/monitor/"):
            self._transport.write(graph.poll(self._url.removeprefix("/monitor/")))
        elif self._url.endswith("/copy"):
            self._later(graph.accept())
        else:
            self._transport.write(graph.set(self._body) if self._url == "/set" else graph.seen())

    def _later(self, answer: bytes) -> None:
        delay = self._graph.doing.delay
        if delay:
            asyncio.get_running_loop().call_later(delay, self._transport.write, answer)
        else:
            self._transport.write(answer)


class Upstream:
    """The process from outside; it answers at `url`."""

    def __init__(self, port: int, process: Process, session: aiohttp.ClientSession) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.pid = process.pid
        self._session = session

    @classmethod
    @asynccontextmanager
    async def start(cls) -> AsyncIterator[Upstream]:
        with on_cpu(server=False):
            process = await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, stdin=PIPE, stdout=PIPE)
        assert process.stdout is not None
        try:
            async with aiohttp.ClientSession() as session:
                yield cls(int(await process.stdout.readline()), process, session)
        finally:
            process.kill()
            await process.wait()

    async def set(self, doing: Doing) -> None:
        async with self._session.post(f"{self.url}/set", data=msgspec.json.encode(doing)) as response:
            await response.read()

    async def seen(self) -> Seen:
        async with self._session.get(f"{self.url}/seen") as response:
            return msgspec.json.decode(await response.read(), type=Seen)


def _answer(status: bytes, body: bytes, more: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"
    return head % (status, len(body), more) + body


async def serve() -> None:
    """Until who started it closes its standard input, or is gone."""
    graph = Graph()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(graph), "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    graph.url = f"http://127.0.0.1:{port}"
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve())
