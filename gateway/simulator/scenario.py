"""A copy as its monitor sees it, and a scenario: two functions, and facts about where its item ends up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.simulator.answers import TEXT, Answer, GraphError, document

if TYPE_CHECKING:
    from datetime import datetime

DOCUMENTED_NAME = "Copy of LargeFolder1"
DOCUMENTED_ID = "01MOWKYVJML57KN2ANMBA3JZJS2MBGC7KM"
DOCUMENTED_SIZE = 12019


@dataclass(frozen=True, slots=True)
class Origins:
    """Where things live as the caller reaches them: scheme, host and port, no path."""

    graph: str
    monitor: str
    foreign: str  # the same server under another name: nobody has any business there
    refusing: str  # nobody listens
    silent: str  # a connection to it is never completed


@dataclass(frozen=True, slots=True)
class Copy:
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
    every: int  # a troubled monitor is troubled on the first of every so many polls

    @property
    def monitor_path(self) -> str:
        return f"/_api/v2.0/monitor/{self.operation}?tempauth={self.token}"

    @property
    def monitor_url(self) -> str:
        return self.origins.monitor + self.monitor_path

    @property
    def item_url(self) -> str:
        return f"{self.origins.graph}/{self.version}/drives/{self.drive_id}/items/{self.resource_id}"


@dataclass(frozen=True, slots=True)
class Moment:
    copy: Copy
    elapsed: float
    now: datetime
    poll: int = 1  # 1 for the first question
    waited: float = float("inf")  # seconds since the question before
    bound: float = 0.0  # the Retry-After that question was answered with
    told: bool = False  # the end was told before

    @property
    def done(self) -> bool:
        return self.elapsed >= self.copy.seconds

    @property
    def part(self) -> float:
        """How much is done, 0 to 1, in the copy's steps."""
        if self.done:
            return 1.0
        # The small addition keeps 5/18 of 18 steps at step 5, whatever binary fractions make of it.
        return int(self.elapsed * self.copy.steps / self.copy.seconds + 1e-9) / self.copy.steps

    @property
    def percent(self) -> float:
        return round(100 * self.part, 1)

    @property
    def troubled(self) -> bool:
        return (self.poll - 1) % self.copy.every == 0


Start = Callable[[Copy], Answer | GraphError]
Monitor = Callable[[Moment], Answer]


def accepted(copy: Copy) -> Answer:
    return accepted_at(copy.monitor_url)


def accepted_at(location: str) -> Answer:
    return Answer(202, content_type=TEXT, headers={"Location": location})


def running(moment: Moment, **changes: object) -> Answer:
    state = {"operation": "ItemCopy", "percentageComplete": moment.percent, "status": "inProgress"}
    return document(202, state | changes)


def completed(moment: Moment, status: int = 202, **changes: object) -> Answer:
    state = {"percentageComplete": 100.0, "resourceId": moment.copy.resource_id, "status": "completed"}
    return document(status, state | changes)


def plain(moment: Moment) -> Answer:
    """The dialect of the overview of long-running actions, to the byte."""
    return completed(moment) if moment.done else running(moment)


def ending(end: Monitor) -> Monitor:
    """Runs as usual and ends in its own way."""
    return lambda moment: end(moment) if moment.done else running(moment)


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    summary: str
    numbers: tuple[int, ...]  # of the behaviours in the project's facts sheet, section 9
    monitor: Monitor = plain
    start: Start = accepted
    refusal: GraphError | None = None  # what POST and GET are refused with: nothing runs
    every: int = 1
    lands: bool = True  # an item is there in the end
    at_once: bool = False  # … already when the POST is answered
    strays: bool = False  # … beside its source, whatever target was asked for
    drive: str | None = None  # the target drive when the body names none
    hidden: int = 0  # reads of the new item that still answer 404
    grows: bool = False  # the item is there half-filled and fills up for as long again
    strict: bool = False  # name conflicts count; elsewhere the new item quietly gets a free name
    file: bool = False  # the stand-in for the copied item is a file
    bearer: bool = False  # the monitor wants the Authorization that others refuse


# What the overview of long-running actions prints for its copied folder.
