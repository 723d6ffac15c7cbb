"""The OpenAPI document's part on jobs: their state, their list, and their streams."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.core.job import STATUSES
from gateway.web.docs.openapi.components import (
    JOB,
    LAST_ID,
    TEXT,
    body,
    empty_answer,
    errors,
    json_answer,
    parameter,
    ref,
    text_answer,
)
from gateway.web.docs.openapi.schemas import COMPLETED, FAILED, RUNNING, STARTED
from gateway.web.polls import LONGEST_WAIT

OTHER_JOB = "ammV8QY4cnJ2Zw1E1EmM_LVe"


def frame(event_id: str, name: str, data: dict[str, Any]) -> str:
    """An event as it is sent on the wire."""
    return f"id: {event_id}\nevent: {name}\ndata: {msgspec.json.encode(data).decode()}\n\n"


ONE = "retry: 2000\n\n" + frame("1", "progress", STARTED) + frame("2", "completed", COMPLETED)
MANY = (
    "retry: 2000\n\n"
    + frame("0,-", "gone", {"jobId": OTHER_JOB})
    + frame("1,-", "progress", STARTED)
    + frame("2,-", "completed", COMPLETED)
)
_SEEN = empty_answer("the reader has seen the terminal event and must not reconnect; EventSource obeys this by itself")
_KEY: list[dict[str, list[str]]] = [{"jobKey": []}, {"operatorKey": []}]
_OPERATOR: list[dict[str, list[str]]] = [{"operatorKey": []}]
_FOLLOW = (
    "A new reader gets the log from its start. A reader that sends a last event id resumes after that event; after an "
    "unknown id it gets the log from its start. While nothing happens, comments are sent as heartbeats. The stream "
    "ends after `completed` or `failed`. A reader that resumes is never refused for a temporary reason: its stream "
    "ends at once with a `retry:`, and it reconnects."
)

_OF_POLLS = ("ETag", "Preference-Applied")
_POLL = [
    parameter(
        "If-None-Match",
        "header",
        "the ETags of the states that the caller has, or `*`; while one of them is the newest, the response is 304",
        '"3"',
    ),
    parameter(
        "Prefer",
        "header",
        f"`wait=N` (RFC 7240) holds the response for N seconds at most, and {LONGEST_WAIT} at most: until the state is "
        "another than those of If-None-Match or, without that header, until the job has ended",
        "wait=30",
    ),
]


def _stream(example: str) -> dict[str, Any]:
    description = "Server-Sent Events: `progress`, then `completed` or `failed`; /asyncapi.json describes each"
    return text_answer("text/event-stream", description, example, "X-Accel-Buffering", "Incremental")


def _state_or_stream() -> dict[str, Any]:
    state = json_answer(
        ref("schemas", "State"),
        "the final state; or the stream, when `Accept` prefers `text/event-stream`",
        "X-Accel-Buffering",
        "Incremental",
        *_OF_POLLS,
        completed=COMPLETED,
        failed=FAILED,
    )
    state["content"] |= _stream(ONE)["content"]
    return state


PATHS: dict[str, Any] = {
    "/jobs": {
        "get": {
            "operationId": "listJobs",
            "tags": ["Jobs"],
            "summary": "List jobs, newest first",
            "description": "Running and ended ones. Follow `nextLink` until a page has none.",
            "parameters": [
                parameter(
                    "limit",
                    "query",
                    "how many; 50 by default",
                    50,
                    type="integer",
                    minimum=1,
                    maximum=200,
                    default=50,
                ),
                parameter("status", "query", f"only jobs with this status: {', '.join(STATUSES)}", "completed"),
                parameter("cursor", "query", "the start of the next page, from nextLink"),
            ],
            "security": _OPERATOR,
            "responses": {
                "200": json_answer(ref("schemas", "Jobs"), "a page of jobs", page={"value": [RUNNING, COMPLETED]}),
                **errors("400 invalidRequest", "401 unauthenticated", "503 serviceNotAvailable"),
            },
        },
        "post": {
            "operationId": "watchMonitor",
            "tags": ["Jobs"],
            "summary": "Watch a monitor URL that the caller has",
            "description": "For a copy, or a sibling, that was started without the gateway. The monitor URL is "
            "a secret, and is never shown again. It is asked without a token: what asks for one, as Graph's other "
            "operations do, is started through the gateway.",
            "requestBody": body(
                ref("schemas", "MonitorToWatch"),
                copy={"monitorUrl": "https://contoso.sharepoint.com/_api/v2.0/operations/4A3407B5-88FC-4504-8B21"},
            ),
            "security": _OPERATOR,
            "responses": {
                "202": ref("responses", "Watched"),
                **errors(
                    "400 invalidRequest",
                    "400 monitorHostNotAllowed",
                    "401 unauthenticated",
                    "408 requestTimeout",
                    "413 requestTooLarge",
                    "415 unsupportedMediaType",
                    "503 serviceNotAvailable",
                ),
            },
        },
    },
    "/jobs/{job}": {
        "parameters": [ref("parameters", "job")],
        "get": {
            "operationId": "getJob",
            "tags": ["Jobs"],
            "summary": "Get a job's current state",
            "description": "The status is 202 while the job runs and 200 when it has ended: a client written for "
            "Graph's monitor URL can poll this URL unchanged. With `Prefer: wait=30`, and the last ETag in "
            "`If-None-Match`, each change is known at once with few requests. A wait counts as one of the gateway's "
            "streams; when these are full, or the gateway shuts down, the response is not held and has no "
            "`Preference-Applied`. A last event id applies when the stream is requested.",
            "parameters": [*_POLL, LAST_ID],
            "responses": {
                "200": _state_or_stream(),
                "202": json_answer(
                    ref("schemas", "State"), "running", "Location", "Retry-After", *_OF_POLLS, running=RUNNING
                ),
                "204": _SEEN,
                "304": empty_answer("the caller has the newest state", "Retry-After", *_OF_POLLS),
                **errors("404 jobNotFound", "503 serviceNotAvailable"),
            },
        },
        "delete": {
            "operationId": "stopJob",
            "tags": ["Jobs"],
            "summary": "Stop watching a job",
            "description": "What was started goes on upstream: Graph has no cancel. The job ends as failed with "
            "`watchStopped`. For a job that has ended, the request changes nothing.",
            "security": _KEY,
            "responses": {
                "204": empty_answer("the job is no longer watched"),
                **errors("401 unauthenticated", "404 jobNotFound", "503 serviceNotAvailable"),
            },
        },
    },
    "/jobs/{job}/token": {
        "parameters": [ref("parameters", "job")],
        "put": {
            "operationId": "handInToken",
            "tags": ["Jobs"],
            "summary": "Hand in a token for a job that asks for one",
            "description": "For a job whose `trouble` is `tokenRequired`, or will be. The gateway that gets the token "
            "asks for the job's status under it from now on. The token is kept in memory, for this job alone, until "
            "the job or the token has ended. It lifts no wait that upstream asked for. The answer does not say whether "
            "upstream takes the token: the `trouble` goes with upstream's next good answer, and stays, without an "
            "event, if it refuses this token too. A token that may not read the status ends the job as lost.",
            "requestBody": body(ref("schemas", "TokenToHandIn"), token={"token": "eyJ0eXAi.eyJleHAi.c2lnbmF0"}),
            "security": _KEY,
            "responses": {
                "204": empty_answer("the token is used from now on"),
                **errors(
                    "400 invalidRequest",
                    "401 unauthenticated",
                    "404 jobNotFound",
                    "408 requestTimeout",
                    "409 tokenNotRequired",
                    "413 requestTooLarge",
                    "415 unsupportedMediaType",
                    "503 serviceNotAvailable",
                ),
            },
        },
    },
    "/jobs/{job}/events": {
        "parameters": [ref("parameters", "job")],
        "get": {
            "operationId": "followJob",
            "tags": ["Streams"],
            "summary": "Follow a job",
            "description": _FOLLOW,
            "parameters": [LAST_ID],
            "responses": {
                "200": _stream(ONE),
                "204": _SEEN,
                **errors("404 jobNotFound", "503 serviceNotAvailable"),
            },
        },
    },
    "/events": {
        "get": {
            "operationId": "followJobs",
            "tags": ["Streams"],
            "summary": "Follow several jobs on one stream",
            "description": "Browsers allow about six connections to an origin. An event id holds the positions in the "
            "logs of the jobs, in the order of the query, joined by commas. An unknown job is reported once, as "
            "`gone`, and its position is `-`. The stream ends when all jobs have ended.",
            "parameters": [
                {
                    **parameter("job", "query", "the ids of 1 to 200 different jobs", [JOB, OTHER_JOB], required=True),
                    "schema": {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 200, "uniqueItems": True},
                },
                LAST_ID,
            ],
            "responses": {
                "200": _stream(MANY),
                "204": _SEEN,
                **errors("400 invalidRequest", "404 jobNotFound", "503 serviceNotAvailable"),
            },
        }
    },
}
