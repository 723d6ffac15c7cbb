"""An answer as it came over the wire, and the wait it asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

import msgspec

_SECONDS = re.compile(r"\d+(\.\d+)?")


class Reply(msgspec.Struct, frozen=True):
    """A whole answer; header names are looked up whatever their case."""

    code: int
    headers: Mapping[str, str]
    body: bytes


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds upstream asks to wait: `Retry-After`, else a used-up `RateLimit`; else None."""
    if "Retry-After" in headers:
        return named_wait(headers, now)
    if headers.get("RateLimit-Remaining", "").strip() == "0":
        return _wait(headers.get("RateLimit-Reset", ""), headers, now)
    return None


def named_wait(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that `Retry-After` says, as seconds or as a date; else None."""
    return _wait(headers.get("Retry-After", ""), headers, now)


def _wait(value: str, headers: Mapping[str, str], now: float) -> float | None:
    """A date is read against the answer's own `Date`, so that neither clock need be right."""
    value = value.strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    until = _date(value)
    if until is None:
        return None
    return max(0.0, until - (_date(headers.get("Date", "")) or now))


def _date(value: str) -> float | None:
    try:
        found = parsedate_to_datetime(value)
        # HTTP's old asctime form names no zone: it is GMT, not the zone this process happens to run in
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
