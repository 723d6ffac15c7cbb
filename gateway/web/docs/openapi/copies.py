"""The OpenAPI document's part on copies and items: Graph's own routes, for every form of an item's address."""

from __future__ import annotations

from typing import Any

from gateway.web.docs.openapi.components import UPSTREAM_HEADERS, body, errors, json_answer, or_upstream, parameter, ref
from gateway.web.docs.openapi.schemas import NEW_CALLBACK, just_started

_DRIVES = {
    "MyDrive": "me/drive",
    "OneOfMyDrives": "me/drives/{driveId}",
    "Drive": "drives/{driveId}",
    "OwnersDrive": "{owners}/{ownerId}/drive",
    "OneOfOwnersDrives": "{owners}/{ownerId}/drives/{driveId}",
}
_PLACES = {
    "Item": ("items/{itemId}", ("itemId",)),
    "Root": ("root", ()),
    "PathBelowItem": ("items/{itemId}:/{pathBelowItem}:", ("itemId", "pathBelowItem")),
    "PathBelowRoot": ("root:/{pathBelowRoot}:", ("pathBelowRoot",)),
}
_MORE_SEGMENTS = "; it may have several segments, each percent-encoded, separated by /"
PARAMETERS = {
    "version": parameter("version", "path", "Graph's version", "v1.0", required=True, enum=["v1.0", "beta"]),
    "owners": parameter(
        "owners", "path", "the kind of owner", "users", required=True, enum=["users", "groups", "sites"]
    ),
    "ownerId": parameter(
        "ownerId",
        "path",
        "the user's, group's or site's id",
        "48d31887-5fad-4d73-a9f5-3c356e68a038",
        required=True,
        pattern="^[A-Za-z0-9,._-]*[A-Za-z0-9]$",
    ),
    "driveId": parameter("driveId", "path", "the drive's id", "b!personal", required=True, pattern="^[A-Za-z0-9!_-]+$"),
    "itemId": parameter(
        "itemId", "path", "the item's id", "01MOWKYVLARGEFOLDER1", required=True, pattern="^[A-Za-z0-9!]+$"
    ),
    "pathBelowItem": parameter(
        "pathBelowItem",
        "path",
        "the path from `itemId` to the item" + _MORE_SEGMENTS,
        "part 1.bin",
        required=True,
        pattern="^[A-Za-z0-9][A-Za-z0-9 _.-]*$",
    ),
    "pathBelowRoot": parameter(
        "pathBelowRoot",
        "path",
        "the path from the drive's root to the item" + _MORE_SEGMENTS,
        "LargeFolder1",
        required=True,
        pattern="^[A-Za-z0-9][A-Za-z0-9 _.-]*$",
    ),
    "conflictBehavior": parameter(
        "@microsoft.graph.conflictBehavior",
        "query",
        "what to do when the name is taken",
        "rename",
        enum=["fail", "rename", "replace"],
    ),
    "Idempotency-Key": parameter(
        "Idempotency-Key",
        "header",
        "makes a repeat safe: the same request with the same key and token returns the job of the first",
        "6f1c9d0e-copy-of-LargeFolder1",
        minLength=1,
        maxLength=255,
    ),
    "Gateway-Callback-Url": parameter(
        "Gateway-Callback-Url", "header", "the URL of a callback (webhook) to register", NEW_CALLBACK["url"]
    ),
    "Gateway-Callback-Events": parameter(
        "Gateway-Callback-Events",
        "header",
        "the events to send to it, separated by commas: progress, completed, failed; by default the last two",
        "completed, failed",
    ),
    "If-None-Match": parameter(
        "If-None-Match", "header", "the ETag of the version that the caller has", '"{01MOWKYVREPORT},1"'
    ),
    "Prefer": parameter("Prefer", "header", "passed on to upstream unchanged", "respond-async"),
    "traceparent": parameter(
        "traceparent",
        "header",
        "W3C trace context; passed on to upstream",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ),
    "tracestate": parameter("tracestate", "header", "W3C trace context; passed on to upstream", "vendor=1"),
}
_TOKEN: list[dict[str, list[str]]] = [{"callerToken": []}]
_PASSED_ON = [ref("parameters", name) for name in ("Prefer", "client-request-id", "traceparent", "tracestate")]
_READ = "Read an item upstream"
_COPY = "Start a copy upstream and watch it"


def paths() -> dict[str, Any]:
    """Graph's routes, by path."""
    found: dict[str, Any] = {}
    for drive, prefix in _DRIVES.items():
        named = [name for name in ("owners", "ownerId", "driveId") if f"{{{name}}}" in prefix]
        for place, (suffix, more) in _PLACES.items():
            path = f"/{{version}}/{prefix}/{suffix}"
            parts = [ref("parameters", name) for name in ("version", *named, *more)]
            found[f"{path}/copy"] = {"parameters": parts, "post": _copy(f"copy{drive}{place}")}
            bound = {"parameters": parts, "post": _copy(f"boundCopy{drive}{place}")}
            found[f"{path}/microsoft.graph.copy"] = bound
            found[path] = {"parameters": parts, "get": _read(f"read{drive}{place}")}
    return found


def responses(base: str) -> dict[str, Any]:
    """The responses that these routes refer to, by name; the URLs in the examples begin with `base`."""
    started = just_started(base)
    accepted = json_answer(
        ref("schemas", "Accepted"),
        "started; follow the job at `events`. The request ids are upstream's",
        "Location",
        started=started,
        withCallback={**started, "callback": NEW_CALLBACK},
    )
    accepted["links"] = {
        name: {"operationId": name, "parameters": {"job": "$response.body#/jobId"}}
        for name in ("getJob", "followJob", "stopJob", "listCallbacks", "registerCallback")
    }
    passed_on = {
        "description": "upstream's own response: its status, body, Content-Type and these headers",
        "headers": UPSTREAM_HEADERS | {"ETag": ref("headers", "ETag")},
        "content": {"*/*": {}},
    }
    item = {
        **passed_on,
        "description": "the item as upstream returned it",
        "content": {
            "application/json": {
                "schema": ref("schemas", "DriveItem"),
                "example": {"id": "01MOWKYVLARGEFOLDER1", "name": "LargeFolder1", "folder": {"childCount": 2}},
            },
            "*/*": {},
        },
    }
    watched = {**accepted, "description": "watched; follow the job at `events`"}
    return {"CopyAccepted": accepted, "Watched": watched, "PassedOn": passed_on, "Item": item}


def _read(name: str) -> dict[str, Any]:
    passed_on = ref("responses", "PassedOn")
    return {
        "operationId": name,
        "tags": ["Copies"],
        "summary": _READ,
        "description": "The last step of the flow: `resource` of a completed job is such a path. The query and "
        "`Accept` are passed on; redirects are not followed. The last colon of a path may be left out.",
        "parameters": [ref("parameters", "If-None-Match"), *_PASSED_ON],
        "security": _TOKEN,
        "responses": {
            "200": ref("responses", "Item"),
            "2XX": passed_on,
            "3XX": passed_on,
            "4XX": passed_on,
            "5XX": passed_on,
            **or_upstream("400 invalidRequest", "404 notFound", "500 generalException", "502 upstreamUnreachable"),
        },
    }


def _copy(name: str) -> dict[str, Any]:
    also = ("conflictBehavior", "Idempotency-Key", "Gateway-Callback-Url", "Gateway-Callback-Events")
    passed_on = ref("responses", "PassedOn")
    return {
        "operationId": name,
        "tags": ["Copies"],
        "summary": _COPY,
        "description": "Graph's own request, with the caller's token, which is not stored. It is sent upstream once "
        "and never repeated blindly: `outcomeUnknown` means that the copy may or may not be running. Upstream's 500 "
        "and 504 are returned as 502, because SDKs repeat requests on 500 and 504 by themselves.",
        "parameters": [*(ref("parameters", name) for name in also), *_PASSED_ON],
        "requestBody": ref("requestBodies", "Copy"),
        "callbacks": {"told": ref("callbacks", "NamedInHeader")},
        "security": _TOKEN,
        "responses": {
            "202": ref("responses", "CopyAccepted"),
            "4XX": passed_on,
            "5XX": passed_on,
            **or_upstream(
                "400 invalidRequest",
                "400 callbackUrlNotAllowed",
                "404 notFound",
                "408 requestTimeout",
                "409 requestInProgress",
                "413 requestTooLarge",
                "415 unsupportedMediaType",
                "422 idempotencyKeyReused",
                "502 invalidUpstreamResponse",
                "502 monitorHostNotAllowed",
                "502 outcomeUnknown",
                "502 upstreamUnreachable",
                "503 serviceNotAvailable",
            ),
            **errors(),
        },
    }


REQUEST_BODIES = {
    "Copy": body(
        ref("schemas", "Copy"),
        byPath={"parentReference": {"path": "/drive/root:/Documents"}, "name": "Copy of LargeFolder1"},
        byId={"parentReference": {"driveId": "b!personal", "id": "01MOWKYVDOCUMENTS"}, "name": "Another copy"},
    )
}
