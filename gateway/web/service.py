"""The routes of the service itself: health, readiness, metrics and the documents."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from gateway.core.errors import unavailable
from gateway.store import Store
from gateway.streams.tails import Tails
from gateway.telemetry.metrics import Metrics
from gateway.web.answers import json_answer
from gateway.web.requests import PublicUrl


class ServiceRoutes:
    def __init__(self, store: Store, tails: Tails, metrics: Metrics, public_url: PublicUrl) -> None:
        self._store = store
        self._tails = tails
        self._metrics = metrics
        self._public_url = public_url

    async def health(self, _request: Request) -> Response:
        return json_answer({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """Whether copies can be started: 503 while the gateway shuts down, or its store is away or its file is gone."""
        if self._tails.draining:
            raise unavailable("The gateway is shutting down.", 1)
        await self._store.ping()
        return json_answer({"status": "ready"})

    async def exposition(self, request: Request) -> Response:
        text, content_type = self._metrics.exposition(request.headers.get("Accept", ""))
        return Response(text, headers={"Content-Type": content_type})

    async def openapi(self, request: Request) -> Response:
        from gateway.web import docs  # noqa: PLC0415 - not at start: few gateways are asked for it

        return Response(docs.openapi_json(self._public_url.of(request)), media_type="application/json")

    async def asyncapi(self, request: Request) -> Response:
        from gateway.web import docs  # noqa: PLC0415 - as above

        return Response(docs.asyncapi_json(self._public_url.of(request)), media_type="application/json")

    async def docs(self, request: Request) -> Response:
        from gateway.web import docs  # noqa: PLC0415 - as above

        return HTMLResponse(docs.html(self._public_url.of(request)), headers={"Content-Security-Policy": docs.POLICY})
