"""What the simulator was asked: the newest requests, and each monitor's questions."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.simulator.copies import Copy
    from gateway.simulator.scenario import Monitor, Scenario

KEPT = 10_000  # requests
SECRET = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(slots=True, eq=False)
class Asked:
    at: float  # the simulator's clock
    time: str  # for people
    method: str
    path: str  # raw, without the query
    query: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    kind: str = "other"  # copy, item, monitor, foreign, other
    operation: str | None = None  # of the copy it started or asked about
    status: int | None = None  # None while it is unanswered

    @property
    def authorized(self) -> bool:
        return "authorization" in self.headers

    def shown(self) -> dict[str, Any]:
        headers = {name: "redacted" if name in SECRET else value for name, value in self.headers.items()}
        body = self.body.decode(errors="replace")
        facts = ("at", "time", "method", "path", "query", "kind", "operation", "status", "authorized")
        return {name: getattr(self, name) for name in facts} | {"headers": headers, "body": body}


@dataclass(slots=True, eq=False)
class Operation:
    """A copy that was accepted, and how its monitor was asked."""

    copy: Copy
    scenario: Scenario
    monitor: Monitor
    started: float
    location: str | None = None  # as it was given out
    polls: int = 0
    polled: deque[float] = field(default_factory=lambda: deque(maxlen=1000))  # when, newest last
    bound: float = 0.0
    told: bool = False

    def shown(self) -> dict[str, Any]:
        return {
            "operation": self.copy.operation,
            "scenario": self.scenario.name,
            "started": self.started,
            "location": self.location,
            "polls": self.polls,
            "resourceId": self.copy.resource_id,
            "driveId": self.copy.drive_id,
            "name": self.copy.name,
        }
