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
_METRICS = text_answer("text/plain", "the metrics; in OpenMetrics format when `Accept` prefers it", _METRICS_EXAMPLE)
_METRICS["content"]["application/openmetrics-text"] = _METRICS["content"]["text/plain"]


def _get(name: str, summary: str, answer: dict[str, Any], **others: Any) -> dict[str, Any]:
    responses = {"200": answer, **errors(), **others}
    return {"get": {"operationId": name, "tags": ["Service"], "summary": summary, "responses": responses}}


def _page(description: str, *named: str) -> dict[str, Any]:
    return text_answer("text/html", description, "<!doctype html>…", *named)


def _document(description: str, example: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    return {"description": description, "headers": headers(), "content": content}


PATHS: dict[str, Any] = {
    "/": _get("page", "The web page", _page("the page, which follows jobs live", *_PAGE_HEADERS)),
    "/page/{part}": {
        "parameters": [ref("parameters", "part")],
        **_get(
            "pagePart",
            "A file of the web page",
            {
                "description": "its style sheet, one of its scripts, or its icon",
                "headers": headers(*_PAGE_HEADERS),
                "content": {
                    kind: {"schema": TEXT, "example": example}
                    for kind, example in (
                        ("text/css", "body { margin: 0 }"),
                        ("text/javascript", "export {};"),
                        ("image/svg+xml", "<svg/>"),
                    )
                },
            },
            **errors("404 notFound"),
        ),
    },
    "/docs": _get(
        "docs", "This documentation as a page", _page("the OpenAPI and AsyncAPI documents", "Content-Security-Policy")
    ),
    "/openapi.json": _get(
        "openapi",
        "The OpenAPI document",
        _document("OpenAPI 3.1", {"openapi": "3.1.0", "info": {"title": "Copy gateway"}}),
    ),
    "/asyncapi.json": _get(
        "asyncapi",
        "The AsyncAPI document of events and callbacks (webhooks)",
        _document("AsyncAPI 3.0", {"asyncapi": "3.0.0", "info": {"title": "Copy gateway"}}),
    ),
    "/healthz": _get("health", "Health check", json_answer(ref("schemas", "Status"), "alive", alive={"status": "ok"})),
    "/readyz": _get(
        "ready",
        "Readiness check",
        json_answer(ref("schemas", "Status"), "ready for copies", ready={"status": "ready"}),
        **errors("503 serviceNotAvailable"),
    ),
    "/metrics": _get("metrics", "Metrics for Prometheus", _METRICS),
}
