"""The shared parts of the OpenAPI document: references, headers, parameters, responses and errors."""

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
    "request-id": _header(
        "the request's id in the gateway's log; upstream's own id when upstream answered", REQUEST_ID
    ),
    "client-request-id": _header("the caller's own, or the same as request-id", REQUEST_ID),
    "Cache-Control": _header(
        "no response may be cached; a stream must not be transformed either (compressed, held back)",
        "no-store",
        enum=["no-store", "no-store, no-transform"],
    ),
    "X-Content-Type-Options": _header(
        "browsers must not guess another type than Content-Type", "nosniff", const="nosniff"
    ),
    "Referrer-Policy": _header(
        "job URLs are secrets: browsers must not send them as Referer", "no-referrer", const="no-referrer"
    ),
    "Access-Control-Allow-Origin": _header(
        "the caller's origin, when GATEWAY_CORS_ORIGINS allows it", "https://app.example.com"
    ),
    "Access-Control-Expose-Headers": _header(
        "the headers that the browser's scripts may read", "Location, Retry-After, ETag, request-id, client-request-id"
    ),
    "Vary": _header("responses differ by origin, when GATEWAY_CORS_ORIGINS is set", "Origin"),
    "Location": _header("the job's URL", f"https://gateway.example.com/jobs/{JOB}", format="uri"),
    "Retry-After": _header("seconds to wait before the next request", 5, type="integer", minimum=0),
    "WWW-Authenticate": _header("the scheme that Authorization must use", "Bearer"),
    "Allow": _header("the methods of the route", "GET, HEAD"),
    "ETag": _header(
        "the version, for If-None-Match: an item's own, or the number of a job's newest event",
        '"{01MOWKYVLARGEFOLDER1},1"',
    ),
    "Preference-Applied": _header("the wait that the gateway kept to; not sent if it answered early", "wait=30"),
    "Content-Security-Policy": _header("restricts what a browser may load and run", "sandbox"),
    "Cross-Origin-Opener-Policy": _header("isolates the page from windows of other origins", "same-origin"),
    "Cross-Origin-Resource-Policy": _header("pages of other origins must not load it", "same-origin"),
    "Content-Encoding": _header("the compression that upstream used for the body", "gzip"),
    "X-Accel-Buffering": _header("tells nginx to pass each event on at once", "no", const="no"),
    "Incremental": _header("tells any proxy the same (RFC 10036)", "?1", const="?1"),
}
ALWAYS = ("request-id", "client-request-id", "Cache-Control", "X-Content-Type-Options", "Referrer-Policy")
FROM_BROWSERS = ("Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Vary")


def headers(*names: str) -> dict[str, Any]:
    """References to the headers of every response, and to `names`."""
    return {name: ref("headers", name) for name in (*ALWAYS, *names, *FROM_BROWSERS)}


def parameter(
    name: str, where: str, description: str, example: Any = None, *, required: bool = False, **schema: Any
) -> dict[str, Any]:
    """A parameter in `where`: path, query or header. `schema` adds to the type string."""
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
    "part": parameter("part", "path", "the file's name", "main.js", required=True),
    "Last-Event-ID": parameter(
        "Last-Event-ID", "header", "the id of the last event received; the stream resumes after it", "3"
    ),
    "lastEventId": parameter(
        "lastEventId",
        "query",
        "the same, for clients that cannot set a header; a header that is not empty takes precedence",
        "3",
    ),
    "last_event_id": parameter("last_event_id", "query", "the same, as polyfills spell it", "3"),
    "client-request-id": parameter(
        "client-request-id",
        "header",
        "the caller's own id of the request, 1 to 128 visible ASCII characters; it is returned in the response",
        REQUEST_ID,
    ),
}
LAST_IDS = [ref("parameters", name) for name in ("Last-Event-ID", "lastEventId", "last_event_id")]


def body(schema: Mapping[str, Any], **examples: Any) -> dict[str, Any]:
    """A required JSON request body; `examples` by their names."""
    return {"required": True, "content": _json(schema, examples)}


def json_answer(schema: Mapping[str, Any], description: str, *named: str, **examples: Any) -> dict[str, Any]:
    """A JSON response; `named` are its headers besides those of every response, `examples` its bodies by name."""
    return {"description": description, "headers": headers(*named), "content": _json(schema, examples)}


def text_answer(kind: str, description: str, example: str, *named: str) -> dict[str, Any]:
    """A response of the media type `kind`; `named` as above."""
    return {
        "description": description,
        "headers": headers(*named),
        "content": {kind: {"schema": TEXT, "example": example}},
    }


def empty_answer(description: str, *named: str) -> dict[str, Any]:
    """A response without a body; `named` as above."""
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
"""The headers of a response that is passed on from upstream."""

_HEADERS = {
    METHOD_NOT_ALLOWED.code: "Allow",
    UNAUTHENTICATED.code: "WWW-Authenticate",
    **{kind.code: "Retry-After" for kind in KINDS if kind.retry_after is not None},
}


def example(fault: str) -> dict[str, Any]:
    """An example of an error's body; `fault` is a key of FAULTS."""
    inner = {"date": "2026-11-22T21:40:01", "request-id": REQUEST_ID, "client-request-id": REQUEST_ID}
    return {"error": {"code": fault.split()[1], "message": FAULTS[fault], "innerError": inner}}


def errors(*faults: str) -> dict[str, Any]:
    """References to the responses of an operation that can fail with `faults` or with a bug, by status."""
    return {status: ref("responses", _name(codes)) for status, codes in _by_status(*faults, "500 generalException")}


def or_upstream(*faults: str) -> dict[str, Any]:
    """The same for statuses that upstream's own response may have too; without the bug."""
    return {status: ref("responses", f"{_name(codes)}-or-upstream") for status, codes in _by_status(*faults)}


def responses(names: set[str]) -> dict[str, Any]:
    """The components that `errors()` and `or_upstream()` refer to, by name."""
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
    description = "; ".join(f"`{code}`: {FAULTS[fault]}" for code, fault in zip(codes, faults, strict=True))
    if plain == name:
        return json_answer(ref("schemas", "Error"), description, *named, **examples)
    answer = json_answer(
        {"anyOf": [ref("schemas", "Error"), ref("schemas", "UpstreamError")]},
        f"{description}; or upstream's own",
        **examples,
    )
    answer["headers"] = UPSTREAM_HEADERS
    answer["content"]["*/*"] = {}
    return answer
