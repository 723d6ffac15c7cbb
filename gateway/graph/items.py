"""The address of an item as it stands in a raw request path.

Matched on the raw path and forwarded byte for byte: ids hold `!`, `,` and `%`, and a path that was decoded and encoded
again is another path. Decoding, once, serves only to refuse what could climb out of the place it names.
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
"""What most segments are made of, and nothing to look into."""

FORWARDED = (
    "The gateway forwards POST {item}/copy (or {item}/microsoft.graph.copy) and GET {item}, where {item} is "
    "me/drive, me/drives/{id}, drives/{id}, or users, groups or sites/{id} with drive or drives/{id}, "
    "followed by items/{id} or root, and by :/{path}: if wished."
)


class ItemRequest(msgspec.Struct, frozen=True):
    """What is asked of which item: `prefix` is the drive's part of the raw path, without the version."""

    action: Literal["read", "copy"]
    version: str
    prefix: str


def parse(method: str, raw_path: str) -> ItemRequest:
    """The request that a method and a raw path stand for.

    Raises GatewayError: 400 for a segment that is `.` or `..` or hides a separator, 404 for all that is not forwarded.
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
    plain = unquote_to_bytes(segment)
    if plain.strip(b":") in (b".", b".."):
        raise invalid("A path segment is '.' or '..'. Name the item by its id or by its full path.")
    if any(byte in plain for byte in b"/\\\0"):
        raise invalid("A path segment holds an encoded '/', a '\\' or a NUL. Encode the path segment by segment.")
