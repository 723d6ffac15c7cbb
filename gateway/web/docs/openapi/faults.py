"""Every error of the gateway, by status and code, as the OpenAPI document tells it."""

from __future__ import annotations

from typing import Any

from gateway.web.docs.openapi.parts import REQUEST_ID, TEXT, headers, json_answer, ref

FAULTS = {
    "400 invalidRequest": "The input is wrong; the message says which part, and what would be right. Nothing was done.",
    "400 callbackUrlNotAllowed": "The callback's url must be https and reach public addresses only. The operator "
    "allows other networks, and http to them, with GATEWAY_CALLBACK_ALLOW.",
    "400 corsNotAllowed": "A browser asked for another origin, method or header than is allowed. The operator allows "
    "origins with GATEWAY_CORS_ORIGINS.",
    "400 monitorHostNotAllowed": "monitorUrl must be an https URL on an allowed host, without user info. The operator "
    "allows hosts with GATEWAY_MONITOR_HOSTS.",
    "401 unauthenticated": "Send the job's jobKey or the operator key as 'Authorization: Bearer …'.",
    "404 callbackNotFound": "The job has no such callback: its id is wrong, or it was removed.",
    "404 jobNotFound": "Nobody knows this job: its id is wrong, or it ended too long ago.",
    "404 notFound": "There is no such route, or the gateway does not forward it; the message says what it forwards.",
    "405 methodNotAllowed": "The route has other methods; Allow names them.",
    "408 requestTimeout": "The body did not come within 30 seconds.",
    "409 requestInProgress": "The first request with this Idempotency-Key is still being answered. Repeat it in a "
    "moment.",
    "409 tooManyCallbacks": "A job has at most 16 callbacks. Remove one first.",
    "413 requestTooLarge": "The body must be at most 65536 bytes.",
    "415 unsupportedMediaType": "The body must not be compressed. Send it as it is.",
    "422 idempotencyKeyReused": "This Idempotency-Key was used for another request. Use a new key for a new copy.",
    "500 generalException": "The gateway failed. It is a bug.",
    "502 invalidUpstreamResponse": "Upstream answered neither with a job nor with an error. The copy may be running: "
    "look for the new item in the target folder before you start it again.",
    "502 monitorHostNotAllowed": "Upstream's monitor is on a host that is not allowed, so the copy, which may be "
    "running, cannot be watched. The operator allows hosts with GATEWAY_MONITOR_HOSTS.",
    "502 outcomeUnknown": "Upstream took the request, but its answer did not come. The copy may be running: look for "
    "the new item in the target folder before you start it again.",
    "502 upstreamUnreachable": "Upstream could not be reached. Nothing was started: try again.",
    "503 serviceNotAvailable": "The gateway is full, shutting down, or without its store. Nothing was started: try "
    "again after Retry-After.",
}
"""What each means and what to do, by status and code."""

CODES = sorted({fault.split()[1] for fault in FAULTS})
UPSTREAM_HEADERS = {
    **headers("WWW-Authenticate", "Content-Encoding", "Content-Security-Policy"),
    "Retry-After": {"description": "upstream's own: seconds, or a date", "schema": TEXT},
}
"""Those of an answer that is passed on."""

_HEADERS = {
    "methodNotAllowed": "Allow",
    "requestInProgress": "Retry-After",
    "serviceNotAvailable": "Retry-After",
    "unauthenticated": "WWW-Authenticate",
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
