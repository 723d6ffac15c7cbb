"""Where a reader of one or several logs stands, as the id of the last event it saw.

For one job it is the event's number. For several it is their positions in the order of the query, joined by commas;
`-` stands for a job that was told to be gone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

GONE = -1
_NUMBER = re.compile(r"[0-9]{1,15}")


def last_id(header: str | None, query: Mapping[str, str]) -> str | None:
    """The last id a reader names: the header unless it is empty, else either query parameter; None when none is."""
    for value in (header, query.get("lastEventId"), query.get("last_event_id")):
        if value:
            return value
    return None


def positions(last: str | None, heads: Sequence[int]) -> list[int]:
    """The numbers after which to read each log, whose newest ids are `heads` (GONE for a job nobody knows).

    An id that is not known (another number of positions, no whole number, beyond the newest) starts every log anew:
    a wrong guess must repeat events rather than withhold them.
    """
    start = [0] * len(heads)
    parts = (last or "").strip().split(",")
    if len(parts) != len(heads):
        return start
    found = []
    for part, head in zip(parts, heads, strict=True):
        if part == "-" and len(heads) > 1:
            found.append(GONE if head == GONE else 0)
        elif _NUMBER.fullmatch(part) and (head == GONE or int(part) <= head):
            found.append(0 if head == GONE else int(part))
        else:
            return start
    return found


def composite(where: Sequence[int]) -> bytes:
    return ",".join("-" if at == GONE else str(at) for at in where).encode()
