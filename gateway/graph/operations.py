"""Graph's requests that may start a job: one row for each, with all that differs between them.

Copies, moves and the like have a monitor: its URL grants access by itself, may be on another host, and refuses a token.
The others have an operation: a resource of Graph's own, which asks for the caller's token.

Paths are matched raw and forwarded byte for byte: ids contain `!`, `,` and `%`, and decoding and re-encoding would
change them. Each segment is decoded once, only to reject path traversal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from typing import Literal
from urllib.parse import unquote, unquote_to_bytes

import msgspec

from gateway.core.errors import NOT_FOUND, GatewayError, invalid
from gateway.core.job import Target

_ID = r"[^/:]+"
_OWNER = rf"(?:me|(?:users|groups|sites)/{_ID})"
_DRIVE = rf"(?:me/drive|(?:me/)?drives/{_ID}|(?:users|groups|sites)/{_ID}/(?:drive|drives/{_ID}))"
_PATH = rf":/{_ID}(?:/{_ID})*"
_ITEM = rf"(?P<prefix>{_DRIVE})/(?:root|items/(?P<id>{_ID}))(?P<below>{_PATH}"
_PARTS = {
    "{item}": rf"{_ITEM}:)?",
    "{owner}": _OWNER,
    "[lists/{id}/]": r"(?:lists/[^/]+/)?",
    "{id}": r"[^/]+",
}
"""What stands in the paths of the table for a part of a request's path."""
_PLAIN = re.compile(r"[A-Za-z0-9_!-]*")
"""Characters of most segments; a segment of these alone needs no decoding."""
_ITEM_ID = re.compile(r"[!-~]{1,1024}")


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of request, and how its job is watched.

    `path` is that of the request, behind the version, as logs, metrics and spans name it. `name` is the `operation` of
    the job's state, until the monitor names another one. `label` is the member of the body that names the job for
    people.

    `changes_item`: the result is the item of the request itself. `asks_for_token`: the status is an operation of
    Graph's own, polled under the caller's token. `shortest` and `longest` bound the wait between polls, in seconds,
    besides the bounds of the gateway.
    """

    action: str
    method: Literal["GET", "POST", "PATCH"]
    path: str
    name: str = ""
    label: str = "name"
    needs_body: bool = False
    changes_item: bool = False
    asks_for_token: bool = False
    shortest: float = 0.0
    longest: float | None = None


def _of_item(action: str, name: str, *, needs_body: bool = False) -> Operation:
    path = f"{{item}}/{action}"
    return Operation(action=action, method="POST", path=path, name=name, needs_body=needs_body, changes_item=True)


def _of_team(action: str, path: str, *, needs_body: bool = False) -> Operation:
    """Graph asks for 30 s between polls."""
    return Operation(
        action=action,
        method="POST",
        path=path,
        name=action,
        label="displayName",
        needs_body=needs_body,
        asks_for_token=True,
        shortest=30,
    )


def _of_notebook(action: str, of: str) -> Operation:
    path = f"{{owner}}/onenote/{of}/{{id}}/{action}"
    return Operation(action=action, method="POST", path=path, name=action, label="renameAs", asks_for_token=True)


READ = Operation(action="read", method="GET", path="{item}")
"""The read of an item, which starts nothing."""
COPY = Operation(action="copy", method="POST", path="{item}/copy", name="ItemCopy", needs_body=True)
MOVE = Operation(action="move", method="PATCH", path="{item}", name="ItemMove", needs_body=True)

OPERATIONS = (
    COPY,
    MOVE,
    _of_item("archive", "ItemArchive"),
    _of_item("unarchive", "ItemUnarchive"),
    _of_item("assignSensitivityLabel", "AssignSensitivityLabel", needs_body=True),
    _of_team("createTeam", "teams", needs_body=True),
    _of_team("cloneTeam", "teams/{id}/clone"),
    _of_team("archiveTeam", "teams/{id}/archive"),
    _of_team("unarchiveTeam", "teams/{id}/unarchive"),
    _of_team("archiveChannel", "teams/{id}/channels/{id}/archive"),
    _of_team("unarchiveChannel", "teams/{id}/channels/{id}/unarchive"),
    Operation(
        action="addCopyFromContentTypeHub",
        method="POST",
        path="sites/{id}/[lists/{id}/]contentTypes/addCopyFromContentTypeHub",
        name="contentTypeCopy",
        label="contentTypeId",
        asks_for_token=True,
    ),
    Operation(
        action="createSession",
        method="POST",
        path="{item}/workbook/createSession",
        name="createSession",
        asks_for_token=True,
        shortest=30,
        longest=225,  # Graph forgets an operation that is not asked for in 4 minutes
    ),
    _of_notebook("copyNotebook", "notebooks"),
    _of_notebook("copyToNotebook", "sections"),
    _of_notebook("copyToSectionGroup", "sections"),
    _of_notebook("copyToSection", "pages"),
    _of_team("createCommunity", "employeeExperience/communities", needs_body=True),
    Operation(
        action="updateSchema",
        method="PATCH",
        path="external/connections/{id}/schema",
        name="updateSchema",
        needs_body=True,
        asks_for_token=True,
    ),
)

_NAMED = {operation.action: operation for operation in OPERATIONS}

FORWARDED = (
    "The gateway forwards POST {item}/copy, {item}/archive, {item}/unarchive and {item}/assignSensitivityLabel (or "
    "{item}/microsoft.graph.copy and so on), PATCH {item} with a parentReference in its body (a move), and GET {item}, "
    "where {item} is me/drive, me/drives/{id}, drives/{id}, or users, groups or sites/{id} with drive or drives/{id}, "
    "followed by items/{id} or root, and by :/{path}: if wished; and "
    + ", ".join(f"{operation.method} {operation.path}" for operation in OPERATIONS if operation.asks_for_token)
    + ", where {owner} is me, or users, groups or sites/{id}."
)


class GraphRequest(msgspec.Struct, frozen=True):
    """A forwarded request.

    `path` is the raw path to forward, `prefix` the drive's part of it, without the version, None for a path that names
    no drive. `item_id` is the decoded id of an item that is named by its id alone; None for a root, a path, and an id
    that is no id of Graph's.
    """

    operation: Operation
    version: str
    prefix: str | None
    path: str
    item_id: str | None = None


def of(target: Target) -> Operation:
    """The operation that a job was started by; that of a copy for a job whose monitor URL the caller had."""
    return COPY if target.action is None else _NAMED.get(target.action, COPY)


def _pattern(operation: Operation) -> re.Pattern[str]:
    """That of a raw path; an action may be written with its namespace."""
    head, _, action = operation.path.rpartition("/")
    path = f"{head}/(?:microsoft\\.graph\\.)?{action}" if head else operation.path
    path = rf"{_ITEM}:?)?" if path == "{item}" else path  # where nothing follows, the last colon may be missing
    for part, pattern in _PARTS.items():
        path = path.replace(part, pattern)
    return re.compile(rf"/(?P<version>v1\.0|beta)/{path}")


Patterns = dict[tuple[str, str], list[tuple[Operation, re.Pattern[str]]]]


def patterns_of(operations: Iterable[Operation]) -> Patterns:
    """Those of the requests that have a method and a last segment; the last segment of an item's path is any."""
    found: Patterns = {}
    for operation in operations:
        end = operation.path.rpartition("/")[2].replace("{item}", "")
        found.setdefault((operation.method, end), []).append((operation, _pattern(operation)))
    return found


_PATTERNS = patterns_of((READ, *OPERATIONS))


def parse(method: str, raw_path: str) -> GraphRequest:
    """Parse a method and a raw path. One `/` at the path's end is dropped, since libraries build such paths.

    Raises GatewayError: 400 for a segment that is `.` or `..` or holds an encoded separator, 404 for any other request
    that is not forwarded.
    """
    for segment in raw_path.split("/"):
        _check(segment)
    path = raw_path.removesuffix("/")
    method = "GET" if method == "HEAD" else method
    end = path.rpartition("/")[2].removeprefix("microsoft.graph.")
    for operation, pattern in (*_PATTERNS.get((method, end), ()), *_PATTERNS.get((method, ""), ())):
        found = pattern.fullmatch(path)
        if found is not None:
            named = found.groupdict()
            item_id = None if named.get("below") else _item_id(named.get("id"))
            return GraphRequest(operation, found["version"], named.get("prefix"), path, item_id)
    raise not_forwarded(f"{method} on this path", _meant(path))


def not_forwarded(what: str, meant: str = "") -> GatewayError:
    """404: `what` is not the gateway's to pass on; `meant` may be, or is empty."""
    hint = f"Did you mean {meant}? " if meant else ""
    return GatewayError(NOT_FOUND, f"{what} is not forwarded. {hint}{FORWARDED}")


def _meant(path: str) -> str:
    """The start that a path names but for the case of its letters, whatever the method; empty if there is none."""
    for operation, pattern in chain.from_iterable(_PATTERNS.values()):
        if operation.path != "{item}" and re.fullmatch(pattern.pattern, path, re.IGNORECASE):
            return f"{operation.method} {operation.path}"
    return ""


def _item_id(segment: str | None) -> str | None:
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
