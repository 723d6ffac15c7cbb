"""What the simulator remembers: the requests that it received, and the copies that it accepted."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.simulator.scenario import Copy, Monitor, Scenario

SECRET = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(slots=True, eq=False)
class RecordedRequest:
    """One received request."""

    at: float  # by the simulator's clock
    time: str  # UTC, ISO 8601
    method: str
    path: str  # raw, without the query
    query: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    kind: str = (
        # copy, move, archive, unarchive, assignSensitivityLabel, update, item, monitor, foreign, around, other, result,
        # or the action of an operation whose status asks for a token; its polls are monitor, too
        "other"
    )
    operation: str | None = None  # of the copy that it started or polled
    status: int | None = None  # None until the response is known

    @property
    def authorized(self) -> bool:
        return "authorization" in self.headers

    def as_json(self) -> dict[str, Any]:
        """Return an object for JSON, with credentials redacted."""
        headers = {name: "redacted" if name in SECRET else value for name, value in self.headers.items()}
        body = self.body.decode(errors="replace")
        facts = ("at", "time", "method", "path", "query", "kind", "operation", "status", "authorized")
        return {name: getattr(self, name) for name in facts} | {"headers": headers, "body": body}


@dataclass(slots=True, eq=False)
class Operation:
    """A copy that was accepted, and the polls of its monitor."""

    copy: Copy
    scenario: Scenario
    monitor: Monitor
    started: float
    location: str | None = None  # as it was sent
    polls: int = 0
    polled: deque[float] = field(default_factory=lambda: deque(maxlen=1000))  # times, newest last
    longest_wait: float = 0.0  # seconds, from the start to the first poll or between two
    bound: float = 0.0
    end_seen: bool = False
    authorization: str = ""  # of the start
    polls_authorized: int = 0  # polls under that

    def as_json(self) -> dict[str, Any]:
        return {
            "operation": self.copy.operation,
            "kind": self.copy.kind,
            "scenario": self.scenario.name,
            "started": self.started,
            "location": self.location,
            "polls": self.polls,
            "resourceId": self.copy.resource_id,
            "driveId": self.copy.drive_id,
            "name": self.copy.name,
        }
