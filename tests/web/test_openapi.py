"""The OpenAPI document: valid, complete, and true."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.core import errors
from gateway.graph import operations as graph_operations
from gateway.graph.operations import parse
from gateway.server.heads import FIELDS_LIMIT, FIRST_LINE_LIMIT, HEAD_LIMIT
from gateway.server.limits import HEAD_SECONDS
from gateway.store import CALLBACKS_PER_JOB
from gateway.web.answers import EXPOSED_HEADERS
from gateway.web.docs.openapi.callbacks import SIGNATURE
from gateway.web.docs.openapi.components import FAULTS, HEADERS
from gateway.web.docs.resolved import Operation, examples, operations
from gateway.web.requests import BODY_LIMIT, BODY_SECONDS
from tests.support.described import DOCUMENT, fits, matches
from tests.support.fake_upstream import answering, faking
from tests.support.harness import OPERATOR, serving, tail

pytestmark = pytest.mark.virtual_time

CHECKOUT = Path(__file__).parent.parent.parent
OPERATIONS = operations(DOCUMENT)
COMPONENTS = DOCUMENT["components"]
STARTS = [one for one in OPERATIONS if one.path.startswith("/{version}/")]
ITEMS = [one for one in STARTS if one.content["tags"] == ["Copies"]]
ELSEWHERE = {  # what no operation of the document can answer
    "400 corsNotAllowed",
    "405 methodNotAllowed",
    "414 uriTooLong",
    "431 requestHeadTooLarge",
    "505 httpVersionNotSupported",
}


def test_it_is_valid() -> None:
    """By the validator of the field; and its version is the package's."""
    OpenAPIV31SpecValidator(DOCUMENT).validate()
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert DOCUMENT["info"]["version"] == project["version"]


def frames(media: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """The same of a stream, and of what the data of its events holds."""
    yield "stream", media["schema"], media["example"]
    for block in media["example"].strip().split("\n\n")[1:]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        name = "Gone" if fields["event"] == "gone" else "State"
        yield "data", {"$ref": f"#/components/schemas/{name}"}, json.loads(fields["data"])


def parts(value: Any) -> Iterator[dict[str, Any]]:
    """Every object within a value, itself among them; not those of examples."""
    if isinstance(value, dict):
        yield value
        for name, inside in value.items():
            if name not in ("example", "examples"):
                yield from parts(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from parts(inside)


def references(value: Any) -> Iterator[str]:
    return (part["$ref"] for part in parts(value) if "$ref" in part)


def schemas(value: Any) -> Iterator[dict[str, Any]]:
    """Every schema within a value, and those within them."""
    for part in parts(value):
        yield from part.get("properties", {}).values()
        yield from part.get("anyOf", ())
        yield from part.get("allOf", ())
        yield from part.get("schemas", {}).values()
        yield from (part[name] for name in ("schema", "items") if name in part)


def callbacks() -> Iterator[dict[str, Any]]:
    """What receivers are sent, at each operation that registers one."""
    for one in OPERATIONS:
        for urls in one.content.get("callbacks", {}).values():
            yield from (item["post"] for item in urls.values())


def bodies() -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Each example of a body or parameter: of what, its schema, and itself."""
    for name, schema in COMPONENTS["schemas"].items():
        yield from ((name, schema, example) for example in schema.get("examples", ()))
    requests = [one.body for one in OPERATIONS if one.body is not None]
    answers = [response for one in OPERATIONS for response in one.responses.values()]
    for message in (*requests, *answers):
        for kind, media in message.get("content", {}).items():
            if kind == "text/event-stream":
                yield from frames(media)
                continue
            yield from ((kind, media.get("schema", {}), example) for example in examples(media).values())
    signature = next(callbacks())["parameters"]
    for named in (*COMPONENTS["parameters"].values(), *COMPONENTS["headers"].values(), *signature):
        if "example" in named:
            yield named["description"], named["schema"], named["example"]


def test_its_examples_fit_their_schemas() -> None:
    """What is shown is what is meant, and every body that has a schema is shown."""
    for _, schema, example in bodies():
        fits(schema, example)
    for one in OPERATIONS:
        for message in (one.body, *one.responses.values()):
            for media in (message or {}).get("content", {}).values():
                assert "schema" not in media or examples(media), (one.name, message)


def test_generators_can_name_all_of_it() -> None:
    """Names that become identifiers are plain ones, and stay different without their case: of operations, components of
    whatever kind, and an operation's parameters.
    """
    told = [one.content["operationId"] for one in OPERATIONS] + [one["operationId"] for one in callbacks()]
    assert all(re.fullmatch("[a-z][A-Za-z0-9]*", name) for name in told)
    assert len({name.lower() for name in told}) == len(told)
    named = [name for kind, values in COMPONENTS.items() if kind != "securitySchemes" for name in values]
    assert all(re.fullmatch("[A-Z][A-Za-z0-9]*", name) for name in named)
    assert len({name.lower() for name in named}) == len(named)
    for one in OPERATIONS:
        names = [re.sub(r"\W|_", "", parameter["name"]).lower() for parameter in one.parameters]
        assert len(set(names)) == len(names), one.name


def test_it_has_nothing_that_generators_stumble_over() -> None:
    """References in callbacks to other things than schemas, webhooks, ranges of statuses, schemas without a type."""
    assert "webhooks" not in DOCUMENT
    assert "callbacks" not in COMPONENTS
    for told in callbacks():
        assert {name for name in references(told) if not name.startswith("#/components/schemas/")} == set()
    for one in OPERATIONS:
        assert all(status == "default" or status.isdigit() for status in one.responses)
        for message in (one.body, *one.responses.values()):
            assert all("schema" in media for media in (message or {}).get("content", {}).values()), one.name
    for schema in schemas(DOCUMENT):
        assert {"$ref", "type", "anyOf", "allOf"} & schema.keys(), schema
        assert not {"const", "oneOf", "not", "if", "prefixItems", "$defs"} & schema.keys(), schema
        assert isinstance(schema.get("type", ""), str), schema


def test_every_request_that_registers_a_callback_tells_what_it_is_sent() -> None:
    """All starts take the header, and one route takes a body."""
    told = {one.name for one in OPERATIONS if "callbacks" in one.content}
    taking = {one.name for one in OPERATIONS if any(p["name"] == "Gateway-Callback-Url" for p in one.parameters)}
    assert told == taking | {"registerCallback"}
    for message in callbacks():
        assert {one["name"] for one in message["parameters"]} == {*SIGNATURE, "traceparent"}
        (media,) = message["requestBody"]["content"].values()
        assert media["schema"] == {"$ref": "#/components/schemas/Message"}


async def test_every_route_is_in_it_and_no_other(tmp_path: Path) -> None:
    """The running app's routes and methods; those of items have a test of their own."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        routes = {
            (str(getattr(route, "path", "")), method)
            for route in gateway.gateway._starlette.routes
            for method in (getattr(route, "methods", None) or ())
        }
    assert {(one.path, one.method) for one in OPERATIONS if one not in STARTS} == routes


@pytest.mark.parametrize("operation", ITEMS, ids=lambda one: one.name)
@pytest.mark.parametrize("version", ["v1.0", "beta"])
def test_every_form_of_an_item_is_forwarded(operation: Operation, version: str) -> None:
    """What the document offers, the gateway takes."""
    for owners in ("users", "groups", "sites"):
        path = operation.path.replace("{version}", version).replace("{owners}", owners)
        takes_action = any(one["name"] == "action" for one in operation.parameters)
        for action in COMPONENTS["schemas"]["ItemAction"]["enum"] if takes_action else [""]:
            found = parse(operation.method, re.sub(r"\{\w+\}", "x", path.replace("{action}", action)))
            wanted = {"POST": action.removeprefix("microsoft.graph.") or "copy", "GET": "read", "PATCH": "move"}
            assert found.operation.action == wanted[operation.method]


@pytest.mark.parametrize("version", ["v1.0", "beta"])
def test_every_operation_under_a_token_is_in_it(version: str) -> None:
    """Each form that the document offers is taken for what it says."""
    asking = [one for one in graph_operations.OPERATIONS if one.asks_for_token]
    found = set()
    for one in STARTS:
        if one not in ITEMS:
            path = one.path.replace("{version}", version).replace("{owners}", "groups")
            operation = parse(one.method, re.sub(r"\{\w+\}", "x", path)).operation
            assert re.match(operation.action, one.name)
            found.add(operation.action)
    assert found == {one.action for one in asking}


def test_every_sibling_of_a_copy_is_in_it() -> None:
    """Each in both spellings."""
    named = {one.action for one in graph_operations.OPERATIONS if not one.asks_for_token}
    actions = named - {"copy", "move"}
    told = set(COMPONENTS["schemas"]["ItemAction"]["enum"])
    assert told == {*actions, *(f"microsoft.graph.{action}" for action in actions)}


def test_every_form_of_an_item_is_in_it() -> None:
    """The forms of the interface's own page, each to read, to move, to copy in both spellings, and to change."""
    drives = ["me/drive", "me/drives/{driveId}", "drives/{driveId}"]
    drives += ["{owners}/{ownerId}/drive", "{owners}/{ownerId}/drives/{driveId}"]
    places = ["items/{itemId}", "root", "items/{itemId}:/{pathBelowItem}:", "root:/{pathBelowRoot}:"]
    ends = ["", "/copy", "/microsoft.graph.copy", "/{action}"]
    assert {one.path for one in ITEMS} == {
        f"/{{version}}/{drive}/{place}{end}" for drive in drives for place in places for end in ends
    }


def calls(tree: ast.AST, name: str) -> bool:
    return any(isinstance(node, ast.Call) and getattr(node.func, "id", "") == name for node in ast.walk(tree))


def raised() -> set[str]:
    """The constants of the kinds of errors that stand in functions which make a GatewayError."""
    found = set()
    for path in (CHECKOUT / "gateway").rglob("*.py"):
        tree = ast.parse(path.read_text())
        assert path.match("core/errors.py") or not calls(tree, "ErrorKind"), path
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and calls(function, "GatewayError"):
                found |= {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    return {name for name, kind in vars(errors).items() if isinstance(kind, errors.ErrorKind) and name in found}


def test_every_error_is_in_it_and_no_other() -> None:
    """Each kind has one place in the table, and is raised somewhere; the document knows the same."""
    kinds = {name: kind for name, kind in vars(errors).items() if isinstance(kind, errors.ErrorKind)}
    assert sorted(kinds.values(), key=lambda kind: kind.key) == sorted(errors.KINDS, key=lambda kind: kind.key)
    assert raised() == kinds.keys()
    assert {kind.key for kind in errors.KINDS} == set(FAULTS)
    shown = {
        f"{status} {code}"
        for one in OPERATIONS
        for status, response in one.responses.items()
        for code in examples(response.get("content", {}).get("application/json", {}))
        if status.isdigit() and status >= "400"
    }
    assert shown == set(FAULTS) - ELSEWHERE


def test_messages_name_the_limits_that_hold() -> None:
    """The table's texts are fixed; the limits are constants elsewhere."""
    assert errors.REQUEST_TIMEOUT.message == f"The request was not complete within {BODY_SECONDS:g} seconds."
    assert BODY_SECONDS == HEAD_SECONDS
    assert errors.URI_TOO_LONG.message == f"The first line of a request must be at most {FIRST_LINE_LIMIT} bytes."
    limits = f"at most {HEAD_LIMIT} bytes, with at most {FIELDS_LIMIT} headers"
    assert errors.REQUEST_HEAD_TOO_LARGE.message == f"The head of a request must be {limits}."
    assert errors.REQUEST_TOO_LARGE.message == f"The body must be at most {BODY_LIMIT} bytes."
    assert errors.TOO_MANY_CALLBACKS.message == f"A job has at most {CALLBACKS_PER_JOB} callbacks. Remove one first."


def test_browsers_may_use_all_of_it() -> None:
    """What scripts of another origin need may be read; they may send any header."""
    exposed = HEADERS["Access-Control-Expose-Headers"]["example"]
    assert exposed == ", ".join(EXPOSED_HEADERS)


async def test_what_is_answered_fits(tmp_path: Path) -> None:
    """States, errors, lists and 202s of a running gateway, ended and running, failed and completed."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:

        async def get(path: str, **headers: str) -> Any:
            async with gateway.session.get(gateway.url + path, headers=headers) as response:
                return await response.json()

        running = await gateway.copy("/v1.0/me/drive/items/1")
        matches("Accepted", running)
        matches("State", await get(f"/jobs/{running['jobId']}"))
        upstream.on_poll = answering(
            lambda: web.json_response(
                {"status": "failed", "statusDescription": "d", "error": {"details": [{"code": "a", "target": "t"}]}}
            )
        )
        for event in await tail(gateway.session, running["events"]):
            matches("State", event.data)
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed", "resourceId": "1"}))
        ended = await gateway.copy("/v1.0/me/drive/items/1")
        assert (await tail(gateway.session, ended["events"]))[-1].data["resource"]
        matches("State", await get(f"/jobs/{ended['jobId']}"))
        matches("Jobs", await get("/jobs?limit=1", **OPERATOR))
        matches("GatewayError", await get("/jobs/nobody"))
        matches("GatewayError", await get("/v1.0/nothing"))
        assert (await get("/openapi.json"))["servers"] == [{"url": gateway.url, "description": "this gateway"}]
