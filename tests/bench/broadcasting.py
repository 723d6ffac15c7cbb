"""What a user of sse-starlette would write: a queue for each client, as its example `02_broadcasting.py` has it.

`python -m tests.bench.broadcasting PORT` serves `GET /events` and `POST /publish`, under uvicorn with uvloop and
httptools.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator

import uvicorn
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

QUEUE = 100

clients: set[asyncio.Queue[ServerSentEvent]] = set()
numbers = itertools.count(1)


async def received(request: Request) -> AsyncIterator[ServerSentEvent]:
    queue: asyncio.Queue[ServerSentEvent] = asyncio.Queue(QUEUE)
    clients.add(queue)
    try:
        while not await request.is_disconnected():
            yield await queue.get()
    finally:
        clients.discard(queue)


async def events(request: Request) -> Response:
    return EventSourceResponse(received(request))


async def publish(request: Request) -> Response:
    """To every client; one that is too far behind is left out."""
    event = ServerSentEvent((await request.body()).decode(), event="progress", id=str(next(numbers)))
    for queue in clients:
        if not queue.full():
            queue.put_nowait(event)
    return Response(status_code=201)


async def status(_request: Request) -> Response:
    return JSONResponse({"clients": len(clients)})


app = Starlette(
    routes=[Route("/events", events), Route("/publish", publish, methods=["POST"]), Route("/status", status)]
)

if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
