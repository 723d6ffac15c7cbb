"""The schemas of the OpenAPI document. Those of a job's state come from the code itself, so they cannot drift."""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from gateway.core.callback import KINDS, LONGEST_URL, CallbackState
from gateway.core.job import STATUSES, JobError, State
from gateway.web.docs.openapi.components import CALLBACK, CODES, FAULTS, JOB, TEXT, example, ref

RUNNING = {
    "jobId": JOB,
    "operation": "ItemCopy",
    "status": "inProgress",
    "percentageComplete": 27.8,
    "at": "2026-11-22T21:40:01.123Z",
}
STARTED = {**RUNNING, "status": "notStarted", "percentageComplete": 0.0}
COMPLETED = {
    **RUNNING,
    "status": "completed",
    "percentageComplete": 100.0,
    "resourceId": "01MOWKYVJML57KN2ANMBA3JZJS2MBGC7KM",
    "resource": "/v1.0/me/drive/items/01MOWKYVJML57KN2ANMBA3JZJS2MBGC7KM",
}
FAILED = {
    **RUNNING,
    "status": "failed",
    "error": {
        "code": "nameAlreadyExists",
        "message": "An item with the same name already exists under the parent.",
        "origin": "upstream",
    },
}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="  # noqa: S105 - an example
NEW_CALLBACK = {
    "id": CALLBACK,
    "url": "https://receiver.example.com/copies",
    "events": ["completed", "failed"],
    "secret": SECRET,
}
CALLBACK_FAILING = {
    "id": CALLBACK,
    "url": "https://receiver.example.com",
    "events": ["completed", "failed"],
    "state": "active",
    "attempts": 2,
    "lastError": "answered 500",
    "nextAttemptAt": "2026-11-22T21:45:03.500Z",
}
_TIME = {"type": "string", "format": "date-time"}
_URL = {"type": "string", "format": "uri"}
_TOLD = {
    "jobId": "the job, as in its URL",
    "operation": "upstream's word for what is done, such as ItemCopy",
    "status": "upstream's word; a word that is not among the known ones counts as running",
    "percentageComplete": "never falls",
    "statusDescription": "upstream's words about it",
    "resourceId": "the item that came of it",
    "resource": "the path that reads that item through the gateway or at Graph",
    "error": "why it failed; a failed job always has it",
    "at": "when this state was seen",
}


def schemas(base: str) -> dict[str, Any]:
    """All of them; `base` is that of the URLs in examples."""
    return {**_states(), **_CALLBACKS, **_ERRORS, **_ASKED, **_answers(base)}


def just_started(base: str) -> dict[str, Any]:
    """The 202 of a copy."""
    return {**STARTED, "events": f"{base}/jobs/{JOB}/events", "jobKey": "bPCzZB5cxeOYZ1oHrzlJQHi0CP9xYWnjXiQ7t1U5FQU"}


def _states() -> dict[str, Any]:
    _, made = msgspec.json.schema_components([State, JobError], ref_template="#/components/schemas/{name}")
    components: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode(made)
    )  # defaults are tuples, and a document has none
    components["JobError"] |= {"description": "Why a job failed."}
    components["JobError"]["properties"]["origin"]["description"] = (
        "upstream: the copy failed; gateway: the gateway lost sight of it, and it may have gone on"
    )
    state = components["State"]
    for optional in ("statusDescription", "resourceId", "resource", "error"):
        kinds = state["properties"][optional]["anyOf"]
        state["properties"][optional] = next(kind for kind in kinds if kind != {"type": "null"})
    state["properties"]["status"]["examples"] = list(STATUSES)
    state["properties"]["percentageComplete"] |= {"minimum": 0, "maximum": 100}
    state["properties"]["at"] |= _TIME
    for name, told in _TOLD.items():
        state["properties"][name]["description"] = told
    state["description"] = "What is known of a job: Graph's asyncJobStatus, and `jobId` and `at`."
    state["examples"] = [RUNNING, COMPLETED, FAILED]
    return components


def _listed(name: str) -> dict[str, Any]:
    return {"type": "array", "items": ref("schemas", name)}


def _object(description: str, required: str, examples: list[Any], **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "description": description, "properties": properties, "required": required.split()}
    return {key: value for key, value in schema.items() if value} | ({"examples": examples} if examples else {})


_EVENTS = {
    "type": "array",
    "items": {"enum": list(KINDS)},
    "minItems": 1,
    "uniqueItems": True,
    "description": "the events that it is told of; completed and failed if none are named",
}
_SECRET = {
    "type": "string",
    "pattern": "^whsec_[A-Za-z0-9+/]+=*$",
    "description": "signs its messages: whsec_ and 24 to 64 bytes in base64",
}
_CALLBACKS = {
    "NewCallback": _object(
        "A callback as it is shown once, to whoever registered it.",
        "id url events secret",
        [NEW_CALLBACK],
        id=TEXT,
        url=_URL,
        events=_EVENTS,
        secret=_SECRET,
    ),
    "Callback": _object(
        "A callback, and how it fares.",
        "id url events state attempts",
        [CALLBACK_FAILING],
        id=TEXT,
        url={**TEXT, "description": "scheme and host only: the rest is a secret"},
        events=_EVENTS,
        state={
            "enum": list(get_args(CallbackState)),
            "description": "active: it has something to tell, or will; delivered: all was told; exhausted: given up "
            "after the last attempt; gone: the receiver answered 410",
        },
        attempts={"type": "integer", "minimum": 0, "description": "for the event it is at"},
        lastError={**TEXT, "description": "why the last attempt failed"},
        nextAttemptAt={**_TIME, "description": "when it is tried again"},
    ),
    "Callbacks": _object(
        "A job's callbacks, oldest first.", "value", [{"value": [CALLBACK_FAILING]}], value=_listed("Callback")
    ),
    "Message": _object(
        "What a receiver is sent. The bytes are the same on every attempt of an event.",
        "type timestamp data",
        [{"type": "job.completed", "timestamp": COMPLETED["at"], "data": COMPLETED}],
        type={"enum": [f"job.{kind}" for kind in KINDS]},
        timestamp={**_TIME, "description": "when the event happened"},
        data=ref("schemas", "State"),
    ),
}
_IDS = ("date", "request-id", "client-request-id")
_ERRORS = {
    "Error": _object(
        "An error of the gateway, in Graph's shape.",
        "error",
        [example("404 jobNotFound")],
        error=_object(
            "",
            "code message innerError",
            [],
            code=ref("schemas", "ErrorCode"),
            message={**TEXT, "description": "what was wrong with which input, and what to do"},
            innerError=_object("", " ".join(_IDS), [], **dict.fromkeys(_IDS, TEXT)),
        ),
    ),
    "ErrorCode": {
        "type": "string",
        "enum": CODES,
        "description": "\n".join(f"- `{fault}`: {told}" for fault, told in FAULTS.items()),
    },
    "UpstreamError": _object(
        "An error of upstream, passed on as it came.",
        "",
        [{"error": {"code": "itemNotFound", "message": "The resource could not be found."}}],
        error=_object("", "", [], code=TEXT, message=TEXT),
    ),
}
_ASKED = {
    "Copy": _object(
        "What Graph's copy takes; the gateway passes it on as it is.",
        "",
        [{"parentReference": {"path": "/drive/root:/Documents"}, "name": "Copy of LargeFolder1"}],
        parentReference=_object("where to", "", [], driveId=TEXT, id=TEXT, path=TEXT),
        name={**TEXT, "description": "the new item's; the old one's if left out"},
    ),
    "DriveItem": _object(
        "An item as upstream tells it.",
        "",
        [{"id": "01MOWKYVLARGEFOLDER1", "name": "LargeFolder1"}],
        id=TEXT,
        name=TEXT,
    ),
    "MonitorToWatch": _object(
        "A monitor URL that the caller already holds.",
        "monitorUrl",
        [],
        monitorUrl={**TEXT, "description": "what upstream gave in Location; https, on an allowed host"},
        operation={**TEXT, "minLength": 1, "maxLength": 64, "description": "what it does; ItemCopy if left out"},
        driveId={**TEXT, "minLength": 1, "maxLength": 256, "description": "the drive that the result will be on"},
    ),
    "CallbackToRegister": _object(
        "Who wants to be told of what.",
        "url",
        [{"url": NEW_CALLBACK["url"]}, {key: NEW_CALLBACK[key] for key in ("url", "events", "secret")}],
        url={**TEXT, "maxLength": LONGEST_URL, "description": "https, without user info, at a public address"},
        events=_EVENTS,
        secret={**_SECRET, "description": f"{_SECRET['description']}; made if left out"},
    ),
}


def _answers(base: str) -> dict[str, Any]:
    return {
        "Accepted": {
            "description": "A job, and what follows and changes it.",
            "allOf": [
                ref("schemas", "State"),
                _object(
                    "",
                    "events jobKey",
                    [],
                    events={**_URL, "description": "the URL of its event stream"},
                    jobKey={**TEXT, "description": "opens what changes the job"},
                    callback=ref("schemas", "NewCallback"),
                ),
            ],
            "examples": [just_started(base)],
        },
        "Jobs": _object(
            "A page of jobs, newest first.",
            "value",
            [{"value": [RUNNING]}],
            value=_listed("State"),
            nextLink={**_URL, "description": "the next page, when there is one"},
        ),
        "StreamEvent": _object(
            "An event of a stream: its fields as they stand on the wire.",
            "",
            [],
            id={**TEXT, "description": "what a reader sends as Last-Event-ID to go on after it"},
            event={"enum": [*KINDS, "gone"], "description": "completed and failed are the last of their job"},
            data={
                **TEXT,
                "contentMediaType": "application/json",
                "contentSchema": {"anyOf": [ref("schemas", "State"), ref("schemas", "Gone")]},
                "description": "a State as JSON, or a Gone",
            },
        ),
        "Gone": _object("Told once of a job that nobody knows.", "jobId", [{"jobId": JOB}], jobId=TEXT),
        "Status": _object("A short yes.", "status", [{"status": "ok"}], status={"enum": ["ok", "ready"]}),
    }
