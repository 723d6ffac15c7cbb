"""A collector of traces on loopback: takes OTLP over HTTP as OpenTelemetry's own does, and keeps the spans."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent


class Seen(msgspec.Struct):
    """A span as it was sent; ids in hex, as they stand in a `traceparent`."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str | int | float | bool]
    failed: bool
    text: str
    """All of it, to be searched."""

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-01"


class Collector:
    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Seen] = []
        self._news = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.path == "/v1/traces"
        assert request.content_type == "application/x-protobuf"
        for resource in ExportTraceServiceRequest.FromString(await request.read()).resource_spans:
            named = {item.key: item.value.string_value for item in resource.resource.attributes}
            self.spans += [_seen(named["service.name"], span) for scope in resource.scope_spans for span in scope.spans]
        self._news.set()
        return web.Response(content_type="application/x-protobuf")

    async def until(self, enough: Callable[[list[Seen]], bool]) -> list[Seen]:
        """The spans, once they are."""
        while not enough(self.spans):
            self._news.clear()
            await self._news.wait()
        return list(self.spans)


def _seen(service: str, span: Sent) -> Seen:
    return Seen(
        service=service,
        name=span.name,
        kind=Sent.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes={item.key: getattr(item.value, item.value.WhichOneof("value") or "") for item in span.attributes},
        failed=span.status.code == 2,
        text=str(span),
    )


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{rest:.*}", collector.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()
