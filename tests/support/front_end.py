"""Somebody's web page, of an origin of its own, and sites of a few routes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web


@asynccontextmanager
async def front_end(script: str = "") -> AsyncIterator[str]:
    """The origin of a page that is empty but for its script."""

    async def page(_request: web.Request) -> web.Response:
        text = "<!doctype html><link rel=icon href=data:,><script src=/script.js></script>"
        return web.Response(text=text, content_type="text/html")

    async def source(_request: web.Request) -> web.Response:
        return web.Response(text=script, content_type="text/javascript")

    async with site({"/": page, "/script.js": source}) as port:
        yield f"http://127.0.0.1:{port}"


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def site(routes: Mapping[str, Handler]) -> AsyncIterator[int]:
    """The port of one that answers GET and HEAD of these paths."""
    app = web.Application()
    for path, handler in routes.items():
        app.router.add_get(path, handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
