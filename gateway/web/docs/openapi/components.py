"""The shared parts of the OpenAPI document: references, headers, parameters, answers and errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core.errors import KINDS, METHOD_NOT_ALLOWED, UNAUTHENTICATED

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


FAULTS = {kind.key: kind.message for kind in KINDS}
"""What each error means and what to do, by status and code."""

CODES = sorted({kind.code for kind in KINDS})
UPSTREAM_HEADERS = {
    **headers("WWW-Authenticate", "Content-Encoding", "Content-Security-Policy"),
    "Retry-After": {"description": "upstream's own: seconds, or a date", "schema": TEXT},
}
"""Those of an answer that is passed on."""

_HEADERS = {
    METHOD_NOT_ALLOWED.code: "Allow",
    UNAUTHENTICATED.code: "WWW-Authenticate",
    **{kind.code: "Retry-After" for kind in KINDS if kind.retry_after is not None},
}


def example(fault: str) -> dict[str, Any]:
    """The body of an error as it comes."""
    inner = {"date": "2026-11-22T21:40:01", "request-id": REQUEST_ID, "client-request-id": REQUEST_ID}
    return {"error": {"code": fault.split()[1], "message": FAULTS[fault], "innerError": inner}}


def errors(*faults: str) -> dict[str, Any]:
    """The responses of an operation that can end in these, and in a bug, as references to `responses()`."""
    return {status: ref("responses", _name(codes)) for status, codes in _by_status(*faults, "500 generalException")}


def or_upstream(*faults: str) -> dict[str, Any]:
    """The same where the status may also be upstream's own answer."""
    return {status: ref("responses", f"{_name(codes)}-or-upstream") for status, codes in _by_status(*faults)}


def responses(names: set[str]) -> dict[str, Any]:
    """The components that `errors()` and `or_upstream()` named."""
    return {name: _response(name) for name in sorted(names)}


def _by_status(*faults: str) -> list[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for fault in sorted(faults):
        found.setdefault(fault.split()[0], []).append(fault)
    return list(found.items())


def _name(faults: list[str]) -> str:
    return "-".join([faults[0].split()[0], *(fault.split()[1] for fault in faults)])


def _response(name: str) -> dict[str, Any]:
    plain = name.removesuffix("-or-upstream")
    status, *codes = plain.split("-")
    faults = [f"{status} {code}" for code in codes]
    named = [_HEADERS[code] for code in codes if code in _HEADERS]
    examples = {code: example(fault) for code, fault in zip(codes, faults, strict=True)}
    told = "; ".join(f"`{code}`: {FAULTS[fault]}" for code, fault in zip(codes, faults, strict=True))
    if plain == name:
        return json_answer(ref("schemas", "Error"), told, *named, **examples)
    answer = json_answer(
        {"anyOf": [ref("schemas", "Error"), ref("schemas", "UpstreamError")]}, f"{told}; or upstream's own", **examples
    )
    answer["headers"] = UPSTREAM_HEADERS
    answer["content"]["*/*"] = {}
    return answer
