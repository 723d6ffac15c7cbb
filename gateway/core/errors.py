"""Every error of the gateway: its status, code, message and wait, once.

GatewayError              an answer to the caller, of one of the kinds in `KINDS`
StoreUnavailable          the store cannot write or read now; the caller may repeat the request
StoreRefused              the store must not be opened: the process ends
LOSSES                    why the gateway lost track of a job: the errors that a failed job carries, not an answer
TROUBLES                  why a running job shows no progress

The OpenAPI document, the labels of metrics and the commands' advice are read from these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

LOOK_FIRST = "If the result is not there, start it again."
_RESULT = "look for its result (of a copy, the new item in the target folder)"
_MAY_RUN = f"What was asked for may be running: {_RESULT} before you start it again."
_GOES_ON = f"What was started may have gone on upstream: {_RESULT}."


class ErrorKind(msgspec.Struct, frozen=True):
    """`status` is the HTTP status, `code` Graph-style camelCase. `message` is the text of an error of this kind that
    has none of its own, and its description in the documents. `retry_after` in seconds.

    `ends_copy`: the request for a copy, or for another operation, may end so. `may_run`: what was asked for may be
    running then, and must not be repeated blindly.
    `advice` is for the people at the commands.
    """

    status: int
    code: str
    message: str
    retry_after: int | None = None
    ends_copy: bool = False
    may_run: bool = False
    advice: str = ""

    @property
    def key(self) -> str:
        """Status and code, which together tell a kind from the others."""
        return f"{self.status} {self.code}"


INVALID_REQUEST = ErrorKind(
    400,
    "invalidRequest",
    "The request is invalid; the message says which part, and what is valid. Nothing was done.",
)
CALLBACK_URL_NOT_ALLOWED = ErrorKind(
    400,
    "callbackUrlNotAllowed",
    "The callback's url must be https, at port 443 or one from 1024 on, without user info, and reach public addresses "
    "only. The operator allows other networks, and any port and http there, with GATEWAY_CALLBACK_ALLOW.",
    ends_copy=True,
)
CORS_NOT_ALLOWED = ErrorKind(
    400,
    "corsNotAllowed",
    "A browser asked for another origin or method than is allowed. The operator allows origins with "
    "GATEWAY_CORS_ORIGINS.",
)
MONITOR_URL_NOT_ALLOWED = ErrorKind(
    400,
    "monitorHostNotAllowed",
    "monitorUrl must be an https URL on an allowed host, without user info. The operator allows hosts with "
    "GATEWAY_MONITOR_HOSTS.",
)
UNAUTHENTICATED = ErrorKind(
    401, "unauthenticated", "Send the job's jobKey or the operator key as 'Authorization: Bearer …'."
)
CALLBACK_NOT_FOUND = ErrorKind(
    404, "callbackNotFound", "The job has no such callback: its id is wrong, or it was removed."
)
JOB_NOT_FOUND = ErrorKind(
    404,
    "jobNotFound",
    "There is no such job: its id is wrong, or it was deleted some time after its end.",
)
NOT_FOUND = ErrorKind(
    404,
    "notFound",
    "There is no such route, or the gateway does not forward it; the message says what it forwards, or where to look.",
)
METHOD_NOT_ALLOWED = ErrorKind(405, "methodNotAllowed", "The route does not support this method; see Allow.")
REQUEST_TIMEOUT = ErrorKind(408, "requestTimeout", "The request was not complete within 30 seconds.")
REQUEST_IN_PROGRESS = ErrorKind(
    409,
    "requestInProgress",
    "The first request with this Idempotency-Key is still being answered. Repeat it in a moment.",
    retry_after=1,
    ends_copy=True,
)
TOO_MANY_CALLBACKS = ErrorKind(409, "tooManyCallbacks", "A job has at most 16 callbacks. Remove one first.")
TOKEN_NOT_REQUIRED = ErrorKind(
    409, "tokenNotRequired", "The job needs no token: its status asks for none, or it has ended. Nothing was done."
)
REQUEST_TOO_LARGE = ErrorKind(413, "requestTooLarge", "The body must be at most 65536 bytes.")
URI_TOO_LONG = ErrorKind(414, "uriTooLong", "The first line of a request must be at most 16384 bytes.")
UNSUPPORTED_MEDIA_TYPE = ErrorKind(415, "unsupportedMediaType", "The body must not be compressed. Send it as it is.")
IDEMPOTENCY_KEY_REUSED = ErrorKind(
    422,
    "idempotencyKeyReused",
    "This Idempotency-Key was used for another request. Use a new key for a new request.",
    ends_copy=True,
)
REQUEST_HEAD_TOO_LARGE = ErrorKind(
    431, "requestHeadTooLarge", "The head of a request must be at most 131072 bytes, with at most 256 headers."
)
GENERAL_EXCEPTION = ErrorKind(500, "generalException", "An internal error: report it with the request-id.")
INVALID_UPSTREAM_RESPONSE = ErrorKind(
    502,
    "invalidUpstreamResponse",
    f"Upstream's response is neither a job nor an error. {_MAY_RUN}",
    ends_copy=True,
    may_run=True,
)
MONITOR_HOST_NOT_ALLOWED = ErrorKind(
    502,
    "monitorHostNotAllowed",
    "Upstream's monitor is on a host that is not allowed: what was started may be running, but cannot be watched. The "
    "operator allows hosts with GATEWAY_MONITOR_HOSTS.",
    ends_copy=True,
    may_run=True,
)
OUTCOME_UNKNOWN = ErrorKind(
    502,
    "outcomeUnknown",
    f"The request was sent upstream, but the response was lost. {_MAY_RUN}",
    ends_copy=True,
    may_run=True,
)
UPSTREAM_UNREACHABLE = ErrorKind(
    502,
    "upstreamUnreachable",
    "Upstream could not be reached. Nothing was started: try again.",
    ends_copy=True,
    advice="Try again; if it persists, the gateway's operator should check GATEWAY_UPSTREAM_URL and the network.",
)
SERVICE_NOT_AVAILABLE = ErrorKind(
    503,
    "serviceNotAvailable",
    "The gateway is full, shutting down, or without its store. Nothing was started: try again after Retry-After.",
    retry_after=5,
    ends_copy=True,
)
HTTP_VERSION_NOT_SUPPORTED = ErrorKind(505, "httpVersionNotSupported", "Send the request as HTTP/1.1.")

KINDS = (
    INVALID_REQUEST,
    CALLBACK_URL_NOT_ALLOWED,
    CORS_NOT_ALLOWED,
    MONITOR_URL_NOT_ALLOWED,
    UNAUTHENTICATED,
    CALLBACK_NOT_FOUND,
    JOB_NOT_FOUND,
    NOT_FOUND,
    METHOD_NOT_ALLOWED,
    REQUEST_TIMEOUT,
    REQUEST_IN_PROGRESS,
    TOO_MANY_CALLBACKS,
    TOKEN_NOT_REQUIRED,
    REQUEST_TOO_LARGE,
    URI_TOO_LONG,
    UNSUPPORTED_MEDIA_TYPE,
    IDEMPOTENCY_KEY_REUSED,
    REQUEST_HEAD_TOO_LARGE,
    GENERAL_EXCEPTION,
    INVALID_UPSTREAM_RESPONSE,
    MONITOR_HOST_NOT_ALLOWED,
    OUTCOME_UNKNOWN,
    UPSTREAM_UNREACHABLE,
    SERVICE_NOT_AVAILABLE,
    HTTP_VERSION_NOT_SUPPORTED,
)
"""In the order of the documents."""

LostCode = Literal["monitorExpired", "monitorUnauthorized", "monitorUnreachable", "deadlineExceeded", "watchStopped"]


class Loss(msgspec.Struct, frozen=True):
    """The error of a job that the gateway lost track of; the commands add `advice`."""

    message: str
    advice: str


LOSSES: dict[LostCode, Loss] = {
    "monitorExpired": Loss(f"Upstream no longer knows this job. {_GOES_ON}", LOOK_FIRST),
    "monitorUnauthorized": Loss(f"Upstream refuses access to the status of this job. {_GOES_ON}", LOOK_FIRST),
    "monitorUnreachable": Loss(
        f"The status of this job gave no usable answer for too long. {_GOES_ON}",
        f"{LOOK_FIRST} The gateway's operator should check that it reaches upstream.",
    ),
    "deadlineExceeded": Loss(
        f"The job did not end before the gateway's deadline. {_GOES_ON}",
        "It may still be running: look again later. GATEWAY_JOB_DEADLINE limits how long a job is polled.",
    ),
    "watchStopped": Loss(
        f"Watching was stopped by request. {_GOES_ON}",
        "Somebody stopped the watching: look for the result yourself.",
    ),
}


TROUBLES = {
    "throttled": "upstream asks for fewer polls",
    "unreachable": "upstream gives no usable answer; the gateway goes on asking",
    "doubted": "upstream says that it does not know the job, or denies access; the gateway makes sure",
    "tokenRequired": "hand in a fresh token with PUT to the job's URL and /token, under the jobKey",
}
"""By a trouble's code, what it means."""


class GatewayError(Exception):
    """An error that the caller is shown, in Graph's shape.

    `message` says what was wrong with which input and what to do; by default, like `retry_after` in seconds, it is its
    kind's. `ids` are upstream's own request ids, once it has answered.
    """

    def __init__(self, kind: ErrorKind, message: str | None = None, *, retry_after: int | None = None) -> None:
        super().__init__(message or kind.message)
        self.kind = kind
        self.message = message or kind.message
        self.retry_after = kind.retry_after if retry_after is None else retry_after
        self.ids: Mapping[str, str] = {}


class StoreUnavailable(Exception):
    """The store is full, locked, broken or away. Nothing was written, unless the answer to a commit was lost."""


class StoreRefused(Exception):
    """The store is in use, is no store of a gateway, or is newer than this gateway."""


def error_text(error: Exception) -> str:
    """An error of the store for the log; of an unforeseen one its type alone, since its text may hold data."""
    return str(error) if isinstance(error, StoreUnavailable) else type(error).__name__


def invalid(message: str) -> GatewayError:
    """400: the input is wrong; `message` names it and says what would be right."""
    return GatewayError(INVALID_REQUEST, message)


def outcome_unknown(why: str) -> GatewayError:
    """502: whether what was asked for runs cannot be known, so it must not be repeated blindly."""
    return GatewayError(OUTCOME_UNKNOWN, f"{why} {_MAY_RUN}")


def not_a_job(why: str) -> GatewayError:
    """502: upstream accepted the request, but its answer names nothing to watch."""
    return GatewayError(INVALID_UPSTREAM_RESPONSE, f"{why} {_MAY_RUN}")


def unavailable(why: str, retry_after: int | None = None) -> GatewayError:
    """503: nothing was started; `retry_after` in seconds."""
    return GatewayError(SERVICE_NOT_AVAILABLE, why, retry_after=retry_after)
