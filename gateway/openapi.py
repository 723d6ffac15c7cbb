"""The OpenAPI 3.1 document of the HTTP face. Schemas of the state come from the code itself, so they cannot drift."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.jobs import STATUSES, JobError, State
from gateway.openapi_callbacks import CALLBACK_SCHEMAS, CALLBACKS, MESSAGES
from gateway.openapi_parts import IDS, JOB_ID, TEXT, WAIT, bearer, empty_answer, errors, json_answer, parameter

_ITEMS = {  # what OpenAPI cannot say with one parameter, since an item's address holds slashes
    "me/drive/items/{itemId}": ("itemId",),
    "me/drive/root": (),
    "me/drive/root:/{itemPath}:": ("itemPath",),
    "me/drives/{driveId}/items/{itemId}": ("driveId", "itemId"),
    "drives/{driveId}/items/{itemId}": ("driveId", "itemId"),
    "drives/{driveId}/root:/{itemPath}:": ("driveId", "itemPath"),
    **{
        f"{owner}/{{ownerId}}/{drive}/items/{{itemId}}": ("ownerId", *(("driveId",) if "{" in drive else ()), "itemId")
        for owner in ("users", "groups", "sites")
        for drive in ("drive", "drives/{driveId}")
    },
}
_STATE_EXAMPLE = {
    "jobId": "ammV8QY4cnJ2Zw1E1EmM_LVe",
    "operation": "ItemCopy",
    "status": "inProgress",
    "percentageComplete": 27.8,
    "at": "2026-11-22T21:40:01.123Z",
}
_ERROR_EXAMPLE = {
    "error": {
        "code": "jobNotFound",
        "message": "Nobody knows this job: its id is wrong, or it ended too long ago.",
        "innerError": {"date": "2026-11-22T21:40:01", "request-id": "a", "client-request-id": "b"},
    }
}


def document(base: str) -> dict[str, Any]:
    """The document, for a gateway whose URLs begin with `base`."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Copy gateway",
            "version": "0.1.0",
            "description": "Starts Microsoft Graph's copies, watches them, and pushes every change of status.",
        },
        "servers": [{"url": base}],
        "paths": {**_copies(), **_JOBS, **CALLBACKS, **_OPERATION},
        "webhooks": MESSAGES,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "callerToken": bearer("the caller's token for Microsoft Graph; forwarded, not kept"),
                "jobKey": bearer("the jobKey of the 202 that started the job, or the operator key"),
                "operatorKey": bearer("GATEWAY_OPERATOR_KEY"),
            },
        },
    }


def _schemas() -> dict[str, Any]:
    _, components = msgspec.json.schema_components([State, JobError], ref_template="#/components/schemas/{name}")
    components = msgspec.json.decode(msgspec.json.encode(components))  # defaults are tuples, and a document has none
    state = components["State"]
    for optional in ("statusDescription", "resourceId", "resource", "error"):
        kinds = state["properties"][optional]["anyOf"]
        state["properties"][optional] = next(kind for kind in kinds if kind != {"type": "null"})
    state["properties"]["status"]["examples"] = list(STATUSES)
    state["properties"]["percentageComplete"] |= {"minimum": 0, "maximum": 100}
    state["examples"] = [_STATE_EXAMPLE]
    accepted = {
        "allOf": [
            {"$ref": "#/components/schemas/State"},
            {
                "type": "object",
                "properties": {
                    "events": {"type": "string", "format": "uri"},
                    "jobKey": TEXT,
                    "callback": {"$ref": "#/components/schemas/NewCallback"},
                },
                "required": ["events", "jobKey"],
            },
        ]
    }
    inner = {"date": TEXT, "request-id": TEXT, "client-request-id": TEXT}
    error = {
        "code": TEXT,
        "message": TEXT,
        "innerError": {"type": "object", "properties": inner, "required": list(inner)},
    }
    return {
        **components,
        **CALLBACK_SCHEMAS,
        "Accepted": accepted,
        "Jobs": {
            "type": "object",
            "properties": {
                "value": {"type": "array", "items": {"$ref": "#/components/schemas/State"}},
                "nextLink": {"type": "string", "format": "uri"},
            },
            "required": ["value"],
        },
        "Error": {
            "type": "object",
            "properties": {"error": {"type": "object", "properties": error, "required": list(error)}},
            "required": ["error"],
            "examples": [_ERROR_EXAMPLE],
        },
    }


_PARTS = {
    "itemId": parameter("itemId", "path", "an item's id, or root", required=True, pattern="^[A-Za-z0-9!]+$"),
    "driveId": parameter("driveId", "path", "a drive's id", required=True, pattern="^[A-Za-z0-9!_-]+$"),
    "ownerId": parameter("ownerId", "path", "whose drive", required=True, pattern="^[A-Za-z0-9,._-]*[A-Za-z0-9]$"),
    "itemPath": parameter("itemPath", "path", "a path below", required=True, pattern="^[A-Za-z0-9][A-Za-z0-9 _]*$"),
}
_LASTIDS = [
    parameter("Last-Event-ID", "header", "the id of the last event seen; wins unless it is empty"),
    parameter("lastEventId", "query", "the same, where no header can be set"),
    parameter("last_event_id", "query", "the same"),
]
_COPY_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"type": "object"},
            "examples": {
                "copy": {
                    "value": {"parentReference": {"path": "/drive/root:/Documents"}, "name": "Copy of LargeFolder1"}
                }
            },
        }
    },
}
_UPSTREAM = {
    "description": "upstream's own answer: its status, body, Content-Type, Retry-After and WWW-Authenticate",
    "content": {"*/*": {}},
    "headers": {**IDS, **WAIT},
}


def _copies() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for version in ("v1.0", "beta"):
        for item, names in _ITEMS.items():
            parts = [_PARTS[name] for name in names]
            paths[f"/{version}/{item}"] = {"get": _read(parts)}
            for action in ("copy", "microsoft.graph.copy"):
                paths[f"/{version}/{item}/{action}"] = {"post": _copy(parts)}
    return paths


def _read(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "summary": "Read an item upstream",
        "parameters": [*parts, parameter("If-None-Match", "header", "an ETag")],
        "security": [{"callerToken": []}],
        "responses": {"2XX": _UPSTREAM, "3XX": _UPSTREAM, "4XX": _UPSTREAM, "5XX": _UPSTREAM, **errors("400")},
    }


def _copy(parts: list[dict[str, Any]]) -> dict[str, Any]:
    location = {"Location": {"description": "the job's URL", "schema": {"type": "string", "format": "uri"}}}
    return {
        "summary": "Start a copy upstream, and watch it",
        "parameters": [
            *parts,
            parameter("@microsoft.graph.conflictBehavior", "query", "fail, rename or replace"),
            parameter("Idempotency-Key", "header", "makes a repeat safe", minLength=1, maxLength=255),
            parameter("Gateway-Callback-Url", "header", "registers a callback with the copy"),
            parameter("Gateway-Callback-Events", "header", "progress, completed, failed; by default the last two"),
            parameter("Prefer", "header", "passed on"),
            parameter("client-request-id", "header", "passed on"),
            parameter("traceparent", "header", "passed on"),
        ],
        "requestBody": _COPY_BODY,
        "security": [{"callerToken": []}],
        "responses": {
            "202": json_answer("Accepted", "it runs; follow `events`", **location),
            "4XX": _UPSTREAM,
            "5XX": _UPSTREAM,
            **{
                code: _either(answer)
                for code, answer in errors("400", "409", "413", "415", "422", "502", "503").items()
            },
        },
    }


def _either(answer: dict[str, Any]) -> dict[str, Any]:
    """A status that is the gateway's error or upstream's own answer."""
    return {**answer, "description": f"{answer['description']}; or upstream's own", "content": {"*/*": {}}}


_EVENT = {  # each event of the stream
    "type": "object",
    "properties": {
        "id": TEXT,
        "event": {"enum": ["progress", "completed", "failed", "gone"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/State"},
        },
    },
}
_STREAM = {
    "description": "Server-Sent Events: progress, then completed or failed, then the end",
    "content": {"text/event-stream": {"schema": _EVENT}},
    "headers": IDS,
}
_SEEN = empty_answer("the terminal event has been seen: do not come again")
_STATE_OR_STREAM = {
    "description": "the state of an ended job, or the stream when that is preferred",
    "content": {**json_answer("State", "")["content"], **_STREAM["content"]},  # type: ignore[dict-item]
    "headers": IDS,
}
_JOBS: dict[str, Any] = {
    "/jobs": {
        "get": {
            "summary": "List jobs, newest first",
            "parameters": [
                parameter("limit", "query", "1 to 200", pattern="^[1-9][0-9]?$|^1[0-9][0-9]$|^200$"),
                parameter("status", "query", "one of upstream's words"),
                parameter("cursor", "query", "from nextLink"),
            ],
            "security": [{"operatorKey": []}],
            "responses": {"200": json_answer("Jobs", "a page"), **errors("400", "401", "503")},
        },
        "post": {
            "summary": "Watch a monitor URL that the caller holds",
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "properties": {"monitorUrl": TEXT, "operation": TEXT, "driveId": TEXT},
                            "required": ["monitorUrl"],
                        }
                    }
                },
            },
            "security": [{"operatorKey": []}],
            "responses": {
                "202": json_answer("Accepted", "it is watched", Location={"schema": TEXT}),
                **errors("400", "401", "408", "413", "415", "503"),
            },
        },
    },
    "/jobs/{job}": {
        "get": {
            "summary": "The job's state now",
            "parameters": [JOB_ID, *_LASTIDS],
            "responses": {
                "200": _STATE_OR_STREAM,
                "202": json_answer("State", "it runs", **WAIT),
                "204": _SEEN,
                **errors("404", "503"),
            },
        },
        "delete": {
            "summary": "Stop watching; the copy itself goes on upstream",
            "parameters": [JOB_ID],
            "security": [{"jobKey": []}],
            "responses": {"204": empty_answer("it is not watched any more"), **errors("401", "404", "503")},
        },
    },
    "/jobs/{job}/events": {
        "get": {
            "summary": "The job's events",
            "parameters": [JOB_ID, *_LASTIDS],
            "responses": {"200": _STREAM, "204": _SEEN, **errors("404", "503")},
        }
    },
    "/events": {
        "get": {
            "summary": "Several jobs' events on one stream",
            "parameters": [
                {
                    **parameter("job", "query", "1 to 200 different jobs", required=True),
                    "schema": {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 200, "uniqueItems": True},
                },
                *_LASTIDS,
            ],
            "responses": {"200": _STREAM, "204": _SEEN, **errors("400", "404", "503")},
        }
    },
}
_PLAIN = {"200": {"description": "yes", "content": {"application/json": {}}, "headers": IDS}}
_OPERATION: dict[str, Any] = {
    "/healthz": {"get": {"summary": "Is it alive?", "responses": _PLAIN}},
    "/readyz": {"get": {"summary": "Is it ready?", "responses": {**_PLAIN, **errors("503")}}},
    "/metrics": {
        "get": {
            "summary": "Figures for Prometheus",
            "responses": {
                "200": {
                    "description": "figures, as OpenMetrics where that is preferred",
                    "content": {"text/plain": {}, "application/openmetrics-text": {}},
                    "headers": IDS,
                }
            },
        }
    },
    "/openapi.json": {"get": {"summary": "This document", "responses": _PLAIN}},
}
