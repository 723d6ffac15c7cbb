"""Self-test at startup: with the installed uvicorn, a stream can hijack its connection and hand it back.

The hijack relies on private parts of uvicorn. If a release renamed one of them, every stream would end at once, without
an error. So one stream runs through the connection class before the first client may connect.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from uvicorn.server import ServerState

from gateway.core.job import chunk
from gateway.server.connection import configured

SECONDS = 5.0
"""Timeout of the self-test, which takes 2 ms."""

_EVENT = chunk(b"data: self-test\n\n")
_LAST_CHUNK = b"0\r\n\r\n"


class UnfitUvicorn(Exception):
    """A stream cannot hijack a connection of the installed uvicorn."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"uvicorn {version('uvicorn')} with httptools {version('httptools')} does not fit this gateway: a stream "
            f"cannot take over its connection, since {reason}. Install the versions of deploy/constraints.txt: "
            "pip install --constraint deploy/constraints.txt ."
        )


class _Stream:
    """The owner of the connection, and the ASGI application that hijacks it."""

    def __init__(self) -> None:
        self.connection: Any = None
        self.is_released = False

    def released(self) -> None:
        self.is_released = True

    async def __call__(self, scope: dict[str, Any], _receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        self.connection = scope["gateway.connection"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/stream":
            self.connection.hijack(self)
        else:
            await send({"type": "http.response.body"})


async def prove_hijack(make_connection: Callable[..., asyncio.Protocol]) -> None:
    """Run a stream, and a request after it, through one connection of the given class. Raises UnfitUvicorn."""
    try:
        async with asyncio.timeout(SECONDS):
            await _run_stream(make_connection)
    except UnfitUvicorn:
        raise
    except TimeoutError:
        raise UnfitUvicorn("a request was not answered") from None
    except (asyncio.IncompleteReadError, ConnectionError):
        raise UnfitUvicorn("the connection was closed too early") from None
    except Exception as error:
        raise UnfitUvicorn(f"{type(error).__name__} was raised: {error}") from error


async def _run_stream(make_connection: Callable[..., asyncio.Protocol]) -> None:
    loop = asyncio.get_running_loop()
    stream, state = _Stream(), ServerState()
    config = configured(stream, lifespan="off")
    config.load()
    protocol = make_connection(config=config, server_state=state, app_state={}, _loop=loop)
    near, far = socket.socketpair()
    near.setblocking(False)  # noqa: FBT003 - its signature
    far.setblocking(False)  # noqa: FBT003 - its signature
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, near)
    reader, writer = await asyncio.open_connection(sock=far)
    try:
        writer.write(_get("/stream"))
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 ") or b"\r\ntransfer-encoding: chunked\r\n" not in head:
            raise UnfitUvicorn(f"the response began with {head!r}")
        while state.tasks:
            await asyncio.wait(state.tasks)  # uvicorn closes an unfinished response when its task ends
        if stream.is_released:
            raise UnfitUvicorn("the stream lost the connection at once")
        stream.connection.write(_EVENT)
        await reader.readuntil(_EVENT)
        stream.connection.write(_LAST_CHUNK)
        stream.connection.hand_back(SECONDS)
        await reader.readuntil(_LAST_CHUNK)
        writer.write(_get("/"))
        await reader.readuntil(_LAST_CHUNK)
    finally:
        writer.transport.abort()
        transport.abort()


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: self-test\r\n\r\n".encode()
