"""What asks for a token: the starts of operations, the polls of their status, and the reads of their results."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.simulator.answers import Answer, GraphError, document
from gateway.simulator.normal import LOGIN
from gateway.simulator.operations import segments, status_resource
from gateway.simulator.record import Operation
from gateway.simulator.scenario import Copy, new_token

if TYPE_CHECKING:
    from gateway.simulator.catalogue import Choice
    from gateway.simulator.operations import Request, StatusResource
    from gateway.simulator.record import RecordedRequest
    from gateway.simulator.scenario import Origins

_BEARER = re.compile(r"Bearer +\S.*", re.IGNORECASE)


def check_bearer(asked: RecordedRequest) -> None:
    """Raise GraphError (401) for a request without a Bearer token."""
    if _BEARER.fullmatch(asked.headers.get("authorization", "")) is None:
        raise _unauthorized("Access token is empty.")


def check_poll(operation: Operation, asked: RecordedRequest) -> None:
    """Count a poll of an operation's status. Raises GraphError: 401 without a token or after its end, 404 once the
    operation is forgotten.
    """
    check_bearer(asked)
    copy, ends = operation.copy, operation.scenario.refuses_after
    if asked.headers["authorization"] == operation.authorization:
        used = operation.polls_authorized if ends == "polls" else asked.at - operation.started
        if ends and used >= copy.limit:
            raise _unauthorized("Lifetime validation failed, the token is expired.")
        operation.polls_authorized += 1
    waited = asked.at - (operation.polled[-1] if operation.polled else operation.started)
    operation.longest_wait = max(operation.longest_wait, waited)
    if copy.status is not None and operation.longest_wait >= copy.status.kind.forgotten:
        raise _gone()


def begin(
    request: Request, asked: RecordedRequest, choice: Choice, origins: Origins, number: int
) -> tuple[Operation, Answer | GraphError]:
    """Return the operation that a request starts, and the response to it; `number` counts those of the scenario.

    Raises GraphError for a refusal.
    """
    kind, scenario = request.kind, choice.scenario
    if kind.needs_body and not request.body:
        raise GraphError(400, "BadRequest", "The request has no body in JSON.")
    status = status_resource(request, origins.graph, scenario.operation_id)
    copy = Copy(
        operation=str(uuid.uuid4()),
        token=new_token(),
        number=number,
        version=request.version,
        origins=origins,
        source_id=status.parts["id"],
        drive_id="",
        resource_id=status.parts["result"],
        name=status.parts["name"],
        seconds=choice.seconds,
        steps=choice.steps,
        every=choice.every,
        window=choice.window,
        kind=kind.action,
        limit=choice.limit,
        status=status,
    )
    asked.operation = copy.operation
    operation = Operation(copy, scenario, scenario.monitor, asked.at, authorization=asked.headers["authorization"])
    if kind.needs_prefer and "respond-async" not in asked.headers.get("prefer", ""):
        return operation, status.at_once()
    return operation, scenario.start(copy)


def _unauthorized(message: str) -> GraphError:
    return GraphError(401, "InvalidAuthenticationToken", message, headers={"WWW-Authenticate": LOGIN})


def _gone() -> GraphError:
    return GraphError(404, "itemNotFound", "The resource could not be found.")


@dataclass(slots=True)
class _Result:
    status: StatusResource
    appears: float
    hidden: int  # number of reads that are still 404


class Results:
    """What operations have made, to be read with GET."""

    def __init__(self) -> None:
        self._results: dict[str, _Result] = {}

    def add(self, operation: Operation, *, at_once: bool) -> None:
        """Let the result of an operation appear at its end, or later, as the scenario says."""
        status, scenario = operation.copy.status, operation.scenario
        if status is None or not scenario.lands:
            return
        late = operation.copy.limit if scenario.late else 0.0
        appears = operation.started + (0.0 if at_once else operation.copy.seconds + late)
        key = segments(status.result_path)
        if status.kind.makes:
            self._results[key] = _Result(status, appears, scenario.hidden)
        else:
            self._results.setdefault(key, _Result(status, float("-inf"), 0))

    def read(self, asked: RecordedRequest) -> Answer | None:
        """Return the result that a request reads; None when its path is no result's. Raises GraphError."""
        path = asked.path.partition("/")[2].partition("/")[2]
        found = self._results.get(segments(f"/{path}"))
        if found is None or asked.method != "GET":
            return None
        check_bearer(asked)
        if asked.at < found.appears:
            raise _gone()
        if found.hidden:
            found.hidden -= 1
            raise _gone()
        return document(200, found.status.result())
