"""Every dialect a monitor was seen or feared to speak, as rows of one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from multidict import CIMultiDict

from gateway.core.job import FAILED, PARTIAL, STATUSES, Answer, ErrorDetail, JobError, Target, accepted, advance
from gateway.graph.dialects import NoAnswer, Observation, drive_of_path, interpret
from gateway.outbound.reply import Reply

URL = "https://contoso.sharepoint.com/_api/v2.0/monitor/4A3407B5-88FC-4504-8B21-0AABD3412717?tempauth=eyJhbGciOi"
NOW = 1_790_000_000.0  # Mon, 21 Sep 2026 14:13:20 GMT
ITEM = "01MOWKYVJML57KN2ANMBA3JZJS2MBGC7KM"


def read(code: int, body: Any = b"", **headers: str) -> Observation:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    named = CIMultiDict((name.replace("_", "-"), value) for name, value in headers.items())
    return interpret(Reply(code, named, raw), URL, NOW, allowed=allowed)


def allowed(url: str) -> bool:
    return urlsplit(url).hostname != "elsewhere.example"


def failure(code: str, message: str, *details: ErrorDetail) -> JobError:
    return JobError(code=code, message=message, origin="upstream", details=details)


GAVE_NO_REASON = "Upstream ended the job as failed and gave no reason."

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
    (200, {"status": "Succeeded"}, Answer(status="completed")),
    (
        200,
        {"status": "succeeded", "targetResourceId": "T", "targetResourceLocation": "/teams('T')"},
        Answer(status="completed", resource_id="T"),
    ),
    (
        200,
        {"status": "succeeded", "targetResourceLocation": "/v1.0/drives('b!d')/items('01B')"},
        Answer(status="completed", resource_id="01B", drive_id="b!d"),
    ),
    (
        200,
        {"status": "partiallySucceeded", "resultInfo": {"code": 207, "subcode": 0, "message": "3 items were skipped"}},
        Answer(status="partiallySucceeded", error=failure("207", "3 items were skipped")),
    ),
    (200, {"status": "running", "operation": "Clone"}, Answer(status="running", operation="Clone")),
    (200, {"id": ITEM, "file": {"mimeType": "text/plain"}}, Answer(status="completed", resource_id=ITEM)),
    (200, {"id": ITEM, "package": {}, "parentReference": "x"}, Answer(status="completed", resource_id=ITEM)),
    (
        200,
        {"id": ITEM, "file": {}, "parentReference": {"path": "/drives/b!p/root:/a"}},
        Answer(status="completed", resource_id=ITEM, drive_id="b!p"),
    ),
    (
        200,
        {"status": "completed", "resourceId": "D4648F06C91D9D3D%2154927"},
        Answer(status="completed", resource_id="D4648F06C91D9D3D!54927"),
    ),
    (200, {"status": "completed", "resourceId": "a%FFb%"}, Answer(status="completed", resource_id="a%FFb%")),
    (
        200,
        {"status": "completed", "resourceId": "1!2", "resourceLocation": "https://x/v1.0/drives('me')/items('1!2')"},
        Answer(status="completed", resource_id="1!2"),
    ),
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
@pytest.mark.parametrize("word", [*STATUSES, "succeeded"])
def test_the_known_words_in_any_case_under_any_code(code: int, spelling: Callable[[str], str], word: str) -> None:
    """Each comes out in Graph's own spelling; a failed one has an error, and so has one that left something out."""
    answer = read(code, {"status": spelling(word), "percentageComplete": 40, "resourceId": "01A"})
    assert isinstance(answer, Answer)
    shown = "completed" if word == "succeeded" else word
    assert (answer.status, answer.percentage, answer.resource_id) == (shown, 40.0, "01A")
    assert (answer.error is not None) == (word in FAILED or word in PARTIAL)


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
    (202, b'{"status":"inProg\xff\xfe"}'),
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


@pytest.mark.parametrize(
    ("body", "percentage"),
    [
        ({"percentageComplete": 0}, 0.0),
        ({"percentageComplete": 100}, 100.0),
        ({"percentageComplete": "27.8"}, 27.8),
        ({"percentageComplete": " 5 "}, 5.0),
        ({"percentageComplete": 27.8, "percentComplete": 30}, 30.0),
        ({"percentageComplete": 40, "percentComplete": 101}, 40.0),
        ({"percentProgress": 60}, 60.0),
        ({"percentageComplete": 0, "percentComplete": "35", "percentProgress": 60.5}, 60.5),
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
        ("/drives('b!x')/root:", "b!x"),
        ("/drives/me/root:", None),
        ("/drives('me')/root:", None),
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


def test_an_id_that_comes_percent_encoded_is_encoded_once() -> None:
    """In the path of the result, which is then that of the same id as it is."""
    for named in ("D4648F06C91D9D3D%2154927", "D4648F06C91D9D3D!54927"):
        job, _ = accepted("j", monitor=URL, target=Target(prefix="me/drive"), now=NOW)
        answer = read(200, {"status": "completed", "resourceId": named})
        assert isinstance(answer, Answer)
        job, _ = advance(job, answer, NOW)
        assert job.state.resource == "/v1.0/me/drive/items/D4648F06C91D9D3D!54927"
