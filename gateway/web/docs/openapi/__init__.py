"""The OpenAPI 3.1 document of the HTTP API."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from gateway.web.docs.openapi import callbacks, copies, jobs, operations, service
from gateway.web.docs.openapi.components import HEADERS, PARAMETERS, error_responses, errors, named
from gateway.web.docs.openapi.schemas import schemas

_DESCRIPTION = """\
Starts Microsoft Graph's long-running operations with Graph's own requests, polls their status, and pushes every \
change as Server-Sent Events and as signed callbacks (webhooks) until the operation has ended. Every job gets exactly \
one terminal event. The operations are copies of items, and what else has a monitor of the same kind: moves, archives \
and sensitivity labels; and those whose status asks for a token: of teams, channels, content types, workbooks, \
notebooks, communities and external connections.

Anyone who has a job's URL can follow the job. Changing a job requires its `jobKey`; listing jobs requires the \
operator key. Starting an operation and reading an item require the caller's token for Graph.

Every route that supports `GET` supports `HEAD` too, without the body. Every error of the gateway has the format of \
Graph's errors and one of the codes of `ErrorCode`: an unknown path is `404 notFound`, an unsupported method \
`405 methodNotAllowed`. Browsers from the origins in `GATEWAY_CORS_ORIGINS` may call all routes, with any request \
header and without cookies; a preflight request from any other origin is `400 corsNotAllowed`."""
INFO = {
    "title": "Copy gateway",
    "version": version("copy-gateway"),
    "summary": "Turns Microsoft Graph's polled long-running operations, such as copies, into pushed events.",
    "description": _DESCRIPTION,
    "license": {"name": "MIT", "identifier": "MIT"},
}
_TAGS = {
    "Copies": "Graph's own requests: start a copy or a sibling of it, read an item.",
    "Operations": "Graph's other requests that start a long-running operation, whose status asks for a token.",
    "Jobs": "The copies and other operations that the gateway watches, and their state.",
    "Streams": "Every status change of a job, pushed as Server-Sent Events.",
    "Callbacks": "Signed webhooks to a URL that the caller names.",
    "Service": "The gateway's own health, metrics, documentation and web page.",
}
_ANYWHERE = ("400 corsNotAllowed", "404 notFound", "405 methodNotAllowed")


def document(base: str) -> dict[str, Any]:
    """The document, for a gateway whose public URL is `base`, without a final slash."""
    own = {**jobs.PATHS, **callbacks.PATHS, **service.PATHS}
    paths = {**copies.paths(), **operations.paths(), **own}
    used = {name for operation in _operations(paths) for name in _referred(operation["responses"])}
    used |= set(_referred(errors(*_ANYWHERE)))
    of_copies = copies.responses(base)
    started = of_copies | operations.responses(base, of_copies)
    responses = named("responses", started) | error_responses(used)
    paths |= {path: item | {"head": _head(item["get"], responses)} for path, item in own.items() if "get" in item}
    return {
        "openapi": "3.1.0",
        "info": INFO,
        "servers": [{"url": base, "description": "this gateway"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "security": [],
        "paths": paths,
        "components": {
            "schemas": schemas(base),
            "responses": responses,
            "parameters": named("parameters", PARAMETERS | copies.PARAMETERS | operations.PARAMETERS),
            "requestBodies": named("requestBodies", copies.REQUEST_BODIES | operations.request_bodies()),
            "headers": named("headers", HEADERS),
            "securitySchemes": {
                "callerToken": _bearer(
                    "the caller's token for Microsoft Graph; for this request only, or for its operation's status too"
                ),
                "jobKey": _bearer("the jobKey from the 202 response that started the job"),
                "operatorKey": _bearer("the value of GATEWAY_OPERATOR_KEY; accepted wherever a jobKey is"),
            },
        },
    }


def _head(get: dict[str, Any], responses: dict[str, Any]) -> dict[str, Any]:
    """The HEAD operation for a GET operation: its responses have no content. `responses` are the components."""
    name: str = get["operationId"]
    found = {}
    for status, response in get["responses"].items():
        whole = responses[response["$ref"].rpartition("/")[2]] if "$ref" in response else response
        found[status] = {field: whole[field] for field in ("description", "headers")}
    summary = f"{get['summary']}: the headers alone"
    return {**get, "operationId": f"head{name[0].upper()}{name[1:]}", "summary": summary, "responses": found}


def _operations(paths: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for item in paths.values():
        yield from (operation for method, operation in item.items() if method != "parameters")


def _referred(responses: dict[str, Any]) -> Iterator[str]:
    """The names of the components among an operation's responses."""
    for response in responses.values():
        if "$ref" in response:
            yield response["$ref"].rpartition("/")[2]


def _bearer(description: str) -> dict[str, str]:
    return {"type": "http", "scheme": "bearer", "description": description}
