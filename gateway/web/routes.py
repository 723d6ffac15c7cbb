"""The table of routes, and the names under which they are counted and logged."""

from __future__ import annotations

from starlette.routing import BaseRoute, Mount, Route, request_response

from gateway.web.answers import NO_ROUTE
from gateway.web.callbacks import CallbackRoutes
from gateway.web.copies import FORWARDED, CopyRoutes
from gateway.web.jobs import JobRoutes
from gateway.web.page import Page
from gateway.web.service import ServiceRoutes


def table(
    copies: CopyRoutes, jobs: JobRoutes, callbacks: CallbackRoutes, service: ServiceRoutes, page: Page
) -> list[BaseRoute]:
    """Every route of the gateway; those of Graph are matched on the raw path behind their version."""
    return [
        Mount("/v1.0", app=request_response(copies.graph)),
        Mount("/beta", app=request_response(copies.graph)),
        Route("/jobs", jobs.jobs),
        Route("/jobs", copies.watch, methods=["POST"]),
        Route("/jobs/{job}", jobs.job),
        Route("/jobs/{job}", jobs.stop, methods=["DELETE"]),
        Route("/jobs/{job}/events", jobs.job_events),
        Route("/events", jobs.events),
        Route("/jobs/{job}/callbacks", callbacks.list),
        Route("/jobs/{job}/callbacks", callbacks.register, methods=["POST"]),
        Route("/jobs/{job}/callbacks/{callback}", callbacks.remove, methods=["DELETE"]),
        Route("/jobs/{job}/callbacks/{callback}/retry", callbacks.retry, methods=["POST"]),
        Route("/healthz", service.health),
        Route("/readyz", service.ready),
        Route("/metrics", service.exposition),
        Route("/openapi.json", service.openapi),
        Route("/asyncapi.json", service.asyncapi),
        Route("/docs", service.docs),
        Route("/", page.page),
        Route("/page/{part}", page.part),
    ]


def names(routes: list[BaseRoute]) -> set[str]:
    """The values of the label `route`; a bounded set, since a path that no route matches counts as one."""
    return {NO_ROUTE, *FORWARDED, *(getattr(route, "path", "") for route in routes)}
