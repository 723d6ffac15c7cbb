"""Codes that decide by themselves: a lost monitor, redirects, throttling and the waits that they ask for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from multidict import CIMultiDict

from gateway.core.job import Answer
from gateway.graph.dialects import Lost, NoAnswer, Throttled, has_known_status, item_of
from gateway.outbound.reply import Reply, retry_after
from tests.graph.test_dialects import ITEM, NOW, read

GENERAL = {"error": {"code": "generalException", "message": "General Exception While Processing"}}


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"RPS error", {"status": "completed"}, GENERAL, [], {"code": "notFound"}]
)
def test_codes_that_speak_of_the_monitor_itself(body: Any) -> None:
    """401, 403, 404, 410 and 429 go by the code, whatever the body says; without an error code they are doubtful."""
    assert read(401, body) == Lost("monitorUnauthorized", plain=False)
    assert read(403, body) == Lost("monitorUnauthorized", plain=False)
    assert read(404, body) == Lost("monitorExpired", plain=False)
    assert read(410, body) == Lost("monitorExpired", plain=True)
    assert read(404, body, Retry_After="7") == Lost("monitorExpired", plain=False, retry_after=7.0)
    assert read(429, body) == Throttled(None)


ERROR_PLACES: list[Callable[[str], Any]] = [
    lambda code: {"error": {"code": code, "message": "m"}},
    lambda code: {"odata.error": {"code": code, "message": {"lang": "en-US", "value": "m"}}},
    lambda code: {"odata": {"error": {"code": code}}},
    lambda code: {"errorCode": code},
    lambda code: {"resultInfo": {"code": code}},
    lambda code: {"error": {"code": "BadRequest", "details": [{"code": code}, {"code": "other"}]}},
    lambda code: {"details": [{"code": code}]},
]


@pytest.mark.parametrize("spelling", [str, str.upper, str.lower])
@pytest.mark.parametrize("place", ERROR_PLACES)
@pytest.mark.parametrize(
    ("named", "plain"),
    [
        ("itemNotFound", True),
        ("resourceNotFound", True),
        ("notFound", True),
        ("operationNotFound", True),
        ("unauthenticated", True),
        ("InvalidAuthenticationToken", True),
        ("accessDenied", True),
        ("forbidden", True),
        ("generalException", False),
        ("serviceNotAvailable", False),
        ("itemNotFoundX", False),
    ],
)
def test_an_error_code_makes_a_loss_plain(
    named: str, place: Callable[[str], Any], spelling: Callable[[str], str], *, plain: bool
) -> None:
    """In any case, wherever error codes stand; any other code leaves it doubtful."""
    body = place(spelling(named))
    for code, lost in ((401, "monitorUnauthorized"), (403, "monitorUnauthorized"), (404, "monitorExpired")):
        assert read(code, body) == Lost(lost, plain=plain)  # type: ignore[arg-type]
    assert read(410, body) == Lost("monitorExpired", plain=True)


@pytest.mark.parametrize("place", ERROR_PLACES)
def test_operation_not_found_is_an_expired_monitor(place: Callable[[str], Any]) -> None:
    """The error code upstream gives at the end of a forgotten operation counts like a 410, whatever its code."""
    for code in (200, 303, 400, 500, 503):
        assert read(code, place("operationNotFound")) == Lost("monitorExpired", plain=True)
        assert read(code, place("OperationNotFound")) == Lost("monitorExpired", plain=True)
    assert read(500, place("operationNotFound"), Retry_After="7") == Lost("monitorExpired", retry_after=7.0)
    assert isinstance(read(500, place("generalException")), NoAnswer)
    assert isinstance(read(500, {"error": "operationNotFound"}), NoAnswer)


@pytest.mark.parametrize(
    ("location", "item", "drive"),
    [
        (f"https://graph.microsoft.com/v1.0/me/drive/items/{ITEM}", ITEM, None),
        (f"https://x.sharepoint.com/_api/v2.0/drives/b!1/items/{ITEM}?force303=1&tempauth=x", ITEM, "b!1"),
        (f"https://elsewhere.example/drives/b!1/items/{ITEM}", ITEM, "b!1"),
        (f"/v1.0/drives/b!1/items/{ITEM}/", ITEM, "b!1"),
        ("/v1.0/drives('d')/items('i')", "i", "d"),
        ("/v1.0/drives%28%27d%27%29/items%28%27i%21%27%29", "i!", "d"),
        ("/v1.0/drives('me')/items('D4648F06C91D9D3D!54927')", "D4648F06C91D9D3D!54927", None),
        ("/v1.0/drives/ME/items/1!2", "1!2", None),
        ("/v1.0/me/drives/b%211/items/1", "1", "b!1"),
        ("/v1.0/drives('me')/items('')", None, None),
        ("https://graph.microsoft.com/v1.0/me/drive", None, None),
        ("https://api.onedrive.com/items/a%20b", "a b", None),
        ("https://contoso.sharepoint.com/sites/layouts/page", None, None),
        ("/v1.0/drives/b!1/items/..", None, None),
        ("/v1.0/drives/b!1/items/%2e", None, None),
        ("/v1.0/drives/b!1/items/\udce9", None, None),
        ("/v1.0/drives/b!1/items/%E9", None, None),
        ("/v1.0/drives/b!1/items/%C3%A9", "é", "b!1"),
    ],
)
def test_a_303_is_completed_with_its_items_id(location: str, item: str | None, drive: str | None) -> None:
    """A 303 ends the job; its target gives the id when it is an item, wherever that is."""
    assert read(303, b"", Location=location) == Answer(status="completed", resource_id=item, drive_id=drive)
    assert item_of(location) == ((item, drive) if item else None)


@pytest.mark.parametrize("path", ["/Shared Documents/a.docx", "/x/Büro.docx", "/x/B\udcfcro.docx"])
def test_a_303_to_anything_else_is_completed(path: str) -> None:
    """Whatever bytes its path has, UTF-8 or not."""
    for location in (path, f"https://contoso.sharepoint.com{path}"):
        assert read(303, b"", Location=location) == Answer(status="completed")


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("https://contoso.sharepoint.com/_layouts/15/AccessDenied.aspx?Source=x", "page"),
        ("/sites/a/_LAYOUTS/15/start", "page"),
        ("/_forms/default.aspx?ReturnUrl=%2F_layouts", "page"),
        ("/%5Fforms/default", "page"),
        ("login.HTM", "page"),
        ("/x.aspx;jsessionid=1", "page"),
        ("https://login.example/signin.html", "page"),
        ("https://contoso.sharepoint.com/_layouts/15/items/01A", "page"),
        ("https://elsewhere.example/", "not allowed"),
        ("//elsewhere.example/v1.0/me/drive", "not allowed"),
        ("http://[broken", "no URL"),
    ],
)
def test_a_303_that_leads_away_is_no_answer(location: str, reason: str) -> None:
    """Pages for people and foreign hosts say nothing about the copy, unless the body does."""
    observed = read(303, b"", Location=location)
    assert isinstance(observed, NoAnswer)
    assert reason in observed.reason
    assert read(303, {"status": "completed"}, Location=location).status == "completed"  # type: ignore[union-attr]
    assert item_of("http://[broken") is None


def test_a_303_without_location_or_body_is_completed() -> None:
    """The OneDrive documents show a 303 and no target."""
    assert read(303) == Answer(status="completed")


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_another_redirect_is_no_answer_unless_the_body_says_more(code: int) -> None:
    """Whoever polls follows it, unless the body holds a known status."""
    for body, known in ((b"", False), ({"status": "Succeeded"}, True), ({"status": "paused"}, False), ([], False)):
        raw = msgspec.json.encode(body) if body else b""
        assert has_known_status(Reply(code, CIMultiDict(), raw)) == known
        assert isinstance(read(code, raw, Location=f"/v1.0/drives/b!1/items/{ITEM}"), Answer) == known


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("41", 41.0),
        (" 0 ", 0.0),
        ("1.5", 1.5),
        ("Mon, 21 Sep 2026 14:14:20 GMT", 60.0),
        ("Mon, 21 Sep 2026 14:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("Mon, 99 Sep 2026 14:14:20 GMT", None),
        ("9" * 400, 86400.0),
        ("9" * 400 + ".5", 86400.0),
        ("1e400", None),
        ("inf", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86400.0),
        ("86400000", 86400.0),
        ("30, 60", 60.0),
        ("30,", None),
        ("\u0664\u0661", None),
    ],
)
def test_retry_after_in_every_form(value: str, seconds: float | None) -> None:
    """Seconds, a date, garbage."""
    assert retry_after(CIMultiDict({"Retry-After": value}), NOW) == seconds
    assert read(503, b"", Retry_After=value) == Throttled(seconds)


def test_a_date_is_read_against_upstreams_own_clock() -> None:
    """Two clocks that differ do not change how long upstream asked to wait."""
    headers = CIMultiDict({"Retry-After": "Tue, 21 Sep 2027 00:00:31 GMT", "Date": "Tue, 21 Sep 2027 00:00:00 GMT"})
    assert retry_after(headers, NOW) == 31.0


@pytest.mark.parametrize(
    "date", ["Mon Sep 21 14:14:20 2026", "Mon, 21 Sep 2026 14:14:20", "Mon, 21 Sep 2026 14:14:20 -0000"]
)
@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
def test_a_date_without_a_zone_is_gmt(date: str, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP's old form names none; where the gateway runs must not matter."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert retry_after(CIMultiDict({"Retry-After": date}), NOW) == 60.0
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_garbled_date_header_leaves_the_gateways_own_clock() -> None:
    """A Retry-After date is then read against that."""
    headers = CIMultiDict({"Retry-After": "Mon, 21 Sep 2026 14:14:20 GMT", "Date": "yesterday"})
    assert retry_after(headers, NOW) == 60.0


def test_a_used_up_rate_limit_says_when() -> None:
    """Without Retry-After the RateLimit headers tell, once nothing remains."""
    assert retry_after(CIMultiDict({"RateLimit-Remaining": "0", "RateLimit-Reset": "31"}), NOW) == 31.0
    assert retry_after(CIMultiDict({"RateLimit-Remaining": "4", "RateLimit-Reset": "31"}), NOW) is None
    assert retry_after(CIMultiDict({"RateLimit-Remaining": "0"}), NOW) is None
    both = CIMultiDict({"Retry-After": "9", "RateLimit-Remaining": "0", "RateLimit-Reset": "31"})
    assert retry_after(both, NOW) == 9.0
    assert read(429, b"", **{"ratelimit-remaining": " 0 ", "ratelimit-reset": "31"}) == Throttled(31.0)


def test_throttling_without_a_429() -> None:
    """503, 509 and the redirect to SharePoint's throttle page ask for fewer requests."""
    assert read(503) == Throttled(None)
    assert read(509) == Throttled(None)
    assert read(302, b"", Location="/_layouts/15/Throttle.htm") == Throttled(None)
    assert read(302, b"<html>", Location="https://x.sharepoint.com/_layouts/15/THROTTLE.HTM") == Throttled(None)
    for end in ("", "?SourceUrl=/x", "#a"):
        assert read(303, b"", Location=f"/_layouts/15/Throttle.htm{end}") == Throttled(None)
    assert isinstance(read(302, b"", Location="/login"), NoAnswer)
    assert isinstance(read(200, b"<html>", Location="/_layouts/15/Throttle.htm"), NoAnswer)
    assert read(429, {"error": {"code": "activityLimitReached"}}, Retry_After="41") == Throttled(41.0)
    assert read(503, b"<html>", Retry_After="Mon, 21 Sep 2026 14:13:51 GMT") == Throttled(31.0)
    assert read(503, {"status": "inProgress"}, Retry_After="3") == Answer(status="inProgress", retry_after=3.0)
