"""Every dialect a monitor was seen or feared to speak, as rows of one table."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from multidict import CIMultiDict

from gateway.core.job import FAILED, RUNNING, Answer, ErrorDetail, JobError
from gateway.graph.dialects import Lost, NoAnswer, Observation, Throttled, drive_of_path, interpret, item_of
from gateway.outbound.reply import Reply, retry_after

URL = "https://contoso.sharepoint.com/_api/v2.0/monitor/4A3407B5-88FC-4504-8B21-0AABD3412717?tempauth=eyJhbGciOi"
NOW = 1_790_000_000.0  # Mon, 21 Sep 2026 14:13:20 GMT
ITEM = "01MOWKYVJML57KN2ANMBA3JZJS2MBGC7KM"


def read(code: int, body: Any = b"", **headers: str) -> Observation:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    named = CIMultiDict((name.replace("_", "-"), value) for name, value in headers.items())
    return interpret(Reply(code, named, raw), URL, NOW)


def failure(code: str, message: str, *details: ErrorDetail) -> JobError:
    return JobError(code=code, message=message, origin="upstream", details=details)


GAVE_NO_REASON = "Upstream ended the copy as failed and gave no reason."

ANSWERS: list[tuple[int, Any, Answer]] = [
    (
        202,
        {"operation": "ItemCopy", "percentageComplete": 27.8, "status": "inProgress"},
        Answer(status="inProgress", operation="ItemCopy", percentage=27.8),
    ),
    (
        202,
        {"percentageComplete": 100.0, "resourceId": ITEM, "status": "completed"},
        Answer(status="completed", percentage=100.0, resource_id=ITEM),
    ),
    (200, {"status": "Completed", "resourceId": ITEM}, Answer(status="completed", resource_id=ITEM)),
    (303, {"status": "completed", "resourceId": ITEM}, Answer(status="completed", resource_id=ITEM)),
    (303, {"status": "inProgress"}, Answer(status="inProgress")),
    (500, {"status": "inProgress"}, Answer(status="inProgress")),
    (302, {"status": "waiting"}, Answer(status="waiting")),
    (
        200,
        {"status": "completed", "resourceLocation": f"https://x.sharepoint.com/_api/v2.0/drives/b!d/items/{ITEM}"},
        Answer(status="completed", resource_id=ITEM, drive_id="b!d"),
    ),
    (
        200,
        {"id": ITEM, "name": "copy", "folder": {}, "parentReference": {"driveId": "b!d"}},
        Answer(status="completed", resource_id=ITEM, drive_id="b!d"),
    ),
    (200, {"status": "paused"}, Answer(status="paused")),
    (202, {"percentageComplete": 12}, Answer(status=None, percentage=12.0)),
    (202, {"status": "inProgress", "statusDescription": "3/9"}, Answer(status="inProgress", description="3/9")),
    (
        200,
        {"status": "failed", "error": {"code": "nameAlreadyExists", "message": "Name already exists"}},
        Answer(status="failed", error=failure("nameAlreadyExists", "Name already exists")),
    ),
    (
        500,
        {"status": "failed", "errorCode": "AccessDenied_X", "percentageComplete": 0},
        Answer(
            status="failed",
            percentage=0.0,
            error=failure("AccessDenied_X", GAVE_NO_REASON),
        ),
    ),
    (
        200,
        {"status": "failed", "error": {"message": "two", "details": [{"code": "a", "message": "b", "target": "t"}]}},
        Answer(status="failed", error=failure("a", "two", ErrorDetail("a", "b", "t"))),
    ),
    (
        200,
        {"status": "deleteFailed", "statusDescription": "gone wrong"},
        Answer(status="deleteFailed", description="gone wrong", error=failure("deleteFailed", "gone wrong")),
    ),
    (
        200,
        {"status": "cancelled", "error": "a text"},
        Answer(status="cancelled", error=failure("cancelled", "a text")),
    ),
    (
        200,
        {
            "@odata.context": "https://https://contoso.sharepoint.com/_api/v2.1/$metadata#drives/$entity",
            "id": "049af13f-d177-4c14-aec0-eecb9ed6e4e9",
            "createdDateTime": "0001-01-01T00:00:00Z",
            "lastActionDateTime": "0001-01-01T00:00:00Z",
            "percentComplete": 100,
            "percentageComplete": 100,
            "resourceId": ITEM,
            "resourceLocation": f"https://contoso.sharepoint.com/sites/s/_api/v2.1/drives/b!d/items/{ITEM}",
            "status": "completed",
        },
        Answer(status="completed", percentage=100.0, resource_id=ITEM, drive_id="b!d"),
    ),
    (202, {"status": "InProgress", "percentComplete": "35"}, Answer(status="inProgress", percentage=35.0)),
    (202, {"status": " completed\n"}, Answer(status="completed")),
    (200, {"status": "completed", "resourceId": ""}, Answer(status="completed")),
    (200, {"status": "completed", "resourceId": 7, "operation": []}, Answer(status="completed")),
    (
        200,
        {"status": "completed", "resourceId": "01A", "resourceLocation": "https://x/_api/v2.0/drives/b!d/items/01B"},
        Answer(status="completed", resource_id="01A", drive_id="b!d"),
    ),
    (
        200,
        {"status": "completed", "resourceId": ITEM, "resourceLocation": "https://x/_api/v2.0/lists/1"},
        Answer(status="completed", resource_id=ITEM),
    ),
    (200, {"status": "succeeded"}, Answer(status="succeeded")),
    (200, {"status": "running", "operation": "Clone"}, Answer(status="running", operation="Clone")),
    (200, {"id": ITEM, "file": {"mimeType": "text/plain"}}, Answer(status="completed", resource_id=ITEM)),
    (200, {"id": ITEM, "package": {}, "parentReference": "x"}, Answer(status="completed", resource_id=ITEM)),
    (202, {"error": {"code": "operationNotFound"}, "status": "inProgress"}, Answer(status="inProgress")),
    (202, b'\xef\xbb\xbf{"status":"inProgress"}', Answer(status="inProgress")),
    (202, b' \r\n{"status":"inProgress"}\n', Answer(status="inProgress")),
    (
        202,
        '{"status":"inProgress","statusDescription":"\u00fc"}'.encode(),
        Answer(status="inProgress", description="\u00fc"),
    ),
    (202, b'{"status":"inProgress","percentageComplete":-Infinity}', Answer(status="inProgress")),
    (202, b'{"status":"inProgress","percentageComplete":1e999}', Answer(status="inProgress")),
    (202, b'{"status":"inProgress","x":' + b"[" * 500 + b"]" * 500 + b"}", Answer(status="inProgress")),
    (202, b'{"status":"failed","status":"inProgress"}', Answer(status="inProgress")),
    (202, b'{"status":"inProgress","percentageComplete":NaN}', Answer(status="inProgress")),
]


@pytest.mark.parametrize(("code", "body", "expected"), ANSWERS)
def test_a_known_status_wins_over_the_code(code: int, body: Any, expected: Answer) -> None:
    """What the body says is what counts, whatever code it came under."""
    assert read(code, body) == expected


@pytest.mark.parametrize("code", [200, 202, 303, 500, 503, 418])
@pytest.mark.parametrize("spelling", [str, str.upper, str.lower, str.capitalize, str.swapcase])
@pytest.mark.parametrize("word", [*RUNNING, "completed", *FAILED])
def test_the_ten_words_in_any_case_under_any_code(code: int, spelling: Callable[[str], str], word: str) -> None:
    """Each comes out in Graph's own spelling; a failed one has an error."""
    answer = read(code, {"status": spelling(word), "percentageComplete": 40, "resourceId": "01A"})
    assert isinstance(answer, Answer)
    assert (answer.status, answer.percentage, answer.resource_id) == (word, 40.0, "01A")
    assert (answer.error is not None) == (word in FAILED)


@pytest.mark.parametrize("code", [200, 202, 303])
@pytest.mark.parametrize("location", [None, f"https://graph.microsoft.com/v1.0/drives/b!d/items/{ITEM}", "/elsewhere"])
def test_completed_under_each_of_its_codes_with_and_without_location(code: int, location: str | None) -> None:
    """The body's id wins; the target of a 303, and of nothing else, adds what it names."""
    named = {"Location": location} if location else {}
    drive = "b!d" if code == 303 and location and ITEM in location else None
    expected = Answer(status="completed", resource_id="01A", drive_id=drive)
    assert read(code, {"status": "completed", "resourceId": "01A"}, **named) == expected


NOTHING: list[tuple[int, Any]] = [
    (200, b""),
    (202, b""),
    (202, b"accepted"),
    (200, b"<html>sorry</html>"),
    (202, b'{"status":"inProg'),
    (202, b'["inProgress"]'),
    (202, b'"inProgress"'),
    (202, b"\xff\xfe{}"),
    (200, {"percentageComplete": 12}),
    (202, {"status": 7}),
    (202, {"status": ""}),
    (500, {"status": "paused"}),
    (500, b"<html>"),
    (504, b""),
    (302, b""),
    (307, b"{}"),
    (400, {"error": {"code": "invalidRequest"}}),
    (200, b"[" * 100_000),
    (200, b'{"a":' * 100_000),
    (200, b'{"status":' + b"[" * 100_000),
    (200, {"status": None, "id": "01A"}),
    (200, {"status": ["completed"]}),
    (200, {"id": 7, "file": {}}),
    (200, {"id": ITEM, "name": "no facet"}),
    (204, b""),
    (302, b'{"percentageComplete":12}'),
    (301, b'{"id":"01A","file":{}}'),
    (405, b""),
    (202, b"null"),
    (202, b"NaN"),
    (202, b'{"status":"inProgress"} trailing'),
    (202, b'{"status":"inProgress",}'),
    (202, b'{"percentageComplete":"NaN"}'),
    (202, b'{"n":' + b"9" * 5000 + b"}"),
]


@pytest.mark.parametrize(("code", "body"), NOTHING)
def test_what_tells_nothing_is_no_answer(code: int, body: Any) -> None:
    """Empty, broken and foreign bodies are no usable answer."""
    assert isinstance(read(code, body), NoAnswer)


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
        ("/v1.0/drives('d')/items('i')", "i", "d"),
        ("/v1.0/drives('me')/items('')", None, None),
        ("https://graph.microsoft.com/v1.0/me/drive", None, None),
        ("https://api.onedrive.com/items/a%20b", "a b", None),
        ("http://[broken", None, None),
    ],
)
def test_a_303_is_completed_with_its_items_id(location: str, item: str | None, drive: str | None) -> None:
    """A 303 ends the job; its target gives the id when it is an item."""
    assert read(303, b"", Location=location) == Answer(status="completed", resource_id=item, drive_id=drive)
    assert item_of(location) == ((item, drive) if item else None)


def test_a_303_without_location_or_body_is_completed() -> None:
    """The OneDrive documents show a 303 and no target."""
    assert read(303) == Answer(status="completed")


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
    assert isinstance(read(302, b"", Location="/login"), NoAnswer)
    assert isinstance(read(200, b"<html>", Location="/_layouts/15/Throttle.htm"), NoAnswer)
    assert read(429, {"error": {"code": "activityLimitReached"}}, Retry_After="41") == Throttled(41.0)
    assert read(503, b"<html>", Retry_After="Mon, 21 Sep 2026 14:13:51 GMT") == Throttled(31.0)
    assert read(503, {"status": "inProgress"}, Retry_After="3") == Answer(status="inProgress", retry_after=3.0)


@pytest.mark.parametrize(
    ("body", "percentage"),
    [
        ({"percentageComplete": 0}, 0.0),
        ({"percentageComplete": 100}, 100.0),
        ({"percentageComplete": "27.8"}, 27.8),
        ({"percentageComplete": " 5 "}, 5.0),
        ({"percentageComplete": 27.8, "percentComplete": 30}, 30.0),
        ({"percentageComplete": 40, "percentComplete": 101}, 40.0),
        ({"percentageComplete": -1}, None),
        ({"percentageComplete": 100.1}, None),
        ({"percentageComplete": "1e999"}, None),
        ({"percentageComplete": "12 %"}, None),
        ({"percentageComplete": "nan"}, None),
        ({"percentageComplete": True}, None),
        ({"percentageComplete": None}, None),
        ({"percentageComplete": [1]}, None),
        ({}, None),
    ],
)
def test_percentages(body: dict[str, Any], percentage: float | None) -> None:
    """Numbers, also as text, from 0 to 100; anything else is dropped."""
    assert read(202, {"status": "inProgress", **body}) == Answer(status="inProgress", percentage=percentage)


@pytest.mark.parametrize(
    ("path", "drive"),
    [
        ("/drives/b!x/root:/Documents", "b!x"),
        ("drives/b!x/root:", "b!x"),
        ("/drives/b%21x", "b!x"),
        ("/drive/root:/Documents", None),
        ("/me/drives/b!x/root:", None),
        ("/drives//root:", None),
        ("/drivesx/b", None),
        ("", None),
        (None, None),
        (["/drives/b!x"], None),
    ],
)
def test_the_drive_that_a_path_names(path: object, drive: str | None) -> None:
    """As in `parentReference.path`; any other path names none."""
    assert drive_of_path(path) == drive


def test_both_percentages_stand_and_the_larger_counts_whichever_it_is() -> None:
    """Also when one of them is text, or is dropped."""
    for body in ({"percentageComplete": 1, "percentComplete": 30}, {"percentageComplete": "30", "percentComplete": 1}):
        assert read(202, {"status": "inProgress", **body}) == Answer(status="inProgress", percentage=30.0)
    answer = read(202, {"status": "inProgress", "percentageComplete": 200, "percentComplete": -3})
    assert answer == Answer(status="inProgress")
