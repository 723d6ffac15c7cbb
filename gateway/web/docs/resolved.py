"""The operations of an OpenAPI document with their references resolved, and an example command for each."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

_KEYS = {"callerToken": "TOKEN", "jobKey": "JOB_KEY", "operatorKey": "OPERATOR_KEY"}
_VARIABLES = {"job": "$JOB", "callback": "$CALLBACK"}
_METHODS = ("get", "head", "post", "put", "patch", "delete")


class Operation(msgspec.Struct, frozen=True):
    """One operation of a document, with its references resolved."""

    path: str
    method: str
    content: Mapping[str, Any]
    parameters: list[Mapping[str, Any]]
    body: Mapping[str, Any] | None
    responses: Mapping[str, Mapping[str, Any]]

    @property
    def name(self) -> str:
        name: str = self.content["operationId"]
        return name

    @property
    def keys(self) -> list[str]:
        """The names of the security schemes; any one of them is enough."""
        return [name for scheme in self.content.get("security", ()) for name in scheme]

    def streams(self) -> bool:
        """Whether the response is an event stream and nothing else."""
        return list(self.responses.get("200", {}).get("content", {})) == ["text/event-stream"]


def operations(document: Mapping[str, Any]) -> list[Operation]:
    """All operations, in the order of the document."""
    found = []
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method not in item:
                continue
            content = item[method]
            named = [*item.get("parameters", ()), *content.get("parameters", ())]
            body = content.get("requestBody")
            found.append(
                Operation(
                    path,
                    method.upper(),
                    content,
                    [follow(document, parameter) for parameter in named],
                    None if body is None else follow(document, body),
                    {status: follow(document, response) for status, response in content["responses"].items()},
                )
            )
    return found


def follow(document: Mapping[str, Any], value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The target of a reference, through any number of them; a value without `$ref` is returned as it is."""
    found = value
    while "$ref" in found:
        place: Any = document
        for part in found["$ref"].removeprefix("#/").split("/"):
            place = place[part]
        found = place
    return found


def examples(media: Mapping[str, Any]) -> dict[str, Any]:
    """The examples of a body, by their names."""
    if "example" in media:
        return {"example": media["example"]}
    return {name: example["value"] for name, example in media.get("examples", {}).items()}


def url(base: str, operation: Operation) -> str:
    """The URL of an example request; ids that only the caller knows are shell variables."""
    path = operation.path
    query = []
    for parameter in operation.parameters:
        name, example = parameter["name"], parameter.get("example")
        if parameter["in"] == "path":
            path = path.replace(f"{{{name}}}", _VARIABLES.get(name) or quote(str(example), safe="!,"))
        elif parameter["in"] == "query" and parameter["required"]:
            query += [f"{name}=$JOB", f"{name}=$OTHER_JOB"]
    return base + path + ("?" + "&".join(query) if query else "")


def curl(base: str, operation: Operation) -> str:
    """A command for a POSIX shell that sends an example of the request."""
    flags = ["-N"] if operation.streams() else ["-I"] if operation.method == "HEAD" else ["-i"]
    if operation.method not in ("GET", "HEAD"):
        flags += ["-X", operation.method]
    lines = [" ".join(["curl", *flags, f'"{url(base, operation)}"'])]
    if operation.keys:
        lines.append(f'-H "Authorization: Bearer ${_KEYS[operation.keys[0]]}"')
    if operation.body is not None:
        media = operation.body["content"]["application/json"]
        first = next(iter(examples(media).values()))
        lines += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(msgspec.json.encode(first).decode())}"]
    return " \\\n  ".join(lines)
