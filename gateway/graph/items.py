"""Item addresses in raw request paths.

Paths are matched raw and forwarded byte for byte: ids contain `!`, `,` and `%`, and decoding and re-encoding would
change them. Each segment is decoded once, only to reject path traversal.
"""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import unquote_to_bytes

import msgspec

from gateway.core.errors import NOT_FOUND, GatewayError, invalid

_ID = r"[^/:]+"
_DRIVE = rf"(?:me/drive|(?:me/)?drives/{_ID}|(?:users|groups|sites)/{_ID}/(?:drive|drives/{_ID}))"
_HEAD = rf"/(?P<version>v1\.0|beta)/(?P<prefix>{_DRIVE})/(?:root|items/{_ID})"
_PATH = r":/(?:[^/]+/)*[^/]+"
_COPY = re.compile(rf"{_HEAD}(?:{_PATH}:)?/(?:microsoft\.graph\.)?copy")
_READ = re.compile(rf"{_HEAD}(?:{_PATH})?")
_PLAIN = re.compile(r"[A-Za-z0-9_!-]*")
"""Characters of most segments; a segment of these alone needs no decoding."""

FORWARDED = (
    "The gateway forwards POST {item}/copy (or {item}/microsoft.graph.copy) and GET {item}, where {item} is "
    "me/drive, me/drives/{id}, drives/{id}, or users, groups or sites/{id} with drive or drives/{id}, "
    "followed by items/{id} or root, and by :/{path}: if wished."
)


class ItemRequest(msgspec.Struct, frozen=True):
    """A forwarded request. `prefix` is the drive's part of the raw path, without the version."""

    action: Literal["read", "copy"]
    version: str
    prefix: str


def parse(method: str, raw_path: str) -> ItemRequest:
    """Parse a method and a raw path.

    Raises GatewayError: 400 for a segment that is `.` or `..` or holds an encoded separator, 404 for any other request
    that is not forwarded.
    """
    for segment in raw_path.split("/"):
        _check(segment)
    action: Literal["read", "copy"]
    if method == "POST":
        action, found = "copy", _COPY.fullmatch(raw_path)
    else:
        action, found = "read", _READ.fullmatch(raw_path) if method in ("GET", "HEAD") else None
    if found is None:
        raise GatewayError(NOT_FOUND, f"{method} on this path is not forwarded. {FORWARDED}")
    return ItemRequest(action=action, version=found["version"], prefix=found["prefix"])


def _check(segment: str) -> None:
    if _PLAIN.fullmatch(segment):
        return
    decoded = unquote_to_bytes(segment)
    if decoded.strip(b":") in (b".", b".."):
        raise invalid("A path segment is '.' or '..'. Name the item by its id or by its full path.")
    if any(byte in decoded for byte in b"/\\\0"):
        raise invalid("A path segment holds an encoded '/', a '\\' or a NUL. Encode the path segment by segment.")
