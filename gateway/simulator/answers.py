"""The simulator's responses as data, errors in Graph's shape, and how they are sent, with transport faults."""

from __future__ import annotations

import asyncio
import contextlib
import enum
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


class Delivery(enum.Enum):
    """How a response is sent. Every member but `WHOLE` is a transport fault that a client must survive."""

    WHOLE = "whole"
    HANG = "nothing is sent"
    HANG_BODY = "the headers are sent, the body never is"
    DRIP = "the body is sent one byte at a time"
    TRUNCATE = "half of the announced length, then a regular close"
    RESET = "the connection is reset before a byte was sent"
    RESET_BODY = "the connection is reset in the middle of the body"


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
    if answer.delivery is Delivery.HANG:
        await _wait(closing, HANG)
    if answer.delivery in (Delivery.HANG, Delivery.RESET):
        _reset(request)
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
