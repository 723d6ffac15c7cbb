"""The simulator's responses as data, errors in Graph's shape, and how they are sent, with transport faults."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import http
import json
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

JSON = "application/json"
HTML = "text/html; charset=utf-8"
TEXT = "text/plain"
HANG = 3600.0  # longest duration of a hanging response, in seconds
DRIP = 0.5  # seconds between two bytes
FLOOD = 2**16  # bytes of a response without end that are written at once
FLOOD_PAUSE = 0.01  # seconds between two such writes


class Delivery(enum.Enum):
    """How a response is sent. Every member but `WHOLE` is a transport fault that a client must survive."""

    WHOLE = "whole"
    HANG = "nothing is sent"
    HANG_BODY = "the headers are sent, the body never is"
    DRIP = "the body is sent one byte at a time"
    TRUNCATE = "half of the announced length, then a regular close"
    RESET = "the connection is reset before a byte was sent"
    RESET_BODY = "the connection is reset in the middle of the body"
    INTERIM = "interim responses, without end"
    HEADERS = "headers, without end"
    ENDLESS = "a body without end"
    BYTES = "the head as it is, whatever a server would refuse to send; then a regular close"


@dataclass(frozen=True, slots=True)
class Answer:
    """One response; a `content_type` of None sends no Content-Type."""

    status: int
    body: bytes = b""
    content_type: str | None = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    delivery: Delivery = Delivery.WHOLE


def document(status: int, value: Any, headers: Mapping[str, str] | None = None) -> Answer:
    """Return a response with `value` as compact JSON; NaN is written as NaN, which is not valid JSON."""
    return Answer(status, encoded(value), headers=headers or {})


def encoded(value: Any) -> bytes:
    """Return compact JSON in UTF-8."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


class GraphError(Exception):
    """A refusal in Graph's shape. When it is raised nothing was started; when it is returned the copy runs anyway."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        inner: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.inner = inner
        self.headers = headers or {}

    def answer(self, now: datetime, request_id: str, client_request_id: str) -> Answer:
        """Return the response, with nested inner errors, the date and the ids."""
        nested: dict[str, Any] = {}
        for code in reversed(self.inner):
            nested = {"code": code, "innerError": nested} if nested else {"code": code}
        stamp = {
            "date": now.strftime("%Y-%m-%dT%H:%M:%S"),
            "request-id": request_id,
            "client-request-id": client_request_id,
        }
        error = {"code": self.code, "message": self.message, "innerError": nested | stamp}
        return document(self.status, {"error": error}, self.headers)


async def send(
    request: web.Request, answer: Answer, headers: Mapping[str, str], closing: asyncio.Event
) -> web.StreamResponse:
    """Send `answer` to `request`; a hanging or dripping response ends when `closing` is set."""
    headers = {**headers, **answer.headers}
    if answer.content_type is not None:
        headers["Content-Type"] = answer.content_type
    if answer.delivery is Delivery.WHOLE:
        return web.Response(status=answer.status, body=answer.body, headers=headers)
    response = web.StreamResponse(status=answer.status, headers=headers)
    response.content_length = len(answer.body)
    response.force_close()
    if answer.delivery in _RAW:
        await _raw(request, answer, headers, closing)
        return response
    await response.prepare(request)
    if answer.delivery is Delivery.DRIP:
        for position in range(len(answer.body)):
            await response.write(answer.body[position : position + 1])
            if await _wait(closing, DRIP):
                break
    elif answer.delivery is Delivery.HANG_BODY:
        await _wait(closing, HANG)
    else:
        await response.write(answer.body[: len(answer.body) // 2])
        if answer.delivery is Delivery.RESET_BODY:
            _reset(request)
    return response


_FLOODS = {
    Delivery.INTERIM: (b"", b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
    Delivery.HEADERS: (b"HTTP/1.1 202 Accepted\r\n", b"X-Flood: " + b"x" * 100 + b"\r\n"),
    Delivery.ENDLESS: (b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\n\r\n", b" " * 100),
}
"""What is sent first, and then over and over."""


_RAW = {*_FLOODS, Delivery.BYTES, Delivery.HANG, Delivery.RESET}


async def _raw(request: web.Request, answer: Answer, headers: Mapping[str, str], closing: asyncio.Event) -> None:
    """Use the connection without the server, which then finds it closed."""
    if answer.delivery is Delivery.BYTES:
        _write(request, answer, headers)
        return
    if answer.delivery is Delivery.HANG:
        await _wait(closing, HANG)
    elif answer.delivery in _FLOODS:
        await _flood(request, *_FLOODS[answer.delivery], closing)
    _reset(request)


async def _flood(request: web.Request, head: bytes, more: bytes, closing: asyncio.Event) -> None:
    transport = request.transport
    if transport is None:
        return
    transport.write(head)
    block = more * (FLOOD // len(more))
    while not transport.is_closing():
        if transport.get_write_buffer_size() < FLOOD:
            transport.write(block)
        if await _wait(closing, FLOOD_PAUSE):
            return


def _write(request: web.Request, answer: Answer, headers: Mapping[str, str]) -> None:
    """Write a response as bytes: what is not ASCII in a header is UTF-8, a lone surrogate such as U+DCFC a byte."""
    lines = [f"HTTP/1.1 {answer.status} {http.HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(answer.body)}", "Connection: close"]
    head = "".join(f"{line}\r\n" for line in lines) + "\r\n"
    if request.transport is not None:
        request.transport.write(head.encode(errors="surrogateescape") + answer.body)
        request.transport.close()


async def _wait(closing: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await closing.wait()
    return closing.is_set()


def _reset(request: web.Request) -> None:
    transport = request.transport
    if transport is None:
        return
    # With a linger time of 0, closing sends RST; abort() alone may still end with a regular FIN.
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
