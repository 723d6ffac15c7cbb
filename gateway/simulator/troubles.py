"""Monitors that are throttled, broken, gone or wrong: the faults that a poller must survive."""

from __future__ import annotations

from datetime import timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from gateway.simulator.answers import HTML, TEXT, Answer, Delivery, document, encoded
from gateway.simulator.scenario import Monitor, Scenario, accepted_at, completed, plain, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.simulator.scenario import Moment

HUGE = 8 * 2**20  # bytes: far beyond a sensible limit for a state
THROTTLED = {"error": {"code": "activityLimitReached", "message": "The request has been throttled"}}
BUSY = {"error": {"code": "serviceNotAvailable", "message": "The service is temporarily unavailable."}}
GONE = {"error": {"code": "itemNotFound", "message": "The resource could not be found."}}
UNAUTHENTICATED = {"error": {"code": "unauthenticated", "message": "Authentication failed"}}
DENIED = {"error": {"code": "accessDenied", "message": "Access denied"}}
PAGE = b"<!DOCTYPE html><html><head><title>Sorry</title></head><body><h1>Something went wrong</h1></body></html>"


def troubled(trouble: Monitor) -> Monitor:
    """Return a monitor with the fault at the first of every `every` polls, and a plain response at the others."""
    return lambda moment: trouble(moment) if moment.troubled else plain(moment)


def _always(answer: Answer) -> Monitor:
    return lambda _: answer


def _shows(change: Callable[[Moment], dict[str, Any]]) -> Monitor:
    """Return a monitor of a running copy in which `change` replaces or adds fields."""
    return lambda moment: completed(moment) if moment.done else running(moment, **change(moment))


def _delivered(delivery: Delivery) -> Monitor:
    def monitor(moment: Moment) -> Answer:
        whole = plain(moment)
        # Padded, so that a dripping body outlasts every timeout and half a body is never the whole document.
        return Answer(whole.status, whole.body + b" " * 4096, delivery=delivery)

    return monitor


def _throttled(moment: Moment) -> Answer:
    if moment.poll == 1:
        return document(429, THROTTLED, {"Retry-After": "41"})
    if moment.waited < moment.bound:
        return document(429, THROTTLED, {"Retry-After": "315"})
    return plain(moment)


def _dated(moment: Moment) -> Answer:
    when = format_datetime(moment.now.replace(microsecond=0) + timedelta(seconds=2), usegmt=True)
    return document(503, BUSY, {"Retry-After": when})


def _huge(moment: Moment) -> Answer:
    head = encoded({"operation": "ItemCopy", "status": "inProgress", "percentageComplete": moment.percent})
    return Answer(202, head[:-1] + b',"statusDescription":"' + b"x" * HUGE + b'"}')


def _gone(status: int) -> Monitor:
    return lambda moment: document(status, GONE) if moment.part >= 0.5 else running(moment)


def _throttle_page(moment: Moment) -> Answer:
    return Answer(302, PAGE, HTML, {"Location": f"{moment.copy.origins.monitor}/_layouts/15/Throttle.htm"})


def _doubled(moment: Moment) -> Answer:
    percent = b'{"percentageComplete":0.0,"percentageComplete":%s,' % str(moment.percent).encode()
    if moment.done:
        rest = b'"status":"inProgress","resourceId":"%s","status":"completed"}' % moment.copy.resource_id.encode()
    else:
        rest = b'"status":"notStarted","operation":"ItemCopy","status":"inProgress"}'
    return Answer(202, percent + rest)


def _skewed(moment: Moment) -> Answer:
    whole = plain(moment)
    date = format_datetime(moment.now + timedelta(days=700), usegmt=True)
    return Answer(whole.status, whole.body, headers={"Date": date})


def _marked(moment: Moment) -> Answer:
    whole = plain(moment)
    return Answer(whole.status, b"\xef\xbb\xbf" + whole.body)


def _worded(run: str, end: str) -> Monitor:
    """Return a monitor with `run` as the status while the copy runs, and `end` as the final status."""
    return lambda m: (
        document(202, {"status": end, "percentageComplete": 100.0, "resourceId": m.copy.resource_id})
        if m.done
        else running(m, status=run)
    )


def _wordless(moment: Moment) -> Answer:
    return completed(moment) if moment.done else document(202, {"percentageComplete": moment.percent})


def _paused(moment: Moment) -> Answer:
    return running(moment, status="paused") if 0.3 <= moment.part < 0.7 else plain(moment)


def _fraction(moment: Moment) -> Answer:
    return (
        completed(moment, percentageComplete=1)
        if moment.done
        else running(moment, percentageComplete=round(moment.part, 3))
    )


def _without_percent(moment: Moment) -> Answer:
    return completed(moment) if moment.done else document(202, {"operation": "ItemCopy", "status": "inProgress"})


def _twice(name: str, summary: str, answer: Answer) -> Scenario:
    return Scenario(name, summary, troubled(_always(answer)), every=2)


def _accident(name: str, summary: str, delivery: Delivery) -> Scenario:
    return Scenario(name, summary, troubled(_delivered(delivery)), every=2)


THROTTLING = (
    Scenario("throttled", "429 with Retry-After 41 at first, and 315 for a poll before that time.", _throttled),
    _twice("retry-after", "429 with Retry-After: 1.", document(429, THROTTLED, {"Retry-After": "1"})),
    _twice("retry-after-none", "429 without Retry-After.", document(429, THROTTLED)),
    _twice("retry-after-garbage", "429 with Retry-After: soon.", document(429, THROTTLED, {"Retry-After": "soon"})),
    _twice("retry-after-negative", "429 with Retry-After: -5.", document(429, THROTTLED, {"Retry-After": "-5"})),
    _twice(
        "retry-after-long",
        "429 with Retry-After: 86400000.",
        document(429, THROTTLED, {"Retry-After": "86400000"}),
    ),
    Scenario("retry-after-date", "503 with Retry-After as a date, two seconds ahead.", troubled(_dated), every=2),
    Scenario(
        "retry-after-running",
        "202 with Retry-After: 2 in every response while it runs.",
        lambda m: plain(m) if m.done else Answer(202, running(m).body, headers={"Retry-After": "2"}),
    ),
    _twice(
        "rate-limit",
        "429 with RateLimit-Reset: 31 and no Retry-After.",
        document(429, THROTTLED, {"RateLimit-Limit": "1200", "RateLimit-Remaining": "0", "RateLimit-Reset": "31"}),
    ),
    _twice(
        "retry-after-digits",
        "429 with Retry-After of 400 digits.",
        document(429, THROTTLED, {"Retry-After": "9" * 400}),
    ),
    _twice("busy", "503 with Retry-After: 1.", document(503, BUSY, {"Retry-After": "1"})),
    _twice("busy-bare", "503 without Retry-After.", document(503, BUSY)),
    _twice("timeout-504", "504 in HTML.", Answer(504, PAGE, HTML)),
    _twice("bandwidth-509", "509, the bandwidth limit is exceeded.", document(509, THROTTLED)),
    Scenario("throttle-page", "302 to an error page in HTML.", troubled(_throttle_page), every=2),
)

BROKEN = (
    Scenario("expired-404", "The monitor is 404 from half-way on.", _gone(404)),
    Scenario("expired-410", "The monitor is 410 from half-way on.", _gone(410)),
    Scenario(
        "expired-after",
        "404 after the final status was reported.",
        lambda m: document(404, GONE) if m.end_seen else plain(m),
    ),
    _twice("glitch-404", "Temporary 404.", document(404, GONE)),
    Scenario(
        "unauthorized",
        "401 from the start, although no token was sent.",
        _always(document(401, UNAUTHENTICATED)),
    ),
    Scenario("forbidden", "403 from the start.", _always(document(403, DENIED))),
    _twice("glitch-401", "Temporary 401.", document(401, UNAUTHENTICATED)),
    _twice("unauthorized-html", "401 in HTML.", Answer(401, PAGE, HTML)),
    _twice("html", "200 with a page in HTML.", Answer(200, PAGE, HTML)),
    _twice("error-500", "500 in HTML.", Answer(500, PAGE, HTML)),
    _twice("empty-200", "200 with an empty body.", Answer(200, b"", None)),
    _twice("empty-202", "202 with an empty body.", Answer(202, b"", TEXT)),
    Scenario(
        "text-plain",
        "The right JSON under text/plain.",
        lambda m: Answer(plain(m).status, plain(m).body, TEXT),
    ),
    _twice("cut-json", "JSON that stops in the middle.", Answer(202, b'{"operation":"ItemCopy","percentageCompl')),
    _twice("not-an-object", "JSON, but a list.", Answer(202, b'["inProgress"]')),
    _twice("deep-json", "JSON nested 100,000 levels deep.", Answer(202, b"[" * 100_000)),
    _twice("not-utf8", "A body that is not UTF-8.", Answer(202, b'{"status":"inProgress\xff\xfe"}')),
    Scenario("huge", "A state of 8 MiB.", troubled(_huge), every=2),
    _accident("drip", "A body sent one byte at a time.", Delivery.DRIP),
    _accident("hang", "The monitor accepts the request and never responds.", Delivery.HANG),
    _accident("hang-body", "The headers are sent, the body never is.", Delivery.HANG_BODY),
    _accident("truncated", "The connection is closed before the announced length is reached.", Delivery.TRUNCATE),
    _accident("reset", "The connection is reset instead of a response.", Delivery.RESET),
    _accident("reset-body", "The connection is reset in the middle of the body.", Delivery.RESET_BODY),
    _accident("interim-flood", "Interim responses (102, 103) without end.", Delivery.INTERIM),
    _accident("header-flood", "Headers without end.", Delivery.HEADERS),
    _accident("endless-body", "A body without end.", Delivery.ENDLESS),
    Scenario(
        "connect-refused",
        "Connections to Location's host are refused.",
        start=lambda c: accepted_at(c.origins.refusing + c.monitor_path),
    ),
    Scenario(
        "connect-hang",
        "Connections to Location's host are never completed.",
        start=lambda c: accepted_at(c.origins.silent + c.monitor_path),
    ),
)

ODD = (
    Scenario("percent-fraction", "The percentage goes from 0 to 1.", _fraction),
    Scenario("percent-zero", "The percentage is 0.0 all the way.", _shows(lambda _: {"percentageComplete": 0.0})),
    Scenario("percent-missing", "No percentage.", _without_percent),
    Scenario("percent-null", "The percentage is null.", _shows(lambda _: {"percentageComplete": None})),
    Scenario("percent-text", "The percentage is a string.", _shows(lambda m: {"percentageComplete": str(m.percent)})),
    Scenario("percent-over", "The percentage exceeds 100.", _shows(lambda m: {"percentageComplete": m.percent * 2})),
    Scenario("percent-falling", "The percentage falls.", _shows(lambda m: {"percentageComplete": 100 - m.percent})),
    Scenario("percent-nan", "The percentage is NaN.", _shows(lambda _: {"percentageComplete": float("nan")})),
    Scenario("percent-negative", "The percentage is -1.", _shows(lambda _: {"percentageComplete": -1})),
    Scenario(
        "percent-wrong-type",
        "The percentage is an object.",
        _shows(lambda m: {"percentageComplete": {"value": m.percent}}),
    ),
    Scenario(
        "percent-twins",
        "percentComplete runs ahead of percentageComplete.",
        _shows(lambda m: {"percentageComplete": round(m.percent / 2, 1), "percentComplete": m.percent}),
    ),
    Scenario("status-case", "InProgress and Completed, with capitals.", _worded(run="InProgress", end="Completed")),
    Scenario("status-unknown", "The unknown status paused for a while.", _paused),
    Scenario("status-missing", "No status while it runs.", _wordless),
    Scenario(
        "stuck",
        "inProgress at 56 % forever.",
        lambda m: running(m, percentageComplete=min(m.percent, 56.0)),
        lands=False,
    ),
    Scenario(
        "stuck-not-started",
        "notStarted forever.",
        lambda m: running(m, status="notStarted", percentageComplete=0.0),
        lands=False,
    ),
    Scenario("skewed-date", "The Date header is two years ahead.", _skewed),
    Scenario("doubled-keys", "Duplicate keys; the last one counts.", _doubled),
    Scenario("byte-order-mark", "A byte order mark before the JSON.", _marked),
)
