"""A client that repeats one request over a few kept connections, as fast as the answers come, at little cost."""

from __future__ import annotations

import asyncio
import time
from typing import cast

import httptools
import msgspec


class Answered(msgspec.Struct):
    """How long each answer took, in seconds, which `Location` it had, and how long all of them took together."""

    waits: list[float]
    locations: list[str]
    seconds: float


class _Repeating(asyncio.Protocol):
    """One connection; `left` is shared by all."""

    def __init__(self, request: bytes, status: int, left: list[int], answered: Answered) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._request = request
        self._status = status
        self._left = left
        self._answered = answered
        self._parser = httptools.HttpResponseParser(self)
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionResetError("the server closed a connection"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"location":
            self._answered.locations.append(value.decode())

    def on_message_complete(self) -> None:
        self._answered.waits.append(time.perf_counter() - self._sent)
        code = self._parser.get_status_code()
        if code == self._status:
            self.ask()
        elif not self.done.done():
            self.done.set_exception(AssertionError(f"answered with {code}, not {self._status}"))

    def ask(self) -> None:
        if not self._left:
            self.done.set_result(None)
            return
        self._left.pop()
        self._sent = time.perf_counter()
        self._transport.write(self._request)


async def post(port: int, path: str, body: bytes, *, number: int, at_once: int, status: int) -> Answered:
    """POST it so many times, `at_once` of them unanswered; any other status than `status` is an error."""
    request = (
        b"POST %b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer token\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (path.encode(), port, len(body), body)
    )
    loop = asyncio.get_running_loop()
    answered = Answered([], [], 0.0)
    left = [0] * number
    connections = [
        await loop.create_connection(lambda: _Repeating(request, status, left, answered), "127.0.0.1", port)
        for _ in range(at_once)
    ]
    begun = time.perf_counter()
    for _, one in connections:
        one.ask()
    await asyncio.gather(*(one.done for _, one in connections))
    answered.seconds = time.perf_counter() - begun
    for transport, _ in connections:
        transport.close()
    return answered
