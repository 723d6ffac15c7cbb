"""Puts an answer on the wire, accidents included."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.simulator.answers import Answer, Delivery

if TYPE_CHECKING:
    from collections.abc import Mapping

HANG = 3600.0  # seconds a hanging answer lasts at most
DRIP = 0.5  # seconds between two bytes


async def send(
    request: web.Request, answer: Answer, headers: Mapping[str, str], closing: asyncio.Event
) -> web.StreamResponse:
    """Answer `request`; whatever hangs ends when `closing` is set."""
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
    # Without lingering, closing sends RST; a plain abort() may still end in an orderly FIN.
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
