"""Faults of the POST: invalid or unusual Locations, and refusals of copies that run anyway."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from gateway.simulator.answers import TEXT, Answer, Delivery, GraphError
from gateway.simulator.scenario import Scenario, Start, accepted, accepted_at

if TYPE_CHECKING:
    from gateway.simulator.scenario import Copy

COPIES_AT_ONCE = 10  # in one drive, after which "too-many" refuses
LONG = 4096  # characters of a Location: ARM requires its clients to support as many


def _located(name: str, summary: str, base: str) -> Scenario:
    """Return a scenario with a Location elsewhere that a client must not follow."""
    return Scenario(name, summary, start=lambda copy: accepted_at(base + copy.monitor_path))


def _long(copy: Copy) -> Answer:
    return accepted_at((copy.monitor_url + "&c=").ljust(LONG, "A"))


def operations_url(copy: Copy) -> str:
    ticket = base64.b64encode(b"https://contoso.queue.core.windows.net/ticket?sig=" + copy.token.encode()).decode()
    path = f"/personal/megan/_api/v2.1/drive/operations/{copy.operation}?c={ticket}&v=2.0&tempauth={copy.token}"
    return copy.origins.monitor + path


def _flipping(copy: Copy) -> Answer:
    return accepted(copy) if copy.number % 2 else accepted_at(operations_url(copy))


def _too_many(copy: Copy) -> Answer:
    if copy.number > COPIES_AT_ONCE:
        raise GraphError(500, "generalException", "An error occurred in the data store.")
    return accepted(copy)


def _raw(name: str, summary: str, *, path: str = "", request_id: str | None = None) -> Scenario:
    """Return a scenario whose 202 no well-behaved server sends: `path` stands before the monitor's own."""

    def start(copy: Copy) -> Answer:
        headers = {"Location": copy.origins.monitor + path + copy.monitor_path}
        if request_id is not None:
            headers["request-id"] = request_id
        return Answer(202, content_type=TEXT, headers=headers, delivery=Delivery.BYTES)

    return Scenario(name, summary, start=start)


def _cut(copy: Copy) -> Answer:
    return Answer(202, b"x" * 4096, TEXT, {"Location": copy.monitor_url}, Delivery.RESET_BODY)


def _said(error: GraphError) -> Start:
    return lambda _: error


def _answered(answer: Answer) -> Start:
    return lambda _: answer


def _runs_anyway(name: str, summary: str, start: Start) -> Scenario:
    return Scenario(name, summary, start=start, strict=True)


STARTS = (
    Scenario(
        "location-missing",
        "202 without Location.",
        start=_answered(Answer(202, content_type=TEXT)),
    ),
    Scenario("post-200-empty", "200 and an empty body; no Location.", start=_answered(Answer(200, content_type=None))),
    Scenario(
        "post-redirect",
        "307 to another host.",
        start=lambda c: Answer(
            307, content_type=TEXT, headers={"Location": f"{c.origins.foreign}/_foreign/{c.operation}"}
        ),
    ),
    Scenario("location-relative", "Location is a path only.", start=lambda c: accepted_at(c.monitor_path)),
    Scenario("location-long", "Location has 4,096 characters.", start=_long),
    _located("location-http", "Location is a SharePoint host, but http.", "http://contoso.sharepoint.com"),
    _located("location-loopback", "Location is another loopback address.", "http://127.0.0.2:9"),
    _located("location-loopback-6", "Location is the IPv6 loopback.", "https://[::1]"),
    _located("location-mapped", "Location is a loopback address mapped into IPv6.", "https://[::ffff:127.0.0.1]"),
    _located("location-link-local", "Location is the cloud's metadata address.", "http://169.254.169.254"),
    _located("location-unlisted", "Location is an unknown host.", "https://monitor.attacker.example"),
    _located(
        "location-lookalike",
        "Location's host only begins like SharePoint's.",
        "https://contoso.sharepoint.com.attacker.example",
    ),
    _located(
        "location-user-info",
        "Location hides its host behind user info.",
        "https://contoso.sharepoint.com@attacker.example",
    ),
    _located("location-file", "Location is a file URL.", "file://"),
    _raw("location-utf-8", "Location is not ASCII, in raw UTF-8.", path="/sites/B\u00fccher"),
    _raw("location-latin-1", "Location is not ASCII, in raw ISO-8859-1.", path="/sites/B\udcfccher"),
    _raw("location-space", "Location holds a space.", path="/sites/My Books"),
    _raw("request-id-control", "202 whose request-id holds control characters.", request_id="a\x01b\x7fc"),
    _raw("request-id-bytes", "202 whose request-id is neither ASCII nor UTF-8.", request_id="a\u65e5b\udcff"),
    Scenario("post-202-cut", "202 with Location, whose body breaks off.", start=_cut),
    Scenario("location-garbage", "Location is not a URL.", start=_answered(accepted_at("http://[not a url"))),
    _runs_anyway(
        "post-404-runs",
        "404 to the POST, although the copy runs; the same POST again is 409.",
        _said(GraphError(404, "itemNotFound", "The resource could not be found.")),
    ),
    _runs_anyway(
        "post-500-runs",
        "500, although the copy runs; the same POST again is 409.",
        _said(GraphError(500, "generalException", "General exception while processing")),
    ),
    _runs_anyway(
        "post-504-runs",
        "504, although the copy runs; the same POST again is 409.",
        _said(GraphError(504, "generalException", "The gateway timed out.")),
    ),
    _runs_anyway(
        "post-reset-runs",
        "The connection is reset, although the copy runs; the same POST again is 409.",
        _answered(Answer(202, delivery=Delivery.RESET)),
    ),
    _runs_anyway(
        "post-hang-runs",
        "No response, although the copy runs; the same POST again is 409.",
        _answered(Answer(202, delivery=Delivery.HANG)),
    ),
    Scenario(
        "location-operations",
        "Location in SharePoint's 2.1 form, with a long c.",
        start=lambda c: accepted_at(operations_url(c)),
    ),
    Scenario(
        "location-flip",
        "Location alternates between the 2.0 and the 2.1 form from copy to copy.",
        start=_flipping,
    ),
    Scenario("too-many", f"500 from the copy after the first {COPIES_AT_ONCE} in a drive.", start=_too_many),
)
