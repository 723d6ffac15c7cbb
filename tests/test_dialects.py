"""Every dialect a monitor was seen or feared to speak, as rows of one table."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.dialects import Lost, NoAnswer, Observation, Reply, Throttled, interpret, item_of, retry_after
from gateway.jobs import RUNNING, Answer, ErrorDetail, JobError

URL = "https://contoso.sharepoint.com/_api/v2.0/monitor/4A3407B5-88FC-4504-8B21-0AABD3412717?tempauth=eyJhbGciOi"
NOW = 1_790_000_000.0  # Mon, 21 Sep 2026 14:13:20 GMT
ITEM = "01MOWKYVJML57KN2ANMBA3JZJS2MBGC7KM"


def read(code: int, body: Any = b"", **headers: str) -> Observation:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    named = CIMultiDict((name.replace("_", "-"), value) for name, value in headers.items())
    return interpret(Reply(code, named, raw), URL, NOW)


def failure(code: str, message: str, *details: ErrorDetail) -> JobError:
    return JobError(code=code, message=message, origin="upstream", details=details)


RUNNING_WORDS = [(202, {"status": form(word)}, Answer(status=word)) for word in RUNNING for form in (str, str.upper)]

ANSWERS: list[tuple[int, Any, Answer]] = [
    *RUNNING_WORDS,
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
            error=failure("AccessDenied_X", "Upstream ended the copy as failed and gave no reason."),
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
    (202, b'\xef\xbb\xbf{"status":"inProgress"}', Answer(status="inProgress")),
    (202, b'{"status":"failed","status":"inProgress"}', Answer(status="inProgress")),
    (202, b'{"status":"inProgress","percentageComplete":NaN}', Answer(status="inProgress")),
]


@pytest.mark.parametrize(("code", "body", "expected"), ANSWERS)
def test_a_known_status_wins_over_the_code(code: int, body: Any, expected: Answer) -> None:
    """What the body says is what counts, whatever code it came under."""
    assert read(code, body) == expected


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
]


@pytest.mark.parametrize(("code", "body"), NOTHING)
def test_what_tells_nothing_is_no_answer(code: int, body: Any) -> None:
    """Empty, broken and foreign bodies are no usable answer."""
    assert isinstance(read(code, body), NoAnswer)


@pytest.mark.parametrize("body", [b"", b"<html>", {"status": "completed"}])
def test_codes_that_speak_of_the_monitor_itself(body: Any) -> None:
    """401, 403, 404, 410 and 429 go by the code, whatever the body says."""
    assert read(401, body) == Lost("monitorUnauthorized")
    assert read(403, body) == Lost("monitorUnauthorized")
    assert read(404, body) == Lost("monitorExpired")
    assert read(410, body) == Lost("monitorExpired")
    assert read(429, body) == Throttled(None)


def test_operation_not_found_is_an_expired_monitor() -> None:
    """The error code upstream gives at the end of a forgotten operation counts like a 404."""
    assert read(500, {"error": {"code": "operationNotFound", "message": "gone"}}) == Lost("monitorExpired")


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


def test_a_used_up_rate_limit_says_when() -> None:
    """Without Retry-After the RateLimit headers tell, once nothing remains."""
    assert retry_after(CIMultiDict({"RateLimit-Remaining": "0", "RateLimit-Reset": "31"}), NOW) == 31.0
    assert retry_after(CIMultiDict({"RateLimit-Remaining": "4", "RateLimit-Reset": "31"}), NOW) is None


def test_throttling_without_a_429() -> None:
    """503, 509 and the redirect to SharePoint's throttle page ask for fewer requests."""
    assert read(503) == Throttled(None)
    assert read(509) == Throttled(None)
    assert read(302, b"", Location="/_layouts/15/Throttle.htm") == Throttled(None)
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


def described(text: str) -> str | None:
    answer = read(202, msgspec.json.encode({"status": "inProgress", "statusDescription": text}))
    assert isinstance(answer, Answer)
    return answer.description


def test_texts_are_cut_and_cleaned() -> None:
    """Long texts are cut, control characters replaced."""
    assert described("x" * 2000) == "x" * 1024
    assert described("a\x00b\r\nc\u2028d") == "a\ufffdb\ufffd\ufffdc\ufffdd"
    assert described("Übergröße 3 €") == "Übergröße 3 €"
    assert read(202, {"status": "p" * 99}) == Answer(status="p" * 64)
    many = {"status": "failed", "error": {"details": [{"code": "c" * 99}] * 30}}
    answer = read(200, many)
    assert isinstance(answer, Answer)
    assert answer.error is not None
    assert len(answer.error.details) == 20
    assert answer.error.code == "c" * 64


def test_lone_surrogates_do_not_break_the_encoding() -> None:
    """A half pair of surrogates, legal in JSON text, is replaced before it reaches an event."""
    answer = interpret(Reply(202, CIMultiDict(), b'{"status":"inProgress","statusDescription":"a\\ud800b"}'), URL, NOW)
    assert isinstance(answer, Answer | NoAnswer)
    msgspec.json.encode(answer)


@pytest.mark.parametrize(
    "text",
    [
        f"see {URL}",
        URL.upper(),
        URL.replace("/", "%2F").replace(":", "%3A"),
        "contoso.sharepoint.com/_api/v2.0/monitor/4A3407B5-88FC-4504-8B21-0AABD3412717",
        "at /_api/v2.0/monitor/4A3407B5-88FC-4504-8B21-0AABD3412717?tempauth=eyJhbGciOi",
        "https://other/?TempAuth=abc",
        "blob?sv=1&sig=abc",
        "blob?sv=1&sig%3Dabc",
    ],
)
def test_texts_that_give_a_credential_away_are_dropped(text: str) -> None:
    """The monitor URL in any spelling, and tokens of its kind, do not get into an event."""
    assert described(text) is None


def repr_json(value: Any) -> bytes:

    return json.dumps(value).encode()


@given(
    st.integers(100, 599),
    st.dictionaries(st.sampled_from(["Retry-After", "Location", "Date", "RateLimit-Reset"]), st.text(max_size=40)),
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=30) | st.just(URL),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["status", "error", "details", "percentageComplete", "resourceId", "message", "code", "id"]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=8,
    ).map(repr_json),
)
def test_nothing_makes_it_fail_or_give_the_url_away(code: int, headers: dict[str, str], body: bytes) -> None:
    """Whatever comes is some observation, can be encoded, and does not hold the monitor URL."""
    observed = interpret(Reply(code, CIMultiDict(headers), body), URL, NOW)
    assert b"4A3407B5" not in msgspec.json.encode(observed)
