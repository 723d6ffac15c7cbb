"""Item addresses in raw request paths.

Paths are matched raw and forwarded byte for byte: ids contain `!`, `,` and `%`, and decoding and re-encoding would
change them. Each segment is decoded once, only to reject path traversal.
"""

from __future__ import annotations

import re
from typing import Literal, cast
from urllib.parse import unquote, unquote_to_bytes

import msgspec

from gateway.core.errors import NOT_FOUND, GatewayError, invalid

Action = Literal["read", "copy", "move", "archive", "unarchive", "assignSensitivityLabel"]

_ID = r"[^/:]+"
_DRIVE = rf"(?:me/drive|(?:me/)?drives/{_ID}|(?:users|groups|sites)/{_ID}/(?:drive|drives/{_ID}))"
_HEAD = rf"/(?P<version>v1\.0|beta)/(?P<prefix>{_DRIVE})/(?:root|items/(?P<id>{_ID}))"
_PATH = rf":/{_ID}(?:/{_ID})*"
_ACTION = re.compile(
    rf"{_HEAD}(?P<below>{_PATH}:)?/(?:microsoft\.graph\.)?(?P<action>copy|archive|unarchive|assignSensitivityLabel)"
)
_ITEM = re.compile(rf"{_HEAD}(?P<below>{_PATH}:?)?")
_PLAIN = re.compile(r"[A-Za-z0-9_!-]*")
"""Characters of most segments; a segment of these alone needs no decoding."""
_ITEM_ID = re.compile(r"[!-~]{1,1024}")
_WITHOUT_ACTION: dict[str, Action] = {"GET": "read", "HEAD": "read", "PATCH": "move"}

FORWARDED = (
    "The gateway forwards POST {item}/copy, {item}/archive, {item}/unarchive and {item}/assignSensitivityLabel (or "
    "{item}/microsoft.graph.copy and so on), PATCH {item} with a parentReference in its body (a move), and GET {item}, "
    "where {item} is me/drive, me/drives/{id}, drives/{id}, or users, groups or sites/{id} with drive or drives/{id}, "
    "followed by items/{id} or root, and by :/{path}: if wished."
)

OPERATIONS: dict[Action, str] = {
    "copy": "ItemCopy",
    "move": "ItemMove",
    "archive": "ItemArchive",
    "unarchive": "ItemUnarchive",
    "assignSensitivityLabel": "AssignSensitivityLabel",
}
"""The requests that may start a job, with the `operation` of its state until the monitor names one."""


class ItemRequest(msgspec.Struct, frozen=True):
    """A forwarded request.

    `path` is the raw path to forward, `prefix` the drive's part of it, without the version. `item_id` is the decoded id
    of an item that is named by its id alone; None for a root, a path, and an id that is no id of Graph's.
    """

    action: Action
    version: str
    prefix: str
    path: str
    item_id: str | None = None

    @property
    def template(self) -> str:
        """The path as logs, metrics and spans name it, without what identifies the item."""
        return template(self.action)


def template(action: Action) -> str:
    """The end of a request's path, with `{item}` for the item."""
    return "{item}" if action in ("read", "move") else f"{{item}}/{action}"


def parse(method: str, raw_path: str) -> ItemRequest:
    """Parse a method and a raw path. One `/` at the path's end is dropped, since libraries build such paths.

    Raises GatewayError: 400 for a segment that is `.` or `..` or holds an encoded separator, 404 for any other request
    that is not forwarded.
    """
    for segment in raw_path.split("/"):
        _check(segment)
    path = raw_path.removesuffix("/")
    action: Action | None = None
    found = None
    if method == "POST":
        found = _ACTION.fullmatch(path)
        action = cast("Action", found["action"]) if found is not None else None
    elif method in _WITHOUT_ACTION:
        found = _ITEM.fullmatch(path)
        action = _WITHOUT_ACTION[method]
    if found is None or action is None:
        raise not_forwarded(f"{method} on this path")
    return ItemRequest(action, found["version"], found["prefix"], path, None if found["below"] else _id(found["id"]))


def not_forwarded(what: str) -> GatewayError:
    """404: `what` is not the gateway's to pass on."""
    return GatewayError(NOT_FOUND, f"{what} is not forwarded. {FORWARDED}")


def _id(segment: str | None) -> str | None:
    decoded = unquote(segment or "")
    return decoded if decoded != "root" and _ITEM_ID.fullmatch(decoded) else None


def _check(segment: str) -> None:
    if _PLAIN.fullmatch(segment):
        return
    decoded = unquote_to_bytes(segment)
    if decoded.strip(b":") in (b".", b".."):
        raise invalid("A path segment is '.' or '..'. Name the item by its id or by its full path.")
    if any(byte in decoded for byte in b"/\\\0"):
        raise invalid("A path segment holds an encoded '/', a '\\' or a NUL. Encode the path segment by segment.")
