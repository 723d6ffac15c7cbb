"""The OpenAPI document's part on the service itself: health, metrics, documentation and the web page."""

from __future__ import annotations

from typing import Any

from gateway.web.docs.openapi.components import TEXT, errors, headers, json_answer, ref, text_answer

_PAGE_HEADERS = ("Content-Security-Policy", "Cross-Origin-Opener-Policy", "Cross-Origin-Resource-Policy")
_METRICS_EXAMPLE = """\
# HELP gateway_jobs_running Jobs this process polls.
# TYPE gateway_jobs_running gauge
gateway_jobs_running 3.0
"""
_PARTS = {"text/css": "body { margin: 0 }", "text/javascript": "export {};", "image/svg+xml": "<svg/>"}
_METRICS = text_answer("text/plain", "the metrics", _METRICS_EXAMPLE)
_METRICS["content"]["application/openmetrics-text"] = _METRICS["content"]["text/plain"]


def _get(name: str, summary: str, description: str, answer: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {
        "get": {
            "operationId": name,
            "tags": ["Service"],
            "summary": summary,
            "description": description,
            "responses": {"200": answer, **errors(), **others},
        }
    }


def _page(description: str, *named: str) -> dict[str, Any]:
    return text_answer("text/html", description, "<!doctype html>…", *named)


def _document(description: str, example: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": ref("schemas", "Document"), "example": example}}
    return {"description": description, "headers": headers(), "content": content}


PATHS: dict[str, Any] = {
    "/": _get(
        "page",
        "The web page",
        "It follows jobs live, and lists them for those who have the operator key.",
        _page("the page, which follows jobs live", *_PAGE_HEADERS),
    ),
    "/page/{part}": {
        "parameters": [ref("parameters", "part")],
        **_get(
            "pagePart",
            "A file of the web page",
            "Which files there are differs between versions.",
            {
                "description": "its style sheet, one of its scripts, or its icon",
                "headers": headers(*_PAGE_HEADERS),
                "content": {kind: {"schema": TEXT, "example": example} for kind, example in _PARTS.items()},
            },
            **errors("404 notFound"),
        ),
    },
    "/follow.js": _get(
        "follow",
        "A stream that outlives a proxy's refusal, for browsers",
        "Its `follow(url, {progress, completed, failed, gone, connection})` opens a new EventSource, which resumes, "
        "whenever the browser has given one up, and returns a function that stops it.",
        text_answer(
            "text/javascript",
            "a module without dependencies",
            "export function follow(url, handlers) {…}",
            "Cross-Origin-Resource-Policy",
        ),
    ),
    "/docs": _get(
        "docs",
        "This documentation as a page",
        "A quick start, then the OpenAPI and AsyncAPI documents, with commands to try.",
        _page("the quick start, and the OpenAPI and AsyncAPI documents", "Content-Security-Policy"),
    ),
    "/openapi.json": _get(
        "openapi",
        "The OpenAPI document",
        "Client generators take it as it is.",
        _document("OpenAPI 3.1", {"openapi": "3.1.0", "info": {"title": "Copy gateway"}}),
    ),
    "/asyncapi.json": _get(
        "asyncapi",
        "The AsyncAPI document of events and callbacks (webhooks)",
        "It describes the messages that the gateway pushes.",
        _document("AsyncAPI 3.0", {"asyncapi": "3.0.0", "info": {"title": "Copy gateway"}}),
    ),
    "/healthz": _get(
        "health",
        "Health check",
        "Whether the process answers; it asks neither the store nor upstream.",
        json_answer(ref("schemas", "Health"), "alive", alive={"status": "ok"}),
    ),
    "/readyz": _get(
        "ready",
        "Readiness check",
        "Whether the gateway takes copies: its store is within reach, and it is not shutting down.",
        json_answer(ref("schemas", "Health"), "ready for copies", ready={"status": "ready"}),
        **errors("503 serviceNotAvailable"),
    ),
    "/metrics": _get(
        "metrics", "Metrics for Prometheus", "They are in OpenMetrics format when `Accept` prefers it.", _METRICS
    ),
}
