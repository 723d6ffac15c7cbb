"""The table of routes, and the route names in metrics and logs."""

from __future__ import annotations

import re

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
    """Every route of the gateway; Graph's routes are matched on the raw path after the version."""
    found: list[BaseRoute] = [
        Mount("/v1.0", app=request_response(copies.graph)),
        Mount("/beta", app=request_response(copies.graph)),
        Route("/jobs", jobs.jobs),
        Route("/jobs", copies.watch, methods=["POST"]),
        Route("/jobs/{job}", jobs.job),
        Route("/jobs/{job}", jobs.stop, methods=["DELETE"]),
        Route("/jobs/{job}/token", jobs.token, methods=["PUT"]),
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
        Route("/follow.js", page.follow),
        Route("/", page.page),
        Route("/page/{part}", page.part),
    ]
    for route in found:
        if isinstance(route, Route):
            route.path_regex = _exact(route.path_regex)
    return found


def _exact(pattern: re.Pattern[str]) -> re.Pattern[str]:
    """Starlette's pattern of a path, without the line feed that `$` allows behind it."""
    return re.compile(pattern.pattern.removesuffix("$") + r"\Z")


def names(routes: list[BaseRoute]) -> set[str]:
    """The values of the label `route`: a bounded set, because all paths without a route share one value."""
    return {NO_ROUTE, *FORWARDED, *(getattr(route, "path", "") for route in routes)}
