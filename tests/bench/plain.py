"""What a user would write in an afternoon with the same packages, instead of a gateway: nothing is stored or resumes.

A task polls each job every second; a reader has a queue, and sse-starlette's generator. `python -m tests.bench.plain
PORT UPSTREAM` serves `POST /v1.0/…/copy` and `GET /jobs/{job}/events`, under uvicorn with uvloop and httptools.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import uvicorn
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

EVERY = 1.0

port, upstream = int(sys.argv[1]), sys.argv[2]


class Job:
    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self.last: Any = None
        self.number = 0
        self.readers: set[asyncio.Queue[dict[str, str]]] = set()


jobs: dict[str, Job] = {}
tasks: set[asyncio.Task[None]] = set()
client: aiohttp.ClientSession


async def poll(job: Job) -> None:
    while True:
        await asyncio.sleep(EVERY)
        async with client.get(job.monitor, allow_redirects=False) as response:
            state = json.loads(await response.read())
        if state != job.last:
            job.last = state
            job.number += 1
            event = {"id": str(job.number), "event": "progress", "data": json.dumps(state)}
            for queue in job.readers:
                queue.put_nowait(event)
        if state["status"] in {"completed", "failed"}:
            return


async def copy(request: Request) -> Response:
    body = await request.body()
    headers = {"Content-Type": "application/json"}
    async with client.post(upstream + request.url.path, data=body, headers=headers) as response:
        monitor = response.headers["Location"]
    job_id = uuid.uuid4().hex
    job = jobs[job_id] = Job(monitor)
    tasks.add(asyncio.create_task(poll(job)))
    return JSONResponse({"jobId": job_id}, 202, {"Location": f"/jobs/{job_id}"})


async def received(job: Job) -> AsyncIterator[dict[str, str]]:
    queue: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    job.readers.add(queue)
    try:
        while True:
            yield await queue.get()
    finally:
        job.readers.discard(queue)


async def events(request: Request) -> Response:
    return EventSourceResponse(received(jobs[request.path_params["job"]]))


async def status(_request: Request) -> Response:
    return JSONResponse({"jobs": len(jobs)})


@asynccontextmanager
async def life(_app: Starlette) -> AsyncIterator[None]:
    global client
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        yield


app = Starlette(
    routes=[
        Route("/v1.0/{path:path}/copy", copy, methods=["POST"]),
        Route("/jobs/{job}/events", events),
        Route("/status", status),
    ],
    lifespan=life,
)

if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
