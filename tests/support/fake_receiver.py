"""A receiver of callbacks on loopback, and what a test asks of the gateway about it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from tests.support.fake_upstream import answering
from tests.support.harness import OPERATOR, Running

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
ALLOWED = {"callback_allow": "127.0.0.1/32"}
SECRET = "whsec_" + base64.b64encode(b"a secret that both ends know").decode()


class Post(msgspec.Struct):
    """One attempt as it came in; `at` is the loop's time."""

    at: float
    path: str
    headers: CIMultiDict[str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = msgspec.json.decode(self.body)
        return message

    @property
    def kind(self) -> str:
        kind: str = self.message["type"]
        return kind.removeprefix("job.")

    @property
    def percentage(self) -> float:
        percentage: float = self.message["data"]["percentageComplete"]
        return percentage

    def signed_with(self, secret: str) -> bool:
        """Standard Webhooks' check, written from their text."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = f"{self.id}.{self.headers['webhook-timestamp']}.".encode() + self.body
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        return f"v1,{expected}" in self.headers["webhook-signature"].split(" ")


class FakeReceiver:
    """`answer` answers every post, 204 by default; `open` and `most_open` count the attempts it holds at once."""

    def __init__(self) -> None:
        self.url = ""
        self.posts: list[Post] = []
        self.answer: Answer = saying(204)
        self.open = self.most_open = 0
        self._news = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        assert request.method == "POST"
        now = asyncio.get_running_loop().time()
        self.posts.append(Post(now, request.raw_path, CIMultiDict(request.headers), body))
        self._news.set()
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            return await self.answer(request)
        finally:
            self.open -= 1

    def at(self, path: str) -> list[Post]:
        return [post for post in self.posts if post.path == path]

    async def received(self, count: int, path: str | None = None) -> list[Post]:
        """The posts, once there are so many."""
        while len(posts := self.posts if path is None else self.at(path)) < count:
            self._news.clear()
            await self._news.wait()
        return list(posts)


@asynccontextmanager
async def receiving() -> AsyncIterator[FakeReceiver]:
    receiver = FakeReceiver()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that does with a connection whatever it likes."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(OSError):
                await serve(reader, writer)
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(run, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


def saying(status: int, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answering(lambda: web.Response(status=status, headers=named))


def in_turn(*answers: Answer) -> Answer:
    """One answer a post; the last goes on."""
    left = list(answers)

    async def answer(request: web.Request) -> web.StreamResponse:
        return await (left.pop(0) if len(left) > 1 else left[0])(request)

    return answer


async def hanging(_request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(100_000)
    return web.Response()


def going(*percentages: float, end: str | None = "completed", **more: Any) -> Answer:
    """A monitor that tells these percentages, one a poll, and then how the copy ended, with `more` of it."""
    told: list[dict[str, Any]] = [{"status": "inProgress", "percentageComplete": number} for number in percentages]
    if end is not None:
        told.append({"status": end, **more})

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.json_response(told.pop(0) if len(told) > 1 else told[0])

    return answer


async def ask(gateway: Running, method: str, path: str, key: str | None, **options: Any) -> tuple[int, Any]:
    """One request under a jobKey, or without any key."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with gateway.session.request(method, gateway.url + path, headers=headers, **options) as response:
        return response.status, (await response.json() if response.content_type == "application/json" else None)


async def register(gateway: Running, job: dict[str, Any], url: str, *events: str) -> dict[str, Any]:
    """Register a callback, a moment after the one before, and return the 201's body."""
    await asyncio.sleep(0.001)
    wish: dict[str, Any] = {"url": url, "secret": SECRET}
    if events:
        wish["events"] = events
    status, body = await ask(gateway, "POST", f"/jobs/{job['jobId']}/callbacks", job["jobKey"], json=wish)
    assert status == 201, body
    registered: dict[str, Any] = body
    return registered


async def shown(gateway: Running, job: dict[str, Any]) -> list[dict[str, Any]]:
    status, body = await ask(gateway, "GET", f"/jobs/{job['jobId']}/callbacks", job["jobKey"])
    assert status == 200, body
    value: list[dict[str, Any]] = body["value"]
    return value


async def settled(gateway: Running, job: dict[str, Any], *states: str) -> list[dict[str, Any]]:
    """The callbacks, once their states are these."""
    while True:
        listed = await shown(gateway, job)
        if [callback["state"] for callback in listed] == list(states):
            return listed
        await asyncio.sleep(0.05)


async def figures(gateway: Running) -> dict[str, float]:
    async with gateway.session.get(f"{gateway.url}/metrics", headers=OPERATOR) as response:
        text = await response.text()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}
