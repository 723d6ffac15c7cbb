"""A scenario: one way for a copy to go, as two functions and a few facts about where its item ends up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.simulator.answers import TEXT, Answer, GraphError, document
from gateway.simulator.copies import Copy, Moment

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
