"""A callback (webhook): its requested events, its delivery progress and the consequence of each attempt.

A callback is a subscriber whose cursor is stored. It receives the requested events in the order of the log. After a
failed attempt the newest requested event supersedes the older events, so that a receiver that was away learns the
present state and not the history. The terminal event is always the newest event, and its first attempt is immediate.

Source of the retry schedule: the Standard Webhooks specification and the gateway's contract.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from gateway.core.addresses import origin
from gateway.core.errors import invalid
from gateway.core.job import Event, Kind, iso
from gateway.core.keys import is_webhook_secret, new_webhook_secret

WAITS = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
"""Retry schedule: seconds to wait after each failed attempt.

One more failure exhausts the callback if the log has ended.
"""
SPREAD = 0.2
"""Jitter of a wait, as a share of the wait."""
LONGEST_ASKED = 86400.0
"""Most seconds of one wait that a receiver asked for."""
GIVE_UP_AFTER = sum(WAITS)
"""Seconds after which a receiver that keeps asking for time is granted no more."""
LONGEST_URL = 2048
ERROR_TEXT = 256
HISTORY = 10
"""Attempts that are kept, the newest."""
KINDS: tuple[Kind, ...] = ("progress", "completed", "failed")
TERMINAL: tuple[Kind, ...] = ("completed", "failed")

CallbackState = Literal["active", "delivered", "exhausted", "gone"]


class CallbackRequest(msgspec.Struct, frozen=True):
    """A caller's request for a callback, validated except for the addresses of the URL.

    `own_secret` says that a header of a copy request named the secret, so that no response shows it.
    """

    url: str
    events: tuple[Kind, ...]
    secret: str
    own_secret: bool = False


class Attempt(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One attempt: when it began, in seconds since 1970, and how long it took, in milliseconds.

    `status` is that of the receiver's answer; without an answer, `error` says why there is none.
    """

    at: float
    duration: int
    status: int | None = None
    error: str | None = None


class DeliveryProgress(msgspec.Struct, frozen=True, omit_defaults=True):
    """The delivery progress of a callback.

    `cursor` is the number of the last event that was delivered or skipped, `tried` of the event last attempted.
    `attempts` counts the attempts at that event and at the events that it superseded. `failures` counts the attempts
    that used up a step of `WAITS`. The first attempt at the terminal event starts both counts anew. `since` is when the
    receiver began to ask for time, `due` when the next attempt may begin, both in seconds since 1970. `history` is the
    last `HISTORY` attempts at whichever event, the oldest first.
    """

    cursor: int = 0
    tried: int = 0
    attempts: int = 0
    failures: int = 0
    since: float = 0.0
    due: float = 0.0
    last_error: str | None = None
    history: tuple[Attempt, ...] = ()


class Callback(msgspec.Struct, frozen=True, kw_only=True):
    """A registered callback. Times in seconds since 1970.

    `with_copy` marks a callback that a copy request registered, `own_secret` one whose secret that request named.
    `finished_at` is when the callback left `active`.
    """

    id: str
    job_id: str
    url: str
    events: tuple[Kind, ...]
    secret: str
    created: float
    with_copy: bool = False
    own_secret: bool = False
    epoch: int = 1
    state: CallbackState = "active"
    finished_at: float | None = None
    progress: DeliveryProgress = DeliveryProgress()

    @property
    def origin(self) -> str:
        """The part of the URL that may be shown: scheme, host and port."""
        return origin(self.url)


class Delivered(msgspec.Struct, frozen=True):
    """The receiver answered 2xx."""

    status: int = 200


class Gone(msgspec.Struct, frozen=True):
    """The receiver answered 410: it wants no further deliveries."""

    status: int = 410


class Failed(msgspec.Struct, frozen=True):
    """Any other result. `retry_after` is in seconds, None unless the receiver asked for time.

    `status` is that of the receiver's answer, None without an answer.
    """

    reason: str
    retry_after: float | None = None
    status: int | None = None


Outcome = Delivered | Gone | Failed


def callback_request(url: object, events: object, secret: object = None) -> CallbackRequest:
    """Validate the members of a callback request.

    The default of `events` is the terminal events; a missing secret is generated. Raises GatewayError: 400.
    """
    if not isinstance(url, str) or not 0 < len(url) <= LONGEST_URL:
        raise invalid(f"The callback's url must be a text of at most {LONGEST_URL} characters.")
    if events is None:
        events = TERMINAL
    wanted = events if isinstance(events, list | tuple) else ()
    if not wanted or any(kind not in KINDS for kind in wanted):
        raise invalid(f"The callback's events must be one or more of {', '.join(KINDS)}.")
    if secret is None:
        secret = new_webhook_secret()
    if not isinstance(secret, str) or not is_webhook_secret(secret):
        raise invalid('The callback\'s secret must be "whsec_" and 24 to 64 bytes in base64, or be left out.')
    return CallbackRequest(url, tuple(kind for kind in KINDS if kind in wanted), secret)


def callback_request_from_headers(
    url: str | None, events: str | None, secret: str | None = None
) -> CallbackRequest | None:
    """The callback request in the headers of a copy request, None without the headers. Raises GatewayError: 400."""
    if url is None:
        for name, value in (("Events", events), ("Secret", secret)):
            if value is not None:
                raise invalid(f"Gateway-Callback-{name} needs a Gateway-Callback-Url. Nothing was started.")
        return None
    kinds = None if events is None else [kind.strip() for kind in events.split(",")]
    request = callback_request(url, kinds, secret)
    return msgspec.structs.replace(request, own_secret=secret is not None)


def new_callback(
    request: CallbackRequest, job_id: str, callback_id: str, now: float, *, with_copy: bool = False
) -> Callback:
    return Callback(
        id=callback_id,
        job_id=job_id,
        url=request.url,
        events=request.events,
        secret=request.secret,
        created=now,
        with_copy=with_copy,
        own_secret=request.own_secret,
    )


def webhook_message(callback: Callback, event: Event) -> tuple[str, bytes]:
    """The id and the JSON body of an event's message, the same at every attempt."""
    at = msgspec.json.decode(event.data)["at"]
    body = b'{"type":"job.%b","timestamp":"%b","data":%b}' % (event.kind.encode(), at.encode(), event.data)
    return f"msg_{callback.id}_{event.seq}", body


def superseded(callback: Callback) -> bool:
    """Whether the newest requested event is delivered next instead of the oldest."""
    return callback.progress.last_error is not None


def wait_before(callback: Callback, event: Event, now: float) -> float:
    """Seconds until an event may be attempted; `now` in seconds since 1970."""
    progress = callback.progress
    if progress.last_error is None or (event.terminal and event.seq != progress.tried):
        return 0.0
    # Bounded, since a clock that was set back must not stop deliveries for ever.
    return min(max(progress.due - now, 0.0), LONGEST_ASKED * (1 + SPREAD))


def after_attempt(
    callback: Callback,
    event: Event,
    outcome: Outcome,
    *,
    final: bool,
    begun: float,
    seconds: float,
    now: float,
    rng: random.Random,
) -> Callback:
    """The callback after an attempt at an event, which began at `begun` and took `seconds`.

    `final` says that the log has ended, so that no newer event can supersede this event. `begun` and `now` are in
    seconds since 1970.
    """
    old = callback.progress
    error = outcome.reason[:ERROR_TEXT] if isinstance(outcome, Failed) and outcome.status is None else None
    attempt = Attempt(begun, round(1000 * seconds), outcome.status, error)
    history = (*old.history[1 - HISTORY :], attempt)
    repeated = old.attempts > 0 and old.last_error is not None and not (event.terminal and event.seq != old.tried)
    attempts = old.attempts + 1 if repeated else 1
    if isinstance(outcome, Delivered):
        progress = DeliveryProgress(cursor=event.seq, tried=event.seq, attempts=attempts, history=history)
        delivered = msgspec.structs.replace(callback, progress=progress)
        return _ended(delivered, "delivered", now) if event.terminal else delivered
    failures, since = (old.failures, old.since) if repeated else (0, 0.0)
    if isinstance(outcome, Gone):
        reason, due, over = "410: the receiver wants no more", now, False
    else:
        reason = outcome.reason[:ERROR_TEXT]
        if outcome.retry_after is not None:
            # The receiver asked for time. This uses up no step of the schedule, but the shortest wait grows with each
            # attempt, and all waits together have the length of the schedule at most.
            since = since or now
            due = now + min(max(outcome.retry_after, min(attempts, 60)) * rng.uniform(1.0, 1.05), LONGEST_ASKED)
            over = due - since > GIVE_UP_AFTER
        else:
            failures += 1
            over = failures > len(WAITS)
            due = now + WAITS[min(failures, len(WAITS)) - 1] * rng.uniform(1 - SPREAD, 1 + SPREAD)
    progress = DeliveryProgress(
        cursor=old.cursor,
        tried=event.seq,
        attempts=attempts,
        failures=failures,
        since=since,
        due=due,
        last_error=reason,
        history=history,
    )
    failed = msgspec.structs.replace(callback, progress=progress)
    if isinstance(outcome, Gone):
        return _ended(failed, "gone", now)
    return _ended(failed, "exhausted", now) if over and final else failed


def delivered_all(callback: Callback, now: float) -> Callback:
    """The callback after the log has ended without a further requested event."""
    return _ended(callback, "delivered", now)


def retried(callback: Callback) -> Callback:
    """The callback under a new epoch, due at once, its retry schedule begun anew.

    A delivered callback is returned unchanged.
    """
    if callback.state == "delivered":
        return callback
    # The error stays, so that the newest event comes next: the receiver may have it already, and no older event may
    # follow it.
    old = callback.progress
    progress = DeliveryProgress(cursor=old.cursor, last_error=old.last_error, history=old.history)
    return msgspec.structs.replace(
        callback, epoch=callback.epoch + 1, state="active", finished_at=None, progress=progress
    )


def as_registered(callback: Callback) -> Mapping[str, Any]:
    """The JSON shown to the registrant: with the secret, which the receiver needs, unless the receiver has it."""
    content = {"id": callback.id, "url": callback.url, "events": callback.events}
    return content if callback.own_secret else content | {"secret": callback.secret}


def as_listed(callback: Callback) -> Mapping[str, Any]:
    """The JSON shown in lists: without the secret, and with the URL's origin only, since its path may be secret."""
    content: dict[str, Any] = {
        "id": callback.id,
        "url": callback.origin,
        "events": callback.events,
        "state": callback.state,
        "attempts": callback.progress.attempts,
    }
    if callback.progress.last_error is not None:
        content["lastError"] = callback.progress.last_error
        if callback.state == "active" and callback.progress.due:
            content["nextAttemptAt"] = iso(callback.progress.due)
    content["history"] = [_shown(attempt) for attempt in callback.progress.history]
    return content


def _shown(attempt: Attempt) -> Mapping[str, Any]:
    result = {"error": attempt.error} if attempt.status is None else {"status": attempt.status}
    return {"at": iso(attempt.at), **result, "durationMs": attempt.duration}


def _ended(callback: Callback, state: CallbackState, now: float) -> Callback:
    return msgspec.structs.replace(callback, state=state, finished_at=now)
