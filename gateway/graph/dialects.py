"""Turn a monitor's response, in any of its dialects, into an observation.

The HTTP code alone does not determine the state: `completed` comes as 200, 202 and 303, `failed` as 200 and 500. So a
known `status` in the body takes precedence over the code, except for codes about the monitor itself (401, 403, 404,
410, 429).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from gateway.core.addresses import origin, resolved
from gateway.core.job import PARTIAL, Answer, kind_of, known_status
from gateway.graph.documents import BROKEN, TEXT_LIMIT, WORD_LIMIT, Urls, document, identity, text
from gateway.graph.failures import error_codes, job_error
from gateway.outbound.reply import Reply, retry_after

_PERCENTAGES = ("percentageComplete", "percentComplete", "percentProgress")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LAST_ITEM = re.compile(r"/items(?:/|\(')([^/()']+)(?:'\))?/?$")
_DRIVE = re.compile(r"/drives(?:/|\(')([^/()']+)")
_ITEM_FACETS = ("file", "folder", "package", "parentReference")
_PAGE = re.compile(r"/_(layouts|forms)/|\.(aspx|html?)(;[^/]*)?$", re.IGNORECASE)

_PLAIN = frozenset(
    code.lower()
    for code in (
        *("itemNotFound", "resourceNotFound", "notFound", "operationNotFound"),
        *("unauthenticated", "InvalidAuthenticationToken", "accessDenied", "forbidden"),
    )
)
"""Error codes by which the monitor itself refuses; a front end that fails answers with others, or with a page."""

MonitorLoss = Literal["monitorExpired", "monitorUnauthorized"]
_LOST: dict[int, MonitorLoss] = {
    401: "monitorUnauthorized",
    403: "monitorUnauthorized",
    404: "monitorExpired",
    410: "monitorExpired",
}


class Lost(msgspec.Struct, frozen=True):
    """The monitor no longer knows the job, or denies access to it.

    `plain` means that the monitor itself says so: by a 410, or by an error code. Otherwise the answer is doubtful: a
    front end that fails for a while answers 401, 403 and 404 as well. `retry_after` is in seconds.
    """

    code: MonitorLoss
    plain: bool = True
    retry_after: float | None = None


class Throttled(msgspec.Struct, frozen=True):
    """The response was a rate limit; `retry_after` is in seconds."""

    retry_after: float | None = None


class TokenRefused(msgspec.Struct, frozen=True):
    """The status of an operation is not told under the token that was sent; `retry_after` is in seconds."""

    retry_after: float | None = None


class NoAnswer(msgspec.Struct, frozen=True):
    """No usable response. `hung` means that the poll timed out; `retry_after` is in seconds."""

    reason: str
    retry_after: float | None = None
    hung: bool = False


Observation = Answer | Lost | Throttled | TokenRefused | NoAnswer


def interpret(
    reply: Reply,
    monitor_url: str,
    now: float,
    *,
    allowed: Callable[[str], bool],
    under_token: bool = False,
) -> Observation:
    """The observation for a reply.

    `now`, in seconds since 1970, is used when `Retry-After` is a date. `allowed` says whether a URL is on a host that
    may be asked. `under_token`: the reply is of an operation, which asks for a token.
    """
    code = reply.code
    wait = retry_after(reply.headers, now)
    urls = (monitor_url, *reply.hops)
    if code == 429:
        return Throttled(wait)
    if code == 401 and under_token:
        return TokenRefused(wait)
    doc = document(reply)
    if code in _LOST:
        return Lost(_LOST[code], code == 410 or not _PLAIN.isdisjoint(error_codes(doc)), wait)
    status = _known_status(doc)
    if status is None and "operationnotfound" in error_codes(doc):
        return Lost("monitorExpired", retry_after=wait)
    if status is None and (code in (503, 509) or _is_throttle_page(reply)):
        return Throttled(wait)
    if status is None and code == 303:
        reason = _misleads(reply.headers.get("Location"), urls[-1], allowed)
        if reason is not None:
            return NoAnswer(reason, wait)
        status = "completed"
    answer: Answer | None
    if status is not None:
        answer = _answer(doc, status, reply, urls, wait)
    else:
        answer = _without_known_status(doc, reply, urls, wait) if 200 <= code < 300 else None
    if answer is not None and under_token:
        return msgspec.structs.replace(answer, location=_location(doc, monitor_url))
    return answer or NoAnswer(f"HTTP {code} without a usable status", wait)


def has_known_status(reply: Reply) -> bool:
    """Whether the body of a reply holds a known status, which takes precedence over a redirect."""
    return _known_status(document(reply)) is not None


def leads_elsewhere(reply: Reply) -> bool:
    """Whether a reply is a redirect and nothing more: it tells no known status, and leads to no throttle page."""
    return reply.code in (301, 302, 307, 308) and not _is_throttle_page(reply) and not has_known_status(reply)


def item_of(location: str) -> tuple[str, str | None] | None:
    """The item id of a URL that ends in an item, and its drive id or None; None for any other URL.

    `drives('me')`, as personal accounts write it, names no drive.
    """
    try:
        path = urlsplit(location).path
    except ValueError:
        return None
    for mark, escape in (("(", "%28"), (")", "%29"), ("'", "%27")):
        path = path.replace(escape, mark)
    item = _LAST_ITEM.search(path)
    if item is None:
        return None
    drive = _DRIVE.search(path)
    item_id = _id(item[1])
    return None if item_id is None else (item_id, _drive(drive[1]) if drive else None)


def finished_item(location: str) -> Answer | None:
    """The answer for a started job whose `Location` is the finished item itself; None for any other URL."""
    found = item_of(location)
    if found is None:
        return None
    return Answer(
        status="completed",
        resource_id=text(found[0], TEXT_LIMIT, (location,)),
        drive_id=text(found[1], TEXT_LIMIT, (location,)),
    )


def drive_of_path(path: object) -> str | None:
    """The drive id in a `parentReference.path` such as /drives/{id}/root:/Documents; else None."""
    if not isinstance(path, str):
        return None
    found = re.match(r"/?drives(?:/|\(')([^/()']+)(?:'\))?(?:/|$)", path)
    return _drive(found[1]) if found else None


def _drive(segment: str) -> str | None:
    drive = _id(segment)
    return None if drive is None or drive.lower() == "me" else drive


def _id(segment: str) -> str | None:
    """The id in a path's segment; None for one that is no UTF-8, and for one that would lead out of its path."""
    try:
        found = unquote(segment, errors="strict")[:TEXT_LIMIT]
        found.encode()
    except UnicodeError:
        return None
    return None if found in (".", "..") else found


def _known_status(doc: dict[str, Any]) -> str | None:
    status = doc.get("status")
    return known_status(status) if isinstance(status, str) else None


def _misleads(location: str | None, base: str, allowed: Callable[[str], bool]) -> str | None:
    """Why the target of a 303 says nothing about the copy; None when the copy is completed."""
    if location is None:
        return None
    url = resolved(base, location)
    if url is None:
        return "HTTP 303 to no URL"
    if _PAGE.search(unquote(urlsplit(url).path)):
        return "HTTP 303 to a page"
    return None if item_of(url) or allowed(url) else "HTTP 303 to a host that is not allowed"


def _without_known_status(doc: dict[str, Any], reply: Reply, urls: Urls, wait: float | None) -> Answer | None:
    """A 2xx response without a known status: an unknown status, the finished item itself, or a percentage alone."""
    unknown = text(doc.get("status"), WORD_LIMIT, urls)
    if unknown is not None and BROKEN in unknown:
        unknown = None
    if unknown is not None or (reply.code == 202 and _percentage(doc) is not None):
        return _answer(doc, unknown, reply, urls, wait)
    if isinstance(doc.get("id"), str) and any(facet in doc for facet in _ITEM_FACETS):
        return _finished_item(doc, urls, wait)
    return None


def _is_throttle_page(reply: Reply) -> bool:
    location = reply.headers.get("Location", "").lower()
    return 300 <= reply.code < 400 and re.split("[?#]", location, maxsplit=1)[0].endswith("throttle.htm")


def _answer(doc: dict[str, Any], status: str | None, reply: Reply, urls: Urls, wait: float | None) -> Answer:
    resource_id = identity(doc.get("resourceId"), urls) or identity(doc.get("targetResourceId"), urls)
    drive_id = None
    target = reply.headers.get("Location") if reply.code == 303 else None
    for place in (doc.get("resourceLocation"), doc.get("targetResourceLocation"), target):
        found = item_of(place) if isinstance(place, str) else None
        if found is not None:
            resource_id = resource_id or text(found[0], TEXT_LIMIT, urls)
            drive_id = drive_id or text(found[1], TEXT_LIMIT, urls)
    told = status is not None and (kind_of(status) == "failed" or status in PARTIAL)
    return Answer(
        status=status,
        percentage=_percentage(doc),
        operation=text(doc.get("operation"), WORD_LIMIT, urls),
        description=text(doc.get("statusDescription"), TEXT_LIMIT, urls),
        resource_id=resource_id,
        drive_id=drive_id,
        error=job_error(doc, status, urls) if status is not None and told else None,
        retry_after=wait,
    )


def _location(doc: dict[str, Any], monitor_url: str) -> str | None:
    """The path of an operation's result at upstream; None when it is elsewhere, or is too long to be shown."""
    for name in ("targetResourceLocation", "resourceLocation"):
        place = text(doc.get(name), TEXT_LIMIT + 1, (monitor_url,))
        url = None if place is None or len(place) > TEXT_LIMIT else resolved(monitor_url, place)
        if url is not None and origin(url) == origin(monitor_url):
            return urlsplit(url).path
    return None


def _finished_item(item: dict[str, Any], urls: Urls, wait: float | None) -> Answer:
    parent = item.get("parentReference")
    named = parent if isinstance(parent, dict) else {}
    return Answer(
        status="completed",
        resource_id=identity(item["id"], urls),
        drive_id=identity(named.get("driveId"), urls) or text(drive_of_path(named.get("path")), TEXT_LIMIT, urls),
        retry_after=wait,
    )


def _percentage(doc: dict[str, Any]) -> float | None:
    found = None
    for name in _PERCENTAGES:
        number = _number(doc[name]) if name in doc else None
        if number is not None and (found is None or number > found):
            found = number
    return found


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 <= value <= 100 or not math.isfinite(value):
        return None
    return abs(float(value))  # -0.0 becomes 0.0
