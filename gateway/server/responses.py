"""What uvicorn's responses lack: clients older than HTTP/1.1, requests that are longer than their response,
and responses without a request's task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

RawHeaders = Sequence[tuple[bytes, bytes]]


class Owner(Protocol):
    """The object that has hijacked a connection."""

    def released(self) -> None:
        """The connection was handed back or closed; the owner must not use it any more. Called once."""


class LingeringTransport:
    """The transport of a response that may be complete before its request is: `close` lets the connection linger.

    It has the three methods that a `RequestResponseCycle` calls.
    """

    def __init__(self, transport: asyncio.Transport, linger: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = linger


class Unchunked:
    """The application for a client older than HTTP/1.1: a response without a length ends with the connection.

    uvicorn would send it in chunks, which such a client takes for the body.
    """

    def __init__(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._cycle = cycle
        self._app = app
        cycle.keep_alive = False

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        cycle = self._cycle
        has_length = True

        async def unchunked(message: Any) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name.lower() == b"content-length" for name, _ in message["headers"])
                if not has_length:
                    cycle.chunked_encoding = False
            elif not has_length:
                cycle.expected_content_length = len(message.get("body", b""))  # uvicorn holds the body to it
            await send(message)

        await self._app(scope, receive, unchunked)


def knows_no_chunks(cycle: RequestResponseCycle) -> bool:
    return cycle.scope["http_version"] in ("0.9", "1.0")


def whole(status: int, headers: RawHeaders, body: bytes, *, keep_alive: bool) -> bytes:
    """A response whose headers tell its length, if it has one."""
    lines = [STATUS_LINE[status]]
    for name, value in headers:
        lines += (name, b": ", value, b"\r\n")
    if not keep_alive:
        lines.append(b"connection: close\r\n")
    return b"".join((*lines, b"\r\n", body))
