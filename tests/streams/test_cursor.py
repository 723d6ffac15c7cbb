"""The last id a reader names, and where it makes the reading begin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.streams.cursor import GONE, composite, last_id, positions


@pytest.mark.parametrize(
    ("header", "query", "expected"),
    [
        ("7", {"lastEventId": "3"}, "7"),
        ("", {"lastEventId": "3"}, "3"),
        (None, {"lastEventId": "3", "last_event_id": "4"}, "3"),
        (None, {"last_event_id": "4"}, "4"),
        (None, {"lastEventId": ""}, None),
        (None, {}, None),
        ("0", {}, "0"),
    ],
)
def test_the_header_wins_unless_it_is_empty(header: str | None, query: dict[str, str], expected: str | None) -> None:
    """Browsers reconnect with the same query plus the header."""
    assert last_id(header, query) == expected


@pytest.mark.parametrize(
    ("last", "head", "start"),
    [
        (None, 7, 0),
        ("", 7, 0),
        ("0", 7, 0),
        ("3", 7, 3),
        ("7", 7, 7),
        (" 7 ", 7, 7),
        ("8", 7, 0),
        ("-1", 7, 0),
        ("-", 7, 0),
        ("3.0", 7, 0),
        ("abc", 7, 0),
        ("3,4", 7, 0),
        ("٣", 7, 0),
        ("9" * 400, 7, 0),
    ],
)
def test_a_known_number_resumes_and_anything_else_starts_anew(last: str | None, head: int, start: int) -> None:
    """A whole number from 0 to the newest is known, kept or not."""
    assert positions(last, [head]) == [start]


@pytest.mark.parametrize(
    ("last", "heads", "starts"),
    [
        ("7,0,3", [7, 5, 4], [7, 0, 3]),
        ("7,0", [7, 5, 4], [0, 0, 0]),
        ("8,0,3", [7, 5, 4], [0, 0, 0]),
        ("7,-,3", [7, GONE, 4], [7, GONE, 3]),
        ("7,2,3", [7, GONE, 4], [7, 0, 3]),
        ("7,-,3", [7, 5, 4], [7, 0, 3]),
        (None, [7, GONE], [0, 0]),
    ],
)
def test_several_positions(last: str | None, heads: list[int], starts: list[int]) -> None:
    """In the order of the query; a job told to be gone keeps its mark, one that is gone since is told."""
    assert positions(last, heads) == starts


def test_a_composite_id() -> None:
    """Positions joined by commas, a mark for the gone."""
    assert composite([7, 0, GONE]) == b"7,0,-"
    assert composite([12]) == b"12"


@given(
    st.text(max_size=20) | st.from_regex(r"[0-9,-]{0,12}", fullmatch=True), st.lists(st.integers(-1, 20), max_size=4)
)
def test_no_id_makes_a_reader_skip_what_it_has_not_seen(last: str, heads: list[int]) -> None:
    """Whatever a client sends: a place for each job, never beyond its newest event, never gone unless it is."""
    where = positions(last, heads)
    assert len(where) == len(heads)
    for at, head in zip(where, heads, strict=True):
        assert at <= max(head, 0)
        assert at >= 0 or (head == GONE and len(heads) > 1)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=200))
def test_what_was_sent_is_understood_when_it_comes_back(heads: list[int]) -> None:
    """An id of the gateway's own resumes where it was sent."""
    assert positions(composite(heads).decode(), heads) == heads
    gone = [GONE if head % 3 == 0 else head for head in heads]
    if len(gone) > 1:
        assert positions(composite(gone).decode(), gone) == gone
