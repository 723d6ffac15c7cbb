"""The shapes in which upstream says what went wrong: error codes, messages and details, wherever they stand.

Graph writes `error`, OData 3 `odata.error` with messages as `{"lang","value"}`, SharePoint's jobs `errorCode` and
`errorMessage`, eDiscovery `resultInfo`; some write a number for a code, or JSON within a string.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.core.job import PARTIAL, ErrorDetail, JobError
from gateway.graph.documents import TEXT_LIMIT, Urls, json_object, text, word

DETAILS_LIMIT = 20

Document = Mapping[str, Any]


def error_codes(doc: Document) -> frozenset[str]:
    """Every error code of a document, in lower case; the details' after the first are left out."""
    holders = list(_holders(doc))
    places = [*holders, *_details(doc, holders)[:1]]
    codes = [place.get(name) for place in places for name in ("code", "errorCode")]
    return frozenset(code.strip().lower() for code in codes if isinstance(code, str))


def job_error(doc: Document, status: str, urls: Urls) -> JobError:
    """Why a job ended as `status`, in upstream's words as far as it gave any."""
    holders = list(_holders(doc))
    details = tuple(
        ErrorDetail(
            code=word(entry.get("code"), urls),
            message=_message(entry, urls),
            target=text(entry.get("target"), TEXT_LIMIT, urls),
        )
        for entry in _details(doc, holders)[:DETAILS_LIMIT]
    )
    first = details[0] if details else ErrorDetail()
    codes = (word(holder.get(name), urls) for holder in holders for name in ("code", "errorCode"))
    messages = (_message(holder, urls) for holder in holders)
    described = (text(doc.get(name), TEXT_LIMIT, urls) for name in ("statusDescription", "statusDetail"))
    return JobError(
        code=next(filter(None, codes), None) or first.code or status,
        message=next(filter(None, messages), None)
        or next(filter(None, described), None)
        or first.message
        or _untold(status),
        origin="upstream",
        details=details,
    )


def _untold(status: str) -> str:
    if status in PARTIAL:
        return f"Upstream ended the job as {status} and did not say what was left out."
    return f"Upstream ended the job as {status} and gave no reason."


def _holders(doc: Document) -> Iterator[Document]:
    """The objects that hold a code and a message, the most telling first."""
    nested = doc.get("odata")
    yield _unwrapped(doc.get("error"))
    yield _unwrapped(doc.get("odata.error"))
    yield _unwrapped(nested.get("error") if isinstance(nested, dict) else None)
    yield {"code": doc.get("errorCode"), "message": doc.get("errorMessage")}
    yield _unwrapped(doc.get("resultInfo"))


def _unwrapped(value: object) -> Document:
    """An error object; a string is its message, unless it is JSON, whose own error it may wrap."""
    if isinstance(value, str):
        found = json_object(value)
        if found is None:
            return {"message": value}
        inner = found.get("error", found.get("odata.error"))
        return inner if isinstance(inner, dict) else found
    return value if isinstance(value, dict) else {}


def _details(doc: Document, holders: list[Document]) -> list[dict[str, Any]]:
    listed = next((found for place in [*holders, doc] if isinstance(found := place.get("details"), list) and found), [])
    return [entry for entry in listed if isinstance(entry, dict)]


def _message(holder: Document, urls: Urls) -> str | None:
    for name in ("message", "errorMessage"):
        value = holder.get(name)
        if isinstance(value, str) and (inner := json_object(value)) is not None:
            wrapped = _unwrapped(inner.get("error", inner.get("odata.error", inner)))
            value = wrapped.get("message", wrapped.get("value", value))
        if isinstance(value, dict):
            value = value.get("value")
        if (found := text(value, TEXT_LIMIT, urls)) is not None:
            return found
    return None
