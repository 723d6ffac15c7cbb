"""What can go wrong, told by whose fault it is.

GatewayError              an answer: status, Graph-style code, a message for the caller
StoreUnavailable          the store cannot write or read now; the caller may come again
StoreRefused              the store must not be opened: the process ends
"""

from __future__ import annotations

from collections.abc import Mapping


class GatewayError(Exception):
    """An error that the caller is shown, in Graph's shape.

    `status` is the HTTP status, `code` Graph-style camelCase, `message` says what was wrong with which input and
    what to do; `retry_after` is in seconds; `ids` are upstream's own request ids, once it has answered.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.ids: Mapping[str, str] = {}


class StoreUnavailable(Exception):
    """The store is full, locked, broken or away; nothing was written."""


class StoreRefused(Exception):
    """The store at hand is in use, is no store of ours, or is newer than this gateway."""


def error_text(error: Exception) -> str:
    """What went wrong with the store, for the log; of an error that nobody foresaw its kind, since it may hold data."""
    return str(error) if isinstance(error, StoreUnavailable) else type(error).__name__


def invalid(message: str, code: str = "invalidRequest") -> GatewayError:
    return GatewayError(400, code, message)


def outcome_unknown(why: str) -> GatewayError:
    """502: whether the copy runs cannot be known, so it must not be repeated blindly."""
    return GatewayError(
        502,
        "outcomeUnknown",
        f"{why} The copy may be running: look for the new item in the target folder before you start it again.",
    )


def unavailable(why: str, retry_after: int = 5) -> GatewayError:
    return GatewayError(503, "serviceNotAvailable", why, retry_after=retry_after)
