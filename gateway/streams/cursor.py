"""The position of a reader in one or several logs, as the id of the last event that it received.

For one job, the id is the event's number. For several jobs, it is their positions in the order of the query, joined by
commas; `-` marks a job that was reported as gone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

GONE = -1
_NUMBER = re.compile(r"[0-9]{1,15}")


def last_id(header: str | None, query: Mapping[str, str]) -> str | None:
    """The last event id of a request: the first of the header, `lastEventId` and `last_event_id` that is not empty."""
    for value in (header, query.get("lastEventId"), query.get("last_event_id")):
        if value:
            return value
    return None


def positions(last: str | None, heads: Sequence[int]) -> list[int]:
    """The number after which to read each log. `heads` are the newest numbers of the logs, GONE for an unknown job.

    An invalid id (a wrong count of positions, not a whole number, beyond the head) replays every log from its start: a
    wrong guess must repeat events rather than withhold them.
    """
    start = [0] * len(heads)
    parts = (last or "").strip().split(",")
    if len(parts) != len(heads):
        return start
    resumed = []
    for part, head in zip(parts, heads, strict=True):
        if part == "-" and len(heads) > 1:
            resumed.append(GONE if head == GONE else 0)
        elif _NUMBER.fullmatch(part) and (head == GONE or int(part) <= head):
            resumed.append(0 if head == GONE else int(part))
        else:
            return start
    return resumed


def composite(where: Sequence[int]) -> bytes:
    """The event id for positions in several logs."""
    return ",".join("-" if at == GONE else str(at) for at in where).encode()
