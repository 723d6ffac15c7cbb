"""The shared parts of the OpenAPI document: references, headers, parameters, responses and errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from gateway.core.errors import KINDS, METHOD_NOT_ALLOWED, UNAUTHENTICATED

TEXT = {"type": "string"}
JOB = "XeaTDC76yA_LocS2N93-w24t"
CALLBACK = "0lQ4h2cAxNqb0Yx5fTHgQx7u"
REQUEST_ID = "0c1c6a2e-7d5a-4a3e-9a51-6d7f4f9b0c77"


_SUFFIXES = {"headers": "Header", "parameters": "Parameter", "requestBodies": "Body", "responses": "Response"}


def ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{_component(kind, name)}"}


def named(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Components of one kind, under the names that `ref` refers to."""
    return {_component(kind, name): value for name, value in values.items()}


def _component(kind: str, name: str) -> str:
    """An identifier in Pascal case, unique among all kinds: generators name types after components."""
    if kind not in _SUFFIXES:
        return name
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[-._]", name)) + _SUFFIXES[kind]


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
        "browsers must not guess another type than Content-Type", "nosniff", enum=["nosniff"]
    ),
    "Referrer-Policy": _header(
        "job URLs are secrets: browsers must not send them as Referer", "no-referrer", enum=["no-referrer"]
    ),
    "Access-Control-Allow-Origin": _header(
        "the caller's origin, when GATEWAY_CORS_ORIGINS allows it", "https://app.example.com"
    ),
    "Access-Control-Expose-Headers": _header(
        "the headers that the browser's scripts may read", "Location, Retry-After, ETag, request-id, client-request-id"
    ),
    "Vary": _header("responses differ by origin, when GATEWAY_CORS_ORIGINS is set", "Origin"),
    "Location": _header("the job's URL", f"https://gateway.example.com/jobs/{JOB}", format="uri"),
    "Content-Location": _header("upstream's own: the path of what is being made", "/teams('172b0cce')"),
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
    "Cross-Origin-Resource-Policy": _header("whether pages of other origins may load it", "same-origin"),
    "Content-Encoding": _header("the compression that upstream used for the body", "gzip"),
    "X-Accel-Buffering": _header("tells nginx to pass each event on at once", "no", enum=["no"]),
    "Incremental": _header("tells any proxy the same (RFC 10036)", "?1", enum=["?1"]),
}
ALWAYS = ("request-id", "client-request-id", "Cache-Control", "X-Content-Type-Options", "Referrer-Policy")
FROM_BROWSERS = ("Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Vary")


def headers(*names: str) -> dict[str, Any]:
    """References to the headers of every response, and to `names`."""
    return {name: ref("headers", name) for name in (*ALWAYS, *names, *FROM_BROWSERS)}


def parameter(
    name: str,
    where: str,
    description: str,
    example: Any = None,
    *,
    required: bool = False,
    of: str | None = None,
    **schema: Any,
) -> dict[str, Any]:
    """A parameter in `where`: path, query or header. Its schema is the component `of`, or a string with `schema`."""
    return {
        "name": name,
        "in": where,
        "description": description,
        "required": required,
        "schema": ref("schemas", of) if of else {"type": "string", **schema},
        **({} if example is None else {"example": example}),
    }


PARAMETERS = {
    "job": parameter("job", "path", "the job's id", JOB, required=True),
    "callback": parameter("callback", "path", "the callback's id", CALLBACK, required=True),
    "part": parameter("part", "path", "the file's name", "main.js", required=True),
    "Last-Event-ID": parameter(
        "Last-Event-ID",
        "header",
        "the id of the last event received; the stream resumes after it. Clients that cannot set a header send it as "
        "`?lastEventId=` or `?last_event_id=`; a header that is not empty takes precedence",
        "3",
    ),
    "client-request-id": parameter(
        "client-request-id",
        "header",
        "the caller's own id of the request, 1 to 128 visible ASCII characters; it is returned in the response",
        REQUEST_ID,
    ),
}
TRACEPARENT = parameter(
    "traceparent", "header", "W3C trace context", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
)
LAST_ID = ref("parameters", "Last-Event-ID")  # its forms in the query would be the same name in generated code


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
    **headers("WWW-Authenticate", "Content-Encoding", "Content-Location", "Content-Security-Policy"),
    "Retry-After": {"description": "upstream's own: seconds, or a date", "schema": TEXT},
}
"""The headers of a response that is passed on from upstream."""

AS_IT_IS = {"*/*": {"schema": TEXT, "example": "<!DOCTYPE html>…"}}
"""A body of upstream's that is no JSON."""

_UPSTREAM = "upstream"
_ERROR_NAME = re.compile(r"Error(?P<status>\d{3})(?P<codes>\w+)Response")
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
    return {
        status: ref("responses", _name(status, codes)) for status, codes in _by_status(*faults, "500 generalException")
    }


def or_upstream(*faults: str) -> dict[str, Any]:
    """The same for statuses that upstream's own response may have too; without the bug."""
    return {status: ref("responses", _name(status, [*codes, _UPSTREAM])) for status, codes in _by_status(*faults)}


def error_responses(used: Iterable[str]) -> dict[str, Any]:
    """The components that `errors()` and `or_upstream()` refer to, of those in `used`, by name."""
    found = ((name, _ERROR_NAME.fullmatch(name)) for name in sorted(used))
    return {name: _response(parts["status"], parts["codes"]) for name, parts in found if parts}


def _by_status(*faults: str) -> list[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for fault in sorted(faults):
        status, code = fault.split()
        found.setdefault(status, []).append(code)
    return list(found.items())


def _name(status: str, codes: list[str]) -> str:
    return f"error{status}" + "Or".join(code[:1].upper() + code[1:] for code in codes)


def _response(status: str, joined: str) -> dict[str, Any]:
    codes = [code[:1].lower() + code[1:] for code in re.split("Or(?=[A-Z])", joined)]
    may_be_upstreams = codes[-1] == _UPSTREAM
    if may_be_upstreams:
        codes.pop()
    faults = [f"{status} {code}" for code in codes]
    named = [_HEADERS[code] for code in codes if code in _HEADERS]
    examples = {code: example(fault) for code, fault in zip(codes, faults, strict=True)}
    description = "; ".join(f"`{code}`: {FAULTS[fault]}" for code, fault in zip(codes, faults, strict=True))
    if not may_be_upstreams:
        return json_answer(ref("schemas", "GatewayError"), description, *named, **examples)
    answer = json_answer(ref("schemas", "UpstreamError"), f"{description}; or upstream's own", **examples)
    return answer | {"headers": UPSTREAM_HEADERS, "content": answer["content"] | AS_IT_IS}
