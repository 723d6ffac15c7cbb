"""The OpenAPI 3.1 document of the HTTP face. Schemas of the state come from the code itself, so they cannot drift."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.jobs import STATUSES, JobError, State

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
_TEXT = {"type": "string"}
_IDS = {name: {"schema": _TEXT} for name in ("request-id", "client-request-id")}
_WAIT = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}


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
        "paths": {**_copies(), **_JOBS, **_OPERATION},
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "callerToken": _bearer("the caller's token for Microsoft Graph; forwarded, not kept"),
                "jobKey": _bearer("the jobKey of the 202 that started the job, or the operator key"),
                "operatorKey": _bearer("GATEWAY_OPERATOR_KEY"),
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
                "properties": {"events": {"type": "string", "format": "uri"}, "jobKey": _TEXT},
                "required": ["events", "jobKey"],
            },
        ]
    }
    inner = {"date": _TEXT, "request-id": _TEXT, "client-request-id": _TEXT}
    error = {
        "code": _TEXT,
        "message": _TEXT,
        "innerError": {"type": "object", "properties": inner, "required": list(inner)},
    }
    return {
        **components,
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


def _bearer(description: str) -> dict[str, str]:
    return {"type": "http", "scheme": "bearer", "description": description}


def _json(schema: str, description: str, **headers: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content, "headers": {**_IDS, **headers}}


def _empty(description: str) -> dict[str, Any]:
    return {"description": description, "headers": _IDS}


def _errors(*codes: str) -> dict[str, Any]:
    said = {
        "400": "the input is wrong; nothing was done",
        "401": "the key is missing or wrong",
        "404": "nobody knows it",
        "408": "the body did not come in time",
        "409": "the first request with this Idempotency-Key is still being answered",
        "413": "the body is too large",
        "415": "the body is compressed",
        "422": "the Idempotency-Key was used for another request",
        "502": "upstreamUnreachable, outcomeUnknown, invalidUpstreamResponse or monitorHostNotAllowed",
        "503": "full, shutting down, or without its store; nothing was started",
    }
    return {code: _json("Error", said[code], **(_WAIT if code in ("409", "503") else {})) for code in codes}


def _parameter(name: str, where: str, description: str, *, required: bool = False, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "description": description,
        "required": required,
        "schema": {"type": "string", **schema},
    }


_PARTS = {
    "itemId": _parameter("itemId", "path", "an item's id, or root", required=True, pattern="^[A-Za-z0-9!]+$"),
    "driveId": _parameter("driveId", "path", "a drive's id", required=True, pattern="^[A-Za-z0-9!_-]+$"),
    "ownerId": _parameter("ownerId", "path", "whose drive", required=True, pattern="^[A-Za-z0-9,._-]*[A-Za-z0-9]$"),
    "itemPath": _parameter("itemPath", "path", "a path below", required=True, pattern="^[A-Za-z0-9][A-Za-z0-9 _]*$"),
}
_JOB_ID = _parameter("job", "path", "the job's id", required=True)
_LAST_IDS = [
    _parameter("Last-Event-ID", "header", "the id of the last event seen; wins unless it is empty"),
    _parameter("lastEventId", "query", "the same, where no header can be set"),
    _parameter("last_event_id", "query", "the same"),
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
    "headers": {**_IDS, **_WAIT},
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
        "parameters": [*parts, _parameter("If-None-Match", "header", "an ETag")],
        "security": [{"callerToken": []}],
        "responses": {"2XX": _UPSTREAM, "3XX": _UPSTREAM, "4XX": _UPSTREAM, "5XX": _UPSTREAM, **_errors("400")},
    }


def _copy(parts: list[dict[str, Any]]) -> dict[str, Any]:
    location = {"Location": {"description": "the job's URL", "schema": {"type": "string", "format": "uri"}}}
    return {
        "summary": "Start a copy upstream, and watch it",
        "parameters": [
            *parts,
            _parameter("@microsoft.graph.conflictBehavior", "query", "fail, rename or replace"),
            _parameter("Idempotency-Key", "header", "makes a repeat safe", minLength=1, maxLength=255),
            _parameter("Prefer", "header", "passed on"),
            _parameter("client-request-id", "header", "passed on"),
            _parameter("traceparent", "header", "passed on"),
        ],
        "requestBody": _COPY_BODY,
        "security": [{"callerToken": []}],
        "responses": {
            "202": _json("Accepted", "it runs; follow `events`", **location),
            "4XX": _UPSTREAM,
            "5XX": _UPSTREAM,
            **{
                code: _either(answer)
                for code, answer in _errors("400", "409", "413", "415", "422", "502", "503").items()
            },
        },
    }


def _either(answer: dict[str, Any]) -> dict[str, Any]:
    """A status that is the gateway's error or upstream's own answer."""
    return {**answer, "description": f"{answer['description']}; or upstream's own", "content": {"*/*": {}}}


_EVENT = {  # each event of the stream
    "type": "object",
    "properties": {
        "id": _TEXT,
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
    "headers": _IDS,
}
_SEEN = _empty("the terminal event has been seen: do not come again")
_STATE_OR_STREAM = {
    "description": "the state of an ended job, or the stream when that is preferred",
    "content": {**_json("State", "")["content"], **_STREAM["content"]},  # type: ignore[dict-item]
    "headers": _IDS,
}
_JOBS: dict[str, Any] = {
    "/jobs": {
        "get": {
            "summary": "List jobs, newest first",
            "parameters": [
                _parameter("limit", "query", "1 to 200", pattern="^[1-9][0-9]?$|^1[0-9][0-9]$|^200$"),
                _parameter("status", "query", "one of upstream's words"),
                _parameter("cursor", "query", "from nextLink"),
            ],
            "security": [{"operatorKey": []}],
            "responses": {"200": _json("Jobs", "a page"), **_errors("400", "401", "503")},
        },
        "post": {
            "summary": "Watch a monitor URL that the caller holds",
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "properties": {"monitorUrl": _TEXT, "operation": _TEXT, "driveId": _TEXT},
                            "required": ["monitorUrl"],
                        }
                    }
                },
            },
            "security": [{"operatorKey": []}],
            "responses": {
                "202": _json("Accepted", "it is watched", Location={"schema": _TEXT}),
                **_errors("400", "401", "408", "413", "415", "503"),
            },
        },
    },
    "/jobs/{job}": {
        "get": {
            "summary": "The job's state now",
            "parameters": [_JOB_ID, *_LAST_IDS],
            "responses": {
                "200": _STATE_OR_STREAM,
                "202": _json("State", "it runs", **_WAIT),
                "204": _SEEN,
                **_errors("404", "503"),
            },
        },
        "delete": {
            "summary": "Stop watching; the copy itself goes on upstream",
            "parameters": [_JOB_ID],
            "security": [{"jobKey": []}],
            "responses": {"204": _empty("it is not watched any more"), **_errors("401", "404", "503")},
        },
    },
    "/jobs/{job}/events": {
        "get": {
            "summary": "The job's events",
            "parameters": [_JOB_ID, *_LAST_IDS],
            "responses": {"200": _STREAM, "204": _SEEN, **_errors("404", "503")},
        }
    },
    "/events": {
        "get": {
            "summary": "Several jobs' events on one stream",
            "parameters": [
                {
                    **_parameter("job", "query", "1 to 200 different jobs", required=True),
                    "schema": {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 200, "uniqueItems": True},
                },
                *_LAST_IDS,
            ],
            "responses": {"200": _STREAM, "204": _SEEN, **_errors("400", "404", "503")},
        }
    },
}
_PLAIN = {"200": {"description": "yes", "content": {"application/json": {}}, "headers": _IDS}}
_OPERATION: dict[str, Any] = {
    "/healthz": {"get": {"summary": "Is it alive?", "responses": _PLAIN}},
    "/readyz": {"get": {"summary": "Is it ready?", "responses": {**_PLAIN, **_errors("503")}}},
    "/metrics": {
        "get": {
            "summary": "Figures for Prometheus",
            "responses": {"200": {"description": "figures", "content": {"text/plain": {}}, "headers": _IDS}},
        }
    },
    "/openapi.json": {"get": {"summary": "This document", "responses": _PLAIN}},
}
