"""The shapes in which upstream says why: each gives its code, its message and its details."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.job import PARTIAL, ErrorDetail
from gateway.graph.failures import error_codes, job_error

URL = "https://contoso.sharepoint.com/_api/v2.0/monitor/4A3407B5-88FC-4504-8B21-0AABD3412717?tempauth=eyJhbGciOi"
SHAREPOINT: dict[str, Any] = {
    "code": "-2147024891, System.UnauthorizedAccessException",
    "message": {"lang": "en-US", "value": "No."},
}
UNTOLD = "Upstream ended the job as failed and gave no reason."

SHAPES: list[tuple[dict[str, Any], str, str]] = [
    ({"error": {"code": "a", "message": {"lang": "en-US", "value": "m"}}}, "a", "m"),
    ({"odata.error": SHAREPOINT}, "-2147024891, System.UnauthorizedAccessException", "No."),
    ({"odata": {"error": SHAREPOINT}}, "-2147024891, System.UnauthorizedAccessException", "No."),
    ({"error": {"message": "m"}, "odata.error": SHAREPOINT}, SHAREPOINT["code"], "m"),
    ({"odata.error": {"code": "a"}, "errorCode": "b", "errorMessage": "m"}, "a", "m"),
    ({"errorCode": "b", "errorMessage": "m", "statusDescription": "s"}, "b", "m"),
    ({"error": {"errorCode": "b", "errorMessage": "m"}}, "b", "m"),
    ({"errorCode": -2147024894}, "-2147024894", UNTOLD),
    ({"error": {"code": 500.0, "message": "m"}}, "500", "m"),
    ({"error": {"code": 12.5}}, "12.5", UNTOLD),
    ({"error": {"code": -2147024894.0}}, "-2147024894", UNTOLD),
    ({"error": {"code": float("inf")}}, "failed", UNTOLD),
    ({"error": {"code": True, "message": True}}, "failed", UNTOLD),
    ({"error": {"code": float("nan")}}, "failed", UNTOLD),
    ({"error": {"code": 10**400}}, "failed", UNTOLD),
    ({"resultInfo": {"code": 500, "subcode": 7, "message": "m"}}, "500", "m"),
    ({"errorCode": "b", "resultInfo": {"code": 500, "message": "m"}}, "b", "m"),
    ({"resultInfo": {"code": 500}, "details": [{"code": "c", "message": "d"}]}, "500", "d"),
    ({"error": "a text"}, "failed", "a text"),
    ({"error": "a text", "errorCode": "b"}, "b", "a text"),
    ({"error": json.dumps({"code": "a", "message": "m"})}, "a", "m"),
    ({"error": json.dumps({"error": {"code": "a", "message": "m"}})}, "a", "m"),
    ({"error": json.dumps({"odata.error": SHAREPOINT})}, SHAREPOINT["code"], "No."),
    ({"error": {"code": "a", "message": json.dumps({"error": {"message": "m"}})}}, "a", "m"),
    ({"error": {"code": "a", "message": json.dumps({"lang": "en-US", "value": "m"})}}, "a", "m"),
    ({"error": {"code": "a", "message": '{"x":1}'}}, "a", '{"x":1}'),
    ({"error": {"code": "a", "message": "{no JSON}"}}, "a", "{no JSON}"),
    ({"errorMessage": '{"error":"m"}'}, "failed", "m"),
    ({"statusDetail": "d"}, "failed", "d"),
    ({"statusDescription": "s", "statusDetail": "d"}, "failed", "s"),
    ({"odata": 7, "resultInfo": [], "odata.error": None, "details": {}}, "failed", UNTOLD),
]


@pytest.mark.parametrize(("doc", "code", "message"), SHAPES)
def test_the_code_and_the_message(doc: dict[str, Any], code: str, message: str) -> None:
    """The most telling place wins, for each of the two on its own."""
    error = job_error(doc, "failed", (URL,))
    assert (error.code, error.message, error.origin) == (code, message, "upstream")


@pytest.mark.parametrize("place", ["error", "odata.error", "resultInfo", None])
def test_details(place: str | None) -> None:
    """Wherever they stand; a number for a code and a message with its language are read there, too."""
    listed = [{"code": 5, "message": {"lang": "de", "value": "m"}, "target": "t"}, None, {"code": "second"}]
    error = job_error({place: {"details": listed}} if place else {"details": listed}, "failed", (URL,))
    assert error.details == (ErrorDetail("5", "m", "t"), ErrorDetail("second"))
    assert (error.code, error.message) == ("5", "m")


@pytest.mark.parametrize("status", PARTIAL)
def test_what_a_partial_success_left_out(status: str) -> None:
    """In upstream's words, else in general ones; it has not failed."""
    assert job_error({"statusDescription": "2 of 9 skipped"}, status, (URL,)).message == "2 of 9 skipped"
    error = job_error({}, status, (URL,))
    assert (error.code, error.message) == (
        status,
        f"Upstream ended the job as {status} and did not say what was left out.",
    )


def test_error_codes_are_found_in_all_places() -> None:
    """In lower case; of the details the first alone, and no number."""
    doc = {
        "error": {"code": " A ", "details": [{"code": "B"}, {"code": "C"}]},
        "odata.error": {"code": "D"},
        "odata": {"error": {"code": "E"}},
        "errorCode": "F",
        "resultInfo": {"code": 7},
    }
    assert error_codes(doc) == {"a", "b", "d", "e", "f"}
    assert error_codes({"error": "itemNotFound", "code": "itemNotFound"}) == frozenset()
    assert error_codes({"error": '{"code":"itemNotFound"}'}) == {"itemnotfound"}
