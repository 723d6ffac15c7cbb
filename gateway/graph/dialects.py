"""Turn a monitor's response, in any of its dialects, into an observation.

The HTTP code alone does not determine the state: `completed` comes as 200, 202 and 303, `failed` as 200 and 500. So a
known `status` in the body takes precedence over the code, except for codes about the monitor itself (401, 403, 404,
410, 429). Strings from upstream are truncated, their control characters are replaced, and a string that would disclose
the monitor URL is dropped.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from gateway.core.job import STATUSES, Answer, ErrorDetail, JobError, kind_of
from gateway.outbound.reply import Reply, retry_after

TEXT_LIMIT = 1024
WORD_LIMIT = 64
DETAILS_LIMIT = 20

_KNOWN = {word.lower(): word for word in STATUSES}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_LAST_ITEM = re.compile(r"/items(?:/|\(')([^/()']+)(?:'\))?/?$")
_DRIVE = re.compile(r"/drives(?:/|\(')([^/()']+)")
_ITEM_FACETS = ("file", "folder", "package", "parentReference")


_PLAIN = frozenset(
    code.lower()
    for code in (
        *("itemNotFound", "resourceNotFound", "notFound", "operationNotFound"),
        *("unauthenticated", "InvalidAuthenticationToken", "accessDenied", "forbidden"),
    )
)
"""Error codes by which the monitor itself refuses; a front end that fails answers with others, or with a page."""

LostCode = Literal["monitorExpired", "monitorUnauthorized"]
_LOST: dict[int, LostCode] = {
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

    code: LostCode
    plain: bool = True
    retry_after: float | None = None


class Throttled(msgspec.Struct, frozen=True):
    """The response was a rate limit; `retry_after` is in seconds."""

    retry_after: float | None = None


class NoAnswer(msgspec.Struct, frozen=True):
    """No usable response. `hung` means that the poll timed out; `retry_after` is in seconds."""

    reason: str
    retry_after: float | None = None
    hung: bool = False


Observation = Answer | Lost | Throttled | NoAnswer


def interpret(reply: Reply, monitor_url: str, now: float) -> Observation:
    """The observation for a reply. `now`, in seconds since 1970, is used when `Retry-After` is a date."""
    code = reply.code
    wait = retry_after(reply.headers, now)
    if code == 429:
        return Throttled(wait)
    document = _document(reply.body)
    if code in _LOST:
        return Lost(_LOST[code], code == 410 or not _PLAIN.isdisjoint(_error_codes(document)), wait)
    word = document.get("status")
    status = _KNOWN.get(word.strip().lower()) if isinstance(word, str) else None
    if status is None and "operationnotfound" in _error_codes(document):
        return Lost("monitorExpired", retry_after=wait)
    if status is None and code == 303:
        status = "completed"
    if status is not None:
        return _answer(document, status, reply, monitor_url, wait)
    if code in (503, 509) or _is_throttle_page(reply):
        return Throttled(wait)
    answer = _without_known_status(document, reply, monitor_url, wait) if 200 <= code < 300 else None
    return answer or NoAnswer(f"HTTP {code} without a usable status", wait)


def item_of(location: str) -> tuple[str, str | None] | None:
    """The item id of a URL that ends in an item, and its drive id or None; None for any other URL."""
    try:
        path = urlsplit(location).path
    except ValueError:
        return None
    item = _LAST_ITEM.search(path)
    if item is None:
        return None
    drive = _DRIVE.search(path)
    return unquote(item[1]), unquote(drive[1]) if drive else None


def drive_of_path(path: object) -> str | None:
    """The drive id in a `parentReference.path` such as /drives/{id}/root:/Documents; else None."""
    if not isinstance(path, str):
        return None
    found = re.match(r"/?drives/([^/]+)(?:/|$)", path)
    return unquote(found[1]) if found else None


def _without_known_status(doc: dict[str, Any], reply: Reply, url: str, wait: float | None) -> Answer | None:
    """A 2xx response without a known status: an unknown status, the finished item itself, or a percentage alone."""
    unknown = _text(doc.get("status"), WORD_LIMIT, url)
    if unknown is not None or (reply.code == 202 and _percentage(doc) is not None):
        return _answer(doc, unknown, reply, url, wait)
    if isinstance(doc.get("id"), str) and any(facet in doc for facet in _ITEM_FACETS):
        return _finished_item(doc, url, wait)
    return None


def _error_codes(doc: dict[str, Any]) -> list[str]:
    """Every error code of a document, in lower case: of `error`, OData 3's `odata.error`, and their neighbours."""
    nested = doc.get("odata")
    errors = [doc.get("error"), doc.get("odata.error"), nested.get("error") if isinstance(nested, dict) else None]
    listed = [error.get("details") for error in errors if isinstance(error, dict)] + [doc.get("details")]
    holders = [*errors, doc.get("resultInfo"), *(entries[0] for entries in listed if entries and type(entries) is list)]
    found = [holder.get("code") for holder in holders if isinstance(holder, dict)] + [doc.get("errorCode")]
    return [code.strip().lower() for code in found if isinstance(code, str)]


def _is_throttle_page(reply: Reply) -> bool:
    return 300 <= reply.code < 400 and reply.headers.get("Location", "").lower().endswith("throttle.htm")


def _answer(doc: dict[str, Any], status: str | None, reply: Reply, url: str, wait: float | None) -> Answer:
    resource_id = _text(doc.get("resourceId"), TEXT_LIMIT, url)
    drive_id = None
    for place in (doc.get("resourceLocation"), reply.headers.get("Location") if reply.code == 303 else None):
        found = item_of(place) if isinstance(place, str) else None
        if found is not None:
            resource_id = resource_id or _text(found[0], TEXT_LIMIT, url)
            drive_id = drive_id or _text(found[1], TEXT_LIMIT, url)
    description = _text(doc.get("statusDescription"), TEXT_LIMIT, url)
    return Answer(
        status=status,
        percentage=_percentage(doc),
        operation=_text(doc.get("operation"), WORD_LIMIT, url),
        description=description,
        resource_id=resource_id,
        drive_id=drive_id,
        error=_error(doc, status, description, url) if status and kind_of(status) == "failed" else None,
        retry_after=wait,
    )


def _finished_item(item: dict[str, Any], url: str, wait: float | None) -> Answer:
    parent = item.get("parentReference")
    drive = parent.get("driveId") if isinstance(parent, dict) else None
    return Answer(
        status="completed",
        resource_id=_text(item["id"], TEXT_LIMIT, url),
        drive_id=_text(drive, TEXT_LIMIT, url),
        retry_after=wait,
    )


def _error(doc: dict[str, Any], status: str, description: str | None, url: str) -> JobError:
    raw = doc.get("error")
    error: dict[str, Any] = raw if isinstance(raw, dict) else {"message": raw}
    listed = error.get("details") or doc.get("details")
    details = tuple(
        ErrorDetail(
            code=_text(entry.get("code"), WORD_LIMIT, url),
            message=_text(entry.get("message"), TEXT_LIMIT, url),
            target=_text(entry.get("target"), TEXT_LIMIT, url),
        )
        for entry in (listed if isinstance(listed, list) else [])[:DETAILS_LIMIT]
        if isinstance(entry, dict)
    )
    first = details[0] if details else ErrorDetail()
    return JobError(
        code=_text(error.get("code"), WORD_LIMIT, url)
        or _text(doc.get("errorCode"), WORD_LIMIT, url)
        or first.code
        or status,
        message=_text(error.get("message"), TEXT_LIMIT, url)
        or description
        or first.message
        or f"Upstream ended the copy as {status} and gave no reason.",
        origin="upstream",
        details=details,
    )


def _document(body: bytes) -> dict[str, Any]:
    """The JSON object in a body; an empty one when there is none.

    The standard library's parser accepts NaN, which msgspec rejects and some serialisers write. With it, a NaN costs
    one number and not the whole response.
    """
    body = body.removeprefix(b"\xef\xbb\xbf")
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return {}
    return document if isinstance(document, dict) else {}


def _percentage(doc: dict[str, Any]) -> float | None:
    found = [_number(doc.get(name)) for name in ("percentageComplete", "percentComplete")]
    return max((number for number in found if number is not None), default=None)


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


def _text(value: object, limit: int, monitor_url: str) -> str | None:
    if not isinstance(value, str) or not value or _discloses(value, monitor_url):
        return None
    cut = value[:limit]
    if cut.isascii() and cut.isprintable():
        return cut
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in cut)


def _discloses(text: str, monitor_url: str) -> bool:
    if not ("/" in text or "=" in text or "%" in text):
        return False
    parts = urlsplit(monitor_url)
    tail = parts.path + (f"?{parts.query}" if parts.query else "")
    secrets = [parts.netloc + parts.path]
    if len(tail) >= 16:  # a short path such as /m/1 is no secret, and many strings contain it
        secrets.append(tail)
    decoded = unquote(text)
    for form in (text, decoded, unquote(decoded)):
        lower = form.lower()
        if "tempauth=" in lower or "sig=" in lower:
            return True
        if any(secret.lower() in lower or unquote(secret).lower() in lower for secret in secrets):
            return True
    return False
