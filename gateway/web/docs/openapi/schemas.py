"""The schemas of the OpenAPI document. Those of a job's state are generated from its types, so they cannot drift."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

import msgspec

from gateway.core.callback import HISTORY, KINDS, LONGEST_URL, CallbackState
from gateway.core.errors import TROUBLES
from gateway.core.job import STATUSES, JobError, Kind, State
from gateway.web.docs.openapi.components import CALLBACK, CODES, FAULTS, JOB, TEXT, example, ref

RUNNING = {
    "jobId": JOB,
    "operation": "ItemCopy",
    "status": "inProgress",
    "percentageComplete": 27.8,
    "label": "Copy of LargeFolder1",
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
WAITING = {
    "jobId": JOB,
    "operation": "cloneTeam",
    "status": "inProgress",
    "percentageComplete": 0.0,
    "label": "Team 2",
    "trouble": {"code": "tokenRequired", "since": "2026-11-22T22:40:01.123Z"},
    "at": "2026-11-22T22:40:01.123Z",
}
"""A job whose status asks for a token that it has not."""
STATES: dict[Kind, dict[str, Any]] = {"progress": RUNNING, "completed": COMPLETED, "failed": FAILED}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="  # noqa: S105 - an example
NEW_CALLBACK = {
    "id": CALLBACK,
    "url": "https://receiver.example.com/copies",
    "events": ["completed", "failed"],
    "secret": SECRET,
}
CALLBACK_FAILING: dict[str, Any] = {
    "id": CALLBACK,
    "url": "https://receiver.example.com",
    "events": ["completed", "failed"],
    "state": "active",
    "attempts": 2,
    "lastError": "answered 500",
    "nextAttemptAt": "2026-11-22T21:45:03.500Z",
    "history": [
        {"at": "2026-11-22T21:40:01.200Z", "error": "the connection was refused", "durationMs": 3},
        {"at": "2026-11-22T21:40:06.100Z", "status": 500, "durationMs": 132},
    ],
}
_TIME = {"type": "string", "format": "date-time"}
_URL = {"type": "string", "format": "uri"}
_STATE_PROPERTIES = {
    "jobId": "the job's id, as in its URL",
    "operation": "upstream's name of the operation, such as ItemCopy, ItemMove or AssignSensitivityLabel; for those "
    "whose status asks for a token, the gateway's own, such as cloneTeam or contentTypeCopy",
    "label": "the job's name for people: the caller's Gateway-Label, else the name that the request gives",
    "status": "upstream's status; an unknown status means that the job is running",
    "percentageComplete": "the progress in percent; it never falls",
    "statusDescription": "upstream's description of the status",
    "resourceId": "the id of what is new, such as the copy, or of what was changed",
    "resource": "the path that reads it at Graph, and through the gateway if it is an item",
    "error": "why the job failed, or what it left out when it completed in part; every failed job has it",
    "trouble": "why a running job shows no progress; an event tells when it comes, changes and goes",
    "at": "when the gateway saw this state",
}


def schemas(base: str) -> dict[str, Any]:
    """All schemas by name; the URLs in the examples begin with `base`."""
    return {**_states(), **_WORDS, **_CALLBACKS, **_ERRORS, **_REQUESTS, **_responses(base)}


def just_started(base: str) -> dict[str, Any]:
    """An example of the 202 response to a copy."""
    return {**STARTED, "events": f"{base}/jobs/{JOB}/events", "jobKey": "bPCzZB5cxeOYZ1oHrzlJQHi0CP9xYWnjXiQ7t1U5FQU"}


TEAM = "172b0cce-e65d-44ce-9a49-91d9f2e8491e"
OF_TEAM = {"operation": "cloneTeam", "label": "Team 2"}


def message(kind: Kind) -> dict[str, Any]:
    """An example of the body that a receiver is sent."""
    return {"type": f"job.{kind}", "timestamp": STATES[kind]["at"], "data": STATES[kind]}


def _states() -> dict[str, Any]:
    _, generated = msgspec.json.schema_components([State, JobError], ref_template="#/components/schemas/{name}")
    # Makes lists of the tuples that defaults are: a document has no tuples.
    components: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(generated))
    components["JobError"] |= {"description": "Why a job failed, or what a job that completed in part left out."}
    components["JobError"]["properties"]["origin"]["description"] = (
        "upstream: what was started failed; gateway: the gateway lost track of it, and it may have gone on"
    )
    state = components["State"]
    trouble = components["Trouble"]
    for name, schema, field in (("ErrorOrigin", components["JobError"], "origin"), ("TroubleCode", trouble, "code")):
        components[name] = _words(schema["properties"][field].pop("enum"))
        schema["properties"][field] |= ref("schemas", name)
    for schema, optional in (
        *((state, name) for name in ("label", "statusDescription", "resourceId", "resource", "error", "trouble")),
        (trouble, "retryAt"),
    ):
        kinds = schema["properties"][optional].pop("anyOf")
        schema["properties"][optional] = next(kind for kind in kinds if kind != {"type": "null"})
    trouble["description"] = "Why a running job shows no progress, until the monitor's next good answer."
    codes = components["TroubleCode"]["enum"]
    trouble["properties"]["code"]["description"] = ". ".join(f"`{code}`: {TROUBLES[code]}" for code in codes)
    trouble["properties"]["since"] |= _TIME | {"description": "when the first such answer in a row came"}
    trouble["properties"]["retryAt"] |= _TIME | {"description": "until when upstream asked to wait, when it came"}
    state["properties"]["status"]["examples"] = list(STATUSES)
    state["properties"]["percentageComplete"] |= {"minimum": 0, "maximum": 100}
    state["properties"]["at"] |= _TIME
    for name, description in _STATE_PROPERTIES.items():
        state["properties"][name]["description"] = description
    state["description"] = "The state of a job: Graph's asyncJobStatus, with `jobId`, `at` and `label`."
    state["examples"] = [*STATES.values(), WAITING]
    return components


def _listed(name: str) -> dict[str, Any]:
    return {"type": "array", "items": ref("schemas", name)}


def _object(description: str, required: str, examples: list[Any], **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "description": description, "properties": properties, "required": required.split()}
    return {key: value for key, value in schema.items() if value} | ({"examples": examples} if examples else {})


def _words(words: Iterable[str]) -> dict[str, Any]:
    """An enumeration. Each is a component, so that generated code names it once and for what it is."""
    return {"type": "string", "enum": list(words)}


_WORDS = {
    "CallbackEvent": _words(KINDS),
    "CallbackState": _words(get_args(CallbackState)),
    "MessageType": _words(f"job.{kind}" for kind in KINDS),
    "HealthStatus": _words(("ok", "ready")),
    "GraphVersion": _words(("v1.0", "beta")),
    "OwnerKind": _words(("users", "groups", "sites")),
    "ConflictBehavior": _words(("fail", "rename", "replace")),
    "ItemAction": _words(
        spelling + action
        for action in ("archive", "unarchive", "assignSensitivityLabel")
        for spelling in ("", "microsoft.graph.")
    ),
}
_EVENTS = {
    "type": "array",
    "items": ref("schemas", "CallbackEvent"),
    "minItems": 1,
    "uniqueItems": True,
    "description": "the events to send to it; completed and failed by default",
}
_SECRET = {
    "type": "string",
    "pattern": "^whsec_[A-Za-z0-9+/]+=*$",
    "description": "the key that signs its messages: whsec_ and 24 to 64 bytes in base64",
}
_CALLBACKS = {
    "NewCallback": _object(
        "A new callback (webhook), with its full URL and its secret; lists show neither.",
        "id url events secret",
        [NEW_CALLBACK],
        id=TEXT,
        url=_URL,
        events=_EVENTS,
        secret=_SECRET,
    ),
    "CopyCallback": _object(
        "A callback (webhook) that the copy request registered, with its full URL.",
        "id url events",
        [NEW_CALLBACK, {key: value for key, value in NEW_CALLBACK.items() if key != "secret"}],
        id=TEXT,
        url=_URL,
        events=_EVENTS,
        secret={**_SECRET, "description": f"{_SECRET['description']}; absent if Gateway-Callback-Secret named it"},
    ),
    "Callback": _object(
        "A callback (webhook) and the state of its deliveries.",
        "id url events state attempts history",
        [CALLBACK_FAILING],
        id=TEXT,
        url={**TEXT, "description": "scheme and host only: the rest is a secret"},
        events=_EVENTS,
        state={
            **ref("schemas", "CallbackState"),
            "description": "active: events are to be sent, now or later; delivered: all events were delivered; "
            "exhausted: given up after the last attempt; gone: the receiver answered 410",
        },
        attempts={"type": "integer", "minimum": 0, "description": "attempts for the current event"},
        lastError={**TEXT, "description": "why the last attempt failed"},
        nextAttemptAt={**_TIME, "description": "when the next attempt is due"},
        history={
            "type": "array",
            "items": ref("schemas", "Attempt"),
            "maxItems": HISTORY,
            "description": "the last attempts, at whichever event, the oldest first",
        },
    ),
    "Attempt": _object(
        "One attempt of a callback (webhook). It has either a `status` or an `error`.",
        "at durationMs",
        CALLBACK_FAILING["history"],
        at={**_TIME, "description": "when it began"},
        status={"type": "integer", "description": "the status of the receiver's response"},
        error={**TEXT, "description": "why there was no response"},
        durationMs={"type": "integer", "minimum": 0, "description": "how long it took, in milliseconds"},
    ),
    "Callbacks": _object(
        "A job's callbacks, oldest first.", "value", [{"value": [CALLBACK_FAILING]}], value=_listed("Callback")
    ),
    "Message": _object(
        "The body of a callback (webhook). The bytes are the same on every attempt of an event.",
        "type timestamp data",
        [message(kind) for kind in KINDS],
        type=ref("schemas", "MessageType"),
        timestamp={**_TIME, "description": "when the event happened"},
        data=ref("schemas", "State"),
    ),
}
_IDS = ("date", "request-id", "client-request-id")
_ERRORS = {
    "GatewayError": _object(
        "An error of the gateway, in the format of Graph's errors.",
        "error",
        [example("404 jobNotFound")],
        error=ref("schemas", "GatewayErrorContent"),
    ),
    "GatewayErrorContent": _object(
        "What went wrong in the gateway.",
        "code message innerError",
        [],
        code=ref("schemas", "ErrorCode"),
        message={**TEXT, "description": "what was wrong with which input, and what to do"},
        innerError=ref("schemas", "InnerError"),
    ),
    "InnerError": _object("The ids of the request that failed, and when.", "", [], **dict.fromkeys(_IDS, TEXT)),
    "ErrorCode": {
        "type": "string",
        "enum": CODES,
        "description": "\n".join(f"- `{fault}`: {meaning}" for fault, meaning in FAULTS.items()),
    },
    "UpstreamError": _object(
        "An error of upstream, passed on unchanged; or one of the gateway, which has all of a `GatewayError`.",
        "",
        [{"error": {"code": "itemNotFound", "message": "The resource could not be found."}}],
        error=ref("schemas", "UpstreamErrorContent"),
    ),
    "UpstreamErrorContent": _object(
        "What went wrong upstream, or in the gateway.",
        "",
        [],
        code=TEXT,
        message=TEXT,
        innerError=ref("schemas", "InnerError"),
    ),
}
_REQUESTS = {
    "Copy": _object(
        "The body of Graph's copy request; the gateway passes it on unchanged.",
        "",
        [{"parentReference": {"path": "/drive/root:/Documents"}, "name": "Copy of LargeFolder1"}],
        parentReference=ref("schemas", "ItemReference"),
        name={**TEXT, "description": "the new item's name; by default the original's"},
    ),
    "ItemReference": _object(
        "A target folder. That of a move is in the item's own drive, and needs no `driveId`.",
        "",
        [],
        driveId=TEXT,
        id=TEXT,
        path=TEXT,
    ),
    "Move": _object(
        "The body of Graph's request to move an item; the gateway passes it on unchanged.",
        "parentReference",
        [{"parentReference": {"path": "/drive/root:/Documents"}}],
        parentReference=ref("schemas", "ItemReference"),
        name={**TEXT, "description": "the item's new name; by default the one that it has"},
    ),
    "Label": _object(
        "The body of Graph's request to label an item; the gateway passes it on unchanged.",
        "",
        [{"sensitivityLabelId": ""}],
        sensitivityLabelId={**TEXT, "description": "the label's id; empty to remove the label"},
        assignmentMethod=TEXT,
        justificationText=TEXT,
    ),
    "DriveItem": _object(
        "An item as upstream returned it.",
        "",
        [{"id": "01MOWKYVLARGEFOLDER1", "name": "LargeFolder1"}],
        id=TEXT,
        name=TEXT,
    ),
    "MonitorToWatch": _object(
        "A monitor URL that the caller already has.",
        "monitorUrl",
        [],
        monitorUrl={**TEXT, "description": "the URL from upstream's Location header; https, on an allowed host"},
        operation={
            **TEXT,
            "minLength": 1,
            "maxLength": 64,
            "description": "the operation that it monitors; ItemCopy by default",
        },
        driveId={**TEXT, "minLength": 1, "maxLength": 256, "description": "the id of the drive that gets the new item"},
        label={**TEXT, "minLength": 1, "maxLength": 128, "description": "the job's name for people; printable"},
    ),
    "CallbackToRegister": _object(
        "A callback (webhook) to register: the receiver's URL, and the events to send to it.",
        "url",
        [{"url": NEW_CALLBACK["url"]}, {key: NEW_CALLBACK[key] for key in ("url", "events", "secret")}],
        url={
            **TEXT,
            "maxLength": LONGEST_URL,
            "description": "https, at port 443 or one from 1024 on, without user info, at a public address",
        },
        events=_EVENTS,
        secret={**_SECRET, "description": f"{_SECRET['description']}; generated by default"},
    ),
}


def _responses(base: str) -> dict[str, Any]:
    return {
        "OperationRequest": {
            "type": "object",
            "description": "What the operation takes, as Graph's own reference describes it; passed on as it is.",
        },
        "TokenToHandIn": _object(
            "A token for upstream.",
            "token",
            [],
            token={**TEXT, "description": "an access token for Microsoft Graph, with or without `Bearer `"},
        ),
        "Accepted": {
            "description": "A job, with the URL to follow it and the key to change it.",
            "allOf": [
                ref("schemas", "State"),
                _object(
                    "",
                    "events jobKey",
                    [],
                    events={**_URL, "description": "the URL of its event stream"},
                    jobKey={**TEXT, "description": "the bearer token for requests that change the job"},
                    callback=ref("schemas", "CopyCallback"),
                    operationLocation={
                        **TEXT,
                        "description": "the path of the status at upstream, when it asks for a token",
                    },
                ),
            ],
            "examples": [just_started(base)],
        },
        "AcceptedOrItem": {
            "description": "The job, of a request that was repeated; or what upstream did at once, such as the item.",
            "anyOf": [ref("schemas", "Accepted"), ref("schemas", "DriveItem")],
        },
        "Jobs": _object(
            "A page of jobs, newest first.",
            "value",
            [{"value": [RUNNING]}],
            value=_listed("State"),
            nextLink={**_URL, "description": "the next page, when there is one"},
        ),
        "Gone": _object("Sent once for an unknown job.", "jobId", [{"jobId": JOB}], jobId=TEXT),
        "Document": {"type": "object", "description": "A document, as its own format describes it."},
        "Health": _object(
            "The result of a health or readiness check that passed.",
            "status",
            [{"status": "ok"}],
            status=ref("schemas", "HealthStatus"),
        ),
    }
