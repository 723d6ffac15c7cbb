"""The head of a request before it is parsed: its limits, and what a well-formed one may hold.

The parser has no limits, accepts requests without a `Host` or of other protocols, and stops at an `Upgrade`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from gateway.core.errors import (
    HTTP_VERSION_NOT_SUPPORTED,
    METHOD_NOT_ALLOWED,
    REQUEST_HEAD_TOO_LARGE,
    URI_TOO_LONG,
    GatewayError,
    invalid,
)

HEAD_LIMIT = 128 << 10
FIRST_LINE_LIMIT = 16 << 10
FIELDS_LIMIT = 256
"""Most headers. More would fit into the limit of the head, but each takes fifty times its bytes once parsed."""

_METHOD = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}"
_FIRST_LINE = re.compile(rb"(%b) ([\x21-\x7e]+) HTTP/(\d\.\d)" % _METHOD)
_BEGINNING = re.compile(rb"%b(?: (?:[\x21-\x7e]+(?: [HTP/.0-9]{0,8}\r?)?)?)?" % _METHOD)
"""What a first line may be as long as its end is not here."""
_KNOWN_METHOD = re.compile(rb"GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|TRACE")
_FIELD = re.compile(rb"\r\n(host|content-length|transfer-encoding):([^\r\n]*)", re.IGNORECASE)
_HOST_LINE = re.compile(rb"\r\nhost:[^\r\n]*", re.IGNORECASE)
_UPGRADE_LINE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)
ECHOED = (b"origin", b"client-request-id")
"""The headers of a refused request that its answer depends on."""
_ECHOED_LINE = re.compile(rb"\r\n(?:%b):[\x20-\x7e]{1,256}(?=\r\n)" % b"|".join(ECHOED), re.IGNORECASE)
_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)([/?][^#]*)?(#.*)?", re.IGNORECASE)

_NO_REQUEST = "The request is malformed: its first line must be as in 'GET /path HTTP/1.1'."


class Head(NamedTuple):
    """`data` is the head as the parser gets it, without `Upgrade` and with a path as the target.

    `length` is the length of the body in bytes, None when that comes in chunks. `is_current`: of HTTP/1.1, not older.
    """

    data: bytes
    length: bytes | None
    is_current: bool


def check_partial(data: bytes) -> None:
    """Check the beginning of a head that is not complete. Raises GatewayError: 400, 405, 414, 431 or 505."""
    line, is_whole, _ = data.partition(b"\r\n")
    if is_whole or len(line) > FIRST_LINE_LIMIT:
        _check_first_line(line)
    elif not _BEGINNING.fullmatch(line):
        raise invalid(_NO_REQUEST)
    _check_size(data)
    if data.count(b"\n") > data.count(b"\r\n"):
        raise invalid("The request is malformed: its lines must end in CR LF.")


def checked(data: bytes) -> Head:
    """A complete head, with its empty line. Raises GatewayError: 400, 405, 414, 431 or 505."""
    method, target, version = _check_first_line(data[: data.index(b"\r\n")])
    _check_size(data)
    is_current = version == b"1.1"
    fields: dict[bytes, list[bytes]] = {b"host": [], b"content-length": [b"0"], b"transfer-encoding": []}
    for name, value in _FIELD.findall(data):
        fields[name.lower()].append(value.strip(b" \t"))
    hosts, codings = fields[b"host"], fields[b"transfer-encoding"]
    if len(hosts) > 1 or (is_current and not hosts):
        raise invalid(f"The request must have one Host header, but has {len(hosts)}.")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise invalid("The Host header must be a host name or address, and a port if wished.")
    if codings and not (is_current and len(codings) == 1 and codings[0].lower() == b"chunked"):
        raise invalid("Transfer-Encoding must be 'chunked', once, and of HTTP/1.1; nothing else is decoded.")
    head = _UPGRADE_LINE.sub(b"", data)
    if not target.startswith(b"/"):
        head = _with_path(head, method, target)
    return Head(head, None if codings else fields[b"content-length"][-1], is_current)


def echoed(data: bytes) -> tuple[bytes, bytes]:
    """Of a refused head, as far as it has come: its method, and the headers that the answer depends on, if any."""
    head = data[:HEAD_LIMIT].partition(b"\r\n\r\n")[0] + b"\r\n"
    first = _FIRST_LINE.match(head)
    is_known = first is not None and _KNOWN_METHOD.fullmatch(first[1])
    return first[1] if first is not None and is_known else b"GET", b"".join(_ECHOED_LINE.findall(head)[:2])


def _check_first_line(line: bytes) -> tuple[bytes, bytes, bytes]:
    """The method, the target and the version."""
    if len(line) > FIRST_LINE_LIMIT:
        raise GatewayError(URI_TOO_LONG) if _BEGINNING.fullmatch(line[:FIRST_LINE_LIMIT]) else invalid(_NO_REQUEST)
    found = _FIRST_LINE.fullmatch(line)
    if found is None:
        raise invalid(_NO_REQUEST)
    method, target, version = found.groups()
    if version not in (b"1.1", b"1.0", b"0.9"):
        raise GatewayError(HTTP_VERSION_NOT_SUPPORTED)
    if not _KNOWN_METHOD.fullmatch(method):
        raise GatewayError(METHOD_NOT_ALLOWED, f"No route has the method {method.decode()}.")
    return method, target, version


def _check_size(data: bytes) -> None:
    if len(data) > HEAD_LIMIT or data.count(b"\r\n") > FIELDS_LIMIT + 2:
        raise GatewayError(REQUEST_HEAD_TOO_LARGE)


def _with_path(head: bytes, method: bytes, target: bytes) -> bytes:
    """The head with a path as its target. The host of an absolute target takes the place of `Host` (RFC 9112)."""
    if target == b"*" and method == b"OPTIONS":
        return head
    found = _ABSOLUTE.fullmatch(target)
    if found is None or not _HOST.fullmatch(found[1]):
        raise invalid("The target of the request must be a path, or a URL of http or https without user info.")
    path = found[2] or b"/"
    path = path if path.startswith(b"/") else b"/" + path
    rest = _HOST_LINE.sub(b"", head[head.index(b"\r\n") :])
    version = head[: head.index(b"\r\n")].rpartition(b" ")[2]
    return b"%b %b %b\r\nHost: %b%b" % (method, path, version, found[1], rest)
