"""A request before it reaches a job: its key, its ids, its body, and the URL that the caller knows the gateway by."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from gateway.core.errors import (
    REQUEST_TIMEOUT,
    REQUEST_TOO_LARGE,
    UNAUTHENTICATED,
    UNSUPPORTED_MEDIA_TYPE,
    GatewayError,
    invalid,
)
from gateway.core.keys import bearer, hashed, job_key, recognised
from gateway.telemetry.logs import EventLog

_HOST = re.compile(r"[A-Za-z0-9.-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")
_FORWARDED = {"proto": re.compile(r"(?i)https?"), "host": _HOST}
"""What proxies forward, by the name of the parameter and the end of the header's, and which values are taken for it."""
_FORWARDING = frozenset({"forwarded", *(f"x-forwarded-{what}" for what in _FORWARDED)})
_PORTS = {"http": "80", "https": "443"}
LONGEST_SHOWN = 260
"""Characters of a host that are logged; a longer one is none."""

log = EventLog("gateway.web")

BODY_LIMIT = 64 << 10
BODY_SECONDS = 30.0


class Access:
    """Authentication by bearer token: jobKeys derive from the store's `secret`, and the operator key opens all routes.

    `operator_hashes` are those of the operator keys; without any, nobody can use the operator's routes.
    """

    def __init__(self, secret: bytes, operator_hashes: Sequence[bytes]) -> None:
        self._secret = secret
        self._operator_hashes = operator_hashes

    def check(self, request: Request, job_id: str | None = None) -> None:
        """Raises GatewayError, 401, unless the request has the operator key or, if a job is given, its jobKey."""
        given = bearer(request.headers.get("Authorization"))
        opens = hashed(job_key(self._secret, job_id)) if job_id is not None else None
        if recognised(given, *self._operator_hashes, opens):
            return
        wanted = "the operator key" if job_id is None else "the job's jobKey or the operator key"
        shut = " No operator key is set here." if job_id is None and not self._operator_hashes else ""
        raise GatewayError(UNAUTHENTICATED, f"Send {wanted} as 'Authorization: Bearer …'.{shut}")


class PublicUrl:
    """The base of the URLs in responses, without a final slash; `configured` may be None on loopback only.

    Behind a proxy they may be wrong without anybody noticing here. So the first request whose proxy forwards another
    scheme, and the first with another host, are logged. The headers are not obeyed: anybody can send them.
    """

    def __init__(self, configured: str | None) -> None:
        self._configured = configured
        self._mismatches: set[str] = set()

    def of(self, request: Request) -> str:
        """The configured base, else the scheme and host that the request was sent to."""
        base = self._base(request)
        if len(self._mismatches) < len(_FORWARDED):
            self._compare(request.headers, base)
        return base

    def _compare(self, headers: Headers, base: str) -> None:
        if not _FORWARDING.intersection(headers.keys()):
            return
        for what in _FORWARDED.keys() - self._mismatches:
            found = _forwarded(headers, what)
            if found and _differs(what, found, base):
                self._mismatches.add(what)
                log.warning("forwarded_mismatch", what=what, forwarded=found, base=base[:LONGEST_SHOWN])

    def _base(self, request: Request) -> str:
        if self._configured is not None:
            return self._configured
        host = request.headers.get("Host", "")
        if not _HOST.fullmatch(host):
            server = request.scope.get("server") or ("127.0.0.1", 80)
            host = f"{server[0]}:{server[1]}"
        return f"{request.scope['scheme']}://{host}"


def _forwarded(headers: Headers, what: str) -> str:
    """What the proxy nearest to the client says: a scheme, or a host with its port if it has one; empty if unclear."""
    pairs = (pair.partition("=") for pair in headers.get("Forwarded", "").partition(",")[0].split(";"))
    found = {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}
    value = found.get(what) or headers.get(f"X-Forwarded-{what}", "").partition(",")[0].strip()
    return value.lower() if len(value) <= LONGEST_SHOWN and _FORWARDED[what].fullmatch(value) else ""


def _differs(what: str, found: str, base: str) -> bool:
    """Whether a forwarded scheme or host is another one than that of a URL; a host without a port may have any."""
    scheme, _, rest = base.lower().partition("://")
    if what == "proto":
        return found != scheme
    own, own_port = _host_and_port(rest.partition("/")[0])
    host, port = _host_and_port(found)
    return host != own or (port != "" and port != (own_port or _PORTS[scheme]))


def _host_and_port(text: str) -> tuple[str, str]:
    host, colon, port = text.rpartition(":")
    return (host, port) if colon and port.isdecimal() else (text, "")


def storable(text: str) -> str:
    """The text for a query to the store. PostgreSQL cannot hold a NUL, so a text with one becomes the empty string,
    which matches nothing.
    """
    return "" if "\0" in text else text


def path_id(request: Request, name: str) -> str:
    """An id from the request's path, for a query to the store."""
    return storable(request.path_params[name])


async def body_of(request: Request) -> bytes:
    """The request's body, at most `BODY_LIMIT` bytes in `BODY_SECONDS`. Raises GatewayError: 408, 413 or 415; and 400,
    for the log and the metrics alone, when the client has left before its end.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise GatewayError(UNSUPPORTED_MEDIA_TYPE)
    length = request.headers.get("Content-Length", "0")
    if not length.isdecimal() or int(length) > BODY_LIMIT:
        raise GatewayError(REQUEST_TOO_LARGE)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_LIMIT:
                    raise GatewayError(REQUEST_TOO_LARGE)
    except TimeoutError:
        raise GatewayError(REQUEST_TIMEOUT) from None
    except ClientDisconnect:
        raise invalid("The connection ended before the body did. Nothing was started.") from None
    return bytes(body)


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises GatewayError: 400."""
    if not body:
        raise invalid("The body must be a JSON object, but it is empty.")
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # msgspec raises all three
        raise invalid(f"The body must be a JSON object, but it is no JSON ({error}).") from None
    if not isinstance(content, dict):
        raise invalid("The body must be a JSON object.")
    return content
