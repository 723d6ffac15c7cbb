"""What the parts of the OpenAPI document share: references, headers, parameters and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEXT = {"type": "string"}
JOB = "XeaTDC76yA_LocS2N93-w24t"
CALLBACK = "0lQ4h2cAxNqb0Yx5fTHgQx7u"
REQUEST_ID = "0c1c6a2e-7d5a-4a3e-9a51-6d7f4f9b0c77"


def ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


def _header(description: str, example: Any, **schema: Any) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string", **schema}, "example": example}


HEADERS = {
    "request-id": _header("names this request in the gateway's log, or upstream's own id when it answered", REQUEST_ID),
    "client-request-id": _header("the caller's own, or the same as request-id", REQUEST_ID),
    "Cache-Control": _header("nothing here may be kept by a cache", "no-store", const="no-store"),
    "X-Content-Type-Options": _header("the body is what Content-Type says", "nosniff", const="nosniff"),
    "Referrer-Policy": _header("job URLs are secrets", "no-referrer", const="no-referrer"),
    "Access-Control-Allow-Origin": _header(
        "to a browser whose origin GATEWAY_CORS_ORIGINS names", "https://app.example.com"
    ),
    "Access-Control-Expose-Headers": _header(
        "what its scripts may read", "Location, Retry-After, request-id, client-request-id"
    ),
    "Vary": _header("answers differ by origin", "Origin"),
    "Location": _header("the job's URL", f"https://gateway.example.com/jobs/{JOB}", format="uri"),
    "Retry-After": _header("seconds to wait before the next request", 5, type="integer", minimum=0),
    "WWW-Authenticate": _header("what Authorization must be", "Bearer"),
    "Allow": _header("the methods that the route has", "GET, HEAD"),
    "ETag": _header("the item's version, for If-None-Match", '"{01MOWKYVLARGEFOLDER1},1"'),
    "Content-Security-Policy": _header("keeps a browser from running what is passed on or shown", "sandbox"),
    "Cross-Origin-Opener-Policy": _header("pages of other origins hold no window of it", "same-origin"),
    "Cross-Origin-Resource-Policy": _header("pages of other origins use no part of it", "same-origin"),
    "Content-Encoding": _header("how upstream compressed the body", "gzip"),
    "X-Accel-Buffering": _header("tells nginx to pass each event on at once", "no", const="no"),
}
ALWAYS = ("request-id", "client-request-id", "Cache-Control", "X-Content-Type-Options", "Referrer-Policy")
FROM_BROWSERS = ("Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Vary")


def headers(*names: str) -> dict[str, Any]:
    """Those of every answer, and these."""
    return {name: ref("headers", name) for name in (*ALWAYS, *names, *FROM_BROWSERS)}


def parameter(
    name: str, where: str, description: str, example: Any = None, *, required: bool = False, **schema: Any
) -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "description": description,
        "required": required,
        "schema": {"type": "string", **schema},
        **({} if example is None else {"example": example}),
    }


PARAMETERS = {
    "job": parameter("job", "path", "the job's id", JOB, required=True),
    "callback": parameter("callback", "path", "the callback's id", CALLBACK, required=True),
    "part": parameter("part", "path", "the part's name", "main.js", required=True),
    "Last-Event-ID": parameter(
        "Last-Event-ID", "header", "the id of the last event seen: the stream goes on after it", "3"
    ),
    "lastEventId": parameter(
        "lastEventId", "query", "the same, where no header can be set; a header that is not empty wins", "3"
    ),
    "last_event_id": parameter("last_event_id", "query", "the same, in the polyfills' spelling", "3"),
    "client-request-id": parameter(
        "client-request-id",
        "header",
        "the caller's own id of the request, 1 to 128 visible ASCII characters; it comes back",
        REQUEST_ID,
    ),
}
LAST_IDS = [ref("parameters", name) for name in ("Last-Event-ID", "lastEventId", "last_event_id")]


def body(schema: Mapping[str, Any], **examples: Any) -> dict[str, Any]:
    return {"required": True, "content": _json(schema, examples)}


def json_answer(schema: Mapping[str, Any], description: str, *named: str, **examples: Any) -> dict[str, Any]:
    """`named` are headers besides those that every answer has."""
    return {"description": description, "headers": headers(*named), "content": _json(schema, examples)}


def text_answer(kind: str, description: str, example: str, *named: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": headers(*named),
        "content": {kind: {"schema": TEXT, "example": example}},
    }


def empty_answer(description: str, *named: str) -> dict[str, Any]:
    return {"description": description, "headers": headers(*named)}


def _json(schema: Mapping[str, Any], examples: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: {"value": value} for name, value in examples.items()}
    return {"application/json": {"schema": schema, "examples": shown}}
