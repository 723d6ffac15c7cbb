"""A complete HTTP response, and the wait that its headers ask for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime

import msgspec
from multidict import MultiMapping

LONGEST_WAIT = 86400.0
"""Most seconds of a wait that a header asks for."""

_SECONDS = re.compile(r"\d+(\.\d+)?(\s*,\s*\d+(\.\d+)?)*", re.ASCII)


class Reply(msgspec.Struct, frozen=True):
    """A complete HTTP response; `headers` is a case-insensitive mapping, `hops` the URLs that redirects led to."""

    code: int
    headers: MultiMapping[str]
    body: bytes
    hops: tuple[str, ...] = ()

    def all(self, name: str) -> Sequence[str]:
        """Every line of a header."""
        return self.headers.getall(name, ())


def retry_after(headers: MultiMapping[str], now: float) -> float | None:
    """Seconds that upstream asks to wait: from `Retry-After`, else from an exhausted `RateLimit`, else None.

    `now` is in seconds since 1970.
    """
    if "Retry-After" in headers:
        return named_wait(headers, now)
    if headers.get("RateLimit-Remaining", "").strip() == "0":
        return _wait(headers.get("RateLimit-Reset", ""), headers, now)
    return None


def named_wait(headers: MultiMapping[str], now: float) -> float | None:
    """Seconds to wait according to `Retry-After`, which holds seconds or a date; None without a valid one."""
    return _wait(headers.get("Retry-After", ""), headers, now)


def _wait(value: str, headers: MultiMapping[str], now: float) -> float | None:
    """Seconds to wait, at most `LONGEST_WAIT`.

    A date is compared with the response's own `Date`, so that neither clock need be right.
    """
    value = value.strip()
    if _SECONDS.fullmatch(value):
        # Proxies join two headers of a name with a comma: both are kept by the longer wait.
        return min(max(map(float, value.split(","))), LONGEST_WAIT)
    until = _date(value)
    if until is None:
        return None
    return min(max(0.0, until - (_date(headers.get("Date", "")) or now)), LONGEST_WAIT)


def _date(value: str) -> float | None:
    try:
        found = parsedate_to_datetime(value)
        # HTTP's old asctime form names no zone: it means GMT, not this process's local zone
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
