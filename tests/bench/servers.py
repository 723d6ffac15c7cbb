"""The servers that are measured: the gateway, and what stands beside it, each on a loopback port and the first CPU."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import msgspec

from tests.bench.machine import on_cpu
from tests.support.harness import FOLDER, TOKEN, Process, free_port
from tests.support.programs import path_of

NCHAN_MODULE = "ngx_nchan_module.so"
MODULES = (Path("/usr/lib/nginx/modules"), Path("/usr/lib64/nginx/modules"), Path("/usr/share/nginx/modules"))
LOG_LIMIT = 256
"""Events kept for those who come later: the gateway's default."""
START_SECONDS = 10
NCHAN = """
load_module {module};
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 20000; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location /publish {{
      nchan_publisher; nchan_channel_id job; nchan_message_buffer_length {kept}; nchan_message_timeout 0;
    }}
    location /events {{ nchan_subscriber eventsource; nchan_channel_id job; nchan_subscriber_first_message oldest; }}
  }}
}}
"""


Begin = Callable[[], Coroutine[Any, Any, None]]
Publish = Callable[[str], Coroutine[Any, Any, None]]
"""Publishes events by POST to a URL, until it is cancelled."""


class Served(msgspec.Struct, frozen=True):
    """A server by its process, where its events are read, and what makes them begin, and go on as long as that runs."""

    pid: int
    port: int
    path: str
    begin: Begin


@asynccontextmanager
async def gateway(upstream: str, folder: Path, **settings: Any) -> AsyncIterator[Process]:
    """`gateway serve`, ready."""
    process = Process(upstream, folder, **settings)
    with on_cpu(server=True):
        process.spawn(fresh=True)
    async with process:
        await process.ready()
        yield process


async def copy(url: str, session: aiohttp.ClientSession) -> str:
    """Start a copy through a gateway: its job's id."""
    async with session.post(f"{url}{FOLDER}/copy", json={}, headers=TOKEN) as response:
        assert response.status == 202, await response.text()
        job_id: str = (await response.json())["jobId"]
        return job_id


async def copies(url: str, count: int, session: aiohttp.ClientSession) -> list[str]:
    """So many copies, fifty at a time."""
    found: list[str] = []
    for first in range(0, count, 50):
        found += await asyncio.gather(*(copy(url, session) for _ in range(min(50, count - first))))
    return found


def nchan_missing() -> str | None:
    if path_of("nginx") is None or _nchan_module() is None:
        return "nchan is missing: apt-get install nginx libnginx-mod-nchan"
    return None


@asynccontextmanager
async def nchan(folder: Path, publish: Publish) -> AsyncIterator[Served]:
    """Nginx with its module nchan: messages in memory, one worker."""
    port = free_port()
    conf = folder / "nginx.conf"
    conf.write_text(NCHAN.format(module=_nchan_module(), folder=folder, port=port, kept=LOG_LIMIT))
    command = [path_of("nginx") or "nginx", "-e", str(folder / "start.log"), "-c", str(conf)]
    async with _running(command, port, f"http://127.0.0.1:{port}/publish") as pid:
        yield Served(pid, port, "/events", partial(publish, f"http://127.0.0.1:{port}/publish"))


@asynccontextmanager
async def sse_starlette(_folder: Path, publish: Publish) -> AsyncIterator[Served]:
    """sse-starlette as its example of broadcasting has it, under uvicorn."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.broadcasting", str(port)]
    async with _running(command, port, f"http://127.0.0.1:{port}/status") as pid:
        yield Served(pid, port, "/events", partial(publish, f"http://127.0.0.1:{port}/publish"))


@asynccontextmanager
async def plain_app(upstream: str, _folder: Path) -> AsyncIterator[tuple[int, int]]:
    """An app that polls and pushes, and stores nothing: its process and its port."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.plain", str(port), upstream]
    async with _running(command, port, f"http://127.0.0.1:{port}/status") as pid:
        yield pid, port


@asynccontextmanager
async def _running(command: list[str], port: int, probe: str) -> AsyncIterator[int]:
    with on_cpu(server=True):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=os.environ)  # noqa: ASYNC220 - it only starts
    try:
        async with aiohttp.ClientSession() as session:
            with anyio.fail_after(START_SECONDS):
                while True:
                    assert process.poll() is None, f"{command[0]} ended at once, port {port}"
                    try:
                        async with session.get(probe) as response:
                            await response.read()
                            break
                    except aiohttp.ClientError:
                        await anyio.sleep(0.02)
        yield process.pid
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, START_SECONDS)


def _nchan_module() -> Path | None:
    return next((one / NCHAN_MODULE for one in MODULES if (one / NCHAN_MODULE).exists()), None)
