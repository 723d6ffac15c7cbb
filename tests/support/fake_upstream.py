"""A scripted upstream, for what the simulator does not do: any answer to the POST, any answers of the monitor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

from aiohttp import web
from multidict import CIMultiDict

from tests.support.harness import TOKEN

STARTS = ("POST", "PATCH")
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeUpstream:
    """`on_copy`, `on_item` and `on_poll` answer; `asked` keeps each request as (method, raw path with query, headers,
    body). By default a copy is accepted with a monitor of its own, which says inProgress.
    """

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, str, CIMultiDict[str], bytes]] = []
        self.on_copy: Answer = self.accept
        self.on_item: Answer = self.item
        self.on_poll: Answer = self.progress
        self.jobs = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.asked.append((request.method, request.raw_path, CIMultiDict(request.headers), body))
        if request.path.startswith("/monitor/"):
            return await self.on_poll(request)
        return await (self.on_copy if request.method in STARTS else self.on_item)(request)

    async def accept(self, _request: web.Request) -> web.StreamResponse:
        self.jobs += 1
        return web.Response(status=202, headers={"Location": f"{self.url}/monitor/{self.jobs}"})

    async def item(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response({"id": "1"})

    async def progress(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "inProgress"}, status=202)

    def copies(self) -> int:
        return sum(method in STARTS for method, *_ in self.asked)

    def polls(self) -> int:
        return sum(path.startswith("/monitor/") for _, path, *_ in self.asked)


F = TypeVar("F", bound=FakeUpstream)


def faking() -> AbstractAsyncContextManager[FakeUpstream]:
    return serving_fake(FakeUpstream())


@asynccontextmanager
async def serving_fake(fake: F) -> AsyncIterator[F]:
    app = web.Application(client_max_size=1 << 22)
    app.router.add_route("*", "/{rest:.*}", fake.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield fake
    finally:
        await runner.cleanup()


def answering(response: Callable[[], web.StreamResponse]) -> Answer:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return response()

    return answer


async def reset(request: web.Request) -> web.StreamResponse:
    """Break the connection instead of an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


__all__ = ["TOKEN", "Answer", "FakeUpstream", "answering", "faking", "reset", "serving_fake"]
