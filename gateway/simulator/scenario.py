"""A copy at the moment of a poll, and a scenario: the responses of POST and monitor, and what becomes of the item."""

from __future__ import annotations

import base64
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, urlsplit

from gateway.simulator.answers import TEXT, Answer, GraphError, document

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.simulator.operations import StatusResource

DOCUMENTED_NAME = "Copy of LargeFolder1"
DOCUMENTED_ID = "01MOWKYVJML57KN2ANMBA3JZJS2MBGC7KM"
DOCUMENTED_SIZE = 12019
LONGEST = 31 * 86400.0  # seconds
SAFE = "".join(map(chr, range(0x21, 0x7F)))  # in a path: it stays as it is
HOP = "/_hop/"  # in front of a monitor's path: the same monitor, after redirects


@dataclass(frozen=True, slots=True)
class Origins:
    """Origins (scheme, host, port) as the caller reaches them."""

    graph: str
    monitor: str
    foreign: str  # the same server under another name, where no client should go
    refusing: str  # connections are refused
    silent: str  # connections are never completed


def origins(url: str, *, monitor: int | None, refusing: int, silent: int) -> Origins:
    """Return the origins that a caller of `url` reaches; the others are ports of the same host."""
    parts = urlsplit(url)
    host = parts.hostname or "127.0.0.1"

    def origin(name: str, port: int | None) -> str:
        name = f"[{name}]" if ":" in name else name
        return f"{parts.scheme}://{name}:{port}" if port else f"{parts.scheme}://{name}"

    return Origins(
        graph=origin(host, parts.port),
        monitor=origin(host, monitor or parts.port),
        foreign=origin("127.0.0.1" if host == "localhost" else "localhost", parts.port),
        refusing=origin(host, refusing),
        silent=origin(host, silent),
    )


def new_token() -> str:
    """Return a token in the form and size of the JWT in SharePoint's monitor URLs."""
    claims = base64.urlsafe_b64encode(secrets.token_bytes(420)).decode().rstrip("=")
    return f"eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0.{claims}.{secrets.token_urlsafe(32)}"


@dataclass(frozen=True, slots=True)
class Copy:
    """One accepted copy request."""

    operation: str
    token: str
    number: int  # 1 for the first copy of this scenario in this drive
    version: str
    origins: Origins
    source_id: str
    drive_id: str
    resource_id: str
    name: str
    seconds: float
    steps: int
    every: int  # a fault occurs at the first of every this many polls
    window: float  # seconds from the start, for a fault that passes
    kind: str = "ItemCopy"  # the operation that its monitor names
    limit: float = 0.0  # polls or seconds, as the scenario says
    status: StatusResource | None = None  # in place of a monitor, for an operation whose status asks for a token

    @property
    def monitor_path(self) -> str:
        if self.status is not None:
            return self.status.path
        return f"/_api/v2.0/monitor/{self.operation}?tempauth={self.token}"

    def at_hop(self, hop: int) -> str:
        """Return the path of the monitor's place after `hop` redirects."""
        return f"{HOP}{hop}{self.monitor_path}"

    @property
    def monitor_origin(self) -> str:
        return self.origins.monitor if self.status is None else self.origins.graph

    @property
    def monitor_url(self) -> str:
        return self.monitor_origin + self.monitor_path

    @property
    def item_url(self) -> str:
        return f"{self.origins.graph}/{self.version}/drives/{self.drive_id}/items/{self.resource_id}"


@dataclass(frozen=True, slots=True)
class Moment:
    """A poll of a copy's monitor: all that its response depends on."""

    copy: Copy
    elapsed: float  # seconds since the copy was started
    now: datetime
    poll: int = 1  # 1 for the first poll
    waited: float = float("inf")  # seconds since the previous poll
    bound: float = 0.0  # Retry-After of the previous response, in seconds
    end_seen: bool = False  # whether a poll after the end was answered before
    hop: int = 0  # 1 after the first redirect to the monitor's next place
    prefer: str = ""  # the request's header
    longest_wait: float = 0.0  # seconds, from the start to the first poll or between two

    @property
    def done(self) -> bool:
        return self.elapsed >= self.copy.seconds

    @property
    def part(self) -> float:
        """The progress from 0 to 1, rounded down to the copy's steps."""
        if self.done:
            return 1.0
        # The addition keeps 5/18 of 18 steps at step 5 despite binary rounding.
        return int(self.elapsed * self.copy.steps / self.copy.seconds + 1e-9) / self.copy.steps

    @property
    def percent(self) -> float:
        return round(100 * self.part, 1)

    @property
    def troubled(self) -> bool:
        """Whether a scenario with `every` has its fault at this poll."""
        return (self.poll - 1) % self.copy.every == 0

    @property
    def early(self) -> bool:
        """Whether a scenario with `window` has its fault at this time."""
        return self.elapsed < self.copy.window


def within(name: str, seconds: float) -> float:
    """Return a time unchanged. Raises ValueError, which calls it `name`, when it is no time a copy may take."""
    if not (math.isfinite(seconds) and 0 <= seconds <= LONGEST):
        raise ValueError(f"{name} is {seconds!r}; it must be a number from 0 to {LONGEST:.0f}.")
    return seconds


def unhopped(target: str) -> tuple[str, int]:
    """Return the first place of a monitor, and after how many redirects it was asked."""
    if not target.startswith(HOP):
        return target, 0
    hop, slash, rest = target.removeprefix(HOP).partition("/")
    return slash + rest, int(hop) if hop.isdecimal() else 0


def spellings(path: str) -> set[str]:
    """Return a raw path of a Location as clients may ask for it: spaces and what is not ASCII are encoded.

    Of bytes that are not UTF-8 some clients encode each, others what it is in Latin-1.
    """
    raw = path.encode(errors="surrogateescape")
    try:
        raw.decode()
    except UnicodeDecodeError:
        return {quote(raw, safe=SAFE), quote(raw.decode("latin-1"), safe=SAFE)}
    return {quote(raw, safe=SAFE)}


Start = Callable[[Copy], Answer | GraphError]
Monitor = Callable[[Moment], Answer]


def accepted(copy: Copy) -> Answer:
    """Return the 202 with the URL of the monitor, or of the operation's status."""
    return accepted_at(copy.monitor_url) if copy.status is None else copy.status.accepted()


def accepted_at(location: str) -> Answer:
    return Answer(202, content_type=TEXT, headers={"Location": location})


def running(moment: Moment, **changes: object) -> Answer:
    """Return the 202 of a running copy, the 200 of a running operation; `changes` replace or add fields."""
    if moment.copy.status is not None:
        return document(200, moment.copy.status.state(moment) | changes)
    state = {"operation": moment.copy.kind, "percentageComplete": moment.percent, "status": "inProgress"}
    return document(202, state | changes)


def completed(moment: Moment, status: int = 202, **changes: object) -> Answer:
    """Return the response of a completed copy or operation; `changes` replace or add fields."""
    if moment.copy.status is not None:
        return document(200, moment.copy.status.state(moment) | changes)
    result = {"resourceId": moment.copy.resource_id} if moment.copy.resource_id else {}
    state = {"percentageComplete": 100.0, **result, "status": "completed"}
    return document(status, state | changes)


def plain(moment: Moment) -> Answer:
    """Respond in the dialect of the overview of long-running actions, to the byte."""
    return completed(moment) if moment.done else running(moment)


def ending(end: Monitor) -> Monitor:
    """Return a monitor that responds as `running`, and as `end` after the end."""
    return lambda moment: end(moment) if moment.done else running(moment)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One behaviour of upstream."""

    name: str
    summary: str
    monitor: Monitor = plain
    start: Start = accepted
    refusal: GraphError | None = None  # the response to POST and GET; no copy is started
    every: int = 1
    window: float = 0.0  # seconds from the start for which the fault lasts
    lands: bool = True  # the copy creates an item
    at_once: bool = False  # … already before the response to the POST
    strays: bool = False  # … beside its source, whatever target was requested
    drive: str | None = None  # the target drive when the body names none
    late: bool = False  # the result of an operation is 404 for `limit` seconds after its end
    hidden: int = 0  # number of reads of the new item that are still 404
    grows: bool = False  # the item's size grows from 0 for as long again after the end
    strict: bool = False  # name conflicts fail; otherwise the new item gets a free name
    file: bool = False  # the stand-in for the copied item is a file
    bearer: bool = False  # the monitor requires the Authorization that others refuse
    limit: float = 0.0  # polls or seconds, as the summary says
    refuses_after: Literal["", "polls", "seconds"] = ""  # `limit` of these the token of the start
    operation_id: str = ""  # of an operation whose status asks for a token; empty: a new one
    for_operations: bool = False  # only operations whose status asks for a token have it; a copy plays as "copy"
