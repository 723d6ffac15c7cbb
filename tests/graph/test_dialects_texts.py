"""Upstream's texts: cut, cleaned, and dropped when they would give the monitor away; and whatever else may come."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.core.job import Answer, Job, Target, accepted, advance
from gateway.graph.dialects import Lost, NoAnswer, Throttled, interpret
from gateway.outbound.reply import Reply

URL = "https://contoso.sharepoint.com/_api/v2.0/monitor/4A3407B5-88FC-4504-8B21-0AABD3412717?tempauth=eyJhbGciOi"
BARE = "https://api.onedrive.com/monitor/4A3407B5-88FC-4504-8B21-0AABD3412717"
NOW = 1_790_000_000.0


def everywhere(_url: str) -> bool:
    return True


def interpreted(document: Any, url: str = URL, code: int = 200) -> Answer:
    answer = interpret(Reply(code, CIMultiDict(), json.dumps(document).encode()), url, NOW, allowed=everywhere)
    assert isinstance(answer, Answer)
    return answer


def described(text: str, url: str = URL) -> str | None:
    return interpreted({"status": "inProgress", "statusDescription": text}, url).description


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x" * 2000, "x" * 1024),
        ("ü" * 2000, "ü" * 1024),
        ("a\x00b\r\nc\u2028d\u2029e\x7ff\x9bg", "a\ufffdb\ufffd\ufffdc\ufffdd\ufffde\ufffdf\ufffdg"),
        ("\x1b[31mred", "\ufffd[31mred"),
        ("a\u202egpj.exe\u2066\u200fb\u061c", "a\ufffdgpj.exe\ufffd\ufffdb\ufffd"),
        ("Übergröße 3 €, 日本, 👍", "Übergröße 3 €, 日本, 👍"),
        ("a\ud800b", "a\ufffdb"),
        ("50 % of a/b = c", "50 % of a/b = c"),
        ("", None),
    ],
)
def test_texts_are_cut_and_cleaned(text: str, shown: str | None) -> None:
    """At 1,024 characters, not bytes; controls, also of direction, line ends and half surrogate pairs replaced."""
    assert described(text) == shown


def test_words_and_lists_are_cut() -> None:
    """Status and codes at 64 characters, details at 20 entries."""
    long = {"code": "c" * 99, "message": "m" * 2000, "target": "t" * 2000}
    answer = interpreted({"status": "failed", "operation": "o" * 99, "error": {**long, "details": [long] * 30}})
    assert answer.error is not None
    assert (answer.error.code, answer.error.message) == ("c" * 64, "m" * 1024)
    assert answer.operation == "o" * 64
    assert len(answer.error.details) == 20
    first = answer.error.details[0]
    assert (first.code, first.message, first.target) == ("c" * 64, "m" * 1024, "t" * 1024)
    assert interpreted({"status": "p" * 99}).status == "p" * 64
    assert interpreted({"status": "failed", "errorCode": "e" * 99}).error.code == "e" * 64  # type: ignore[union-attr]


GAVE_NO_REASON = "Upstream ended the job as failed and gave no reason."
WHY: list[tuple[dict[str, Any], str, str]] = [
    ({"error": {"code": "a", "message": "m"}, "errorCode": "b", "statusDescription": "s"}, "a", "m"),
    ({"error": {"message": "m"}, "errorCode": "b"}, "b", "m"),
    ({"error": {"code": "", "message": "m"}, "errorCode": "b"}, "b", "m"),
    ({"error": {"code": 7, "message": 7}, "errorCode": "b", "statusDescription": "s"}, "7", "s"),
    ({"errorCode": "b", "statusDescription": "s"}, "b", "s"),
    ({"errorCode": "b", "error": {"details": [{"code": "c", "message": "d"}]}}, "b", "d"),
    ({"error": {"message": "m", "details": [{"code": "c", "message": "d"}, {"code": "e"}]}}, "c", "m"),
    ({"error": {"details": [{"code": "c", "message": "d"}]}, "statusDescription": "s"}, "c", "s"),
    ({"details": [{"code": "c", "message": "d"}]}, "c", "d"),
    ({"error": {"details": "none"}}, "failed", GAVE_NO_REASON),
    ({"error": {"details": [7, None, []]}}, "failed", GAVE_NO_REASON),
    ({"error": {"message": "m"}}, "failed", "m"),
    ({"error": []}, "failed", GAVE_NO_REASON),
    ({"error": None}, "failed", GAVE_NO_REASON),
    ({}, "failed", GAVE_NO_REASON),
]


@pytest.mark.parametrize("code", [200, 500])
@pytest.mark.parametrize(("body", "named", "message"), WHY)
def test_why_a_copy_failed(code: int, body: dict[str, Any], named: str, message: str) -> None:
    """The code is error.code, else errorCode, else the first of the details, else the status word."""
    answer = interpreted({"status": "failed", **body}, code=code)
    assert answer.error is not None
    assert (answer.error.code, answer.error.message, answer.error.origin) == (named, message, "upstream")


DISGUISES = [
    URL,
    f"see {URL} for more",
    "x" * 2000 + URL,
    URL.upper(),
    URL.replace("https://", "http://"),
    URL.removeprefix("https://").removesuffix("?tempauth=eyJhbGciOi"),
    URL.replace("/", "%2F").replace(":", "%3A"),
    URL.replace("/", "%2f").lower(),
    quote(URL, safe=""),
    quote(quote(URL, safe=""), safe=""),
    "".join(f"%{ord(character):02X}" for character in URL),
    "at /_api/v2.0/monitor/4A3407B5-88FC-4504-8B21-0AABD3412717?tempauth=eyJhbGciOi",
    "https://other/?TempAuth=abc",
    "https://other/?tempauth%3Dabc",
    "https://other/?tempauth%253Dabc",
    "blob?sv=1&sig=abc",
    "blob?sv=1&SIG%3dabc",
]
PLACES: list[Any] = [
    lambda text: {"status": text},
    lambda text: {"status": "inProgress", "statusDescription": text},
    lambda text: {"status": "inProgress", "operation": text},
    lambda text: {"status": "completed", "resourceId": text},
    lambda text: {"status": "completed", "resourceLocation": f"https://x/drives/{quote(text, safe='')}/items/01A"},
    lambda text: {"status": "completed", "resourceLocation": f"https://x/drives/1/items/{quote(text, safe='')}"},
    lambda text: {"id": text, "file": {}, "parentReference": {"driveId": text}},
    lambda text: {"status": "failed", "errorCode": text},
    lambda text: {"status": "failed", "error": text},
    lambda text: {"status": "failed", "error": {"code": text, "message": text}},
    lambda text: {"status": "failed", "odata.error": {"code": text, "message": {"lang": "en", "value": text}}},
    lambda text: {"status": "failed", "error": json.dumps({"code": text, "message": text})},
    lambda text: {"status": "failed", "errorMessage": text, "statusDetail": text},
    lambda text: {"status": "partiallySucceeded", "resultInfo": {"code": text, "message": text}},
    lambda text: {"status": "completed", "targetResourceId": quote(text, safe="")},
    lambda text: {"status": "failed", "error": {"details": [{"code": text, "message": text, "target": text}]}},
]


def leaks(written: bytes) -> bool:
    return any(secret in written.lower() for secret in (b"4a3407b5", b"%34%41", b"tempauth", b"sig"))


def state_after(answer: Answer) -> bytes:
    """All that anybody is ever shown of an answer."""
    job: Job
    job, _ = accepted("j", monitor=URL, target=Target(prefix="me/drive"), now=NOW)
    job, _ = advance(job, answer, NOW)
    return msgspec.json.encode(job.state)


@pytest.mark.parametrize("text", DISGUISES)
def test_texts_that_give_a_credential_away_are_dropped(text: str) -> None:
    """The monitor URL in any spelling, and tokens of its kind, are not cut or masked: the whole text goes."""
    assert described(text) is None


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("text", DISGUISES)
def test_no_place_of_an_answer_lets_a_credential_through(place: Any, text: str) -> None:
    """Whatever field upstream puts it in, the state that readers get does not hold it."""
    observed = interpret(Reply(200, CIMultiDict(), json.dumps(place(text)).encode()), URL, NOW, allowed=everywhere)
    assert not leaks(msgspec.json.encode(observed))
    if isinstance(observed, Answer):
        assert not leaks(state_after(observed))


def test_a_redirects_target_gives_no_credential_away() -> None:
    """Of a 303's Location only the item and the drive are taken, and those not if they are the credential."""
    for location in (
        URL,
        f"https://x/items/01A?tempauth=abc&next={quote(URL)}",
        f"https://x/items/{quote(URL, safe='')}",
    ):
        observed = interpret(Reply(303, CIMultiDict({"Location": location}), b""), URL, NOW, allowed=everywhere)
        assert isinstance(observed, Answer)
        assert observed.status == "completed"
        assert not leaks(state_after(observed))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (f"see {BARE}", BARE),
        ("api.onedrive.com/monitor/4a3407b5-88fc-4504-8b21-0aabd3412717", BARE),
        ("of https://h:8443/op/1", "https://h:8443/op/1"),
        ("at /drive/operations/1?c=abcdefgh", "https://h/drive/operations/1?c=abcdefgh"),
    ],
)
def test_a_monitor_without_a_token_is_no_less_secret(text: str, url: str) -> None:
    """Its path is the credential then."""
    assert described(text, url) is None


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("3 of 9 files in /m/1 done", "https://h/m/1"),
        ("contoso.sharepoint.com is busy, 50 %", URL),
        ("see https://contoso.sharepoint.com/sites/s/Documents", URL),
        ("signal=green design=1", URL),
        ("100%", URL),
    ],
)
def test_harmless_texts_stay(text: str, url: str) -> None:
    """A host or a short path alone is no secret."""
    assert described(text, url) == text


@st.composite
def disguised(draw: st.DrawFn) -> str:
    """The monitor URL with any characters in the other case or percent-encoded, some of them twice, within a text."""

    def dress(character: str, how: int) -> str:
        for _ in range(how):
            character = "".join(f"%{byte:02x}" if byte % 2 else f"%{byte:02X}" for byte in character.encode())
        return character

    hows = draw(st.lists(st.sampled_from([0, 0, 1, 2]), min_size=len(URL), max_size=len(URL)))
    flips = draw(st.lists(st.booleans(), min_size=len(URL), max_size=len(URL)))
    dressed = [
        dress(character.swapcase() if flip else character, how)
        for character, flip, how in zip(URL, flips, hows, strict=True)
    ]
    return draw(st.text(max_size=9)) + "".join(dressed) + draw(st.text(max_size=9))


@given(disguised())
def test_no_disguise_gets_the_monitor_through(text: str) -> None:
    """In any mixture of cases and percent-encoding."""
    assert described(text) is None


NAMES = [
    *("status", "error", "errorCode", "details", "percentageComplete", "percentComplete", "resourceId", "message"),
    *("code", "id", "file", "parentReference", "driveId", "resourceLocation", "statusDescription", "operation"),
    *("odata.error", "odata", "resultInfo", "errorMessage", "value", "percentProgress", "targetResourceId", "path"),
]
DATES = st.lists(
    st.sampled_from(
        ["Mon,", "21", "Sep", "2026", "0001", "9999", "14:14:20", "GMT", "+1400", "-9999", "-0000", ":", ","]
    )
).map(" ".join)
LEAVES = (
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(max_size=30)
    | st.sampled_from([URL, "https://x/drives/1/items/01A", "completed", "failed", "paused", "partiallySucceeded"])
    | st.sampled_from(['{"error":{"code":"x"}}', '{"message":{"value":"y"}}', 10**400])
)
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode())


@given(
    st.integers(100, 599) | st.sampled_from([200, 202, 303, 429, 500, 503]),
    st.dictionaries(
        st.sampled_from(["Retry-After", "Location", "Date", "RateLimit-Remaining", "RateLimit-Reset", "Content-Type"]),
        st.text(max_size=40)
        | DATES
        | st.sampled_from(["0", "41", "9" * 400, "1.5", URL, "a;charset=utf-16", "a;charset=idna"]),
    ),
    st.binary(max_size=200) | DOCUMENTS | DOCUMENTS.map(lambda body: body[: len(body) // 2]),
)
def test_nothing_makes_it_fail_or_give_the_url_away(code: int, headers: dict[str, str], body: bytes) -> None:
    """Whatever comes is some observation within the contract's bounds, can be shown, and does not hold the URL."""
    observed = interpret(Reply(code, CIMultiDict(headers), body), URL, NOW, allowed=everywhere)
    assert isinstance(observed, Answer | Lost | NoAnswer | Throttled)
    assert observed.retry_after is None or 0 <= observed.retry_after <= 86400
    assert b"4A3407B5" not in msgspec.json.encode(observed)
    if isinstance(observed, Answer):
        assert observed.percentage is None or 0 <= observed.percentage <= 100
        assert b"4A3407B5" not in state_after(observed)


def test_the_urls_that_redirects_led_to_are_dropped_too() -> None:
    """They are credentials like the monitor's own."""
    hop = "https://contoso.sharepoint.com/_api/v2.1/monitor/another-secret?x=1"
    for url in (URL, hop):
        doc = {"status": "failed", "error": {"code": "x", "message": f"see {url} for more"}}
        body = msgspec.json.encode(doc)
        observed = interpret(Reply(200, CIMultiDict(), body, hops=(hop,)), URL, NOW, allowed=everywhere)
        assert isinstance(observed, Answer)
        assert observed.error is not None
        assert "monitor" not in observed.error.message


def test_a_long_text_is_judged_as_far_as_it_is_shown() -> None:
    """A megabyte of percent signs costs no more than what is shown of it, and a credential at the cut is found."""
    shown = {"status": "inProgress", "statusDescription": "%" * 1_048_000}
    observed = interpret(Reply(200, CIMultiDict(), msgspec.json.encode(shown)), URL, NOW, allowed=everywhere)
    assert isinstance(observed, Answer)
    assert observed.description == "%" * 1024
    twice = quote(quote(URL, safe=""), safe="")
    shown = {"status": "inProgress", "statusDescription": "x" * 1010 + "/" + twice}
    observed = interpret(Reply(200, CIMultiDict(), msgspec.json.encode(shown)), URL, NOW, allowed=everywhere)
    assert isinstance(observed, Answer)
    assert observed.description is None
