"""Status words and error shapes of Graph's other operations, unusual ids, and bodies in other encodings."""

from __future__ import annotations

import gzip
import json
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

from gateway.simulator.answers import JSON, Answer, document
from gateway.simulator.scenario import Scenario, completed, ending, plain, running
from gateway.simulator.troubles import troubled

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.simulator.scenario import Moment, Monitor

BOMB = 64 * 2**20  # bytes that a compressed state of 64 KiB holds
DESCRIPTION = "Größe geprüft"  # in Latin-1 and its like
WORDS = ("accepted", "active", "draft", "activating", "running", "unspecified", "unknown", "unknownFutureValue")
SHAREPOINT = {"code": "-2130575338, SPException", "message": {"lang": "en-US", "value": "The list does not exist."}}
QUOTA = {"code": "quotaLimitReached", "message": "The disk is full."}


def _words(moment: Moment) -> Answer:
    if moment.done:
        return document(200, {"status": "Succeeded", "resourceId": moment.copy.resource_id})
    return running(moment, status=WORDS[int(moment.part * len(WORDS))])


def _fails(name: str, summary: str, state: dict[str, Any], status: str = "failed") -> Scenario:
    """Return a scenario that ends with this status and state."""
    return Scenario(name, summary, ending(lambda _: document(200, {"status": status} | state)), lands=False)


def _partial(name: str, summary: str, status: str, **state: Any) -> Scenario:
    def end(moment: Moment) -> Answer:
        return document(200, {"status": status, "resourceId": moment.copy.resource_id} | state)

    return Scenario(name, summary, ending(end))


def _percent_progress(moment: Moment) -> Answer:
    return document(
        200,
        {"action": "exportResult", "percentProgress": round(moment.percent), "status": "running"}
        if not moment.done
        else {"status": "succeeded", "percentProgress": 100, "resourceId": moment.copy.resource_id},
    )


def _target(moment: Moment) -> Answer:
    copy = moment.copy
    state = {"id": copy.operation, "operationType": "cloneTeam", "attemptsCount": 1}
    if not moment.done:
        return document(200, state | {"status": "inProgress", "targetResourceId": None})
    location = f"/drives('{copy.drive_id}')/items('{copy.resource_id}')"
    return document(
        200,
        state | {"status": "succeeded", "targetResourceId": copy.resource_id, "targetResourceLocation": location},
    )


def _encoded_id(moment: Moment) -> Answer:
    identity = moment.copy.resource_id
    return completed(moment, resourceId=f"%{ord(identity[0]):02X}{identity[1:]}")


def _later(moment: Moment) -> Answer:
    return completed(moment) if moment.end_seen else document(200, {"status": "completed", "percentageComplete": 100})


SHAPES = (
    Scenario("other-words", "Every status of other operations while they run, then Succeeded.", _words),
    _partial(
        "partially-succeeded",
        "Ends as partiallySucceeded, with a resultInfo.",
        "partiallySucceeded",
        resultInfo={"code": 207, "subcode": 12, "message": "3 of 40 items were skipped."},
    ),
    _partial(
        "completed-with-error",
        "Ends as completedWithError, with an error.",
        "completedWithError",
        error={"code": "accessDenied", "message": "One artifact could not be restored."},
    ),
    _partial("completed-with-errors", "Ends as completedWithErrors, without a reason.", "completedWithErrors"),
    _fails("canceled", "Ends as Canceled, with one l.", {}, "Canceled"),
    _fails("submission-failed", "Ends as submissionFailed.", {"statusDetail": "Not submitted."}, "submissionFailed"),
    _fails("invalid", "Ends as invalid.", {}, "invalid"),
    _fails("error-odata", "The error is OData 3's.", {"odata.error": SHAREPOINT}),
    _fails("error-odata-nested", "The same, nested.", {"odata": {"error": SHAREPOINT}}),
    _fails("error-number", "The error's code is a number.", {"error": {"code": 5, "message": "No."}}),
    _fails("error-string", "The error is a string.", {"error": "The disk is full."}),
    _fails("error-json-string", "The error is JSON within a string.", {"error": json.dumps({"error": QUOTA})}),
    _fails("error-message", "errorCode and errorMessage.", {"errorCode": "AccessDenied", "errorMessage": "No access."}),
    _fails(
        "error-result",
        "The reason is in resultInfo.",
        {"resultInfo": {"code": 500, "subcode": 7, "message": "The export failed."}},
    ),
    Scenario("percent-progress", "The percentage is called percentProgress.", _percent_progress),
    Scenario("target-resource", "targetResourceId and targetResourceLocation, as Teams has them.", _target),
    Scenario("id-encoded", "The resourceId is percent-encoded.", ending(_encoded_id)),
    Scenario("id-later", "Completed without a resourceId, which is there one poll later.", ending(_later)),
)


def _as(encode: Callable[[bytes], bytes], coding: str) -> Monitor:
    """Return a monitor whose bodies have a Content-Encoding, although none was asked for."""

    def monitor(moment: Moment) -> Answer:
        whole = plain(moment)
        return Answer(whole.status, encode(whole.body), headers={"Content-Encoding": coding})

    return monitor


def _raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


@cache
def _packed_bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS + 16)
    block = b"x" * 2**20
    packed = packer.compress(b'{"status":"inProgress","statusDescription":"')
    packed += b"".join(packer.compress(block) for _ in range(BOMB // len(block)))
    return packed + packer.compress(b'"}') + packer.flush()


def _bomb(_: Moment) -> Answer:
    return Answer(202, _packed_bomb(), headers={"Content-Encoding": "gzip"})


def _cut(moment: Moment) -> Answer:
    body = _gzip(plain(moment).body)
    return Answer(202, body[: len(body) // 2], headers={"Content-Encoding": "gzip"})


def _unknown(moment: Moment) -> Answer:
    return Answer(202, _gzip(plain(moment).body), headers={"Content-Encoding": "x-unheard-of"})


def _in(charset: str, named: str | None) -> Monitor:
    """Return a monitor whose bodies are in a charset; its Content-Type names `named`."""

    def monitor(moment: Moment) -> Answer:
        whole = completed(moment, 200) if moment.done else running(moment, statusDescription=DESCRIPTION)
        content_type = JSON if named is None else f"{JSON}; charset={named}"
        return Answer(whole.status, whole.body.decode().encode(charset), content_type)

    return monitor


ENCODED = (
    Scenario("gzip", "Bodies in gzip, although none was asked for.", _as(_gzip, "gzip")),
    Scenario("deflate", "Bodies in deflate, as zlib writes it.", _as(zlib.compress, "deflate")),
    Scenario("deflate-raw", "Bodies in deflate without zlib's frame.", _as(_raw_deflate, "deflate")),
    Scenario("gzip-bomb", "64 KiB of gzip that hold 64 MiB.", troubled(_bomb), every=2),
    Scenario("gzip-cut", "gzip that stops in the middle.", troubled(_cut), every=2),
    Scenario("coding-unknown", "An unknown Content-Encoding.", troubled(_unknown), every=2),
    Scenario("charset-latin-1", "Bodies in ISO-8859-1, which is named.", _in("latin-1", "ISO-8859-1")),
    Scenario("charset-windows", "Bodies in Windows-1252, which is named.", _in("cp1252", "windows-1252")),
    Scenario("charset-utf-16", "Bodies in UTF-16 with a byte order mark.", _in("utf-16", "utf-16")),
    Scenario("charset-utf-16-le", "Bodies in UTF-16 without a byte order mark.", _in("utf-16-le", "utf-16le")),
    Scenario("charset-quoted", 'UTF-8, named as charset="utf-8".', _in("utf-8", '"utf-8"')),
    Scenario("charset-unknown", "UTF-8 under the name of an unknown charset.", _in("utf-8", "x-unheard-of")),
    Scenario("charset-unnamed", "Bodies in ISO-8859-1, which is not named.", _in("latin-1", None)),
)
