"""Hosts that answer what a test says, byte for byte, and polls of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from gateway.core.addresses import HostPattern, MonitorRule
from gateway.graph.client import Upstream
from gateway.graph.dialects import NoAnswer
from gateway.outbound.reply import Reply
from tests.support.fake_receiver import Serve, raw

OK = b"HTTP/1.1 200 OK\r\n"
RUNNING = b'{"status":"inProgress"}'


def answer(body: bytes = RUNNING, status: str = "200 OK", *headers: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status}".encode(), *headers, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Poll(Protocol):
    async def __call__(self, path: str = "/m/1") -> Reply | NoAnswer: ...


class Host:
    """Answers requests in turn with these bytes, the last one for ever; `asked` holds each request's head."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.asked: list[bytes] = []
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            try:
                self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            except asyncio.IncompleteReadError:
                return
            writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
            await writer.drain()

    @property
    def paths(self) -> list[str]:
        return [head.split(b" ", 2)[1].decode() for head in self.asked]


@asynccontextmanager
async def polling(serve: Serve, *patterns: HostPattern) -> AsyncIterator[Poll]:
    """A function that polls a path of the server, or an absolute URL."""
    async with (
        raw(serve) as url,
        Upstream.open(url=url, rule=MonitorRule(url, patterns), copy_timeout=60) as upstream,
    ):

        async def poll(path: str = "/m/1") -> Reply | NoAnswer:
            monitor = upstream.monitor(path if "://" in path else url + path)
            assert monitor is not None
            return await upstream.poll(monitor, {})

        yield poll


async def polled(*answers: bytes) -> Reply | NoAnswer:
    """The outcome of one poll that is answered with this."""
    async with polling(Host(*answers)) as poll:
        return await poll()


def reason(outcome: Reply | NoAnswer) -> str:
    assert isinstance(outcome, NoAnswer), outcome
    return outcome.reason
