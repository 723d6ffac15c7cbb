"""What a reader wants to know of an OpenAPI document, with its references followed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

_KEYS = {"callerToken": "TOKEN", "jobKey": "JOB_KEY", "operatorKey": "OPERATOR_KEY"}
_VARIABLES = {"job": "$JOB", "callback": "$CALLBACK"}
_METHODS = ("get", "post", "delete")


class Operation(msgspec.Struct, frozen=True):
    """One operation of a document; all that it refers to is in place."""

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
        """The security schemes that open it, any one of them."""
        return [name for one in self.content.get("security", ()) for name in one]

    def streams(self) -> bool:
        return list(self.responses.get("200", {}).get("content", {})) == ["text/event-stream"]


def operations(document: Mapping[str, Any]) -> list[Operation]:
    """All of them, in the order of the document."""
    found = []
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method not in item:
                continue
            content = item[method]
            named = [*item.get("parameters", ()), *content.get("parameters", ())]
            asked = content.get("requestBody")
            found.append(
                Operation(
                    path,
                    method.upper(),
                    content,
                    [follow(document, one) for one in named],
                    None if asked is None else follow(document, asked),
                    {status: follow(document, one) for status, one in content["responses"].items()},
                )
            )
    return found


def follow(document: Mapping[str, Any], value: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference stands for; anything else is itself."""
    found = value
    while "$ref" in found:
        place: Any = document
        for part in found["$ref"].removeprefix("#/").split("/"):
            place = place[part]
        found = place
    return found


def examples(media: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a body, by their names."""
    if "example" in media:
        return {"example": media["example"]}
    return {name: one["value"] for name, one in media.get("examples", {}).items()}


def url(base: str, operation: Operation) -> str:
    """Where an example of it goes; ids that only a caller knows are the shell's variables."""
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
    """The command that tries it, in the words of a POSIX shell."""
    flags = ["-N"] if operation.streams() else ["-i"]
    if operation.method != "GET":
        flags += ["-X", operation.method]
    lines = [" ".join(["curl", *flags, f'"{url(base, operation)}"'])]
    if operation.keys:
        lines.append(f'-H "Authorization: Bearer ${_KEYS[operation.keys[0]]}"')
    if operation.body is not None:
        media = operation.body["content"]["application/json"]
        first = next(iter(examples(media).values()))
        lines += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(msgspec.json.encode(first).decode())}"]
    return " \\\n  ".join(lines)
