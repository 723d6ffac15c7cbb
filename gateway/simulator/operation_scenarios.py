"""Scenarios that only operations whose status asks for a token have: their words, errors, ids, results and tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.simulator.answers import Answer, GraphError, document
from gateway.simulator.operations import body_of
from gateway.simulator.scenario import Scenario, accepted, accepted_at, ending, plain
from gateway.simulator.troubles import GONE

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.simulator.operations import StatusResource
    from gateway.simulator.scenario import Copy, Moment, Monitor, Start

NO_ID = "00000000-0000-0000-0000-000000000000"
NEWER = "include-unknown-enum-members"  # what a request prefers that is to see newer words
TRANSIENT = {"error": {"code": "20280", "message": "Transient error. Please try again later."}}


def _scenario(name: str, summary: str, **facts: Any) -> Scenario:
    return Scenario(name, summary, for_operations=True, **facts)


def _tells(tell: Callable[[StatusResource, Moment], Answer]) -> Monitor:
    return lambda moment: plain(moment) if moment.copy.status is None else tell(moment.copy.status, moment)


def _starts(start: Callable[[StatusResource], Answer]) -> Start:
    return lambda copy: accepted(copy) if copy.status is None else start(copy.status)


def _words(status: StatusResource, moment: Moment) -> Answer:
    return document(200, status.state(moment, status.kind.other_words))


def _newer(status: StatusResource, moment: Moment) -> Answer:
    """A word that came later, in the middle and where an operation succeeds in part."""
    state = status.state(moment)
    newer = {status.kind.words[1]: "validating", status.kind.words[2]: "partiallySucceeded"}
    if state["status"] in newer:
        shown = NEWER in moment.prefer
        state["status"] = newer[state["status"]] if shown else "unknownFutureValue"
    return document(200, state)


def _stuck(status: StatusResource, moment: Moment) -> Answer:
    if moment.done:
        return status.failed(moment, TRANSIENT)
    field = status.kind.percent or "percentComplete"
    return document(200, status.state(moment) | {field: "0" if status.kind.percent_text else 0})


def _vanishes(moment: Moment) -> Answer:
    return document(404, GONE) if moment.longest_wait >= moment.copy.limit else plain(moment)


def _elsewhere(copy: Copy) -> Answer | GraphError:
    return accepted(copy) if copy.status is None else accepted_at(f"{copy.origins.foreign}/_foreign/{copy.operation}")


OPERATION_SCENARIOS = (
    _scenario(
        "operation-failed",
        "Fails as its kind does: a team after three attempts, a workbook with errors nested three deep.",
        monitor=ending(_tells(lambda status, moment: status.failed(moment))),
        lands=False,
    ),
    _scenario("operation-words", "The other words of Graph's documents, such as Running.", monitor=_tells(_words)),
    _scenario(
        "operation-newer-words",
        "Newer words, partiallySucceeded at the end; unknownFutureValue to those who do not prefer them.",
        monitor=_tells(_newer),
    ),
    _scenario(
        "operation-stuck",
        "The percentage stays 0; then failed, 20280.",
        monitor=_tells(_stuck),
        lands=False,
    ),
    _scenario(
        "operation-vanishes",
        "404 once it was not polled for 240 s (limit=N: N s), as a workbook's always are.",
        monitor=_vanishes,
        limit=240.0,
    ),
    _scenario("operation-zeros", "The operation's id is all zeros.", operation_id=NO_ID),
    _scenario(
        "operation-unquoted",
        "The ids in the status's path have no quotes.",
        start=_starts(lambda status: status.accepted(quoted=False)),
    ),
    _scenario(
        "operation-body",
        "The 202 has the operation in its body.",
        start=_starts(lambda status: status.accepted(body=body_of(status))),
    ),
    _scenario(
        "operation-at-once",
        "A content type is added, a session is made at once: 200, 201.",
        start=_starts(lambda status: status.at_once()),
    ),
    _scenario("operation-foreign", "The status is on another host, which no token must reach.", start=_elsewhere),
    _scenario("result-late", "Succeeded, but the result is 404 for 3 s more (limit=N: N s).", limit=3.0, late=True),
    _scenario(
        "token-ends",
        "The token of the start is refused after 30 s (limit=N: N s); any other is taken.",
        limit=30.0,
        refuses_after="seconds",
    ),
    _scenario(
        "token-ends-polls",
        "The token of the start is refused after 2 polls (limit=N: N polls); any other is taken.",
        limit=2.0,
        refuses_after="polls",
    ),
)
