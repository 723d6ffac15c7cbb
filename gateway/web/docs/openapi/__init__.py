"""The OpenAPI 3.1 document of the HTTP face."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from gateway.web.docs.openapi import callbacks, components, copies, jobs, service
from gateway.web.docs.openapi.components import HEADERS, PARAMETERS
from gateway.web.docs.openapi.schemas import schemas

_DESCRIPTION = """\
Starts Microsoft Graph's copies with Graph's own requests, polls their monitors, and pushes every change of status as \
Server-Sent Events and as signed callbacks until the copy has ended. Every job gets exactly one terminal event.

Whoever holds a job's URL may follow it; changing a job takes its `jobKey`, listing jobs the operator key. What starts \
a copy or reads an item takes the caller's token for Graph.

Every route that answers `GET` answers `HEAD` too, without the body. Every error of the gateway has Graph's shape and \
one of the codes of `ErrorCode`: a path that is not here is `404 notFound`, another method `405 methodNotAllowed`. \
Browsers of the origins in `GATEWAY_CORS_ORIGINS` may call all routes, without cookies; a preflight of any other is \
`400 corsNotAllowed`."""
INFO = {
    "title": "Copy gateway",
    "version": version("copy-gateway"),
    "summary": "Turns Microsoft Graph's polled long-running copies into pushed events.",
    "description": _DESCRIPTION,
    "license": {"name": "MIT", "identifier": "MIT"},
}
_TAGS = {
    "Copies": "Graph's own requests: start a copy, read an item.",
    "Jobs": "What is watched, and how it stands.",
    "Streams": "Every change of a job, as it is seen.",
    "Callbacks": "Signed messages to a receiver of the caller's.",
    "Service": "The gateway itself.",
}
_ANYWHERE = ("400 corsNotAllowed", "404 notFound", "405 methodNotAllowed")


def document(base: str) -> dict[str, Any]:
    """The document, for a gateway whose URLs begin with `base`."""
    paths = {**copies.paths(), **jobs.PATHS, **callbacks.PATHS, **service.PATHS}
    named = copies.responses(base)
    used = {name for operation in _operations(paths) for name in _responses(operation)} - named.keys()
    used |= {fault.replace(" ", "-") for fault in _ANYWHERE}
    return {
        "openapi": "3.1.0",
        "info": INFO,
        "servers": [{"url": base, "description": "this gateway"}],
        "tags": [{"name": name, "description": told} for name, told in _TAGS.items()],
        "security": [],
        "paths": paths,
        "webhooks": callbacks.WEBHOOKS,
        "components": {
            "schemas": schemas(base),
            "responses": {**named, **components.responses(used)},
            "parameters": {**PARAMETERS, **copies.PARAMETERS, **callbacks.SIGNATURE},
            "requestBodies": copies.REQUEST_BODIES,
            "headers": HEADERS,
            "callbacks": callbacks.NAMED,
            "securitySchemes": {
                "callerToken": _bearer("the caller's token for Microsoft Graph; it serves the one request"),
                "jobKey": _bearer("the jobKey of the 202 that started the job"),
                "operatorKey": _bearer("GATEWAY_OPERATOR_KEY; opens what a jobKey opens too"),
            },
        },
    }


def _operations(paths: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for item in paths.values():
        yield from (operation for method, operation in item.items() if method != "parameters")


def _responses(operation: dict[str, Any]) -> Iterator[str]:
    """The names of those components that an operation refers to."""
    for response in operation["responses"].values():
        if "$ref" in response:
            yield response["$ref"].rpartition("/")[2]


def _bearer(description: str) -> dict[str, str]:
    return {"type": "http", "scheme": "bearer", "description": description}
